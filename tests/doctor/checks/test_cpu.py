"""Faults of CPU, memory and limits: real limits of real processes; /proc and /sys as a tree of files."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmbench.doctor import system
from llmbench.doctor.checks import cpu, cpu_limits, cpu_loader, cpu_machine, cpu_memory
from llmbench.doctor.model import Finding
from llmbench.doctor.process import Processes
from llmbench.doctor.runner import Context, diagnose
from tests.doctor.conftest import findings, inside, needs_root, one, verdicts

Write = Callable[[str, str], None]
GIB = 2**30
_INFINITE = resource.RLIM_INFINITY


@pytest.fixture(autouse=True)
def no_thread_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*cpu.THREAD_VARIABLES, *cpu.BINDING_VARIABLES, "ATEN_CPU_CAPABILITY", "SLURM_NNODES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Write:
    """A machine whose /proc and /sys hold only what is written, and little but healthy to begin with."""
    root = tmp_path / "root"
    monkeypatch.setattr(system, "ROOT", root)

    def write(path: str, text: str) -> None:
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")

    write(
        "/proc/meminfo", "MemTotal: 24000000 kB\nMemAvailable: 20000000 kB\nSwapTotal: 8000000 kB\nSwapFree: 8000000 kB"
    )
    write("/proc/self/cgroup", "0::/job")
    write("/proc/self/status", "Name:\tpython\nCapEff:\t0000000000000000\nMems_allowed_list:\t0-1")
    write("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu memory pids")
    write("/sys/fs/cgroup/job/cgroup.procs", "1")
    return write


def context(**facts: Any) -> Context:
    return Context(sys.executable, dict(os.environ), False, Processes(), facts=facts)


def the(check: Callable[[Context], Iterator[Finding]], **facts: Any) -> Finding:
    """The only finding of a check, asked here, with these facts known."""
    (finding,) = check(context(**facts))
    return finding


def in_child(prepare: Callable[[], object], check: Callable[[Context], Iterator[Finding]]) -> list[dict[str, Any]]:
    """The findings of a forked child, whose limits may be changed for good."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        prepare()
        os.write(write, json.dumps([vars(finding) for finding in check(context())]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    found: list[dict[str, Any]] = json.loads(text)
    return found


# --- limits


@pytest.mark.parametrize(
    ("kind", "soft", "hard", "fault", "verdict", "named"),
    [
        ("NOFILE", 64, 64, "cpu.limits.files", "fail", "(ulimit -n) is 64, which is low (hard limit 64)"),
        ("NOFILE", 512, 4096, "cpu.limits.files", "warn", "is 512"),
        ("AS", 6 * GIB, _INFINITE, "cpu.limits.address-space", "fail", "(ulimit -v) is limited to 6 GiB"),
        ("AS", 64 * GIB, _INFINITE, "cpu.limits.address-space", "warn", "64 GiB"),
        ("DATA", 4 * GIB, _INFINITE, "cpu.limits.data", "fail", "(ulimit -d) is limited to 4 GiB"),
        ("STACK", 128 * 1024, _INFINITE, "cpu.limits.stack", "fail", "(ulimit -s) is 128 KiB"),
        ("FSIZE", 2 * GIB, _INFINITE, "cpu.limits.file-size", "warn", "(ulimit -f) can have 2 GiB"),
        ("CPU", 300, _INFINITE, "cpu.limits.cpu-time", "fail", "(ulimit -t) can use 300 s"),
        ("CPU", 7200, _INFINITE, "cpu.limits.cpu-time", "warn", "7200 s"),
    ],
)
def test_limit_of_the_shell(kind: str, soft: int, hard: int, fault: str, verdict: str, named: str) -> None:
    number = getattr(resource, f"RLIMIT_{kind}")
    (finding,) = in_child(lambda: resource.setrlimit(number, (soft, hard)), cpu_limits.limits)
    assert (finding["fault"], finding["verdict"]) == (fault, verdict)
    assert named in finding["evidence"]
    assert finding["cause"]
    assert "ulimit" in finding["fix"]


def test_a_soft_limit_of_files_is_raised_to_the_hard_one() -> None:
    (finding,) = in_child(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 8192)), cpu_limits.limits)
    assert finding["script"] == "ulimit -n 8192"


