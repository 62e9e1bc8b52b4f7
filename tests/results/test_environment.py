"""What of two environments differs, and what of it matters."""

from __future__ import annotations

from llmbench.results.environment import differences, flat_environment, hardware
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
    assert hardware({}) == {"cpu": "unknown CPU"}
    assert hardware({"host": [], "devices": {"name": "x"}}) == {"cpu": "unknown CPU"}
    assert hardware({"devices": [3, {"kind": "cuda"}]}) == {"cpu": "unknown CPU", "cuda": "1× None, unknown CPU"}
