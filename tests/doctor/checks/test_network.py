"""Networks that are broken for real, each in namespaces of its own; and collectives that fail."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmbench.doctor.checks import collectives, infiniband, interfaces
from llmbench.doctor.model import Finding
from llmbench.doctor.network import ANSWERS, nccl_matches, several_machines
from llmbench.doctor.process import Outcome, Processes
from llmbench.doctor.runner import PROBES, Context
from tests.doctor.conftest import ask, needs_root, one

from .namespaces import Found, in_namespaces, told

# A file in the place of another one; the host name is known, and no name server.
WITH = """mount -t tmpfs tmpfs /mnt; put() { printf '%b\\n' "$2" > /mnt/${1##*/}; mount --bind /mnt/${1##*/} $1; }
hostname node-17; put /etc/nsswitch.conf 'hosts: files dns'; put /etc/resolv.conf ''
put /etc/hosts '127.0.0.1 localhost\\n127.0.0.1 node-17'"""
VETH = """ip link add v0 type veth peer name v1; ip addr add 10.77.0.1/24 dev v0
ip link set v0 up; ip link set v1 up"""
SILENT = """ip neigh add 10.77.0.53 lladdr 02:00:00:00:00:02 dev v0 nud permanent
put /etc/resolv.conf 'nameserver 10.77.0.53'"""
LINK = """mkdir /mnt/etc; cp -a /etc/hosts /etc/passwd /etc/nsswitch.conf /etc/ld.so.cache /mnt/etc
ln -s /run/no/stub.conf /mnt/etc/resolv.conf; mount --bind /mnt/etc /etc"""
LISTEN = """setsid python3 -m http.server 29500 --bind 127.0.0.1 > /dev/null 2>&1 &
until (: < /dev/tcp/127.0.0.1/29500) 2> /dev/null; do sleep 0.05; done"""
SLOW_SERVER = """cat > /mnt/server.py <<'PYTHON'
import socket, threading, time
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
def answer(question, asker):
    time.sleep(1.6)
    is_v4 = question[-3] == 1
    record = bytes.fromhex("c00c00010001000000050004") + socket.inet_aton("127.0.0.1") if is_v4 else b""
    server.sendto(question[:2] + bytes.fromhex("81800001000%d00000000" % is_v4) + question[12:] + record, asker)
while True:
    threading.Thread(target=answer, args=server.recvfrom(512)).start()
PYTHON
setsid python3 /mnt/server.py > /dev/null 2>&1 & put /etc/hosts '127.0.0.1 localhost'
put /etc/resolv.conf 'nameserver 127.0.0.1'; sleep 0.5"""
JOB = {"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}

# What is done to the network, variables, the fault, its verdict, words of its evidence.
FAULTS: list[tuple[str, dict[str, str], str, str, str]] = [
    ("ip link set lo down", {}, "network.loopback.down", "fail", "the loopback interface lo is down"),
    ("ip addr flush dev lo", {}, "network.loopback.address", "fail", "lo has address None"),
    (
        "ip route del local 127.0.0.0/8 table local; ip route del local 127.0.0.1 table local",
        {},
        "network.loopback.blocked",
        "fail",
        "127.0.0.1 cannot be reached",
    ),
    (
        "put /etc/hosts '127.0.0.1 localhost'",
        {},
        "network.host.unresolved",
        "fail",
        "host name node-17 does not resolve",
    ),
    ("put /etc/hosts '127.0.0.1 localhost\\n10.9.9.9 node-17'", {}, "network.host.elsewhere", "fail", "10.9.9.9"),
    (
        "put /etc/hosts '127.0.0.1 localhost\\n127.0.1.1 node-17'",
        JOB,
        "network.host.loopback",
        "warn",
        "host name node-17 resolves to 127.0.1.1, a loopback address",
    ),
    (f"{VETH}; {SILENT}; hostname other", {}, "network.host.silent", "fail", "of host name other did not end within"),
    ("hostname $(printf 'a%.0s' {1..64})", {}, "network.host.name", "fail", "label too long"),
    ("put /etc/hosts '127.0.0.1 node-17'", {}, "network.localhost.unresolved", "fail", "localhost does not resolve"),
    (
        "put /etc/hosts '10.9.9.9 localhost'",
        {},
        "network.localhost.elsewhere",
        "fail",
        "localhost resolves to 10.9.9.9",
    ),
    (
        "put /etc/hosts '::1 localhost'; echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6",
        {},
        "network.localhost.version6",
        "fail",
        "localhost resolves to ::1 only",
    ),
    (
        f"{VETH}; {SILENT}",
        {},
        "network.dns.silent",
        "warn",
        "name server 10.77.0.53 of /etc/resolv.conf does not answer",
    ),
    ("put /etc/resolv.conf 'nameserver 127.0.0.1'", {}, "network.dns.refused", "warn", "127.0.0.1 of /etc/resolv.conf"),
    (LINK, {}, "network.dns.dangling", "warn", "a link to /run/no/stub.conf, which does not exist"),
    (
        VETH,
        {"GLOO_SOCKET_IFNAME": "eth7"},
        "network.interfaces.missing",
        "fail",
        "eth7 does not exist; there are lo, v",
    ),
    (
        VETH,
        {"NCCL_SOCKET_IFNAME": "ib7"},
        "network.interfaces.missing",
        "warn",
        "NCCL_SOCKET_IFNAME=ib7 matches no interface",
    ),
    (
        VETH,
        {"GLOO_SOCKET_IFNAME": "10.77.0.1"},
        "network.interfaces.address",
        "fail",
        "10.77.0.1 is an address, not the name of an interface",
    ),
    (VETH, {"GLOO_SOCKET_IFNAME": "v1"}, "network.interfaces.down", "fail", "v1 is up, but has no address"),
    (f"{VETH}; ip link set v0 down", {"TP_SOCKET_IFNAME": "v0"}, "network.interfaces.down", "warn", "v0 is down"),
    (VETH, JOB | {"GLOO_SOCKET_IFNAME": "lo"}, "network.interfaces.local", "fail", "in a job of several machines"),
    (VETH, {"NCCL_IB_HCA": "=mlx5_9:1"}, "network.interfaces.adapter", "warn", "NCCL_IB_HCA==mlx5_9:1 matches none"),
    ("true", JOB, "network.links.none", "fail", "only loopback is up"),
    (
        f"{VETH}; ip route del local 10.77.0.1 table local",
        {},
        "network.links.blocked",
        "fail",
        "10.77.0.1, the address of v0",
    ),
    ("true", {"MASTER_ADDR": "node0.cluster.invalid"}, "network.master.unresolved", "fail", "does not resolve"),
    ("true", {"MASTER_ADDR": "tcp://10.1.1.1:29500"}, "network.master.url", "fail", "not a name or an address alone"),
    ("true", {"MASTER_ADDR": "10.1.1.1:29500"}, "network.master.url", "fail", "not a name or an address alone"),
    (VETH, JOB | {"MASTER_ADDR": "127.0.0.1"}, "network.master.loopback", "fail", "LOCAL_WORLD_SIZE=8"),
    (VETH, {"RANK": "0", "MASTER_ADDR": "10.9.9.9"}, "network.master.elsewhere", "warn", "this machine has 10.77.0.1"),
    (
        VETH,
        {"RANK": "1", "MASTER_ADDR": "10.9.9.9", "MASTER_PORT": "29600"},
        "network.master.unreachable",
        "fail",
        "Network is unreachable",
    ),
    ("true", {"MASTER_PORT": "29500.5"}, "network.port.invalid", "fail", "MASTER_PORT='29500.5' is no number"),
    ("true", {"MASTER_PORT": "70000"}, "network.port.invalid", "fail", "MASTER_PORT='70000'"),
    ("true", {"MASTER_PORT": "80"}, "network.port.privileged", "fail", "MASTER_PORT=80: Permission denied"),
    (LISTEN, {"MASTER_PORT": "29500"}, "network.port.taken", "fail", "is in use by python3 (pid "),
    (LISTEN, {}, "network.port.default", "warn", "port 29500 is in use by python3 (pid "),
    ("echo 32768 33000 > /proc/sys/net/ipv4/ip_local_port_range", {}, "network.port.few", "warn", "233 ports"),
]
FINE: list[tuple[str, dict[str, str]]] = [
    ("true", {}),
    (VETH, {"GLOO_SOCKET_IFNAME": "v0", "NCCL_SOCKET_IFNAME": "^docker,lo", "NCCL_IB_HCA": "^mlx5_3"}),
    ("put /etc/hosts '127.0.0.1 localhost\\n127.0.1.1 node-17'", {}),  # Debian's default, on one machine
    ("put /etc/resolv.conf 'nameserver 10.1.1.1'", {}),  # without a network, the name server cannot be reached
    (
        f"{VETH}; put /etc/hosts '127.0.0.1 localhost\\n10.77.0.1 node-17'",
        JOB | {"MASTER_ADDR": "node-17", "RANK": "0"},
    ),
    (LISTEN, {"MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "7", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}),
    (LISTEN, {"MASTER_PORT": "29500", "RANK": "1"}),
    ("true", {"http_proxy": "http://127.0.0.1:3128", "no_proxy": "localhost,127.0.0.1"}),
]
WITHOUT_TORCH = [
    f"network.{name}" for name in ("host", "localhost", "dns", "interfaces", "links", "master", "port", "proxy")
]
NO_NAMES = [
    "GLOO_SOCKET_IFNAME",
    "NCCL_SOCKET_IFNAME",
    "NCCL_IB_HCA",
    "MASTER_ADDR",
    "MASTER_PORT",
    "RANK",
    "WORLD_SIZE",
]
NO_NAMES += ["LOCAL_WORLD_SIZE", "SLURM_NNODES", *(f"{name}_proxy" for name in ("http", "https", "no"))]
CLEAN = dict.fromkeys([*NO_NAMES, *(name.upper() for name in NO_NAMES)])


def situation(setup: str, environ: dict[str, str], only: list[str]) -> dict[str, Any]:
    patience = 0.3 if SILENT in setup else 1.0
    powerless = "80" in environ.values()
    common = {"network": True, "setup": f"{WITH}\n{setup}", "environ": {**CLEAN, **environ}}
    return {**common, "only": only, "patience": patience, "powerless": powerless}


@pytest.fixture(scope="module")
def broken() -> dict[str, Found]:
    asked = {}
    for number, (setup, environ, fault, _, _) in enumerate(FAULTS):
        asked[str(number)] = situation(setup, environ, [fault.rpartition(".")[0]])
    for number, (setup, environ) in enumerate(FINE):
        asked[f"fine {number}"] = situation(setup, environ, WITHOUT_TORCH)
    asked["together"] = situation(f"{VETH}; {SILENT}; hostname other", {}, WITHOUT_TORCH)
    return in_namespaces(asked)


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(FAULTS)), ids=lambda number: FAULTS[number][2])
def test_fault_is_named(broken: dict[str, Found], number: int) -> None:
    _, _, fault, verdict, words = FAULTS[number]
    told(broken[str(number)], fault, verdict, words)


@needs_root
@pytest.mark.parametrize("number", range(len(FINE)))
def test_what_is_meant_to_be_so_is_no_fault(broken: dict[str, Found], number: int) -> None:
    found = broken[f"fine {number}"]
    assert [finding for finding in found if finding["verdict"] not in ("pass", "skip")] == []


@needs_root
def test_a_dead_name_server_is_told_once(broken: dict[str, Found]) -> None:
    found = broken["together"]
    assert [f["fault"] for f in found if f["verdict"] not in ("pass", "skip")] == ["network.dns.silent"]
    assert [f["root"] for f in found if f["fault"] == "network.host.silent"] == ["network.dns"]


@needs_root
@pytest.mark.slow
def test_slow_lookup() -> None:
    found = in_namespaces({"slow": situation(SLOW_SERVER, {}, ["network.host"])})
    told(found["slow"], "network.host.slow", "warn", "the lookup of host name node-17 took ")


def test_all_is_well_here() -> None:
    assert one("network.loopback").verdict == "pass"
    assert one("network.localhost").verdict == "pass"


def test_port_of_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        finding = ask("network.port")[0]
    assert finding.fault == "network.port.taken"
    assert f"MASTER_PORT={port} is in use by " in finding.evidence
    assert f"(pid {os.getpid()})" in finding.evidence


SECRET = "S3cr3t-Passw0rd"
PROXY = f"http://alice:{SECRET}@127.0.0.1:3128"


@pytest.mark.parametrize(
    ("environ", "fault", "words"),
    [
        ({"http_proxy": PROXY}, "network.proxy.local", "http_proxy=http://***@127.0.0.1:3128, but no_proxy is not set"),
        (
            {"https_proxy": PROXY, "NO_PROXY": "example.org"},
            "network.proxy.local",
            "no_proxy=example.org lacks localhost",
        ),
        (
            {"http_proxy": PROXY.replace("127.0.0.1", "proxy.invalid"), "no_proxy": "localhost"},
            "network.proxy.unresolved",
            "the proxy proxy.invalid of http_proxy does not resolve",
        ),
        (
            {"http_proxy": f"alice:{SECRET}@127.0.0.1:3128", "no_proxy": "*"},
            "network.proxy.malformed",
            "http_proxy=***@",
        ),
        (
            {"http_proxy": PROXY, "HTTP_PROXY": "http://127.0.0.1:8080", "no_proxy": "localhost"},
            "network.proxy.differs",
            "but HTTP_PROXY=http://127.0.0.1:8080",
        ),
    ],
)
def test_proxy(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], fault: str, words: str) -> None:
    for name in CLEAN:
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    finding = one("network.proxy")
    assert (finding.verdict, finding.fault) == ("warn", fault)
    assert words in finding.evidence
    assert SECRET not in str(finding)


@pytest.mark.parametrize(
    ("value", "chosen"),
    [
        ("eth", ["eth0", "eth1"]),
        ("eth1,ib", ["eth1", "ib0"]),
        ("=eth", []),
        ("=eth0,ib0", ["eth0", "ib0"]),
        ("^eth,lo", ["ib0"]),
        ("^=eth0", ["lo", "eth1", "ib0"]),
        ("ib0:1", ["ib0"]),
    ],
)
def test_names_as_nccl_reads_them(value: str, chosen: list[str]) -> None:
    assert nccl_matches(value, ["lo", "eth0", "eth1", "ib0"]) == chosen


@pytest.mark.parametrize(
    ("environ", "several"),
    [
        ({}, False),
        ({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8", "MASTER_ADDR": "node-17"}, False),
        ({"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}, True),
        ({"SLURM_NNODES": "2"}, True),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, False),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "node-1"}, True),
        ({"WORLD_SIZE": "two"}, False),
    ],
)
def test_jobs_on_several_machines(environ: dict[str, str], several: bool) -> None:
    assert several_machines(Context("python", environ, False, Processes())) == several


def test_slow_link() -> None:
    processes = Processes()
    link = {"name": "eth0", "up": True, "address": "10.0.0.1", "physical": True, "speed": 1000, "mtu": 1500}
    ANSWERS[processes] = {"interfaces": [link], "own": {"eth0": None}}
    (alone,) = interfaces.links(Context("python", {}, False, processes))
    assert alone.verdict == "pass"
    (finding,) = interfaces.links(Context("python", JOB, False, processes))
    assert (finding.verdict, finding.fault) == ("warn", "network.links.slow")


# --- InfiniBand, from a tree of files as /sys has it


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with a GPU, an adapter and its device file; all is well."""
    for name in ("SYS", "DEV", "PROC"):
        monkeypatch.setattr(infiniband, name, tmp_path / name)
    monkeypatch.setattr(infiniband, "nvidia_devices", lambda: ["/dev/nvidia0"])
    (tmp_path / "SYS" / "module" / "nvidia_peermem").mkdir(parents=True)
    (tmp_path / "DEV" / "infiniband").mkdir(parents=True)
    (tmp_path / "DEV" / "infiniband" / "uverbs0").touch()
    adapter(tmp_path, "mlx5_0")
    return tmp_path


def adapter(
    tree: Path,
    name: str,
    state: str = "4: ACTIVE",
    physical: str = "5: LinkUp",
    rate: str = "400 Gb/sec (4X NDR)",
    layer: str = "InfiniBand",
    gid: str = "fe80:0000:0000:0000:0002:c903:00ff:d1c1",
) -> None:
    port = tree / "SYS" / "class" / "infiniband" / name / "ports" / "1"
    (port / "gids").mkdir(parents=True)
    (port.parent.parent / "hca_type").write_text("MT4129\n")
    (port / "gids" / "0").write_text(gid + "\n")
    words = {"state": state, "phys_state": physical, "rate": rate, "link_layer": layer}
    for file, word in words.items():
        (port / file).write_text(word + "\n")


def asked_of_infiniband(environ: dict[str, str] | None = None) -> list[Finding]:
    return list(infiniband.infiniband(Context("python", environ or {}, False, Processes())))


DOWN = {"state": "1: DOWN", "physical": "2: Polling", "rate": "10 Gb/sec (4X SDR)"}


@pytest.mark.parametrize(
    ("second", "fault", "words"),
    [
        (DOWN, "network.infiniband.down", "mlx5_1 port 1 is DOWN (Polling)"),
        ({"state": "2: INIT"}, "network.infiniband.down", "mlx5_1 port 1 is INIT"),
        ({"rate": "100 Gb/sec (4X EDR)"}, "network.infiniband.rate", "rate of 100 Gb/sec (4X EDR); mlx5_0 port 1 of"),
        ({"rate": "400 Gb/sec (2X XDR)"}, "network.infiniband.rate", "400 Gb/sec (2X XDR)"),
        ({"layer": "Ethernet", "gid": "0000:" * 7 + "0000"}, "network.infiniband.gid", "all its GIDs are zero"),
    ],
)
def test_infiniband_port(tree: Path, second: dict[str, str], fault: str, words: str) -> None:
    adapter(tree, "mlx5_1", **second)
    (finding,) = asked_of_infiniband()
    assert (finding.verdict, finding.fault) == ("warn", fault)
    assert words in finding.evidence


@pytest.mark.parametrize(
    "second", [{}, DOWN | {"layer": "Ethernet"}, DOWN | {"physical": "3: Disabled"}, {"layer": "Ethernet"}]
)
def test_infiniband_port_that_may_be_so(tree: Path, second: dict[str, str]) -> None:
    """A port of Ethernet without a cable, or one that was switched off."""
    adapter(tree, "mlx5_1", **second)
    (finding,) = asked_of_infiniband()
    assert finding.verdict == "pass", finding


def test_infiniband_port_that_nccl_does_not_use(tree: Path) -> None:
    adapter(tree, "mlx5_1", **DOWN)
    assert [f.verdict for f in asked_of_infiniband({"NCCL_IB_HCA": "=mlx5_0"})] == ["pass"]
    assert [f.verdict for f in asked_of_infiniband({"NCCL_IB_HCA": "mlx5"})] == ["warn"]


def test_infiniband_without_its_devices(tree: Path) -> None:
    shutil.rmtree(tree / "DEV")
    assert [f.verdict for f in asked_of_infiniband()] == ["pass"]  # a pod on one machine does not need it
    (finding,) = asked_of_infiniband(JOB)
    assert (finding.verdict, finding.fault) == ("warn", "network.infiniband.devices")


def test_infiniband_beside_gpus_without_peer_memory(tree: Path) -> None:
    (tree / "SYS" / "module" / "nvidia_peermem").rmdir()
    (finding,) = asked_of_infiniband()
    assert (finding.verdict, finding.fault) == ("warn", "network.infiniband.peermem")
    version = tree / "PROC" / "driver" / "nvidia" / "version"
    version.parent.mkdir(parents=True)
    version.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07\n")
    (finding,) = asked_of_infiniband()
    assert finding.verdict == "pass"
    assert "DMA-BUF" in finding.evidence


# --- collectives

RANK = {"all_reduce": None, "bytes_per_second": 1e9, "at": "done"}
ENDINGS: dict[str, Outcome] = {
    "hangs": Outcome(returncode=-9, timed_out=True, seconds=60),
    "crashed": Outcome({"world_size": 2, "answers": [RANK, {"at": "all_reduce"}], "codes": [0, -11]}, done=True),
    "wrong": Outcome(
        {"world_size": 2, "answers": [RANK, {**RANK, "all_reduce": "2 to 2 instead of 3"}], "codes": [0, 0]}, done=True
    ),
    "limit": Outcome(
        {"world_size": 2, "answers": [RANK, {"error": "OSError: [Errno 24] Too many open files"}], "codes": [0, 1]},
        done=True,
    ),
    "address": Outcome(
        {"world_size": 2, "answers": [RANK, {"error": "RuntimeError: Unable to find address for: x"}]}, done=True
    ),
    "failed": Outcome({"world_size": 2, "answers": [RANK, {"error": "RuntimeError: no"}], "codes": [0, 1]}, done=True),
}
WORDS = {
    "hangs": "gave no answer within 60 s",
    "crashed": "rank 1 was killed by signal 11 at: all_reduce",
    "wrong": "rank 1, all_reduce: 2 to 2 instead of 3",
    "limit": "Too many open files",
    "address": "Unable to find address",
    "failed": "RuntimeError: no",
}
IDS = """network.allreduce.hangs network.allreduce.crashed network.allreduce.wrong network.allreduce.limit
network.allreduce.address network.allreduce.failed network.collectives.hangs network.collectives.crashed
network.collectives.wrong network.collectives.limit network.collectives.address network.collectives.failed
network.nccl.hangs network.nccl.crashed network.nccl.wrong network.nccl.limit network.nccl.address
network.nccl.failed"""


@pytest.mark.parametrize("id", IDS.split())
def test_ending_of_a_collective(monkeypatch: pytest.MonkeyPatch, id: str) -> None:
    _, name, kind = id.split(".")
    processes = Processes()
    ANSWERS[processes] = {"host": "node-17", "interfaces": [{"name": "lo", "up": True, "address": "127.0.0.1"}]}
    context = Context("python", {}, True, processes)
    context.facts["torch"] = {"gloo": True, "nccl": True}
    monkeypatch.setattr(collectives, "nvidia_devices", lambda: ["/dev/nvidia0"])
    monkeypatch.setattr(collectives, "run", lambda *given, **more: ENDINGS[kind])
    (finding,) = getattr(collectives, name)(context)
    assert (finding.verdict, finding.fault) == ("fail", id)
    assert WORDS[kind] in finding.evidence


def test_first_words_of_the_rank_that_failed() -> None:
    """That its peer lost it is not the cause."""
    errors = ["RuntimeError: Connection closed by peer", "OSError: Cannot allocate memory"]
    outcome = Outcome({"answers": [{"error": error} for error in errors], "codes": [1, 1]}, done=True)
    judged = collectives.judge(outcome, 2, ["all_reduce"])
    assert judged is not None
    assert judged[0] == "limit"
    assert "rank 1: OSError" in judged[1]


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Outcome]]:
    """Runs the probe with lines of it changed, each given as (old, new)."""
    pytest.importorskip("torch")
    processes = Processes()

    def run(*changes: tuple[str, str]) -> Outcome:
        source = (PROBES / "allreduce.py").read_text(encoding="utf-8")
        for old, new in changes:
            assert old in source
            source = source.replace(old, new, 1)
        (tmp_path / "allreduce.py").write_text(source, encoding="utf-8")
        shutil.copy(PROBES / "run.py", tmp_path)
        monkeypatch.setattr("llmbench.doctor.runner.PROBES", tmp_path)
        context = Context(sys.executable, dict(os.environ), False, processes, deadline=60)
        return collectives.run(context, 2, ["all_reduce", "broadcast", "all_gather", "all_to_all", "barrier"], {})

    yield run
    processes.stop()


