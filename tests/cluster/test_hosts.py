"""The hosts themselves: without them no test of a cluster says anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import wait_for

from .hosts import Hosts, demand, hosts, own_names
from .nodes import free_port, run_nodes

# Sends so many MB to a port of a host, which answers when it has them; prints the seconds.
RECEIVE = """
import socket, sys
with socket.create_server(("", int(sys.argv[1]))) as server:
    print("ready", flush=True)
    while True:
        peer = server.accept()[0]
        left = int(sys.argv[2])
        while left > 0:
            left -= len(peer.recv(1 << 20)) or left
        peer.sendall(b"done")
        peer.close()
"""
SEND = """
import socket, sys, time
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=120)
begun = time.monotonic()
peer.sendall(bytes(int(sys.argv[3])))
peer.recv(4)
print(time.monotonic() - begun)
"""
BYTES = 4_000_000
# 4 MB at 20 Mbit/s take 1.6 s, less what a burst lets through.
LIMITED = 1.2


def seconds_to(made: Hosts, sender: int, receiver: int, port: int) -> float:
    sent = made.run(sender, [sys.executable, "-c", SEND, made.name(receiver), str(port), str(BYTES)])
    assert sent.returncode == 0, sent.stderr
    return float(sent.stdout)


def is_fast(made: Hosts, sender: int, receiver: int, port: int) -> None:
    """No limit: at some moment of a busy machine it goes through at once."""
    wait_for(lambda: seconds_to(made, sender, receiver, port) < LIMITED, seconds=60)


@pytest.fixture(scope="module")
def receivers(hosts3: Hosts) -> int:
    """Each host receives at this port."""
    port = free_port()
    for host in range(3):
        process = hosts3.start(host, [sys.executable, "-u", "-c", RECEIVE, str(port), str(BYTES)])
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    return port


@pytest.mark.hosts
@pytest.mark.slow
class TestHosts:
    def test_each_has_a_name_and_an_address_of_its_own(self, hosts3: Hosts) -> None:
        code = "import socket; print(socket.gethostname(), socket.gethostbyname(socket.gethostname()))"
        for host in range(3):
            said = hosts3.run(host, [sys.executable, "-c", code]).stdout.split()
            assert said == [f"h{host}", hosts3.address(host)]

    def test_one_slow_link_slows_no_other(self, hosts3: Hosts, receivers: int) -> None:
        hosts3.slow_link(0, 1, "20mbit")
        slow = [seconds_to(hosts3, *pair, receivers) for pair in ((0, 1), (1, 0))]
        for pair in ((0, 2), (2, 0), (1, 2), (2, 1)):
            is_fast(hosts3, *pair, receivers)
        hosts3.fast(0)
        is_fast(hosts3, 1, 0, receivers)
        assert min(slow) > LIMITED

    def test_a_slow_host_is_slow_to_all_until_it_is_fast(self, hosts3: Hosts, receivers: int) -> None:
        hosts3.slow(2, "20mbit")
        slow = [seconds_to(hosts3, *pair, receivers) for pair in ((2, 0), (1, 2))]
        hosts3.fast(2)
        assert min(slow) > LIMITED
        is_fast(hosts3, 2, 0, receivers)

    def test_a_throttled_cpu_gets_so_much_and_no_more(self, hosts3: Hosts) -> None:
        code = "import time\nend = time.monotonic() + 3\nwhile time.monotonic() < end: pass\nprint(time.process_time())"
        hosts3.cpu(1, 20)
        throttled = float(hosts3.run(1, [sys.executable, "-c", code]).stdout)
        hosts3.cpu(1, None)
        assert throttled < 1.2

    def test_a_pulled_cable_and_a_plugged_one(self, hosts3: Hosts, receivers: int) -> None:
        code = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3)"
        reach = [sys.executable, "-c", code, "h0", str(receivers)]
        hosts3.cut(0)
        assert "timed out" in hosts3.run(1, reach).stderr
        hosts3.heal(0)
        assert hosts3.run(1, reach, timeout=60).returncode == 0

    def test_llmbench_is_that_of_this_checkout_from_any_folder(self, hosts3: Hosts, tmp_path: Path) -> None:
        done = hosts3.llmbench(1, "--version", cwd=tmp_path, environment={"PATH": os.environ["PATH"]})
        assert (done.returncode, done.stderr) == (0, "")
        where = hosts3.run(1, [sys.executable, "-c", "import llmbench; print(llmbench.__file__)"], cwd=tmp_path)
        assert Path(where.stdout.strip()).exists()

    def test_what_takes_too_long_is_killed_with_its_children(self, hosts3: Hosts) -> None:
        before = set(hosts3.pids(2))
        with pytest.raises(subprocess.TimeoutExpired):
            hosts3.run(2, ["sh", "-c", "sleep 600 & wait"], timeout=1)
        wait_for(lambda: set(hosts3.pids(2)) <= before)


@pytest.mark.hosts
@pytest.mark.slow
def test_nothing_stays_whatever_happens() -> None:
    with pytest.raises(KeyboardInterrupt), hosts(2) as made:  # noqa: PT012
        left = made.start(1, ["sleep", "600"])
        wait_for(lambda: made.pids(1))
        raise KeyboardInterrupt
    assert left.poll() is not None
    assert not list(Path("/run/netns").glob(f"{made.names['LLB_PREFIX']}-h*"))
    assert not Path(made.names["LLB_STATE"]).exists()


def test_two_at_a_time_have_names_of_their_own() -> None:
    with own_names() as one, own_names() as other:
        assert not set(one.values()) & set(other.values())


def test_what_is_missing_skips_and_fails_where_ci_demands_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no ip"):
        demand("no ip")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no ip"):
        demand("no ip")
    demand(None)


def test_each_node_is_told_its_place(tmp_path: Path) -> None:
    """A command that does not know the options says so on each node, in a folder of its own."""
    ended = run_nodes(2, ["list", "modes"], tmp_path)
    assert [done.returncode for done in ended] == [2, 2]
    for rank, done in enumerate(ended):
        assert "--nnodes" in done.stderr
        assert done.args[-5] == str(rank)
        assert (tmp_path / f"node{rank}" / "stderr").read_text() == done.stderr
