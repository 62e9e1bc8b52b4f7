"""A run that has every verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmbench.results.schema import Error
from llmbench.results.store import RunFolder
from tests import factory

SECRET = "hf_planted0123456789abcdefABCDEF"
LOG = "llmbench: import\n" + "".join(f"line {number}\n" for number in range(60)) + f"HF_TOKEN={SECRET}\n"


@pytest.fixture
def every(tmp_path: Path) -> RunFolder:
    """A case for each verdict, its mode named after what comes out; the last one was never run."""
    modes = ("eager", "noisy", "doubtful", "invalid", "failed", "oom", "timeout", "aborted", "skipped", "missing")
    cases = {mode: factory.planned("gpt-tiny", mode) for mode in modes}
    folder = RunFolder.create(tmp_path / "r1", factory.make_run(list(cases.values()), status="interrupted"))
    factory.add(folder, *factory.ok_record(cases["eager"]))
    factory.add(folder, *factory.ok_record(cases["noisy"], noisy=True))
    record, series = factory.ok_record(cases["doubtful"])
    record.loss.learned = False
    factory.add(folder, record, series)
    record, series = factory.ok_record(cases["invalid"])
    factory.stray(record, step=31)
    factory.add(folder, record, series)
    message = f"no such tensor\nat {SECRET}"
    error = Error(type="RuntimeError", message=message, hint="see `llmbench doctor`", rank=1, host="node-18")
    factory.add(folder, factory.broken_record(cases["failed"], "failed", error), log=LOG)
    factory.add(folder, factory.broken_record(cases["oom"], "oom", factory.OUT_OF_MEMORY), log=LOG)
    error = Error(type="Timeout", message="900 s passed in phase timed")
    factory.add(folder, factory.broken_record(cases["timeout"], "timeout", error))
    error = Error(type="Interrupted", message="the run was interrupted", hint="continue it with --resume")
    factory.add(folder, factory.broken_record(cases["aborted"], "aborted", error))
    factory.add(folder, factory.unavailable(cases["skipped"], "fp8 needs a CUDA device", "--device cuda"))
    return folder