def test_few_processes() -> None:
    def ordinary_user() -> None:
        resource.setrlimit(resource.RLIMIT_NPROC, (40, 40))
        if os.geteuid() == 0:
            os.setuid(65534)

    (finding,) = in_child(ordinary_user, cpu_limits.limits)
    assert finding["fault"] == "cpu.limits.processes"
    assert "(ulimit -u) is 40, which is low" in finding["evidence"]


@pytest.mark.skipif(os.geteuid() != 0, reason="for root")
def test_few_processes_for_root_is_a_warning() -> None:
    (finding,) = in_child(lambda: resource.setrlimit(resource.RLIMIT_NPROC, (40, 40)), cpu_limits.limits)
    assert (finding["fault"], finding["verdict"]) == ("cpu.limits.processes", "warn")
    assert "root is exempt" in finding["evidence"]


@pytest.mark.parametrize(
    ("limit", "used", "verdict"),
    [("100", "90", "fail"), ("200", "20", "warn"), ("4096", "50", None), ("max", "50", None)],
)
def test_few_pids_of_the_control_group(machine: Write, limit: str, used: str, verdict: str | None) -> None:
    machine("/sys/fs/cgroup/job/pids.max", limit)
    machine("/sys/fs/cgroup/job/pids.current", used)
    finding = the(cpu_limits.limits)
    assert finding.fault == ("cpu.limits.pids" if verdict else None)
    assert finding.verdict == (verdict or "pass")
    assert verdict is None or f"allows {limit} processes and threads (pids.max), of which {used}" in finding.evidence


def test_locked_memory_matters_to_rdma_only(machine: Write) -> None:
    def little() -> None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))

    (finding,) = in_child(little, cpu_limits.limits)
    assert finding["verdict"] == "pass"
    assert "(ulimit -l) 64 KiB" in finding["evidence"]
    machine("/sys/class/infiniband/mlx5_0/fw_ver", "28")
    (finding,) = in_child(little, cpu_limits.limits)
    assert (finding["fault"], finding["verdict"]) == ("cpu.limits.memlock", "warn")
    assert "64 KiB" in finding["evidence"]
    assert "mlx5_0" in finding["evidence"]
    machine("/proc/self/status", "CapEff:\t000001ffffffffff")
    (finding,) = in_child(little, cpu_limits.limits)
    assert finding["verdict"] == ("pass" if os.geteuid() == 0 else "warn")


# --- threads, cores, vector instructions


@pytest.mark.parametrize(
    ("threads", "usable", "variables", "files", "fault", "named"),
    [
        (2, 2, "", {"cpu.max": "50000 100000"}, "cpu.threads.quota", "allows 0.5 CPU, but torch uses 2 threads"),
        (2, 2, "", {"cpu.max": "150000 100000"}, "cpu.threads.quota", "allows 1.5 CPU"),
        (8, 8, "", {"cpu.max": "400000 100000"}, "cpu.threads.quota", "allows 4 CPU"),
        (4, 8, "", {"cpu.max": "400000 100000"}, None, "quota 4 CPU"),
        (2, 2, "", {"cpu.max": "max 100000"}, None, "2 threads on 2"),
        (4, 4, "", {"cpu.stat": "nr_periods 1000\nnr_throttled 600"}, "cpu.threads.throttled", "600 of 1000 periods"),
        (4, 4, "", {"cpu.stat": "nr_periods 1000\nnr_throttled 60"}, None, "4 threads"),
        (1, 8, "OMP_NUM_THREADS=1", {}, "cpu.threads.one", "OMP_NUM_THREADS=1: torch uses 1 thread on 8"),
        (1, 8, "MKL_NUM_THREADS=1", {}, "cpu.threads.one", "MKL_NUM_THREADS=1"),
        (1, 8, "", {}, "cpu.threads.one", "torch.get_num_threads()"),
        (1, 8, "OMP_NUM_THREADS=1", {"cpu.max": "100000 100000"}, None, "1 threads"),
        (64, 8, "OMP_NUM_THREADS=64", {}, "cpu.threads.many", "64 threads on 8 usable CPUs; OMP_NUM_THREADS=64"),
        (8, 8, "OMP_NUM_THREADS=64", {}, None, "OMP_NUM_THREADS=64"),
        (8, 8, "OMP_NUM_THREADS=all", {}, "cpu.threads.invalid", "OMP_NUM_THREADS='all'"),
        (8, 8, "OMP_NUM_THREADS=0", {}, "cpu.threads.invalid", "'0'"),
        (8, 8, "OMP_NUM_THREADS=8,2", {}, None, "OMP_NUM_THREADS=8,2"),
        (1, 1, "", {}, None, "1 threads on 1"),
    ],
)
def test_threads(
    machine: Write,
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    usable: int,
    variables: str,
    files: dict[str, str],
    fault: str | None,
    named: str,
) -> None:
    monkeypatch.setattr(cpu, "usable_cpus", lambda: usable)
    for variable in variables.split():
        monkeypatch.setenv(*variable.split("="))
    for name, text in files.items():
        machine(f"/sys/fs/cgroup/job/{name}", text)
    finding = the(cpu.threads, torch={"threads": threads})
    assert finding.fault == fault
    assert named in finding.evidence


