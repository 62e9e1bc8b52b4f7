"""What of two environments differs, and what of it matters."""

from __future__ import annotations

import copy

import pytest

from llmbench.results.environment import (
    decisive_differences,
    differences,
    flat_environment,
    hardware,
    machines,
    other_hardware,
)
from tests.factory import ENVIRONMENT, torch_at


def told(one, other):
    return [str(difference) for difference in differences(flat_environment(one), flat_environment(other))]


def test_what_matters_most_first_and_the_host_last():
    after = torch_at("2.14.0", name="node-18", kernel="6.13")
    after = after | {"packages": {"torch": "2.14.0", "numpy": "2.4.0", "triton": "3.5"}, "variables": {}}
    assert told(ENVIRONMENT, after) == [
        "torch 2.13.0+cpu → 2.14.0",
        "kernel 6.12.0 → 6.13",
        "numpy 2.3.1 → 2.4.0",
        "triton none → 3.5",
        "OMP_NUM_THREADS 16 → none",
        "name node-17 → node-18",
    ]


def test_what_passes_is_no_change():
    """Where a job ran, and what a scheduler calls it."""
    variables = {"SLURM_JOB_ID": "7", "TMPDIR": "/x", "MASTER_PORT": "1", "RANK": "0", "TRITON_CACHE_DIR": "/y"}
    after = torch_at("2.13.0+cpu", load_1min=9.0)
    after = after | {"variables": ENVIRONMENT["variables"] | variables, "devices": [{"uuid": "other"}]}
    assert told(ENVIRONMENT, after) == []


def test_an_environment_of_the_wrong_kind_is_read_as_far_as_it_goes():
    assert flat_environment({"host": 3, "torch": [1], "python": None}) == {"host": "3", "torch": "[1]"}
    assert machines({}) == {"cpu": "unknown CPU"}
    assert machines({"host": [], "devices": {"name": "x"}}) == {"cpu": "unknown CPU"}
    assert machines({"devices": [3, {"kind": "cuda"}]}) == {"cpu": "unknown CPU", "cuda": "1× None, unknown CPU"}


def test_the_same_environment_has_no_decisive_difference():
    assert decisive_differences(ENVIRONMENT, copy.deepcopy(ENVIRONMENT)) == []
    assert decisive_differences({}, {}) == []


@pytest.mark.parametrize(
    ("part", "key", "value", "said"),
    [
        ("torch", "version", "2.12.0", "torch 2.13.0+cpu → 2.12.0"),
        ("torch", "threads", 2, "torch.threads 16 → 2"),
        ("torch", "cuda", "12.8", "torch.cuda none → 12.8"),
        ("python", "version", "3.13.0", "python 3.12.8 → 3.13.0"),
        ("python", "executable", "/opt/python", None),
        ("packages", "numpy", "2.0.0", None),
    ],
)
def test_what_is_decisive(part, key, value, said):
    other = ENVIRONMENT | {part: {**ENVIRONMENT[part], key: value}}
    assert [str(one) for one in decisive_differences(ENVIRONMENT, other)] == ([said] if said else [])


def test_other_devices_are_decisive():
    one = {"devices": [{"kind": "cpu", "name": "AMD EPYC"}]}
    other = {"devices": [{"kind": "cuda", "name": "NVIDIA H200"}] * 2}
    assert [str(found) for found in decisive_differences(one, other)] == ["devices AMD EPYC → NVIDIA H200, NVIDIA H200"]
    assert decisive_differences(one, {"devices": [{"name": "AMD EPYC"}, 3]}) == []


def test_hardware_is_what_speed_hangs_on_and_what_one_lacks_tells_nothing():
    one = hardware("cuda", {"host": {"cpu": "AMD EPYC", "cores": 8, "name": "a"}, "devices": [{"name": "NVIDIA H200"}]})
    assert one == {"device": "cuda", "cpu": "AMD EPYC", "cores": "8", "devices": "NVIDIA H200"}
    assert other_hardware(one, {"device": "cuda", "cpu": "Intel"}) == ["cpu: AMD EPYC → Intel"]
    assert hardware("cpu", {"host": 3, "devices": "x"}) == {"device": "cpu"}
