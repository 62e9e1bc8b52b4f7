"""What a pod does: runs ``llmbench``, ends it in order when the pod is to end, and tells how it went."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from llmbench.errors import UserError
from llmbench.submit.bundle import pack

# Kubernetes shows what stands there in the status of the pod, which outlives its log.
TERMINATION_LOG = Path("/dev/termination-log")
LOST_NODE = 1


def run_pod(arguments: Sequence[str], run: Path | None, environ: Mapping[str, str], *, report_code: bool) -> int:
    """Runs ``llmbench ARGUMENTS``; on node 0 the run is then printed and its exit code kept in the pod's status.

    Args:
        run: folder of the run that is to be printed; None: it lies on a volume.
        report_code: the pod is to end well whatever became of it, since it would be begun again.

    Returns:
        The exit code of the pod. A node that is not the first tells only that it failed: the code of
        node 0 decides what becomes of the job.
    """
    code = _ended([sys.executable, "-m", "llmbench", *arguments])
    leads = environ.get("PET_NODE_RANK", "0") == "0"
    if leads and run is not None:
        print_run(run)
    _report(code)
    if report_code:
        return 0
    return code if leads else LOST_NODE if code else 0


def print_run(run: Path) -> bool:
    """Prints a run into the log; False where there is none, which is told, too."""
    try:
        lines, left_out = pack(run)
    except UserError as error:
        print(f"llmbench: no run to hand over: {error.message}", file=sys.stderr, flush=True)
        return False
    if left_out:
        print(f"llmbench: no room in the log for {', '.join(left_out)}", file=sys.stderr, flush=True)
    print("\n".join(lines), flush=True)
    return True


def _ended(command: Sequence[str]) -> int:
    """The exit code of a command, which is asked to end when this process is; 128 + N for a signal N."""
    # Of a session of its own: it gets each signal once, by us.
    process = subprocess.Popen(command, start_new_session=True)

    def pass_on(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 - code if code < 0 else code


def _report(code: int) -> None:
    with contextlib.suppress(OSError):  # outside of a pod there is no such file, and root could make one
        if TERMINATION_LOG.exists():
            TERMINATION_LOG.write_text(json.dumps({"llmbench": {"code": code}}))
