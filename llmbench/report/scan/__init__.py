"""The page of a scan: who is slow, the evidence, whom to leave out, and every measurement."""

from llmbench.report.scan.page import scan_page

__all__ = ["scan_page"]
