"""One run of a suite, from the list of cases to the records on disk."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from llmbench import __version__
from llmbench.cluster.allocation import why_terminated
from llmbench.errors import UserError
from llmbench.launch import record as records
from llmbench.launch.compiled import CompiledCode
from llmbench.launch.prepare import (
    BaseError,
    Data,
    describe,
    load_data,
    lora_base,
    measured_peaks,
    parity_reference,
)
from llmbench.launch.sampler import Sampler
from llmbench.launch.target import log_of
from llmbench.launch.timeline import MemoryWatch
from llmbench.launch.trains import Needs, Trains
from llmbench.results.environment import decisive_differences
from llmbench.results.fingerprint import fingerprint, git_state
from llmbench.results.redact import command as redacted
from llmbench.results.schema import BROKEN, FINISHED, Error, Hardware, Record, Run, Series
from llmbench.results.store import RunFolder
from llmbench.suite.cases import Case, from_plan
from llmbench.suite.modes import EAGER, arithmetic, compiles, ingredients, parallel, precision

DISTRIBUTED = (
    "torch.distributed.launcher.api",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
    "torch.distributed.pipelining",
)


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
    ladder: list[str]
    python: str
    device: str
    data: str | None
    out: Path
    command: Sequence[str]


def new_id() -> str:
    """Sorts by time, and is unique without asking anybody."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


