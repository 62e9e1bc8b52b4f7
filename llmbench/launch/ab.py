"""An A/B comparison in lock-step, from the list of cases to the sessions on disk."""

from __future__ import annotations

import math
import secrets
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llmbench import __version__
from llmbench.errors import UserError
from llmbench.launch import record as records
from llmbench.launch.diagnose import diagnose
from llmbench.launch.prepare import BaseError, Data, describe, load_data, lora_base
from llmbench.launch.session import new_id, preload
from llmbench.launch.sessions import Design, Draw, draw, hold, idlest, layout, start_order, until_verdict
from llmbench.launch.target import Target
from llmbench.launch.trains import Waited
from llmbench.results.ab import SIDES, Ab, AbCase, AbGate, AbSession, AbSide, SideName, Trained
from llmbench.results.ab_folder import AbFolder
from llmbench.results.environment import decisive_differences
from llmbench.results.fingerprint import fingerprint
from llmbench.results.redact import command as redacted
from llmbench.results.schema import SCHEMA_VERSION, Error, Memory
from llmbench.stats.ab import CaseVerdict
from llmbench.suite.cases import Case, from_plan
from llmbench.suite.modes import arithmetic, compiles, ingredients, parallel, precision

OUT_OF_MEMORY = "oom"
SESSIONS_OF_A_SERVER = 3


class Progress(Protocol):
    """Who is told what happens."""

    def preparing(self, message: str) -> None: ...
    def started(self, number: int, total: int, case: str) -> None: ...
    def session(self, verdict: CaseVerdict) -> None: ...
    def finished(self, number: int, total: int, verdict: CaseVerdict) -> None: ...


@dataclass
class Request:
    """What a comparison was asked for."""

    suite: str
    description: str
    cases: list[AbCase]
    base: AbSide
    cand: AbSide
    gate: AbGate
    seed: int | None
    rounds: int
    budget_seconds: float
    self_check: bool
    device: str
    data: str | None
    out: Path
    command: Sequence[str]


class AbRunner:
    """Adds sessions to a comparison until every case has its verdict, or its time is over.

    Args:
        folder: where the sessions are kept.
        data: what the cases train on.
        always_apart: never let both sides live at once.
    """

    def __init__(self, folder: AbFolder, ab: Ab, data: Data, progress: Progress, *, always_apart: bool) -> None:
        self.folder, self.ab = folder, ab
        self._data = data
        self._progress = progress
        self._always_apart = always_apart
        self.servers = _Servers()
        self._base_lock = threading.Lock()

    def execute(self) -> None:
        """Raises: KeyboardInterrupt, UserError: the sessions that are done are kept."""
        try:
            with (
                tempfile.TemporaryDirectory(prefix="llmbench-inductor-", ignore_cleanup_errors=True) as compiled,
                self.servers,
            ):
                self._compiled = Path(compiled)
                for number, case in enumerate(self.ab.cases, start=1):
                    self._progress.started(number, len(self.ab.cases), case.id)
                    self._progress.finished(number, len(self.ab.cases), self._case(case))
            self._close("done")
        except BaseException:
            with suppress(UserError):  # what ended it is to be told, not that this cannot be written either
                self._close("interrupted")
            raise
        finally:
            self.folder.release()

    def _close(self, status: str) -> None:
        self.ab = self.ab.model_copy(update={"status": status, "finished_at": records.utc_now()})
        self.folder.write(self.ab)

    def _case(self, case: AbCase) -> CaseVerdict:
        def next_session(sessions: Sequence[AbSession]) -> AbSession:
            return self.hold(case, len(sessions), self._design(sessions))

        return until_verdict(self.ab, case, self.folder, next_session, self._progress.session)

    def hold(self, case: AbCase, number: int, design: Design) -> AbSession:
        """One session; it is not kept."""
        drawn, cpus = draw(self.ab, case, number), _cpus(case, self.ab.device)
        targets = self.servers.of(self.ab, case, number)
        pairs = [
            {side: _Contender(self, targets[side], case, side, drawn, shift, cpus) for side in SIDES}
            for shift in drawn.shifts
        ]
        return hold(drawn, pairs, self.ab.rounds, design, cpus)

    def _design(self, sessions: Sequence[AbSession]) -> Design:
        ran_out = any(one.of(side).status == OUT_OF_MEMORY for one in sessions for side in SIDES)
        began_apart = any(one.design == "apart" for one in sessions)  # the others would count for nothing
        return "apart" if self._always_apart or ran_out or began_apart else "lockstep"

    def job(self, case: AbCase, side: SideName, number: int, target: Target, log: Path) -> dict[str, Any]:
        """What a side's process is asked to do, but for where its turns come from.

        Raises:
            BaseError: the weights that it builds on could not be trained.
        """
        one = planned(case, side)
        config = dict(one.config)
        if self.ab.gate.loss_margin is not None:  # a declared change is held against what differs between seeds
            config["seed"] += number
        data = self._data.of(one)
        if one.family.base:
            data = data | {"base": self._base_weights(case, target, log)}
        job = {
            "kind": "turns",
            "config": config,
            "mode": ingredients(one.mode),
            "arithmetic": arithmetic(one.mode),
            "precision": precision(one.mode),
            "device": self.ab.device,
            "data": data,
            "threads": threads(one, self.ab.device),
            "world_size": one.world_size,
            "distributed": parallel(one.mode),
            "side": side,
        }
        if compiles(one.mode):
            job["inductor_cache"] = str(self._compiled / side)
        return job

    def _base_weights(self, case: AbCase, target: Target, log: Path) -> str:
        """LoRA's base: both sides begin with the same one, whoever trained it."""
        kept = self.folder.path / "base.pt"
        with self._base_lock:  # the other side waits for the same
            if not kept.exists():
                weights = lora_base(
                    target, planned(case, "base"), self._data, self.ab.device, log, self._progress.preparing
                )
                copied = kept.with_suffix(".tmp")
                shutil.copyfile(weights, copied)
                copied.replace(kept)
        return str(kept)


