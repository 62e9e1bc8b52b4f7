"""A process may print, crash, hang or fork: what it reported and how it ended is always known."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmbench.doctor.process import CHANNEL, Outcome, Processes

ROOT = Path(__file__).resolve().parents[2]
REPORT = "import os, sys, json; report = lambda part: os.write(int(sys.argv[1]), json.dumps(part).encode() + b'\\n')\n"


def run(source: str, deadline: float = 20.0) -> Outcome:
    command = [sys.executable, "-c", REPORT + source, CHANNEL]
    return Processes().run(command, deadline=deadline, environ=os.environ, channel=True)


def test_noise_does_not_touch_the_answer() -> None:
    outcome = run(
        "print('{\"done\": 1}', flush=True); report({'answer': {'a': 1}}); report({'done': True}); print('x' * 300000)"
    )
    assert outcome.ok
    assert outcome.answer == {"a": 1}
    assert len(outcome.noise) <= 64 * 1024


def test_what_was_reported_before_a_crash_is_kept() -> None:
    outcome = run("report({'answer': {'a': 1}}); os.kill(os.getpid(), 11)")
    assert (outcome.answer, outcome.signal, outcome.ok) == ({"a": 1}, "SIGSEGV", False)
    assert "SIGSEGV" in outcome.ending


def test_half_a_report_is_no_answer() -> None:
    outcome = run('os.write(int(sys.argv[1]), b\'{"answer": {"a"\'); os._exit(3)')
    assert outcome.answer == {}
    assert "exit code 3" in outcome.ending


def test_a_hang_ends_at_the_deadline_with_its_children() -> None:
    source = (
        "pid = os.fork()\n"
        "import time\n"
        "if pid: report({'answer': {'child': pid}})\n"
        "time.sleep(60)"
    )  # fmt: skip
    outcome = run(source, deadline=1.5)
    assert outcome.timed_out
    assert "within" in outcome.ending
    assert _is_gone(outcome.answer["child"])


def test_a_process_that_answered_but_does_not_exit_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmbench.doctor.process._EXIT_GRACE", 0.2)
    outcome = run("report({'answer': {'a': 1}}); report({'done': True})\nimport time; time.sleep(60)", deadline=50)
    assert outcome.timed_out
    assert outcome.answer == {"a": 1}


def test_children_left_behind_are_killed() -> None:
    fork = "import time; pid = os.fork()\nif not pid: time.sleep(60)\n"
    outcome = run(fork + "report({'answer': {'c': pid}}); report({'done': True})")
    assert outcome.ok
    assert _is_gone(outcome.answer["c"])


def test_a_program_that_cannot_be_started() -> None:
    outcome = Processes().run(["/no/such/program"], deadline=5, environ={})
    assert not outcome.ok
    assert "could not be started" in outcome.ending


def test_stop_kills_what_runs_and_what_is_started_later() -> None:
    processes = Processes()
    processes.stop()
    outcome = processes.run([sys.executable, "-c", "import time; time.sleep(60)"], deadline=50, environ=os.environ)
    assert outcome.signal == "SIGKILL"


def test_the_channel_works_where_the_standard_streams_are_closed(tmp_path: Path) -> None:
    reporter = tmp_path / "reporter.py"
    reporter.write_text(REPORT + "report({'answer': {'a': 1}}); report({'done': True})")
    parent = tmp_path / "parent.py"
    parent.write_text(
        "import os, sys\n"
        "from llmbench.doctor.process import CHANNEL, Processes\n"
        f"command = [sys.executable, {str(reporter)!r}, CHANNEL]\n"
        "outcome = Processes().run(command, deadline=20, environ=os.environ, channel=True)\n"
        "os._exit(0 if outcome.answer == {'a': 1} else 9)\n"
    )
    command = ["/bin/sh", "-c", 'exec "$0" "$1" <&- >&- 2>&-', sys.executable, str(parent)]
    process = subprocess.run(command, check=False, timeout=60, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert process.returncode == 0


def _is_gone(pid: int) -> bool:
    """A killed orphan lingers for a moment until somebody collects it."""
    for _ in range(200):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.02)
    return False