def test_quota_of_version_1(machine: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "usable_cpus", lambda: 4)
    machine("/proc/self/cgroup", "4:memory:/job\n3:cpu,cpuacct:/job")
    machine("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1")
    machine("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "50000")
    machine("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000")
    assert "allows 0.5 CPU" in the(cpu.threads, torch={"threads": 4}).evidence


@pytest.fixture
def two_cpus() -> set[int]:
    mine = os.sched_getaffinity(0)
    if len(mine) < 2:
        pytest.skip("one CPU")
    return mine


_BINDING_TORCH = """
import os, threading, types
__version__ = '2.13.0'
version = types.SimpleNamespace(cuda=None, hip=None, git_version='', debug=False)
_cpus = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {_cpus[0]})
def get_num_threads(): return 2
def ones(size): return types.SimpleNamespace(add_=_work)
def _work(number):
    started = threading.Event()
    def work():
        os.sched_setaffinity(0, {_cpus[WHERE]})
        started.set()
        threading.Event().wait(20)
    threading.Thread(target=work, daemon=True).start()
    started.wait()
"""


@pytest.mark.parametrize(
    ("where", "variable", "fault"),
    [("0", "GOMP_CPU_AFFINITY", "cpu.affinity.pinned"), ("1", "OMP_PROC_BIND", "cpu.affinity.workers")],
)
def test_threads_that_are_bound(
    monkeypatch: pytest.MonkeyPatch,
    stub_torch: Callable[[str], None],
    two_cpus: set[int],
    where: str,
    variable: str,
    fault: str,
) -> None:
    stub_torch(_BINDING_TORCH.replace("WHERE", where))
    monkeypatch.setenv(variable, "0")
    finding = one("cpu.affinity")
    assert (finding.fault, finding.verdict) == (fault, "warn")
    assert finding.evidence.startswith(f"{variable}=0:")
    assert f"1 of {len(two_cpus)} CPUs" in finding.evidence
    assert f"unset {variable}" in str(finding.fix)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value", "fault"),
    [("OMP_PLACES", "{0}", "cpu.affinity.pinned"), ("OMP_PROC_BIND", "true", "cpu.affinity.workers")],
)
def test_the_real_torch_is_bound(
    monkeypatch: pytest.MonkeyPatch, two_cpus: set[int], variable: str, value: str, fault: str
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv(variable, value)
    assert one("cpu.affinity").fault == fault


def test_one_core(two_cpus: set[int], machine: Write) -> None:
    def bind() -> None:
        os.sched_setaffinity(0, {min(two_cpus)})

    (finding,) = in_child(bind, cpu.affinity)
    assert finding["fault"] == "cpu.affinity.one"
    assert f"affinity mask binds this process to 1 of {os.cpu_count()} CPUs" in finding["evidence"]
    machine("/sys/fs/cgroup/job/cpuset.cpus.effective", str(min(two_cpus)))
    (finding,) = in_child(bind, cpu.affinity)
    assert finding["fault"] == "cpu.affinity.cpuset"
    assert "cpuset (cgroup) binds this process to 1 of" in finding["evidence"]


@pytest.mark.parametrize(
    ("cpuinfo", "kernels", "fault"),
    [
        ("flags\t: fpu avx avx2 avx512f", "AVX512", None),
        ("flags\t: fpu sse2", "DEFAULT", "cpu.capability.machine"),
        ("flags\t: fpu sse2 avx avx2", "DEFAULT", "cpu.capability.build"),
        ("vendor_id\t: VirtualApple\nflags\t: fpu sse2", "DEFAULT", "cpu.capability.emulated"),
        ("CPU implementer\t: 0x61", "DEFAULT", "cpu.capability.emulated"),
    ],
)
def test_vector_instructions(machine: Write, cpuinfo: str, kernels: str, fault: str | None) -> None:
    machine("/proc/cpuinfo", cpuinfo)
    finding = the(cpu.capability, torch={"cpu_capability": kernels}, python={"machine": "x86_64"})
    assert finding.fault == fault


def test_arm_has_no_avx(machine: Write) -> None:
    machine("/proc/cpuinfo", "Features\t: fp asimd")
    assert the(cpu.capability, torch={"cpu_capability": "DEFAULT"}, python={"machine": "aarch64"}).verdict == "pass"


# --- DataLoader


_LOADING_TORCH = """
import os, signal, sys, time, types
__version__ = '2.13.0'
version = types.SimpleNamespace(cuda=None, hip=None, git_version='', debug=False)
float32 = 'float32'
class Tensor(list):
    def reshape(self, *shape): return self
    def double(self): return self
    def sum(self): return sum(self)
def arange(size, dtype): return Tensor(range(4))
def TensorDataset(tensor): return types.SimpleNamespace(tensors=[tensor])
def DataLoader(data, **options):
    ACT
    return [(data.tensors[0],)]
multiprocessing = types.SimpleNamespace(get_sharing_strategy=lambda: 'file_descriptor')
for name in ('utils', 'utils.data'):
    sys.modules['torch.' + name] = types.ModuleType('torch.' + name)
sys.modules['torch.utils.data'].DataLoader = DataLoader
sys.modules['torch.utils.data'].TensorDataset = TensorDataset
"""


def _raise(message: str) -> str:
    return f"raise RuntimeError({message!r})"


@pytest.mark.parametrize(
    ("act", "fault"),
    [
        ("pass", None),
        (_raise("received 0 items of ancdata"), "cpu.loader.files"),
        ("raise OSError(24, 'Too many open files')", "cpu.loader.files"),
        (_raise("DataLoader worker (pid 7) is killed by signal: Bus error."), "cpu.loader.shared-memory"),
        ("os.kill(os.getpid(), signal.SIGBUS)", "cpu.loader.shared-memory"),
        (_raise("unable to open shared memory object </torch_7_1_0> in read-write mode"), "cpu.loader.object"),
        (_raise("can't start new thread"), "cpu.loader.processes"),
        ("raise BlockingIOError(11, 'Resource temporarily unavailable')", "cpu.loader.processes"),
        ("raise OSError(12, 'Cannot allocate memory')", "cpu.loader.memory"),
        ("raise OSError(38, 'Function not implemented')", "cpu.loader.semaphore"),
        (_raise("DataLoader worker (pid 7) is killed by signal: Killed."), "cpu.loader.killed"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "cpu.loader.killed"),
        (_raise("DataLoader timed out after 40 seconds"), "cpu.loader.hangs"),
        (_raise("no such luck"), "cpu.loader.broken"),
        ("data.tensors[0] = Tensor([1])\n    return [(Tensor([2]),)]", "cpu.loader.wrong"),
    ],
)
def test_loader_that_fails(stub_torch: Callable[[str], None], act: str, fault: str | None) -> None:
    stub_torch(_LOADING_TORCH.replace("ACT", act))
    (finding,) = cpu_loader.loader(context())
    assert finding.fault == fault, finding


def test_loader_that_hangs(stub_torch: Callable[[str], None], patience: Callable[[float], None]) -> None:
    stub_torch(_LOADING_TORCH.replace("ACT", "time.sleep(60)"))
    patience(1.0)
    assert one("cpu.loader").fault == "cpu.loader.hangs"


def test_the_real_loader_and_threads() -> None:
    pytest.importorskip("torch")
    diagnosis = diagnose(only=["cpu.loader", "cpu.affinity"])
    for id in ("cpu.loader", "cpu.affinity"):
        assert verdicts(diagnosis)[id] == "pass", findings(diagnosis, id)


@pytest.mark.slow
def test_one_thread_by_a_variable(monkeypatch: pytest.MonkeyPatch, two_cpus: set[int]) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    finding = one("cpu.threads")
    assert finding.fault == "cpu.threads.one"
    assert "OMP_NUM_THREADS=1" in finding.evidence


# --- memory


_MEMINFO = "MemTotal: 24000000 kB\nMemAvailable: {} kB\nSwapTotal: 8000000 kB\nSwapFree: {} kB\n{}"
_GROUP = "sys/fs/cgroup/job"
_MEMORY = "proc/meminfo"


@pytest.mark.parametrize(
    ("files", "fault", "named"),
    [
        ({}, None, "19.1 of 22.9 GiB available"),
        (
            {_MEMORY: _MEMINFO.format(307200, 204800, "")},
            "cpu.memory.low",
            "only 0.3 GiB of 22.9 GiB memory is available, and 7.4 GiB of 7.6 GiB swap",
        ),
        ({_MEMORY: _MEMINFO.format(9000000, 100000, "")}, "cpu.memory.swap", "7.5 GiB of 7.6 GiB swap is used"),
        ({_MEMORY: _MEMINFO.format(9000000, 6000000, "")}, None, "1.9 of 7.6 GiB swap used"),
        (
            {_MEMORY: _MEMINFO.format(9000000, 8000000, "HugePages_Total: 5000\nHugepagesize: 2048 kB")},
            "cpu.memory.reserved",
            "9.8 GiB of 22.9 GiB memory is reserved as huge pages",
        ),
        ({f"{_GROUP}/memory.max": str(2 * GIB)}, "cpu.memory.cgroup", "memory limit is 2.0 GiB"),
        (
            {
                f"{_GROUP}/memory.max": str(8 * GIB),
                f"{_GROUP}/memory.current": str(7 * GIB),
                f"{_GROUP}/memory.stat": f"inactive_file {5 * GIB}",
            },
            None,
            "cgroup limit 8.0 GiB",
        ),
        (
            {f"{_GROUP}/memory.max": str(8 * GIB), f"{_GROUP}/memory.current": str(15 * GIB // 2)},
            "cpu.memory.cgroup-full",
            "uses 7.5 GiB of its memory limit of 8.0 GiB",
        ),
        ({f"{_GROUP}/memory.events": "low 0\noom 2\noom_kill 2"}, "cpu.memory.killed", "counts 2 processes killed"),
        (
            {"proc/pressure/memory": "some avg10=60.00 avg60=50.00 total=1\nfull avg10=40.00 avg60=30.00 total=1"},
            "cpu.memory.stalls",
            "30 % of the last minute",
        ),
        (
            {
                "proc/sys/vm/overcommit_memory": "2",
                _MEMORY: _MEMINFO.format(9000000, 8000000, "CommitLimit: 9000000 kB\nCommitted_AS: 1000000 kB"),
            },
            "cpu.memory.overcommit",
            "vm.overcommit_memory=2: 7.6 GiB of 8.6 GiB",
        ),
    ],
)
def test_memory(machine: Write, files: dict[str, str], fault: str | None, named: str) -> None:
    for path, text in files.items():
        machine(path, text)
    finding = the(cpu_memory.free_memory)
    assert finding.fault == fault
    assert named in finding.evidence


@pytest.mark.parametrize(("limit", "verdict"), [(GIB // 4, "fail"), (GIB, "warn"), (16 * GIB, "pass")])
def test_a_small_group_breaks_training(machine: Write, limit: int, verdict: str) -> None:
    machine("/sys/fs/cgroup/job/memory.max", str(limit))
    assert the(cpu_memory.free_memory).verdict == verdict


def test_memory_of_version_1_is_of_the_tightest_group(machine: Write) -> None:
    machine("/proc/self/cgroup", "4:memory:/job/step")
    machine("/sys/fs/cgroup/memory/memory.limit_in_bytes", str(2**63 - 4096))
    machine("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", str(GIB))
    machine("/sys/fs/cgroup/memory/job/step/memory.limit_in_bytes", str(2**63 - 4096))
    assert "memory limit is 1.0 GiB" in the(cpu_memory.free_memory).evidence


@pytest.mark.parametrize(
    ("text", "verdict"), [("always [madvise] never", "pass"), ("always madvise [never]", "warn"), (None, "skip")]
)
def test_huge_pages(machine: Write, text: str | None, verdict: str) -> None:
    if text:
        machine("/sys/kernel/mm/transparent_hugepage/enabled", text)
    finding = the(cpu_memory.hugepages)
    assert finding.verdict == verdict
    assert finding.fault == ("cpu.hugepages.never" if verdict == "warn" else None)


@pytest.mark.parametrize(
    ("corrected", "lost", "fault"),
    [("0", "0", None), ("20", "0", None), ("5000", "0", "cpu.ecc.corrected"), ("1", "1", "cpu.ecc.uncorrected")],
)
def test_errors_of_main_memory(machine: Write, corrected: str, lost: str, fault: str | None) -> None:
    machine("/sys/devices/system/edac/mc/mc0/ce_count", corrected)
    machine("/sys/devices/system/edac/mc/mc0/ue_count", lost)
    machine("/sys/devices/system/edac/mc/power/control", "auto")
    assert the(cpu_memory.ecc).fault == fault


# --- the machine


def _frequency(machine: Write, **files: object) -> None:
    known = {
        "scaling_governor": "performance",
        "scaling_driver": "acpi-cpufreq",
        "scaling_cur_freq": 1500000,
        "scaling_max_freq": 3700000,
        "cpuinfo_max_freq": 3700000,
    }
    for name, value in {**known, **files}.items():
        machine(f"/sys/devices/system/cpu/cpu0/cpufreq/{name}", str(value))


@pytest.mark.parametrize(
    ("files", "fault", "named"),
    [
        ({}, None, "performance"),
        ({"scaling_governor": "schedutil"}, None, "schedutil"),
        ({"scaling_governor": "powersave"}, "cpu.frequency.governor", "powersave (acpi-cpufreq, now 1500 MHz"),
        (
            {"scaling_governor": "powersave", "scaling_driver": "intel_cpufreq"},
            "cpu.frequency.governor",
            "intel_cpufreq",
        ),
        ({"scaling_governor": "powersave", "scaling_driver": "intel_pstate"}, None, "powersave of intel_pstate"),
        ({"scaling_governor": "powersave", "scaling_driver": "amd-pstate-epp"}, None, "powersave of amd-pstate-epp"),
        ({"scaling_max_freq": 1200000}, "cpu.frequency.capped", "is 1200 MHz, cpuinfo_max_freq 3700 MHz"),
    ],
)
def test_frequency(machine: Write, files: dict[str, object], fault: str | None, named: str) -> None:
    _frequency(machine, **files)
    finding = the(cpu_machine.frequency)
    assert finding.fault == fault
    assert named in finding.evidence


@pytest.mark.parametrize(("slowed", "fault"), [("120000", "cpu.frequency.thermal"), ("900", None)])
def test_heat(machine: Write, slowed: str, fault: str | None) -> None:
    _frequency(machine)
    machine("/proc/uptime", "1000.00 1900.00")
    machine("/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_total_time_ms", slowed)
    assert the(cpu_machine.frequency).fault == fault


def test_a_virtual_machine_has_no_frequency(machine: Write) -> None:
    assert the(cpu_machine.frequency).verdict == "skip"


@pytest.mark.parametrize(
    ("load", "stat", "fault", "named"),
    [
        ("0.10 0.20 0.30 1/100 7", "cpu 90000 0 9000 900000 0 0 0 0 0 0", None, "load average 0.1"),
        ("4000.21 3800.50 30.00 3/512 7", "cpu 1 1", "cpu.load.busy", "load average 4000.2 (1 min)"),
        ("4000.21 0.10 0.10 3/512 7", "cpu 1 1", None, "load average 4000.2"),
        ("0.10 0.20 0.30 1/100 7", "cpu 60000 0 9000 900000 0 0 0 30000 0 0", "cpu.load.steal", "30%"),
    ],
)
def test_load(machine: Write, load: str, stat: str, fault: str | None, named: str) -> None:
    machine("/proc/loadavg", load)
    machine("/proc/stat", stat)
    finding = the(cpu_machine.load)
    assert finding.fault == fault
    assert named in finding.evidence


def test_clock_that_is_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    late = tmp_path / "installed"
    late.touch()
    os.utime(late, (time.time() + 1000 * 86400,) * 2)
    monkeypatch.setattr(cpu_machine, "FILES", (str(late),))
    finding = one("cpu.clock")
    assert (finding.fault, finding.verdict) == ("cpu.clock.behind", "warn")
    assert "is in the past" in finding.evidence
    assert str(late) in finding.evidence


def test_clock_that_a_library_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_machine, "time", SimpleNamespace(time=lambda: time.time() - 900 * 86400))
    assert the(cpu_machine.clock).fault == "cpu.clock.faked"


def test_clock_that_is_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    later = time.time() + 40 * 365 * 86400
    monkeypatch.setattr(cpu_machine, "time", SimpleNamespace(time=lambda: later))
    monkeypatch.setattr(cpu_machine, "_kernel_time", lambda: later)
    assert the(cpu_machine.clock).fault == "cpu.clock.ahead"


@pytest.mark.parametrize(("source", "fault"), [("tsc", None), ("kvm-clock", None), ("hpet", "cpu.clock.source")])
def test_clock_source(machine: Write, source: str, fault: str | None) -> None:
    machine("/sys/devices/system/clocksource/clocksource0/current_clocksource", source)
    assert the(cpu_machine.clock).fault == fault


@pytest.mark.parametrize(
    ("memory_nodes", "gpu_node", "reclaim", "fault", "named"),
    [
        ("0-1", "0", "0", None, "NUMA node 0 of 0, 1; automatic NUMA balancing is on"),
        ("1", "0", "0", "cpu.numa.memory", "but the memory of node 1 only"),
        ("0-1", "1", "0", "cpu.numa.gpu", "but the GPUs are attached to node 1"),
        ("0-1", "-1", "0", None, "NUMA node 0"),
        ("0-1", "0", "1", "cpu.numa.reclaim", "zone_reclaim_mode"),
    ],
)
def test_numa(machine: Write, memory_nodes: str, gpu_node: str, reclaim: str, fault: str | None, named: str) -> None:
    mine = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    machine("/sys/devices/system/node/node0/cpulist", mine)
    machine("/sys/devices/system/node/node1/cpulist", "4000-4063")
    machine("/sys/devices/system/node/node2/cpulist", "")
    machine("/proc/self/status", f"Mems_allowed_list:\t{memory_nodes}")
    machine("/proc/sys/vm/zone_reclaim_mode", reclaim)
    machine("/proc/sys/kernel/numa_balancing", "1")
    for name, text in (("vendor", "0x10de"), ("class", "0x030200"), ("numa_node", gpu_node)):
        machine(f"/sys/bus/pci/devices/0000:18:00.0/{name}", text)
    finding = the(cpu_machine.numa)
    assert finding.fault == fault
    assert named in finding.evidence


# --- without /proc and /sys


def test_nothing_can_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(system, "ROOT", tmp_path / "nowhere")
    found = [f for check in _HERE for f in check(context())]
    assert {finding.verdict for finding in found} <= {"pass", "skip", "warn"}
    assert [finding.fault for finding in found if finding.fault] == ["cpu.kernel.proc"]
    assert any("/sys is not mounted" in finding.evidence for finding in found)


@pytest.mark.parametrize("nonsense", ["", "\0\0", "max max max", "-1", "9" * 30, "a: b\nc d e", "\xe9\xff 5-3,x"])
def test_nonsense_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nonsense: str) -> None:
    class Everything(type(tmp_path)):  # type: ignore[misc]
        def read_text(self, *arguments: Any, **options: Any) -> str:
            return nonsense

    (tmp_path / "node0").mkdir()
    (tmp_path / "cpu0").mkdir()
    monkeypatch.setattr(system, "_rooted", lambda path: Everything(tmp_path))
    for check in _HERE:
        list(check(context(torch={"threads": 2}, python={"machine": "x86_64"})))


_HERE = (
    cpu_limits.limits,
    cpu_memory.free_memory,
    cpu_memory.hugepages,
    cpu_memory.ecc,
    cpu_machine.kernel,
    cpu_machine.frequency,
    cpu_machine.load,
    cpu_machine.clock,
    cpu_machine.numa,
)


@needs_root
def test_in_a_namespace_without_proc(tmp_path: Path) -> None:
    found = inside(
        f"mount --bind {tmp_path} /proc", "--only", "cpu.kernel", "--only", "cpu.memory", "--only", "cpu.load"
    )
    assert [f["fault"] for f in found["cpu.kernel"]] == ["cpu.kernel.proc"]
    assert [f["verdict"] for f in found["cpu.memory"]] == ["skip"]
    assert [f["verdict"] for f in found["cpu.load"]] == ["skip"]


@needs_root
def test_little_memory_in_a_namespace(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 24000000 kB\nMemAvailable: 307200 kB\n")
    found = inside(f"mount --bind {tmp_path}/meminfo /proc/meminfo", "--only", "cpu.memory")
    assert "only 0.3 GiB of 22.9 GiB memory is available" in found["cpu.memory"][0]["evidence"]
