"""Sessions: `python -m nox -l` lists them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import nox

nox.options.sessions = ["lint", "typecheck", "tests"]
nox.options.error_on_missing_interpreters = True

CONSTRAINTS = ("-c", "constraints.txt")


@nox.session
def demo(session: nox.Session) -> None:
    """Install, ask the doctor, run the smoke suite, and say where the report is."""
    session.install(*CONSTRAINTS, ".[torch]")
    session.run("llmbench", "doctor", success_codes=[0, 1])
    out = Path("reports", "runs", f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    session.run("llmbench", "run", "smoke", "--out", str(out), *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite. `-- -m slow` runs the slow ones; other arguments go to pytest too."""
    session.install(*CONSTRAINTS, ".[torch,hf,test]")
    # Several processes import the same tests: compiled ones are worth keeping.
    session.run("pytest", *session.posargs, env={"PYTHONDONTWRITEBYTECODE": None})


@nox.session
def micro(session: nox.Session) -> None:
    """Operators and training steps through pytest-benchmark, and their page."""
    session.install(*CONSTRAINTS, ".[torch,test]")
    _micro(session, "pytest", "llmbench", where="micro")


def _micro(session: nox.Session, *programs: str, where: str) -> None:
    file = Path("reports", "runs", f"{where}-{datetime.now(UTC):%Y%m%d-%H%M%S}.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    pytest_, llmbench = programs
    session.run(*pytest_.split(), "suites/", "--benchmark-only", f"--benchmark-json={file}")
    session.run(*llmbench.split(), "report", str(file))


@nox.session
def screenshots(session: nox.Session) -> None:
    """Every page from real runs, light, dark, on a phone and on paper; the README's are made anew. Needs Chromium."""
    session.install(*CONSTRAINTS, ".[torch,test]")
    session.run("python", "suites/screenshots.py", "--images", "docs/images", *session.posargs)


@nox.session(name="gate-power")
def gate_power(session: nox.Session) -> None:
    """How often the gate of `ab` errs, and what it sees, on recorded sessions. `-- DIR`: theirs; see the script."""
    session.install(*CONSTRAINTS, ".", "numpy", "scipy")
    session.run("python", "suites/gate_power.py", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and the contracts of who imports what."""
    session.install(*CONSTRAINTS, "ruff", "import-linter")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", env={"PYTHONPATH": "."})


@nox.session
def typecheck(session: nox.Session) -> None:
    """Types, without torch: the target side sees it as Any."""
    session.install(*CONSTRAINTS, ".", "mypy", "types-psutil", "nox", "pytest")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as a site; a broken link is an error."""
    session.install(*CONSTRAINTS, ".[docs]")
    session.run("mkdocs", "build", "--strict", "--quiet")


@nox.session(venv_backend="none")
def gpu(session: nox.Session) -> None:
    """On a CUDA machine, with the torch that is there: tests, doctor, modes, peers, reference, operators."""
    session.run("python", "-m", "pytest", "-m", "gpu", "-n", "0")
    diagnosis = Path("reports", "runs", f"gpu-doctor-{datetime.now(UTC):%Y%m%d-%H%M%S}.json")
    diagnosis.parent.mkdir(parents=True, exist_ok=True)
    with diagnosis.open("w") as file:
        page = str(diagnosis.with_suffix(".html"))
        command = ("llmbench", "doctor", "--deep", "--json", "--html", page)
        session.run("python", "-m", *command, success_codes=[0, 1], stdout=file)
    for suite in ("modes", "peers", "reference"):
        out = Path("reports", "runs", f"gpu-{suite}-{datetime.now(UTC):%Y%m%d-%H%M%S}")
        session.run(
            "python", "-m", "llmbench", "run", suite, "--device", "cuda", "--out", str(out), success_codes=[0, 3]
        )
    _micro(session, "python -m pytest", "python -m llmbench", where="gpu-micro")
