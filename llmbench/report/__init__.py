"""Pages: a run and a diagnosis, each one file that holds everything. Charts are static SVG; a script only adds."""

from llmbench.report.doctor import doctor_page
from llmbench.report.run import run_page, write_run_report

__all__ = ["doctor_page", "run_page", "write_run_report"]
