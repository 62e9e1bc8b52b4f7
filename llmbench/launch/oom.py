"""Whether the kernel killed a process for want of memory."""

from __future__ import annotations

from pathlib import Path

# The cgroup of this process where there is one (v2, then v1), else the whole machine.
_COUNTERS = (
    ("/sys/fs/cgroup", "memory.events"),
    ("/sys/fs/cgroup/memory", "memory.oom_control"),
    ("/proc", "vmstat"),
)


class OomCounter:
    """Counts the kernel's out-of-memory kills between entering and ``count``. Workers share our cgroup."""

    def __enter__(self) -> OomCounter:
        self._file = _file()
        self._before = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        return

    def count(self) -> int:
        return self._read() - self._before

    def _read(self) -> int:
        if self._file is None:
            return 0
        try:
            lines = self._file.read_text().splitlines()
        except OSError:
            return 0  # it went away with its cgroup
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def _file() -> Path | None:
    own = _own_cgroup()
    for root, name in _COUNTERS:
        for folder in dict.fromkeys([Path(root + own.get(root, "")), Path(root)]):
            if (folder / name).exists():
                return folder / name
    return None


def _own_cgroup() -> dict[str, str]:
    """The path of this process's cgroup below each mount point (cgroups(7))."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return {}
    paths: dict[str, str] = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            paths["/sys/fs/cgroup"] = path.rstrip("/")
        elif "memory" in controllers.split(","):
            paths["/sys/fs/cgroup/memory"] = path.rstrip("/")
    return paths
