"""What srun says of a step on stderr: which rank ended how and where, and why a step could not be.

Words of SLURM 22.05, from srun itself; lines of tasks carry their number in front (``--label``) and are passed over.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

_TASKS = re.compile(r"^srun: error: (?P<host>\S+): tasks? (?P<tasks>[\d,\-]+): (?P<how>.+)$")
_EXIT = re.compile(r"Exited with exit code (\d+)")
_NODE = re.compile(r"^srun: error: Node failure on (?P<host>\S+)")
_UNREACHED = re.compile(r"^srun: error: Task launch for \S+ failed on node (?P<host>[^\s:]+): (?P<why>.+)$")
_REFUSED = re.compile(r"^srun: error: Unable to create step for job \d+: (?P<why>.+)$")
_UNANSWERED = re.compile(r"^srun: error: Timed out waiting for job step to complete")
_ENDING = re.compile(r"^srun: (launch/slurm: )?.*(Terminating StepId|forcing job termination|Job step aborted)")
_LATE = re.compile(
    r"^(\d+: )?slurmstepd-?(?P<host>[^:]*): error: \*\*\* STEP \S+ ON (\S+) CANCELLED AT \S+ DUE TO (?P<why>.+?) \*\*\*"
)
_OOM = re.compile(r"^(\d+: )?slurmstepd-?(?P<host>[^:]*): error: .*oom[-_ ]?kill", re.IGNORECASE)
_WORDS = {signal.strsignal(number): number for number in signal.valid_signals()}
OUT_OF_MEMORY = "Out Of Memory"


@dataclass(frozen=True)
class TaskEnd:
    """How one rank ended.

    Attributes:
        code: exit code, negative for a signal.
        by_us: srun was ending the step already.
    """

    rank: int
    host: str
    code: int
    by_us: bool


@dataclass
class Told:
    """What srun has said so far.

    Attributes:
        lost: why, by host.
        refused: why the step could not be started.
        out_of_memory: hosts where the kernel killed for memory.
        ending: the step is being ended.
        limit: of SLURM, which ended it.
        unanswered: some node did not tell that its ranks are gone when the step was ended.
    """

    ends: list[TaskEnd] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    refused: str | None = None
    out_of_memory: set[str] = field(default_factory=set)
    ending: bool = False
    limit: str | None = None
    unanswered: bool = False

    def hear(self, line: str) -> None:
        """Takes one line of srun's stderr."""
        line = line.rstrip()
        if found := _TASKS.match(line):
            self._ended(found["host"], found["tasks"], found["how"])
        elif found := _NODE.match(line):
            self.lost[found["host"]] = "SLURM says that the node failed"
        elif found := _UNREACHED.match(line):
            self.lost[found["host"]] = f"SLURM cannot start processes there: {found['why']}"
        elif found := _REFUSED.match(line):
            self.refused = found["why"]
        elif found := _LATE.match(line):
            self.limit = found["why"] if "TIME" in found["why"] else None
            self.ending = True
        elif found := _OOM.match(line):
            self.out_of_memory.add(found["host"])
        elif _UNANSWERED.match(line):
            self.unanswered = True
        elif _ENDING.match(line):
            self.ending = True

    def _ended(self, host: str, tasks: str, how: str) -> None:
        if how.startswith(OUT_OF_MEMORY):
            self.out_of_memory.add(host)
        code = _code(how)
        if code is None:
            return
        stopped = self.ending and -code in (signal.SIGTERM, signal.SIGKILL)
        self.ends += [TaskEnd(rank, host, code, stopped) for rank in _numbers(tasks)]

    @property
    def first(self) -> TaskEnd | None:
        """The rank that ended badly first, of those that nobody stopped."""
        return next((end for end in self.ends if not end.by_us and end.code != 0), None)


def _code(how: str) -> int | None:
    if found := _EXIT.match(how):
        return int(found[1])
    if how.startswith(OUT_OF_MEMORY):
        return -signal.SIGKILL
    number = _WORDS.get(how.removesuffix(" (core dumped)"))
    return -number if number is not None else None


def _numbers(tasks: str) -> Iterator[int]:
    """The ranks of ``0,2-5``."""
    for part in tasks.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)
