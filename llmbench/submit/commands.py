"""Commands of a scheduler, asked as a user would ask them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from llmbench.errors import UserError

SECONDS = 60.0  # for an answer; a busy scheduler takes its time


def ask(command: Sequence[str], hint: str | None = None) -> subprocess.CompletedProcess[str]:
    """What a command says; its exit code is the caller's to judge.

    Raises:
        UserError: it is not there, or gives no answer for a minute.
    """
    name = command[0]
    if shutil.which(name) is None:
        raise UserError(f"there is no {name} on the PATH", hint)
    try:
        # Of a session of its own: Ctrl-C is for the one who asks, and must not cut a submission in half.
        return subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{name} gave no answer for {SECONDS:.0f} s", hint) from None


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """What a command said of its failure, without its name in front; several lines become one."""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    cleaned = [line.removeprefix(f"{done.args[0]}: ").removeprefix("error: ") for line in lines]
    return "; ".join(dict.fromkeys(cleaned)) or f"exit code {done.returncode}"