class Session:
    """Runs cases one after the other and keeps what is finished, whatever happens. Use as a context manager.

    Args:
        folder: where the run is kept.
        run: its description; written at the beginning and at the end.
    """

    def __init__(self, folder: RunFolder, run: Run, target: Trains, data: Data, progress: Progress) -> None:
        self.folder = folder
        self.run = run
        self._target = target
        self._data = data
        self._progress = progress
        self._server_log = folder.path / "logs" / "preparation.log"
        self._eager: dict[str, tuple[Record, Series]] = {}
        self._references: dict[str, dict[str, Any]] = {}
        self._peaks: dict[str, float | None] = {}
        self._bandwidth: float | None = None
        self._gradients = tempfile.TemporaryDirectory(prefix="llmbench-gradients-")
        device, uuids = cast("Literal['cpu', 'cuda']", run.device), _uuids(run)
        self._sampler, self._memory = Sampler(device, uuids), MemoryWatch(device, uuids)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._gradients.cleanup()

    def execute(self) -> list[Record]:
        """Runs what is missing or failed; all records of the run, in the order of its cases.

        Raises:
            KeyboardInterrupt: after the case in flight was recorded as aborted.
        """
        cases = [from_plan(planned) for planned in self.run.cases]
        done = {record.case: record for record in self.folder.records() if record.status in FINISHED}
        measured = measured_peaks(self._target, self.run.environment, self.run.device, self._server_log)
        self._peaks, self._bandwidth = measured
        for number, case in enumerate(cases, start=1):
            if case.id in done:
                self._keep(case, done[case.id])
                continue
            self._progress.started(number, len(cases), case)
            record = self._run(case)
            self._progress.finished(number, len(cases), record)
        self._close("done")
        return self._in_order()

    def interrupted(self) -> list[Record]:
        """Closes a run that was interrupted."""
        self._close("interrupted")
        return self._in_order()

    def _in_order(self) -> list[Record]:
        order = {planned.case: number for number, planned in enumerate(self.run.cases)}
        return sorted(self._recorded(), key=lambda record: order.get(record.case, len(order)))

    def _recorded(self) -> list[Record]:
        """The valid records: once a run has begun, a line that somebody damages must not end it."""
        return [recorded.record for recorded in self.folder.recorded() if not recorded.damage]

    def _close(self, status: str) -> None:
        self.run = self.run.model_copy(update={"status": status, "finished_at": records.utc_now()})
        self.folder.write_run(self.run)

    def _run(self, case: Case) -> Record:
        begin = time.monotonic()
        log = self.folder.log_path(case.id)
        record = records.begin(case, self.run.device).model_copy(update={"log": log})
        if case.refused:
            record = records.refused(record, case.refused)
            self.folder.append(record)
            return record
        try:
            record, series = self._measure(case, record, self.folder.path / log)
        except KeyboardInterrupt:
            self._target.kill_job()
            self.folder.append(records.interrupted(record, time.monotonic() - begin, why_terminated(os.environ)))
            raise
        if record.error and record.error.rank is not None:
            of_rank = str(log_of(Path(log), record.error.rank))
            if (self.folder.path / of_rank).exists():  # that of a node that was lost never came
                record = record.model_copy(update={"log": of_rank})
        record = records.with_measured_peak(record, self._peaks)
        record = records.with_measured_bandwidth(record, self._bandwidth)
        if series is not None:
            record = self._with_parity(case, record, series)
            record = record.model_copy(update={"series": self.folder.write_series(case.id, series)})
        record = records.with_scaling(record, self._fewer_ranks(case))
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
        eager = self._eager.get(_key(case)) if series.loss else None
        return records.with_parity(record, series, *eager) if eager else record

    def _remember(self, case: Case, record: Record, series: Series | None) -> None:
        if case.mode == EAGER and series is not None and series.loss:
            self._eager[_key(case)] = (record, series)

    def _fewer_ranks(self, case: Case) -> Record | None:
        """The record of the same at the smallest world size, or else of the same mode in one process."""
        one_process = "+".join(part for part in ingredients(case.mode) if not parallel(part)) or EAGER
        found = [
            record
            for record in self._recorded()
            if record.workload == case.workload
            and (record.mode == case.mode or (record.mode == one_process and record.world_size == 1))
        ]
        return min(found, key=lambda record: (record.world_size, record.mode != case.mode), default=None)

    def _measure(self, case: Case, record: Record, log: Path) -> tuple[Record, Series | None]:
        data = self._data.of(case)
        if case.family.base:
            try:
                weights = lora_base(self._target, case, self._data, self.run.device, log, self._progress.phase)
            except BaseError as error:
                problem = Error(type="BaseError", message=f"training LoRA's base failed: {error}", hint="see its log")
                return record.model_copy(update={"status": "failed", "error": problem}), None
            data = data | {"base": str(weights)}
        reference = self._reference(case, data, log)
        job = {
            "kind": "case",
            "config": case.config,
            "mode": ingredients(case.mode),
            "arithmetic": arithmetic(case.mode),
            "precision": precision(case.mode),
            "device": self.run.device,
            "data": data,
            "threads": case.config["threads"],
            "world_size": case.world_size,
            "distributed": parallel(case.mode),
            "gradients": reference.get("file"),
        }
        if compiles(case.mode):
            return self._measure_compiled(case, record, log, job, reference)
        return self._train(case, record, log, job, reference)

    def _train(
        self, case: Case, record: Record, log: Path, job: dict[str, Any], reference: dict[str, Any]
    ) -> tuple[Record, Series | None]:
        hardware: list[Hardware] = []

        def on_event(event: dict[str, Any]) -> None:
            self._memory.note(event)
            if event["event"] != "phase":
                return
            if event["name"] == "timed":
                self._sampler.start()
            elif found := self._sampler.stop():
                hardware.append(found)
            self._progress.phase(event["name"])

        self.folder.forget_evidence(case.id)  # of an earlier attempt
        if job["distributed"]:
            job = job | {"evidence": str(self.folder.evidence_path(case.id).resolve())}
        self._memory.begin()
        try:
            outcome = self._target.run(job, log, case.config["deadline_seconds"], on_event)
        finally:
            self._sampler.stop()
            memory = self._memory.end()
        record, series = records.finish(record, case, outcome, reference, hardware[0] if hardware else None, memory)
        if record.status in (*FINISHED, "skipped"):
            self.folder.forget_evidence(case.id)
        return record, series

    def _measure_compiled(
        self, case: Case, record: Record, log: Path, job: dict[str, Any], reference: dict[str, Any]
    ) -> tuple[Record, Series | None]:
        """A cold start, with nothing compiled, and a warm one in a fresh process; one of them is the case itself."""
        code = CompiledCode.of(case, self.run.device, self._target.hello["torch"])
        code.begin()
        job = job | {"inductor_cache": str(code.folder)}
        cold = code.cold()
        record, series = self._train(case, record, log, job, reference)
        if record.compile is None or record.phases is None:
            return record, series
        if cold:
            found = {"cold_seconds": cold["seconds"], "cold_at": cold["at"], "warm_seconds": record.phases.compile}
        else:
            code.remember(record.phases.compile, record.started_at or records.utc_now())
            self._progress.phase("compile again")
            again = self._target.run(job | {"kind": "compile"}, log, case.config["deadline_seconds"])
            warm = (again.result or {}).get("seconds")
            found = {"cold_seconds": record.phases.compile, "cold_at": record.started_at, "warm_seconds": warm}
        return record.model_copy(update={"compile": record.compile.model_copy(update=found)}), series

    def _reference(self, case: Case, data: dict[str, Any], log: Path) -> dict[str, Any]:
        """The gradients that all cases of one training are held against, computed once."""
        key = _key(case)
        if key not in self._references:
            alike = [other for other in map(from_plan, self.run.cases) if _key(other) == key]
            file = Path(self._gradients.name, f"{len(self._references)}.pt")
            self._progress.phase("reference")
            needed = {precision(other.mode) for other in alike}
            found = parity_reference(self._target, case, needed, data, self.run.device, file, log)
            self._references[key] = found | ({} if "reason" in found else {"file": str(file)})
        return self._references[key]


