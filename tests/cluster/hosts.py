"""Several hosts on this one: own names and addresses, links to slow, CPUs to throttle, cables to pull.

They are network namespaces on a bridge, made by ``hosts.sh`` beside the clone. Every process that makes some takes a
slot of its own, so several test runs on one machine do not meet. What a killed run left is removed by the next one
that gets its slot.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
TOOLS = CHECKOUT.parent / "shared" / "tools"
SCRIPT = TOOLS / "hosts.sh"
PROGRAMS = ("ip", "tc", "nsenter", "unshare")
SLOTS = range(1, 250)
FULL_RATE = "100gbit"

Stream = int | IO[Any] | None


def missing() -> str | None:
    """Why no hosts can be made here; None if they can."""
    if os.geteuid() != 0:
        return "hosts need root"
    for program in PROGRAMS:
        if shutil.which(program) is None:
            return f"hosts need the command {program}"
    if not SCRIPT.exists():
        return f"hosts need {SCRIPT.name} beside the clone, in {SCRIPT.parent.relative_to(CHECKOUT.parent)}"
    probe = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True, text=True)
    return f"hosts need namespaces: {probe.stderr.strip()}" if probe.returncode else None


def demand(reason: str | None) -> None:
    """Skips the test for this reason, if there is one; where CI demands that nothing is missing, fails."""
    if reason is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@contextmanager
def own_names() -> Iterator[dict[str, str]]:
    """The variables of ``hosts.sh`` that keep these hosts apart from others: held by a lock while the context lasts."""
    for slot in SLOTS:
        path = Path(tempfile.gettempdir(), f"llmbench-hosts-{slot}.lock")
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield {"LLB_PREFIX": f"lb{slot}", "LLB_NET": f"10.77.{slot}", "LLB_STATE": f"/run/lb{slot}-hosts"}
            return
    raise RuntimeError(f"all {len(SLOTS)} slots are taken")


class Hosts:
    """Hosts ``h0`` to ``h(count - 1)``. Each method takes the host's number."""

    def __init__(self, count: int, names: Mapping[str, str]) -> None:
        self.count = count
        self.names = dict(names)
        self._processes: list[subprocess.Popen[Any]] = []
        self._links: dict[tuple[int, int], str] = {}

    def up(self) -> None:
        self._script("down")  # of a run that was killed
        self._script("up", self.count)

    def down(self) -> None:
        """Kills what still runs on the hosts, and removes them."""
        self._script("down")
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def name(self, host: int) -> str:
        return f"h{host}"

    def address(self, host: int) -> str:
        return f"{self.names['LLB_NET']}.{10 + host}"

    def start(
        self,
        host: int,
        command: list[str],
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdout: Stream = subprocess.PIPE,
        stderr: Stream = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """Starts a command on a host, and does not wait. The process that is returned is the command itself."""
        process = subprocess.Popen(
            [str(SCRIPT), "exec", str(host), *command],
            env={**(os.environ if environment is None else environment), **self.names},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,
            # As in a terminal: what a shell starts in the background inherits that Ctrl-C is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self._processes.append(process)
        return process

    def run(
        self,
        host: int,
        command: list[str],
        timeout: float = 240,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on a host and waits; after ``timeout`` seconds it is killed with all that it started."""
        process = self.start(host, command, environment, cwd)
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as late:
            os.killpg(process.pid, signal.SIGKILL)
            late.stdout, late.stderr = process.communicate()  # type: ignore[assignment]
            raise
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def llmbench(self, host: int, *arguments: object, **keywords: Any) -> subprocess.CompletedProcess[str]:
        """``llmbench ARGUMENTS`` of this checkout on a host, from any folder; keywords as of ``run``."""
        keywords["environment"] = with_checkout(keywords.get("environment"))
        return self.run(host, llmbench_command(*arguments), **keywords)

    def start_llmbench(self, host: int, *arguments: object, **keywords: Any) -> subprocess.Popen[str]:
        """The same without waiting; keywords as of ``start``."""
        keywords["environment"] = with_checkout(keywords.get("environment"))
        return self.start(host, llmbench_command(*arguments), **keywords)

    def slow(self, host: int, rate: str) -> None:
        """Limits a host's link both ways, for instance to ``200mbit``."""
        self._script("slow", host, rate)

    def fast(self, host: int) -> None:
        """Takes every limit from the links of a host."""
        self._script("fast", host)
        for pair in [pair for pair in self._links if host in pair]:
            del self._links[pair]
            self._shape(pair[0])
            self._shape(pair[1])

    def slow_link(self, one: int, other: int, rate: str) -> None:
        """Limits what goes between two hosts, both ways; their links to all others stay as they are."""
        self._links[min(one, other), max(one, other)] = rate
        self._shape(one)
        self._shape(other)

    def cpu(self, host: int, percent: int | None) -> None:
        """Limits what is running on a host to so much of one core; None: no limit."""
        self._script("cpu", host, "off" if percent is None else percent)

    def cut(self, host: int) -> None:
        """Pulls a host's cable."""
        self._script("cut", host)

    def heal(self, host: int) -> None:
        self._script("heal", host)

    def pids(self, host: int) -> list[int]:
        """The processes that run on a host."""
        found = subprocess.run(
            ["ip", "netns", "pids", f"{self.names['LLB_PREFIX']}-h{host}"], capture_output=True, text=True, check=True
        )
        return [int(pid) for pid in found.stdout.split()]

    def _script(self, verb: str, *arguments: object) -> None:
        command = ["bash", str(SCRIPT), verb, *map(str, arguments)]
        done = subprocess.run(command, env={**os.environ, **self.names}, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"hosts.sh {verb} {arguments}: {done.stderr.strip()}")

    def _shape(self, host: int) -> None:
        """A class of its own for each slow peer; all other traffic of the host passes as it comes."""
        inside = ["ip", "netns", "exec", f"{self.names['LLB_PREFIX']}-h{host}", "tc"]
        subprocess.run([*inside, "qdisc", "del", "dev", "eth0", "root"], capture_output=True)  # none there: fine
        peers = {sum(pair) - host: rate for pair, rate in self._links.items() if host in pair}
        if not peers:
            return
        lines = ["qdisc add dev eth0 root handle 1: htb default 1"]
        lines.append(f"class add dev eth0 parent 1: classid 1:1 htb rate {FULL_RATE} quantum 100000")
        for peer, rate in peers.items():
            flow = f"1:{10 + peer:x}"
            lines.append(f"class add dev eth0 parent 1: classid {flow} htb rate {rate} burst 256kb quantum 60000")
            match = f"protocol ip parent 1: u32 match ip dst {self.address(peer)}/32"
            lines.append(f"filter add dev eth0 {match} flowid {flow}")
        for line in lines:
            subprocess.run([*inside, *line.split()], check=True, capture_output=True, text=True)


@contextmanager
def hosts(count: int) -> Iterator[Hosts]:
    """``count`` hosts, gone at the end whatever happened, also on Ctrl-C.

    Where none can be made the test is skipped with the reason; where the variable CI is set it fails.
    """
    demand(missing())
    with ExitStack() as stack:
        made = Hosts(count, stack.enter_context(own_names()))
        stack.callback(made.down)
        made.up()
        yield made


def llmbench_command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "llmbench", *map(str, arguments)]


def with_checkout(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment in which ``-m llmbench`` is that of this checkout."""
    base = dict(os.environ if environment is None else environment)
    paths = [path for path in base.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(CHECKOUT)]
    return base | {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), *paths])}
