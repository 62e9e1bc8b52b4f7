"""A virtual environment for requirements, laid over another environment, which stays as it is.

Only what the requirements name, and what that needs and the other environment lacks, is installed; all else is seen
through a ``.pth`` file. So a version of one small package costs seconds, and no download of torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from llmbench.errors import UserError
from llmbench.launch.sides.asked import AskedRequirements
from llmbench.launch.sides.files import digests
from llmbench.launch.sides.kept import kept
from llmbench.launch.sides.python import Interpreter, interpreter, last_line
from llmbench.results.ab import AbSide

FORMAT = 1  # of the environments; a change makes all anew
_FACTS = "llmbench.json"
_BELOW = "zz_llmbench_below.pth"  # read last: what is installed here comes first

# Where pip finds packages, and which it takes: the same requirements may mean others.
_CHOOSING = ("INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS", "NO_INDEX", "PRE", "NO_BINARY", "ONLY_BINARY", "CONSTRAINT")
# These would have pip install elsewhere, or nothing.
_ELSEWHERE = ("TARGET", "PREFIX", "ROOT", "USER", "PYTHON", "DRY_RUN", "NO_DEPS", "REPORT")
_PIP = (
    "install",
    "--disable-pip-version-check",
    "--no-input",
    "--no-color",
    "--progress-bar=off",
    "--no-warn-script-location",
    "--no-user",
)
_SPOKEN = ("Collecting ", "Downloading ", "Building wheel ", "Installing collected packages: ")


def make(
    asked: str, side: AskedRequirements, python: str, constraints: Path | None, on_progress: Callable[[str], None]
) -> AbSide:
    """The environment of a side, from the cache or made now.

    Args:
        python: the interpreter whose environment lies below.
        constraints: file of pins; of what is below they are not required.

    Raises:
        UserError: pip cannot install the requirements, or the cache cannot be written.
    """
    below = interpreter(python)
    if constraints is not None and not constraints.is_file():
        raise UserError(
            f"--constraints {constraints}: no such file", "a file of pins such as torch==2.12.0, one a line"
        )
    name = _name(side, below, constraints)
    with kept("environments", name, on_progress) as (folder, lock):
        if not _whole(folder):
            if (folder / _FACTS).exists():
                on_progress(f"{asked}: its environment was changed since it was made; making it anew")
            _Making(asked, side, below, constraints, folder, lock, on_progress).run()
    return AbSide(asked=asked, label=side.label, kind="requirements", python=str(folder / "bin" / "python"))


def _name(side: AskedRequirements, below: Interpreter, constraints: Path | None) -> str:
    """The same for what leads to the same environment: contents count, not paths."""
    key = {
        "format": FORMAT,
        "requirements": [[each.kind, digests(each)] for each in side.requirements],
        "constraints": digests(constraints) if constraints else None,
        "python": [below.prefix, below.version, below.platform, below.base_prefix],
        "below": [[folder, _listing(Path(folder))] for folder in below.folders],
        "pip": {name: os.environ.get(f"PIP_{name}") for name in _CHOOSING},
    }
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]


def _listing(packages: Path) -> list[str]:
    """What is installed in a folder of packages: names and versions, and the files that change the import path."""
    names = os.listdir(packages) if packages.is_dir() else []
    return sorted(name for name in names if name.endswith((".dist-info", ".egg-info", ".egg-link", ".pth")))


def _packages(folder: Path) -> Path | None:
    return next(folder.glob("lib/python*/site-packages"), None)


def _whole(folder: Path) -> bool:
    """Whether an environment was made to its end, and is still what it was then."""
    packages = _packages(folder)
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return packages is not None and facts.get("installed") == _listing(packages) and (folder / "bin/python").exists()


class _Making:
    """Makes one environment.

    It is made in its own place, since programs in its bin name that; its facts are written last, and an environment
    without them is none.
    """

    def __init__(
        self,
        asked: str,
        side: AskedRequirements,
        below: Interpreter,
        constraints: Path | None,
        folder: Path,
        lock: int,
        on_progress: Callable[[str], None],
    ) -> None:
        self._asked = asked
        self._side = side
        self._below = below
        self._constraints = constraints
        self._folder = folder
        self._lock = lock
        self._on_progress = on_progress
        self._log = folder.with_suffix(".log")
        self._python = str(folder / "bin" / "python")

    def run(self) -> None:
        self._on_progress(f"making an environment for {self._side.label}")
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self._log.write_bytes(b"")
        self._start()
        self._install()
        packages = _packages(self._folder)
        assert packages is not None
        installed = _listing(packages)
        if installed == [_BELOW]:
            self._on_progress(f"{self._side.label}: {self._below.path} has it already; nothing was installed")
        facts = {"asked": self._asked, "python": self._below.path, "installed": installed}
        unfinished = self._folder / f"{_FACTS}.tmp"
        unfinished.write_text(json.dumps(facts, indent=2), encoding="utf-8")
        unfinished.replace(self._folder / _FACTS)

    def _start(self) -> None:
        """An empty environment of the same interpreter, which sees what is installed below."""
        output, code = self._run([self._below.path, "-m", "venv", "--without-pip", str(self._folder)])
        packages = _packages(self._folder)
        if code != 0 or packages is None:
            raise UserError(
                f"{self._asked}: {self._below.path} cannot make a virtual environment: {last_line(output)}",
                f"make one by other means and name it as the side; log: {self._log}",
            )
        lines = [f"import site; site.addsitedir({folder!r})\n" for folder in self._below.folders]
        (packages / _BELOW).write_text("".join(lines), encoding="utf-8")
        if not self._below.pip:
            output, code = self._run([self._python, "-m", "ensurepip"])
            if code != 0:
                raise UserError(
                    f"{self._asked}: {self._below.path} has neither pip nor ensurepip: {last_line(output)}",
                    f"install pip beside {self._below.path}, or name another with --python; log: {self._log}",
                )

    def _install(self) -> None:
        # A wheel is another one than what is installed below, although it may bear the same version: pip would skip it.
        given = [each.text for each in self._side.requirements if each.kind in ("wheel", "direct")]
        if given:
            self._pip(["--no-deps", "--ignore-installed", *given], [])
        arguments: list[str] = []
        for each in self._side.requirements:
            arguments += ["-r", each.text] if each.kind == "file" else [each.text]
        self._pip(arguments, ["-c", str(self._constraints)] if self._constraints else [])

    def _pip(self, requirements: list[str], constraints: list[str]) -> None:
        output, code = self._run([self._python, "-m", "pip", *_PIP, *constraints, *requirements])
        if code != 0:
            raise UserError(f"{self._asked}: pip cannot install it: {_reason(output, code)}", f"its log: {self._log}")
        for line in output.splitlines():
            if line.rstrip().endswith("which is incompatible."):
                self._on_progress(f"warning: {self._side.label}: {line.strip()}")

    def _run(self, command: list[str]) -> tuple[str, int]:
        """Runs a command to its end, with its output in the log. It holds our lock, should we be killed before."""
        environ = {name: value for name, value in os.environ.items() if name not in {f"PIP_{n}" for n in _ELSEWHERE}}
        # Without this, pip and venv could write compiled modules into the environment below.
        environ |= {"PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "utf-8"}
        output: list[str] = []
        with (
            open(self._log, "a", encoding="utf-8") as log,
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=environ,
                pass_fds=[self._lock],
                start_new_session=True,
            ) as process,
        ):
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    log.write(line)
                    output.append(line)
                    if line.strip().startswith(_SPOKEN):
                        self._on_progress(line.strip())
            except BaseException:  # Ctrl-C too: it must not go on without us
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return "".join(output), process.returncode


def _reason(output: str, code: int) -> str:
    """The line in which pip says why."""
    lines = output.splitlines()
    conflict = "The conflict is caused by:"
    if conflict in lines:
        after = lines[lines.index(conflict) + 1 :]
        named = [line.strip() for line in after[: after.index("")] if line.strip()] if "" in after else after
        return f"a conflict: {'; '.join(named)}"
    errors = [line.strip()[len("error:") :].strip() for line in lines if line.strip().lower().startswith("error:")]
    telling = [line for line in errors if line.startswith("Could not find a version")] or errors
    return telling[-1] if telling else f"exit code {code}; {last_line(output)}"
