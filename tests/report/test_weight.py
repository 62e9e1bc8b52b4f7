"""How much a page weighs: it is mailed, archived, and opened on a phone."""

from __future__ import annotations

import pytest

from llmbench.report import run_page
from llmbench.report.run.data import points
from tests import factory

MODES = [
    *factory.SINGLE[:4],
    "bf16-params",
    *factory.SINGLE[6:16],
    *factory.SINGLE[18:20],
    *factory.SINGLE[22:27],
    "bf16+accum4",
]


def weight(folder):
    return len(run_page(folder).encode())


def test_24_cases_of_500_steps(tmp_path):
    workloads = [*factory.WORKLOADS, "gpt-small", "bert-small"]
    folder = factory.plain_run(tmp_path / "run", workloads, factory.MODES, steps=500)
    assert len(folder.records()) == 24
    assert weight(folder) <= 400_000


@pytest.mark.slow
def test_200_cases_of_2000_steps(tmp_path):
    workloads = [f"{name}-{size}" for name in ("gpt", "bert", "lora", "regression") for size in ("tiny", "small")]
    modes = list(dict.fromkeys(MODES + [f"fused+{mode}" for mode in MODES[1:]]))[:25]
    folder = factory.plain_run(tmp_path / "run", workloads, modes, steps=2000)
    assert len(folder.records()) == 200
    assert weight(folder) <= 1_500_000


def test_88_cases_of_two_workloads(tmp_path):
    """35 modes, 10 of them at two world sizes."""
    folder = factory.modes_run(
        tmp_path / "run", single=[*factory.SINGLE[:20], *factory.SINGLE[23:28]], parallel=factory.PARALLEL[:10]
    )
    assert len(folder.records()) == 88
    assert weight(folder) <= 520_000


def test_the_142_cases_of_the_suite_modes(tmp_path):
    assert weight(factory.modes_run(tmp_path / "run")) <= 740_000


def test_where_every_case_is_noisy(tmp_path):
    cases = [factory.planned(name, mode) for name in ("gpt-tiny", "bert-tiny") for mode in factory.PARALLEL]
    folder = factory.RunFolder.create(tmp_path / "run", factory.make_run(cases))
    for case in cases:
        factory.add(folder, *factory.ok_record(case, noisy=True, steps=30))
    assert weight(folder) <= 360_000


def test_a_curve_has_fewer_points_the_more_curves_there_are():
    found = [points(number) for number in (0, 1, 4, 24, 200, 10_000)]
    assert found == sorted(found, reverse=True)
    assert found[0] == 500
    assert found[-1] == 40
