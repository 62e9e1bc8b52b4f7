"""One run of a suite, from the list of cases to the records on disk."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from llmbench import __version__
from llmbench.data.sources import load
from llmbench.errors import UserError
from llmbench.launch import record as records
from llmbench.launch.prepare import BaseError, Data, describe, lora_base, measured_peaks
from llmbench.launch.target import Target
from llmbench.results.fingerprint import differences, fingerprint, git_state
from llmbench.results.redact import command as redacted
from llmbench.results.schema import BROKEN, FINISHED, Error, Record, Run, Series
from llmbench.results.store import RunFolder
from llmbench.suite.cases import Case, from_plan
from llmbench.suite.modes import EAGER, ingredients


class Progress(Protocol):
    """Who is told what happens."""

    def preparing(self, message: str) -> None: ...
    def started(self, number: int, total: int, case: Case) -> None: ...
    def phase(self, name: str) -> None: ...
    def finished(self, number: int, total: int, record: Record) -> None: ...


@dataclass
class Request:
    """What a run was asked for."""

    suite: str
    suite_file: str
    description: str
    cases: list[Case]
    python: str
    device: str
    data: str | None
    out: Path
    command: Sequence[str]


def new_id() -> str:
    """Sorts by time, and is unique without asking anybody."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


class Session:
    """Runs cases one after the other and keeps what is finished, whatever happens.

    Args:
        folder: where the run is kept.
        run: its description; written at the beginning and at the end.
    """

    def __init__(self, folder: RunFolder, run: Run, target: Target, data: Data, progress: Progress) -> None:
        self.folder = folder
        self.run = run
        self._target = target
        self._data = data
        self._progress = progress
        self._server_log = folder.path / "logs" / "preparation.log"
        self._reference: dict[str, tuple[Case, Record, Series]] = {}

    def execute(self) -> list[Record]:
        """Runs what is missing or failed; all records of the run, in the order of its cases.

        Raises:
            KeyboardInterrupt: after the case in flight was recorded as aborted.
        """
        cases = [from_plan(planned) for planned in self.run.cases]
        done = {record.case: record for record in self.folder.records() if record.status in FINISHED}
        peaks = measured_peaks(self._target, self.run.environment, self.run.device, self._server_log)
        for number, case in enumerate(cases, start=1):
            if case.id in done:
                self._keep(case, done[case.id])
                continue
            self._progress.started(number, len(cases), case)
            record = self._run(case, peaks)
            self._progress.finished(number, len(cases), record)
        self._close("done")
        return self._in_order()

    def interrupted(self) -> list[Record]:
        """Closes a run that was interrupted."""
        self._close("interrupted")
        return self._in_order()

    def _in_order(self) -> list[Record]:
        order = {planned.case: number for number, planned in enumerate(self.run.cases)}
        return sorted(self.folder.records(), key=lambda record: order.get(record.case, len(order)))

    def _close(self, status: str) -> None:
        self.run = self.run.model_copy(update={"status": status, "finished_at": records.utc_now()})
        self.folder.write_run(self.run)

    def _run(self, case: Case, peaks: dict[str, float]) -> Record:
        begin = time.monotonic()
        log = self.folder.log_path(case.id)
        record = records.begin(case, self.run.device).model_copy(update={"log": log})
        try:
            record, series = self._measure(case, record, log)
        except KeyboardInterrupt:
            self._target.kill_job()
            self.folder.append(record.model_copy(update={"wall_seconds": time.monotonic() - begin}))
            raise
        record = records.with_measured_peak(record, peaks)
        if series is not None:
            record = self._with_parity(case, record, series)
            record = record.model_copy(update={"series": self.folder.write_series(case.id, series)})
        self.folder.append(record)
        self._remember(case, record, series)
        return record

    def _keep(self, case: Case, record: Record) -> None:
        """A finished case of a resumed run. Its reference may have failed then, and be there only now."""
        series = self.folder.read_series(record)
        if series is not None:
            judged = self._with_parity(case, record, series)
            if judged != record:
                self.folder.append(judged)
                record = judged
        self._remember(case, record, series)

    def _with_parity(self, case: Case, record: Record, series: Series) -> Record:
        if case.workload not in self._reference:
            return record
        eager, reference, reference_series = self._reference[case.workload]
        if not eager.same_training(case):
            return record
        return records.with_parity(record, series, reference, reference_series)

    def _measure(self, case: Case, record: Record, log: str) -> tuple[Record, Series | None]:
        data = self._data.of(case)
        if case.family.name == "lora":
            try:
                weights = lora_base(
                    self._target, case, self._data, self.run.device, self.folder.path / log, self._progress.phase
                )
            except BaseError as error:
                problem = Error(type="BaseError", message=f"training LoRA's base failed: {error}", hint="see its log")
                return record.model_copy(update={"status": "failed", "error": problem}), None
            data = data | {"base": str(weights)}
        job = {
            "kind": "case",
            "config": case.config,
            "mode": ingredients(case.mode),
            "device": self.run.device,
            "data": data,
            "threads": case.config["threads"],
        }
        outcome = self._target.run(job, self.folder.path / log, case.config["deadline_seconds"], self._on_event)
        return records.finish(record, case, outcome)

    def _on_event(self, event: dict[str, Any]) -> None:
        if event["event"] == "phase":
            self._progress.phase(event["name"])

    def _remember(self, case: Case, record: Record, series: Series | None) -> None:
        if case.mode == EAGER and series is not None:
            self._reference[case.workload] = (case, record, series)


