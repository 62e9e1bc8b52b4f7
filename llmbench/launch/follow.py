"""A node that is not the first: it trains its share of each case when node 0 asks for it, and keeps nothing."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from llmbench.cluster.channel import Follower, Handler, Send
from llmbench.errors import UserError
from llmbench.launch.prepare import describe, load_data
from llmbench.launch.share import interface_of, packed
from llmbench.launch.target import Target
from llmbench.paths import cache_folder
from llmbench.results.fingerprint import fingerprint
from llmbench.results.schema import PlannedCase
from llmbench.suite.cases import from_plan

BEGIN_SECONDS = 60.0
KILL_SECONDS = 0.1  # between attempts to kill a job that may be about to start

T = TypeVar("T")


class Follow:
    """Serves node 0. Use as a context manager: on leaving, no process is left.

    Args:
        python: the interpreter that trains here.
        say: told what happens, in short lines.
    """

    def __init__(self, follower: Follower, python: str, say: Callable[[str], None]) -> None:
        self._follower, self._python, self._say = follower, python, say
        # Of one thread, which lives as long as this does: the kernel ends processes with the thread that made them.
        self._thread = ThreadPoolExecutor(1)
        self._folder = Path(tempfile.mkdtemp(prefix="llmbench-node-"))
        self._target: Target | None = None
        self._begun = threading.Event()
        self._tokens: dict[str, dict[str, Any]] = {}
        self._gate: Path | None = None
        self._open = 0  # the number of the job whose gate is open
        self._at_gate = threading.Lock()
        self._stopped = 0  # the number of the job that is to stop, and of all before it

    def __enter__(self) -> Follow:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            stack.callback(self._thread.shutdown)
            if self._target is not None:
                stack.enter_context(_Ending(self._target))

    @property
    def handlers(self) -> dict[str, Handler]:
        return {
            "begin": self._begin,
            "prepare": self._prepare,
            "have": self._have,
            "take": self._take,
            "run": self._run,
            "go": self._go,
            "stop": self._stop_job,
        }

    def _begin(self, request: dict[str, Any], send: Send) -> dict[str, Any]:
        """Starts the interpreter, which has time to import torch while node 0 prepares."""

        def start() -> None:
            self._target = Target(self._python, request["preload"]).__enter__()

        self._thread.submit(start).result()
        self._begun.set()
        return {}

    def _prepare(self, request: dict[str, Any], send: Send) -> dict[str, Any]:
        """Makes ready what the cases need; what this node is, and the hashes of its data."""
        cases = [from_plan(PlannedCase.model_validate(planned)) for planned in request["cases"]]
        data = load_data(request["data"], cases, self._say)
        self._tokens = {each["sha256"]: each for each in map(data.of, cases) if each}
        target = self._trainer()

        def look() -> dict[str, Any]:
            target.ready()
            return describe(target, request["device"], self._folder / "preparation.log")

        machine = self._wait(self._thread.submit(look), request["cancelled"].is_set)
        self._say(f"ready, torch {machine['torch']['version']}")
        return {"environment": fingerprint(machine, target.environ), "sha256": data.sha256()}

    def _have(self, request: dict[str, Any], send: Send) -> dict[str, Any]:
        return {"have": self._file(request["sha256"]).exists()}

    def _take(self, request: dict[str, Any], send: Send) -> dict[str, Any]:
        """One part of a file; the last one makes it whole."""
        file = self._file(request["sha256"])
        part = file.with_suffix(".part")
        with open(part, "wb" if request["first"] else "ab") as out:
            out.write(base64.b64decode(request["part"]))
        if request["last"]:
            with open(part, "rb") as whole:
                found = hashlib.file_digest(whole, "sha256").hexdigest()
            if found != request["sha256"]:
                raise UserError("a file arrived damaged", None)
            part.rename(file)
        return {}

    def _file(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.file"

    def _run(self, request: dict[str, Any], send: Send) -> dict[str, Any]:
        """Trains this node's share of a case."""
        share = request["job"]["share"]
        first, last = share["first_rank"], share["first_rank"] + share["ranks"] - 1
        self._say(f"{request['name']}: {f'rank {first}' if first == last else f'ranks {first} to {last}'}")
        target, number = self._trainer(), request["number"]
        # A rank that dies only now may still write there; what then is left goes when this node ends.
        with (
            tempfile.TemporaryDirectory(dir=self._folder, prefix="job-", ignore_cleanup_errors=True) as folder,
            self._gated(Path(folder, "gate"), number),
        ):
            job = self._own(request["job"], Path(folder))
            running = self._thread.submit(target.run, job, Path(folder, "case.log"), request["deadline"])
            outcome = self._wait(running, lambda: self._stopped >= number or request["cancelled"].is_set())
            if request["cancelled"].is_set():
                raise UserError("it was interrupted there", None)
            return packed(outcome, Path(folder, "evidence")) | {"stopped": self._stopped >= number}

    @contextmanager
    def _gated(self, gate: Path, number: int) -> Iterator[None]:
        """The gate of a job, which ``go`` opens; never after this, when its folder is about to go."""
        with self._at_gate:
            self._gate = gate
            if self._open >= number:  # said before this was asked for: each request has a thread of its own
                gate.touch()
        try:
            yield
        finally:
            with self._at_gate:
                self._gate = None

    def _own(self, job: dict[str, Any], folder: Path) -> dict[str, Any]:
        """The job with the paths of this node."""
        data, files = job["data"], job.pop("files")
        if "sha256" in data:
            if data["sha256"] not in self._tokens:
                raise UserError("it has other token files than node 0", "the same llmbench and --data on every node")
            base = {"base": data["base"]} if "base" in data else {}
            data = self._tokens[data["sha256"]] | base
        if "base" in data:
            data = data | {"base": str(self._file(files[data["base"]]))}
        if job.get("gradients"):
            job = job | {"gradients": str(self._file(files[job["gradients"]]))}
        share = job["share"] | {
            "address": self._follower.address,
            "interface": interface_of(self._follower.address),
            "gate": str(self._gate),
        }
        if job.get("inductor_cache"):
            job = job | {"inductor_cache": str(self._compiled(job["inductor_cache"], share))}
        if job.get("evidence"):
            job = job | {"evidence": str(folder / "evidence")}
        return job | {"data": data, "share": share}

    def _compiled(self, leader: str, share: Mapping[str, Any]) -> Path:
        """The folder of compiled code; of this node alone, even if its disk is shared."""
        root = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
        folder = Path(root) if root else cache_folder() / "inductor"
        folder = folder / f"{Path(leader).name}-node{share['node']}"
        if share["cold"]:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _go(self, request: dict[str, Any], send: Send) -> dict[str, Any]:
        """The ranks of node 0 are there: those of this node may go on."""
        with self._at_gate:
            self._open = request["number"]
            if self._gate is not None:
                self._gate.touch()
        return {}

    def _stop_job(self, request: dict[str, Any], send: Send) -> dict[str, Any]:
        self._stopped = request["number"]
        return {}

    def _trainer(self) -> Target:
        if not self._begun.wait(BEGIN_SECONDS) or self._target is None:  # each request has a thread of its own
            raise UserError("it was not told to begin, or could not", None)
        return self._target

    def _wait(self, work: Future[T], to_stop: Callable[[], bool]) -> T:
        """Waits for what the thread does; a job that is to stop is killed."""
        over = threading.Event()
        work.add_done_callback(lambda _: over.set())
        while not over.wait(KILL_SECONDS):
            if to_stop():
                self._trainer().kill_job()
        return work.result()


class _Ending:
    """Ends a target that was begun elsewhere."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        self._target.__exit__()
