"""The quota of CPU time, by the files of both versions of control groups."""

from __future__ import annotations

import pytest

from llmbench.worker.measure import memory, quota


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Where the control groups are; this process is in /pod/container."""
    (tmp_path / "proc").mkdir()
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "groups")

    def write(line, files):
        (tmp_path / "proc" / "cgroup").write_text(line)
        for name, text in files.items():
            file = tmp_path / "groups" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    return write


def test_the_smallest_quota_of_version_2_counts(groups):
    groups(
        "0::/pod/container\n",
        {
            "pod/cpu.max": "150000 100000\n",
            "pod/cpu.stat": "usage_usec 9\nthrottled_usec 2500000\n",
            "pod/container/cpu.max": "max 100000\n",
            "pod/container/cpu.stat": "usage_usec 9\nthrottled_usec 0\n",
        },
    )
    assert quota.quota_cpus() == 1.5
    assert quota.throttled_seconds() == 2.5


def test_version_1(groups):
    folder = "cpu/pod/container"
    groups(
        "4:cpu,cpuacct:/pod/container\n",
        {
            f"{folder}/cpu.cfs_quota_us": "20000\n",
            f"{folder}/cpu.cfs_period_us": "100000\n",
            f"{folder}/cpu.stat": "nr_periods 10\nnr_throttled 9\nthrottled_time 700000000\n",
            "cpu/pod/cpu.cfs_quota_us": "-1\n",
            "cpu/pod/cpu.cfs_period_us": "100000\n",
        },
    )
    assert quota.quota_cpus() == 0.2
    assert quota.throttled_seconds() == 0.7


def test_without_a_quota_there_is_none(groups):
    groups("0::/\n", {"cpu.max": "max 100000\n"})
    assert quota.quota_cpus() is None
    assert quota.throttled_seconds() == 0


def test_nothing_is_known_where_there_are_no_control_groups(groups, tmp_path):
    assert quota.quota_cpus() is None
    assert quota.throttled_seconds() == 0
