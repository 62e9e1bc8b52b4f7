import math

import pytest

from llmbench.results.schema import Memory
from llmbench.stats.gates import explained_by, loss_change, memory_change

MIB = 2**20
GIB = 2**30


def resident(*peaks):
    return [Memory(peak_rss_bytes=peak) for peak in peaks]


def allocated(*peaks):
    return [Memory(peak_allocated_bytes=peak, peak_rss_bytes=9 * GIB) for peak in peaks]


@pytest.mark.parametrize(
    ("base", "cand", "verdict"),
    [
        (allocated(GIB), allocated(GIB), "same"),
        (allocated(GIB), allocated(int(1.009 * GIB)), "same"),
        (allocated(GIB), allocated(int(1.02 * GIB)), "more"),
        (allocated(GIB), allocated(int(0.98 * GIB)), "less"),
        (allocated(100 * MIB), allocated(103 * MIB), "same"),  # 3 %, but less than 4 MiB
        (resident(GIB), resident(int(1.027 * GIB)), "same"),  # so far lay two runs of the same code apart
        (resident(GIB), resident(int(1.04 * GIB)), "more"),
        (resident(GIB), resident(int(0.96 * GIB)), "less"),
        (resident(*[GIB] * 3), resident(int(1.09 * GIB), GIB, int(1.08 * GIB)), "same"),  # the least is what it takes
    ],
)
def test_memory(base, cand, verdict):
    assert memory_change(base, cand).verdict == verdict


@pytest.mark.parametrize("cand", [[None], [Memory()], resident(0), [*resident(GIB), None], resident(10**400)])
def test_memory_that_was_not_measured_has_no_verdict(cand):
    assert memory_change(resident(GIB), cand) is None


def curve(steps=100):
    return [4.0 + 3.0 * math.exp(-step / 20) for step in range(steps)]


def scaled(factor, since=0):
    return [loss * (factor if step >= since else 1.0) for step, loss in enumerate(curve())]


def test_the_same_curve_is_bitwise_the_same():
    assert loss_change(curve(), curve(), "eager", exact=True).verdict == "bitwise"
    assert loss_change(curve(), curve(), "bf16", exact=False).verdict == "bitwise"


@pytest.mark.parametrize(("factor", "verdict"), [(1 + 1e-7, "within"), (1 + 1e-4, "changed")])
def test_where_nothing_but_the_code_can_differ_the_limit_is_tight(factor, verdict):
    found = loss_change(curve(), scaled(factor, since=30), "eager", exact=True)
    assert found.verdict == verdict
    assert found.value == pytest.approx(factor - 1, rel=1e-3)
    assert found.step == (30 if verdict == "changed" else None)


@pytest.mark.parametrize(
    ("mode", "factor", "verdict"),
    [("eager", 1 + 1e-4, "within"), ("eager", 1.005, "changed"), ("bf16", 1.005, "within"), ("bf16", 1.05, "changed")],
)
def test_elsewhere_the_mode_explains_some_difference(mode, factor, verdict):
    assert loss_change(curve(), scaled(factor), mode, exact=False).verdict == verdict


@pytest.mark.parametrize("exact", [True, False])
def test_a_loss_that_is_not_finite_any_more_has_changed(exact):
    found = loss_change(curve(), [*curve()[:50], *[None] * 50], "eager", exact=exact)
    assert found.verdict == "changed"
    assert found.value is None
    assert found.step == 50


@pytest.mark.parametrize("cand", [[], curve(50)])
def test_curves_of_other_lengths_are_not_compared(cand):
    assert loss_change(curve(), cand, "eager", exact=False) is None
    assert loss_change(cand, curve(), "eager", exact=False) is None


def test_a_mode_of_another_version_is_granted_rounding_only():
    assert explained_by("fp2+quantum") == explained_by("eager") < explained_by("bf16")