def _key(case: Case) -> str:
    """What two cases have in common that train the same."""
    return json.dumps(case.training, sort_keys=True)


def _uuids(run: Run) -> list[str] | None:
    found = [device["uuid"] for device in run.environment.get("devices", []) if device.get("uuid")]
    return found or None


def preload(cases: Sequence[Case]) -> list[str]:
    """Modules that each of these cases would have to import for itself: inductor takes longer than a small case."""
    # An optimizer imports dynamo for itself as soon as it is made.
    names = dict.fromkeys(["llmbench.worker.case", "torch._dynamo"])
    names |= dict.fromkeys(name for case in cases for name in case.family.preload)
    if any(compiles(case.mode) for case in cases):
        names["torch._inductor.compile_fx"] = None
    if any(parallel(case.mode) for case in cases):
        names |= dict.fromkeys(DISTRIBUTED)
    return list(names)


def start(request: Request, target: Trains, progress: Progress) -> Session:
    """Prepares a new run: data, machine, folder.

    Raises:
        UserError: the data, the interpreter, the device or the folder is not fit for it. Nothing is left behind then.
    """
    fresh = not request.out.exists()
    try:
        data = load_data(request.data, request.cases, progress.preparing)
        progress.preparing("importing torch")
        (request.out / "logs").mkdir(parents=True, exist_ok=True)
        target.ready()
        machine = describe(target, request.device, request.out / "logs" / "preparation.log")
        environment = fingerprint(machine, target.environ)
        cases = [case.planned() for case in request.cases]
        nodes = target.prepare(Needs(cases, request.data, data.sha256(), machine["device"], environment))
        run = Run(
            id=new_id(),
            suite=request.suite,
            suite_file=request.suite_file,
            description=request.description,
            cases=cases,
            ladder=request.ladder,
            command=redacted(list(request.command)),
            working_folder=str(Path.cwd()),
            llmbench=__version__,
            python=target.python,
            device=machine["device"],
            data=data.text.describe() | {"argument": request.data},
            environment=environment,
            nodes=nodes,
            git=git_state(Path.cwd()),
            started_at=records.utc_now(),
        )
        return Session(RunFolder.create(request.out, run), run, target, data, progress)
    except BaseException:  # Ctrl-C too: what has not begun leaves nothing
        if fresh:
            shutil.rmtree(request.out, ignore_errors=True)
        raise


def resume(folder: RunFolder, run: Run, target: Trains, progress: Progress) -> Session:
    """Prepares to go on with a run.

    Raises:
        UserError: the data or the environment is no longer what it was.
    """
    data = load_data(run.data.get("argument"), [from_plan(planned) for planned in run.cases], progress.preparing)
    known = {name: run.data.get(name, {}).get("sha256") for name in ("train", "valid")}
    if known != {"train": data.text.train.sha256, "valid": data.text.valid.sha256}:
        raise UserError(
            f"the text of --data {run.data.get('argument')} is not what the run began with", "start a new run"
        )
    progress.preparing("importing torch")
    target.ready()
    environment = fingerprint(describe(target, run.device, folder.path / "logs" / "preparation.log"), target.environ)
    changed = decisive_differences(run.environment, environment)
    if changed:
        raise UserError(
            f"{folder.path}: the environment changed since the run began: {', '.join(map(str, changed))}",
            "a run is of one environment; start a new one",
        )
    needs = Needs(run.cases, run.data.get("argument"), data.sha256(), run.device, environment, run.nodes)
    nodes = target.prepare(needs)
    if bool(nodes) != bool(run.nodes):
        raise UserError(
            f"{folder.path}: it began on {len(run.nodes) or 'no'} nodes, and is to go on with {len(nodes) or 'none'}",
            f"--nnodes {len(run.nodes)}" if run.nodes else "leave --nnodes out",
        )
    run = run.model_copy(update={"nodes": nodes, "status": "running", "finished_at": None, "resumed": run.resumed + 1})
    folder.write_run(run)
    return Session(folder, run, target, data, progress)


def broken(records_: list[Record]) -> list[Record]:
    """The records that make a run fail."""
    return [record for record in records_ if record.status in BROKEN]
