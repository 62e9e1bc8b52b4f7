"""Folders that fail for real: small, read-only and failing mounts, in one mount namespace that is asked many things."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llmbench.doctor.checks import storage
from llmbench.doctor.folders import LOOKS, judge, space
from llmbench.doctor.process import Processes
from llmbench.doctor.runner import Context
from tests.doctor.conftest import ask, needs_root, one

from .namespaces import Found, in_namespaces, told

needs_fuse = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")


# Five folders, each on a mount of its own: shared memory, temporary, home, cache and working folder.
PLACES = {"shm": "/dev/shm", "temporary": "/mnt/tmp", "home": "/mnt/home", "caches": "/mnt/hf", "disk": "/mnt/work"}
VARIABLES = {"TMPDIR": "/mnt/tmp", "HOME": "/mnt/home", "HF_HOME": "/mnt/hf"}
KINDS = {
    "read-only": "mount -t tmpfs -o ro tmpfs $d",
    "full": "mount -t tmpfs -o size=40m,mode=1777 tmpfs $d; head -c 20M /dev/zero > $d/x",
    "inodes": "mount -t tmpfs -o size=2g,nr_inodes=60,mode=1777 tmpfs $d",
    "low": "mount -t tmpfs -o size=1030m,mode=1777 tmpfs $d; head -c 10M /dev/zero > $d/x",
    "denied": "mount -t tmpfs -o size=2g,mode=755,uid=4711 tmpfs $d",
}
ERRORS = {"quota": "errno=122", "broken": "errno=5"}

FOLDERS = "mount -t tmpfs tmpfs /mnt; mkdir -p " + " ".join(
    folder for folder in PLACES.values() if folder != "/dev/shm"
)


def everywhere(kind: str) -> dict[str, Any]:
    """The same fault in all five."""
    setup = [FOLDERS, *(f"d={folder}; {KINDS[kind]}" for folder in PLACES.values() if kind in KINDS)]
    return {
        "setup": "; ".join(setup),
        "mounts": [[folder, ERRORS[kind]] for folder in PLACES.values() if kind in ERRORS],
        "environ": VARIABLES,
        "folder": PLACES["disk"],
        "only": ["storage"],
        "powerless": kind == "denied",
    }


ONE_BY_ONE: dict[str, dict[str, Any]] = {
    "shm 8m": {"setup": "mount -t tmpfs -o size=8m tmpfs /dev/shm"},
    "shm 64m": {"setup": "mount -t tmpfs -o size=64m tmpfs /dev/shm"},
    "nothing temporary": {
        "setup": FOLDERS
        + "; for d in /tmp /var/tmp /mnt/work; do mount --bind $d $d; mount -o remount,ro,bind $d; done",
        "folder": "/mnt/work",
    },
    "noexec": {
        "setup": FOLDERS + "; for d in /mnt/tmp /mnt/hf; do mount -t tmpfs -o noexec,size=2g,mode=1777 tmpfs $d; done",
        "environ": {"TMPDIR": "/mnt/tmp", "TORCHINDUCTOR_CACHE_DIR": "/mnt/hf/inductor"},
    },
    "noexec, but not for torch.compile": {
        "setup": FOLDERS + "; mount -t tmpfs -o noexec,size=2g,mode=1777 tmpfs /mnt/tmp",
        "environ": {"TMPDIR": "/mnt/tmp", "TORCHINDUCTOR_CACHE_DIR": "/mnt"},
    },
    "home read-only, caches elsewhere": {
        "setup": FOLDERS + "; mount -t tmpfs -o ro tmpfs /mnt/home",
        "environ": {"HOME": "/mnt/home", "XDG_CACHE_HOME": "/mnt", "TRITON_CACHE_DIR": "/mnt", "TMPDIR": "/var/tmp"},
    },
    "cache read-only, offline": {
        "setup": FOLDERS + "; mount -t tmpfs -o ro tmpfs /mnt/hf",
        "environ": {"HF_HOME": "/mnt/hf", "HF_HUB_OFFLINE": "1"},
    },
    "root read-only, all else fine": {
        "setup": FOLDERS + "; mount -t tmpfs -o size=4g tmpfs /mnt/work; mount -o remount,ro,bind /",
        "environ": {"HOME": "/mnt/work", "TMPDIR": "/mnt/work"},
        "folder": "/mnt/work",
    },
}
WITH_FUSE: dict[str, dict[str, Any]] = {
    "no answer": {
        "setup": FOLDERS,
        "mounts": [["/mnt/hf", "hang", "sshfs"]],
        "environ": {"HF_HOME": "/mnt/hf"},
        "patience": 0.15,
    },
    "over the network, without locks": {
        "setup": FOLDERS,
        "mounts": [[folder, "locks", "sshfs"] for folder in VARIABLES.values()],
        "environ": VARIABLES,
    },
    "forgetful disk": {"setup": FOLDERS, "mounts": [["/mnt/work", "forgets"]], "folder": "/mnt/work"},
    "slow disk": {"setup": FOLDERS, "mounts": [["/mnt/work", "slow"]], "folder": "/mnt/work"},
}
for name in ("forgetful disk", "slow disk"):
    WITH_FUSE[name]["only"] = ["storage.speed"]
NO_NAMES = (*VARIABLES, "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "HF_HUB_OFFLINE")
CLEAN = {**dict.fromkeys(NO_NAMES), "HOME": "/root"}


def found_in(situations: dict[str, dict[str, Any]]) -> dict[str, Found]:
    """What doctor finds in each situation."""
    asked = {}
    for name, given in situations.items():
        asked[name] = {"only": ["storage"], **given, "environ": {**CLEAN, **given.get("environ", {})}}
    return in_namespaces(asked)


@pytest.fixture(scope="module")
def mounted() -> dict[str, Found]:
    return found_in({kind: everywhere(kind) for kind in KINDS} | ONE_BY_ONE)


@pytest.fixture(scope="module")
def failing() -> dict[str, Found]:
    return found_in({kind: everywhere(kind) for kind in ERRORS} | WITH_FUSE)


def of(found: Found, check: str) -> Found:
    return [finding for finding in found if finding["check"] == check]


def faults(found: Found) -> set[str]:
    return {finding["fault"] for finding in found if finding["verdict"] in ("warn", "fail")}


EXPECTED = [
    ("read-only", "storage.shm.read-only", "fail", "Read-only file system"),
    ("read-only", "storage.temporary.read-only", "fail", "TMPDIR=/mnt/tmp cannot be used: Read-only file system"),
    ("read-only", "storage.home.read-only", "warn", "HOME=/mnt/home: Read-only file system"),
    ("read-only", "storage.caches.read-only", "warn", "HF_HOME=/mnt/hf (Hugging Face): Read-only file system"),
    ("read-only", "storage.disk.read-only", "warn", "/mnt/work: Read-only file system"),
    ("full", "storage.shm.full", "fail", "20 MiB free of 40 MiB; 1 files, the largest: x (20 MiB)"),
    ("full", "storage.temporary.full", "fail", "only 20 MiB free of 40 MiB"),
    ("full", "storage.home.full", "warn", "only 20 MiB free"),
    ("full", "storage.caches.full", "warn", "HF_HOME=/mnt/hf (Hugging Face): only 20 MiB free"),
    ("full", "storage.disk.full", "warn", "only 20 MiB free"),
    ("inodes", "storage.shm.inodes", "fail", "of 60 inodes free"),
    ("inodes", "storage.temporary.inodes", "fail", "of 60 inodes free"),
    ("inodes", "storage.home.inodes", "warn", "of 60 inodes free"),
    ("inodes", "storage.caches.inodes", "warn", "of 60 inodes free"),
    ("inodes", "storage.disk.inodes", "warn", "of 60 inodes free"),
    ("low", "storage.shm.low", "warn", "free of 1.0 GiB"),
    ("low", "storage.temporary.low", "warn", "free of 1.0 GiB"),
    ("low", "storage.home.low", "warn", "free of 1.0 GiB"),
    ("low", "storage.caches.low", "warn", "free of 1.0 GiB"),
    ("low", "storage.disk.low", "warn", "free of 1.0 GiB"),
    ("denied", "storage.shm.denied", "fail", "Permission denied while writing a file, owner uid 4711, mode 0755"),
    ("denied", "storage.temporary.denied", "fail", "Permission denied"),
    ("denied", "storage.home.denied", "warn", "Permission denied"),
    ("denied", "storage.caches.denied", "warn", "Permission denied"),
    ("denied", "storage.disk.denied", "warn", "Permission denied"),
    ("shm 8m", "storage.shm.small", "fail", "8 MiB free of 8 MiB, which is too small"),
    ("shm 64m", "storage.shm.small", "warn", "only 64 MiB (docker's default is 64 MiB)"),
    ("nothing temporary", "storage.temporary.none", "fail", "/tmp: Read-only file system; /var/tmp: Read-only"),
    ("noexec", "storage.temporary.noexec", "warn", "Operation not permitted"),
    (
        "noexec",
        "storage.caches.noexec",
        "fail",
        "TORCHINDUCTOR_CACHE_DIR (/mnt/hf/inductor): /mnt/hf is mounted noexec",
    ),
    ("noexec, but not for torch.compile", "storage.temporary.noexec", "warn", "Operation not permitted"),
]
WITH_ERRORS = [
    ("quota", "storage.shm.quota", "fail", "Disk quota exceeded"),
    ("quota", "storage.temporary.quota", "fail", "Disk quota exceeded"),
    ("quota", "storage.home.quota", "warn", "Disk quota exceeded"),
    ("quota", "storage.caches.quota", "warn", "Disk quota exceeded"),
    ("quota", "storage.disk.quota", "warn", "Disk quota exceeded"),
    ("broken", "storage.shm.broken", "fail", "Input/output error"),
    ("broken", "storage.temporary.broken", "fail", "Input/output error"),
    ("broken", "storage.home.broken", "warn", "Input/output error"),
    ("broken", "storage.caches.broken", "warn", "Input/output error"),
    ("broken", "storage.disk.broken", "warn", "Input/output error"),
    ("no answer", "storage.mounts.hangs", "fail", "HF_HOME=/mnt/hf gave no answer"),
    ("over the network, without locks", "storage.temporary.network", "warn", "TMPDIR=/mnt/tmp is on fuse.sshfs"),
    ("over the network, without locks", "storage.home.locks", "warn", "No locks available while locking a file"),
    ("over the network, without locks", "storage.caches.locks", "warn", "HF_HOME=/mnt/hf: No locks available"),
    ("forgetful disk", "storage.speed.corrupts", "fail", "read back differ from what was written"),
    ("over the network, without locks", "storage.temporary.sockets", "fail", "Function not implemented"),
    ("slow disk", "storage.speed.slow", "warn", "MB/s written and synced"),
]


@needs_root
@pytest.mark.parametrize(("situation", "fault", "verdict", "words"), EXPECTED)
def test_fault_is_named(mounted: dict[str, Found], situation: str, fault: str, verdict: str, words: str) -> None:
    told(mounted[situation], fault, verdict, words)


@needs_root
@needs_fuse
@pytest.mark.slow
@pytest.mark.parametrize(("situation", "fault", "verdict", "words"), WITH_ERRORS)
def test_fault_of_a_failing_mount_is_named(
    failing: dict[str, Found], situation: str, fault: str, verdict: str, words: str
) -> None:
    told(failing[situation], fault, verdict, words)


@needs_root
@pytest.mark.parametrize(
    "situation", ["home read-only, caches elsewhere", "cache read-only, offline", "root read-only, all else fine"]
)
def test_what_is_meant_to_be_so_is_no_fault(mounted: dict[str, Found], situation: str) -> None:
    assert faults(mounted[situation]) == set()


@needs_root
@needs_fuse
def test_a_dead_mount_hides_only_itself(failing: dict[str, Found]) -> None:
    found = failing["no answer"]
    assert faults(found) == {"storage.mounts.hangs"}
    (cache,) = of(found, "storage.caches")
    assert cache["root"] == "storage.mounts"
    for check in ("storage.shm", "storage.temporary", "storage.home", "storage.disk"):
        assert [finding["verdict"] for finding in of(found, check)] == ["pass"], check


# --- without a namespace


def test_all_is_well_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for check in ("storage.mounts", "storage.temporary", "storage.extensions", "storage.disk", "storage.speed"):
        assert one(check).verdict == "pass", one(check)


def test_shared_memory_does_not_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(storage, "SHM", str(tmp_path / "shm"))
    finding = one("storage.shm")
    assert (finding.verdict, finding.fault) == ("fail", "storage.shm.missing")


def test_shared_memory_on_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    processes, gib = Processes(), 2**30
    look = {"path": storage.SHM, "exists": True, "total_bytes": 8 * gib, "free_bytes": 8 * gib, "type": "ext4"}
    LOOKS[processes] = {storage.SHM: {**look, "mount": "/"}}
    (finding,) = storage.shm(Context(sys.executable, {}, False, processes))
    assert (finding.verdict, finding.fault) == ("warn", "storage.shm.disk")
    assert "ext4" in finding.evidence


def test_semaphores_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = "This platform lacks a functioning sem_open implementation"
    (tmp_path / "_multiprocessing.py").write_text(f"raise ImportError({words!r})\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = one("storage.shm")
    assert (finding.verdict, finding.fault) == ("fail", "storage.shm.semaphores")
    assert words in finding.evidence


@pytest.mark.parametrize(("options", "found"), [("rw,relatime", True), ("ro,relatime", False)])
def test_file_system_that_the_kernel_made_read_only(options: str, found: bool) -> None:
    """A disk with errors: the mount still says rw."""
    processes = Processes()
    mount = {"mount": "/data", "type": "ext4", "source": "/dev/sdb1", "mount_options": options, "system_options": "ro"}
    LOOKS[processes] = {"/data": {"path": "/data", **mount}}
    (finding,) = storage.mounts(Context(sys.executable, {}, False, processes))
    assert (finding.fault == "storage.mounts.shut-down") == found
    assert not found or "fsck /dev/sdb1" in str(finding.fix)


def test_temporary_folder_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/no/such/folder")
    found = ask("storage.temporary")
    assert [finding.verdict for finding in found] == ["warn", "pass"]
    assert found[0].fault == "storage.temporary.missing"
    assert "TMPDIR=/no/such/folder does not exist; Python uses /tmp" in found[0].evidence


@pytest.mark.parametrize(("length", "fails"), [(74, False), (76, True)])
def test_temporary_folder_with_a_long_path(
    monkeypatch: pytest.MonkeyPatch, length: int, fails: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = Path("/tmp/llmbench-test")
    folder = base / ("x" * (length - len(str(base)) - 1))
    folder.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(folder))
    try:
        finding = one("storage.temporary")
    finally:
        folder.rmdir()
        base.rmdir()
    assert (finding.fault == "storage.temporary.long") == fails, finding
    assert not fails or f"{length} bytes" in finding.evidence


def test_home_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/no/such/home")
    finding = one("storage.home")
    assert (finding.verdict, finding.fault) == ("warn", "storage.home.missing")
    assert "mkdir -p /no/such/home" in str(finding.fix)


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    assert one("storage.home").verdict in ("pass", "warn")


@pytest.mark.parametrize(
    ("fault", "variable", "value", "words"),
    [
        ("storage.caches.file", "HF_HOME", "{folder}/file/cache", "{folder}/file is a file; HF_HOME would be there"),
        ("storage.caches.dangling", "TORCH_HOME", "{folder}/link/cache", "{folder}/link is a link to /no/such/disk"),
        ("storage.caches.relative", "TRITON_CACHE_DIR", "cache/triton", "TRITON_CACHE_DIR=cache/triton"),
        ("storage.caches.tilde", "TORCHINDUCTOR_CACHE_DIR", "~/inductor", "TORCHINDUCTOR_CACHE_DIR=~/inductor"),
        ("storage.caches.deprecated", "TRANSFORMERS_CACHE", "{folder}/hub", "TRANSFORMERS_CACHE={folder}/hub is set"),
    ],
)
def test_cache_folder_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str, variable: str, value: str, words: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("/no/such/disk")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, value.format(folder=tmp_path))
    finding = one("storage.caches")
    assert (finding.verdict, finding.fault) == ("warn", fault)
    assert words.format(folder=tmp_path) in finding.evidence
    assert "<" not in str(finding.fix)


def test_cache_folders_are_not_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "new" / "cache"))
    assert one("storage.caches").verdict == "pass"
    assert list(tmp_path.glob("*")) == [tmp_path / "work"]


@pytest.mark.parametrize(("minutes", "stale"), [(1, False), (30, True)])
def test_lock_of_a_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, minutes: int, stale: bool) -> None:
    build = tmp_path / "py311_cpu" / "it's; fused"
    build.mkdir(parents=True)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    for name in ("main.cpp", "lock"):
        (build / name).write_text("")
        os.utime(build / name, (time.time() - 60 * minutes,) * 2)
    finding = one("storage.extensions")
    assert (finding.fault == "storage.extensions.lock") == stale
    if stale:
        assert finding.verdict == "fail"
        assert finding.script is None  # whether somebody still builds there, only a person can tell
        subprocess.run(["bash", "-c", str(finding.fix)], check=True)
        assert one("storage.extensions").verdict == "pass"


def test_space_and_inodes() -> None:
    assert [space(n) for n in (0, 2**10, 2**20, 3 * 2**29, 2**40)] == ["0 B", "1 KiB", "1 MiB", "1.5 GiB", "1.0 TiB"]
    enough = {"free_bytes": 2**31, "total_bytes": 2**32}
    assert judge({**enough, "inodes": 0, "free_inodes": 0}) is None  # btrfs counts none
    assert judge({"errno": 28, "error": "full", "failed": "", "inodes": 9, "free_inodes": 0}) == (
        "inodes",
        "full, 0 of 9 inodes free",
    )