OPERATION = "    dist.all_reduce(value)\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (OPERATION, None),
        (OPERATION + "    value += rank\n", "wrong"),
        ("    os.kill(os.getpid(), 11 if rank else 0)\n" + OPERATION, "crashed"),
        ("    if rank: raise OSError(24, 'Too many open files')\n" + OPERATION, "limit"),
    ],
)
def test_collectives_for_real(real: Callable[..., Outcome], change: str, kind: str | None) -> None:
    judged = collectives.judge(real((OPERATION, change)), 2, ["all_reduce"])
    assert (judged and judged[0]) == kind


@pytest.mark.slow
def test_no_rank_connects_before_the_last_is_forked(real: Callable[..., Outcome]) -> None:
    forks = "        ranks.append("
    connects = "    store = dist.TCPStore("
    outcome = real(
        (forks, '        yield {"forked": time.monotonic()}\n        time.sleep(0.5)\n' + forks),
        (connects, '    tell({"connects": time.monotonic()})\n' + connects),
    )
    assert len(outcome.answer["answers"]) == 2
    assert all(rank["connects"] > outcome.answer["forked"] for rank in outcome.answer["answers"])


def test_allreduce_of_the_real_torch() -> None:
    pytest.importorskip("torch")
    assert one("network.allreduce").verdict == "pass"