class _Servers:
    """An interpreter of each side that has imported what a case needs, and forks a fresh process for each session.

    Both have one layout in memory. Each process that is forked moves what it allocates, so that it is another one where
    speed hangs on it; the servers themselves are made anew every few sessions all the same (docs/regression-gate.md).
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._group: tuple[str, int] | None = None
        self._targets: dict[SideName, Target] = {}

    def __enter__(self) -> _Servers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def of(self, ab: Ab, case: AbCase, number: int) -> Mapping[SideName, Target]:
        """Those of a session; started if they are not there yet, but not waited for."""
        group = (case.id, number // SESSIONS_OF_A_SERVER)
        if group != self._group:
            self._stack.close()
            variables = layout(f"{ab.seed} {group}")
            start = start_order(f"{ab.seed} {case.id} servers", group[1])
            self._targets = {side: self._stack.enter_context(self._target(ab, case, side, variables)) for side in start}
            self._group = group
        return self._targets

    def _target(self, ab: Ab, case: AbCase, side: SideName, variables: Mapping[str, str]) -> Target:
        one = ab.of(side)
        folder = one.folder or (ab.working_folder if Path(ab.working_folder).is_dir() else None)
        return Target(one.python, preload([planned(case, side)]), folder, one.paths, variables)


class _Contender:
    """A side of a session: the fresh process that its server forks for it."""

    def __init__(
        self,
        runner: AbRunner,
        target: Target,
        case: AbCase,
        side: SideName,
        drawn: Draw,
        shift: int,
        cpus: list[int] | None,
    ) -> None:
        self._runner, self._target, self._case, self._side = runner, target, case, side
        self._drawn, self._shift, self._cpus = drawn, shift, cpus
        self._planned = planned(case, side)
        self._log = runner.folder.log_path(case.id, side)

    @property
    def ranks(self) -> int:
        return self._planned.world_size

    def __enter__(self) -> _Contender:
        return self

    def __exit__(self, *_: object) -> None:
        self._target.kill_job()

    def ready(self) -> None:
        with suppress(UserError):  # it could import torch when the comparison began: this session fails, and no more
            self._target.ready()

    def kill(self) -> None:
        self._target.kill()

    def train(self, socket: str, waited: Waited) -> Trained:
        log = self._runner.folder.path / self._log
        deadline = self._planned.config["deadline_seconds"]
        try:
            job = self._runner.job(self._case, self._side, self._drawn.number, self._target, log)
            outcome = self._target.run(
                job | {"turns": socket, "cpus": self._cpus, "shift": self._shift}, log, deadline, waited=waited
            )
        except BaseError as error:
            problem = Error(type="BaseError", message=f"training LoRA's base failed: {error}", hint="see its log")
            return Trained(status="failed", error=problem, log=self._log)
        except UserError as unfit:
            problem = Error(type="ServerDied", message=unfit.message, hint=unfit.hint)
            return Trained(status="failed", error=problem, log=self._log)
        failure = diagnose(self._planned, outcome, deadline)
        if failure is not None:
            return Trained(status=failure[0], error=failure[1], log=self._log)
        result = outcome.result or {}
        return Trained(
            memory=Memory.model_validate(_largest([rank["memory"] for rank in result.get("ranks", [result["rank"]])])),
            loss=[value if math.isfinite(value) else None for value in result["losses"]],
            facts=result["facts"],
            preempted=int(result["load"]["preempted"]),
            log=self._log,
        )


def planned(case: AbCase, side: SideName) -> Case:
    """What one side trains."""
    return from_plan(case.base if side == "base" else case.cand)


def threads(case: Case, device: str) -> int | None:
    """One on the CPU, unless the suite or the user says otherwise: several wait for each other, and for others."""
    asked: int | None = case.config["threads"]
    return 1 if asked is None and device == "cpu" and case.world_size == 1 else asked


def _cpus(case: AbCase, device: str) -> list[int] | None:
    """The idlest CPUs, one for each thread, to which both sides are pinned; None: they may use all."""
    asked = [threads(planned(case, side), device) for side in SIDES]
    if device != "cpu" or None in asked:
        return None
    return idlest(max(number or 1 for number in asked) * max(case.base.world_size, case.cand.world_size))


def _largest(of_ranks: Sequence[dict[str, int | None]]) -> dict[str, int | None]:
    """Of each figure that of the rank that needs most."""
    return {key: max((one[key] or 0 for one in of_ranks), default=None) or None for key in of_ranks[0]}


def start(request: Request, progress: Progress, *, always_apart: bool = False) -> AbRunner:
    """Prepares a new comparison: data, both environments, folder.

    Raises:
        UserError: the data, an interpreter, the device or the folder is not fit for it. Nothing is left behind then.
    """
    fresh = not request.out.exists()
    try:
        cases = [planned(case, side) for case in request.cases for side in SIDES]
        data = load_data(request.data, cases, progress.preparing)
        (request.out / "logs").mkdir(parents=True, exist_ok=True)
        base, cand, device = _described(request.base, request.cand, cases, request.device, request.out, progress)
        ab = Ab(
            id=new_id(),
            suite=request.suite,
            description=request.description,
            cases=request.cases,
            base=base,
            cand=cand,
            gate=request.gate,
            seed=secrets.randbits(32) if request.seed is None else request.seed,
            rounds=request.rounds,
            budget_seconds=request.budget_seconds,
            self_check=request.self_check,
            command=redacted(list(request.command)),
            working_folder=str(Path.cwd()),
            llmbench=__version__,
            device=device,
            data=data.text.describe() | {"argument": request.data},
            started_at=records.utc_now(),
        )
        return AbRunner(AbFolder.create(request.out, ab), ab, data, progress, always_apart=always_apart)
    except BaseException:  # Ctrl-C too: what has not begun leaves nothing
        if fresh:
            shutil.rmtree(request.out, ignore_errors=True)
        raise


def resume(folder: AbFolder, budget_seconds: float | None, progress: Progress, *, always_apart: bool) -> AbRunner:
    """Prepares to add sessions to a comparison.

    Raises:
        UserError: the data or an environment is no longer what it was, what is there cannot be read, or another process
            adds sessions just now.
    """
    ab = folder.read()
    if not ab.data:
        raise UserError(f"{folder.path} was made by pytest, and not by this command", "run its tests again")
    for side in SIDES:
        _still_there(ab.of(side))
    folder.claim()
    ab = folder.read()  # what it was before, another one may have changed
    if ab.schema_version > SCHEMA_VERSION:  # what it says and we do not know would be lost
        raise UserError(
            f"{folder.path}: schema_version {ab.schema_version} is newer than {SCHEMA_VERSION}, the newest known here",
            "go on with the llmbench that wrote it",
        )
    folder.sessions()  # one that is damaged is told of before anything is changed
    cases = [planned(case, side) for case in ab.cases for side in SIDES]
    data = load_data(ab.data.get("argument"), cases, progress.preparing)
    if data.text.describe() != {key: value for key, value in ab.data.items() if key != "argument"}:
        raise UserError(f"the text of --data {ab.data.get('argument')} is not what it was", "start a new comparison")
    base, cand, _ = _described(ab.base, ab.cand, cases, ab.device, folder.path, progress)
    for side, before, after in (("base", ab.base, base), ("cand", ab.cand, cand)):
        changed = [str(one) for one in decisive_differences(before.environment, after.environment)]
        if before.environment.get("packages") != after.environment.get("packages"):
            changed.append("its packages")
        if changed:
            raise UserError(
                f"{folder.path}: the environment of {side} changed since: {'; '.join(changed)}",
                "sessions are only added to those of the same two environments; start a new comparison",
            )
    updates: dict[str, Any] = {"status": "running", "finished_at": None, "resumed": ab.resumed + 1}
    if budget_seconds is not None:
        updates["budget_seconds"] = budget_seconds
    ab = ab.model_copy(update=updates)
    folder.write(ab)
    return AbRunner(folder, ab, data, progress, always_apart=always_apart)


def _still_there(side: AbSide) -> None:
    """Raises: UserError: what was made for a side has been deleted since."""
    for part in (side.python, side.folder, *side.paths):
        if part and not Path(part).exists():
            raise UserError(f"{side.asked}: {part} is gone", "the first command with --plan makes both sides again")


def _described(
    base: AbSide, cand: AbSide, cases: Sequence[Case], device: str, out: Path, progress: Progress
) -> tuple[AbSide, AbSide, str]:
    """Both sides with their environments, and the device."""
    progress.preparing("importing torch on both sides")
    found = []
    for name, side in (("base", base), ("cand", cand)):
        try:
            # With all that a session imports: who compiles modules needs more memory than who finds them compiled.
            with Target(side.python, preload(cases), side.folder, side.paths) as target:
                target.ready()
                machine = describe(target, device, out / "logs" / "preparation.log", every_package=True)
                device = machine["device"]
                found.append(side.model_copy(update={"environment": fingerprint(machine, target.environ)}))
        except UserError as error:
            raise UserError(f"{name}: {error.message}", error.hint) from None
    return found[0], found[1], device