def preload(cases: Sequence[Case]) -> list[str]:
    """Modules that each of these cases would have to import for itself: inductor takes longer than a small case."""
    return ["torch._inductor.compile_fx"] if any("compile" in ingredients(case.mode) for case in cases) else []


def start(request: Request, target: Target, progress: Progress) -> Session:
    """Prepares a new run: data, machine, folder.

    Raises:
        UserError: the data, the interpreter, the device or the folder is not fit for it. Nothing is left behind then.
    """
    fresh = not request.out.exists()
    try:
        data = _data(request.data, request.cases, progress)
        progress.preparing("importing torch")
        (request.out / "logs").mkdir(parents=True, exist_ok=True)
        target.ready()
        machine = describe(target, request.device, request.out / "logs" / "preparation.log")
        run = Run(
            id=new_id(),
            suite=request.suite,
            suite_file=request.suite_file,
            description=request.description,
            cases=[case.planned() for case in request.cases],
            command=redacted(list(request.command)),
            working_folder=str(Path.cwd()),
            llmbench=__version__,
            python=target.python,
            device=machine["device"],
            data=data.text.describe() | {"argument": request.data},
            environment=fingerprint(machine, target.environ),
            git=git_state(Path.cwd()),
            started_at=records.utc_now(),
        )
        return Session(RunFolder.create(request.out, run), run, target, data, progress)
    except BaseException:  # Ctrl-C too: what has not begun leaves nothing
        if fresh:
            shutil.rmtree(request.out, ignore_errors=True)
        raise


def resume(folder: RunFolder, run: Run, target: Target, progress: Progress) -> Session:
    """Prepares to go on with a run.

    Raises:
        UserError: the data or the environment is no longer what it was.
    """
    data = _data(run.data.get("argument"), [from_plan(planned) for planned in run.cases], progress)
    known = {name: run.data.get(name, {}).get("sha256") for name in ("train", "valid")}
    if known != {"train": data.text.train.sha256, "valid": data.text.valid.sha256}:
        raise UserError(
            f"the text of --data {run.data.get('argument')} is not what the run began with", "start a new run"
        )
    progress.preparing("importing torch")
    target.ready()
    environment = fingerprint(describe(target, run.device, folder.path / "logs" / "preparation.log"), target.environ)
    changed = differences(run.environment, environment)
    if changed:
        raise UserError(
            f"{folder.path}: the environment changed since the run began: {'; '.join(changed)}",
            "a run is of one environment; start a new one",
        )
    run = run.model_copy(update={"status": "running", "finished_at": None, "resumed": run.resumed + 1})
    folder.write_run(run)
    return Session(folder, run, target, data, progress)


def _data(argument: str | None, cases: list[Case], progress: Progress) -> Data:
    data = Data(load(argument), progress.preparing)
    for case in cases:
        data.of(case)
    return data


def broken(records_: list[Record]) -> list[Record]:
    """The records that make a run fail."""
    return [record for record in records_ if record.status in BROKEN]