@pytest.mark.slow
def test_interface_that_is_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "127.0.0.1")
    finding = one("network.allreduce")
    assert (finding.verdict, finding.fault) == ("fail", "network.allreduce.address")
    assert "GLOO_SOCKET_IFNAME=127.0.0.1" in finding.evidence


@pytest.mark.slow
def test_deep_collectives_and_torchrun_of_the_real_torch() -> None:
    pytest.importorskip("torch")
    found = ask("network.collectives", deep=True)
    assert {finding.verdict for finding in found} == {"pass"}, found
    assert any("lo (127.0.0.1): all_reduce, broadcast" in finding.evidence for finding in found)
    finding = one("network.rendezvous", deep=True)
    assert finding.verdict == "pass", finding


def test_torchrun_that_fails(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho '[c10d] The IPv6 addresses of (node-17, 1) cannot be retrieved'\nexit 1\n")
    python.chmod(0o755)
    context = Context(str(python), dict(os.environ), True, Processes())
    context.facts["torch"] = {"gloo": True}
    (finding,) = collectives.rendezvous(context)
    assert (finding.verdict, finding.fault) == ("fail", "network.rendezvous.failed")
    assert "(node-17, 1) cannot be retrieved" in finding.evidence


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("[W] torn llmbench: rank 1 of 2 has 0llmbench: rank 0 of 2 has 0[I] more", "pass"),  # of one pipe
        ("llmbench: rank 1 of 2 has 0", "fail"),
        ("llmbench: rank 0 of 2 has 0 llmbench: rank 1 of 2 has 3", "fail"),
        ("llmbench: rank 0 of 2 has 0 llmbench: rank 1 of 2 has 0.5", "fail"),
    ],
)
def test_both_ranks_of_torchrun_must_add_up(tmp_path: Path, said: str, verdict: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{said}'\n")
    python.chmod(0o755)
    context = Context(str(python), dict(os.environ), True, Processes())
    context.facts["torch"] = {"gloo": True}
    (finding,) = collectives.rendezvous(context)
    assert finding.verdict == verdict
