"""Doctor starts on a broken machine: what it takes from the report needs nothing that is installed."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
before = set(sys.modules)
import llmbench.doctor.command, llmbench.doctor.github, llmbench.doctor.markdown
import llmbench.report.outputs.junit, llmbench.report.outputs.github, llmbench.report.outputs.markdown
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(new - set(sys.stdlib_module_names)))
"""


def test_doctor_and_the_outputs_import_the_standard_library_only() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["llmbench"]
