from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.launch.record import (
    begin,
    finish,
    refused,
    with_measured_bandwidth,
    with_measured_peak,
    with_parity,
    with_scaling,
)
from llmbench.launch.target import Outcome
from llmbench.results.schema import BROKEN, Record, Series
from llmbench.suite.cases import Case, resolve
from llmbench.suite.load import find

CASES = {case.id: case for case in resolve(find("smoke"))}
EAGER, COMPILE, BF16 = (CASES[f"gpt-tiny/{mode}/ws1"] for mode in ("eager", "compile", "bf16"))
STEPS = 100
FIRST_TIMED = 20
FACTS = {"threads": 2, "weights_sha256": "w", "batches_sha256": "b"}
GOOD = [6.0 - 3.0 * step / STEPS for step in range(STEPS)]


def measured(**changes: Any) -> dict[str, Any]:
    """What the worker tells of a case of 100 steps, of which 80 were timed with 0.5 s each."""
    return {
        "phases": {"import": 1.0, "build": 0.5, "compile": 2.0, "warmup": 9.5, "timed": 40.0, "evaluate": 0.25},
        "input_wait_seconds": 0.125,
        "step_seconds": [9.0] * (FIRST_TIMED - 1) + [0.5] * (STEPS - FIRST_TIMED),
        "first_timed_step": FIRST_TIMED,
        "window_seconds": 40.0,
        "losses": GOOD,
        "eval_loss": 3.5,
        "metrics": {"perplexity": math.exp(3.5)},
        "references": [{"name": "unigram", "value": 5.5, "kind": "baseline"}],
        "facts": FACTS,
        "wrong": [],
        "parameters": {"total": 1000, "trainable": 500},
        "peak": None,
        "energy_reason": "no counter",
        "half_width": 0.0,
        "compiled": None,
        "gradients": RIGHT,
        "rank": of_rank(0),
    } | changes


RIGHT = {"value": 1e-7, "limit": 1e-5, "tensor": "blocks.0.w", "metric": "RMS error / RMS", "passed": True}
LOAD = {"wall_seconds": 40.0, "cpu_seconds": 40.0, "busy_seconds": 40.0, "steal_seconds": 0.0}
MEMORY = {"peak_rss_bytes": 2**29, "start_rss_bytes": 2**28, "capacity_bytes": 2**34, "peak_allocated_bytes": None}
REFERENCE = {"deterministic": True, "weights_sha256": "w", "batches_sha256": "b"}


def of_rank(rank: int, **changes: Any) -> dict[str, Any]:
    """The part of a result that every rank has."""
    return {
        "rank": rank,
        "host": "node1",
        "device": "cpu",
        "window_seconds": 40.0,
        "communication": None,
        "peak_allocated_bytes": None,
        "peak_rss_bytes": MEMORY["peak_rss_bytes"],
        "memory": MEMORY,
        "load": LOAD,
        "energy": None,
    } | changes


def ended(case: Case = EAGER, reference: dict[str, Any] | None = None, **changes: Any) -> tuple[Record, Series]:
    """The record of a case that trained, and its series: as if the result had come from the worker's file."""
    result = json.loads(json.dumps(measured(**changes)))
    outcome = Outcome(result=result, code=0, wall_seconds=55.0)
    record, series = finish(begin(case, "cpu"), case, outcome, reference or REFERENCE)
    assert series is not None
    assert Record.model_validate_json(record.model_dump_json(by_alias=True)).case == record.case
    return record, series


def test_a_case_that_has_begun_is_aborted_until_more_is_known() -> None:
    record = begin(BF16, "cpu")
    assert record.status == "aborted"
    assert "--resume" in str(record.error and record.error.hint)
    assert (record.case, record.workload, record.mode, record.world_size) == (
        "gpt-tiny/bf16/ws1",
        "gpt-tiny",
        "bf16",
        1,
    )
    assert record.config == BF16.config
    assert record.flops_per_step == BF16.flops_per_step
    assert abs((datetime.now(UTC) - datetime.fromisoformat(record.started_at)).total_seconds()) < 60


def test_known_step_times_give_exactly_the_known_throughput() -> None:
    record, series = ended()
    assert (record.status, record.error, record.wall_seconds) == ("ok", None, 55.0)
    assert record.throughput is not None
    assert record.step_seconds is not None
    assert record.throughput.value == 8 * 128 * 80 / 40.0  # all tokens of the window / its time
    assert (record.throughput.unit, record.throughput.n) == ("tokens/s", 80)
    assert record.throughput.ci95 == (2048.0, 2048.0)
    assert (record.step_seconds.mean, record.step_seconds.median, record.step_seconds.p95) == (0.5, 0.5, 0.5)
    assert record.tflops == EAGER.flops_per_step * 80 / 40.0 / 1e12
    assert record.noise is not None
    assert (record.noise.cv, record.noise.verdict) == (0.0, "quiet")
    assert series == Series(loss=GOOD, step_seconds=[9.0] * 19 + [0.5] * 80, first_timed_step=FIRST_TIMED)


def test_throughput_is_by_the_clock_of_the_window_not_by_the_sum_of_its_steps() -> None:
    record, _ = ended(window_seconds=50.0)
    assert record.throughput is not None
    assert record.throughput.value == 8 * 128 * 80 / 50.0


def test_the_steps_of_the_window_are_those_from_the_first_timed_one() -> None:
    times = [9.0] * 19 + [1.0] + [0.5] * 79
    record, _ = ended(step_seconds=times, window_seconds=40.5)
    assert record.step_seconds is not None
    assert record.step_seconds.mean == pytest.approx(40.5 / 80)


def test_samples_are_the_unit_of_regression() -> None:
    record, _ = ended(CASES["regression-linear/eager/ws1"])
    assert record.throughput is not None
    assert (record.throughput.value, record.throughput.unit) == (256 * 80 / 40.0, "samples/s")


def test_what_was_measured_is_in_the_record() -> None:
    counted = of_rank(0, energy={"joules": 800.0, "source": "RAPL"})
    record, _ = ended(rank=counted, energy_reason=None)
    assert record.phases is not None
    assert record.memory is not None
    assert record.loss is not None
    assert record.phases.model_dump(by_alias=True) == measured()["phases"]
    assert record.memory.estimate_bytes == EAGER.memory_bytes["total"]
    assert record.memory.peak_rss_bytes == 2**29
    assert record.energy is not None
    assert (record.energy.joules, record.energy_reason) == (800.0, None)
    assert (record.loss.first, record.loss.eval, record.loss.learned) == (6.0, 3.5, True)
    assert record.loss.final == pytest.approx(sum(GOOD[-10:]) / 10)
    assert (record.parameters and record.parameters.trainable) == 500
    assert record.input_wait_seconds == 0.125
    assert (record.facts, record.metrics) == (FACTS, measured()["metrics"])


def test_mfu_needs_a_peak() -> None:
    assert (ended()[0].mfu, ended()[0].peak) == (None, None)
    record, _ = ended(peak={"tflops": 19.5, "source": "data sheet"})
    assert record.tflops is not None
    assert record.mfu == record.tflops / 19.5


@pytest.mark.parametrize(("mode", "dtype"), [(EAGER, "fp32"), (COMPILE, "fp32"), (BF16, "bf16")])
def test_the_share_of_the_measured_peak_is_of_the_arithmetic_of_the_mode(mode: Case, dtype: str) -> None:
    peaks = {"fp32": 2.0, "bf16": 8.0}
    record = with_measured_peak(ended(mode)[0], peaks)
    assert record.tflops is not None
    assert record.mfu_of_measured_peak == record.tflops / peaks[dtype]
    assert record.measured_peak is not None
    assert (record.measured_peak.tflops, dtype in record.measured_peak.source) == (peaks[dtype], True)


def test_no_share_of_a_peak_that_was_not_measured() -> None:
    record, _ = ended()
    assert with_measured_peak(record, {}) == record
    failed, _ = finish(begin(EAGER, "cpu"), EAGER, Outcome(code=-9), {})
    assert with_measured_peak(failed, {"fp32": 2.0}) == failed


def test_the_bandwidth_that_was_measured_stands_beside_the_speed() -> None:
    record, _ = ended()
    found = with_measured_bandwidth(record, 2e10).measured_bandwidth
    assert found is not None
    assert found.bytes_per_second == 2e10
    assert with_measured_bandwidth(record, None) == record
    failed, _ = finish(begin(EAGER, "cpu"), EAGER, Outcome(code=-9), {})
    assert with_measured_bandwidth(failed, 2e10) == failed


def test_a_failure_keeps_what_was_known_and_has_no_series() -> None:
    record, series = finish(begin(EAGER, "cpu"), EAGER, Outcome(code=-11, phase="timed", wall_seconds=3.0), {})
    assert series is None
    assert (record.status, record.wall_seconds, record.throughput) == ("failed", 3.0, None)
    assert record.error is not None
    assert record.error.type == "SIGSEGV"
    assert record.config == EAGER.config


# Whether the training was right

NAN_AT_THE_END = [*GOOD[:-1], math.nan]
FLAT = [6.0] * STEPS


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"losses": NAN_AT_THE_END}, "not finite"),
        ({"losses": [math.nan] * STEPS}, "not finite"),
        ({"losses": [6.0] * 50 + [math.inf] * 50}, "not finite"),
        ({"eval_loss": math.nan}, "not finite"),
        ({"losses": FLAT}, "did not fall"),
        ({"losses": GOOD[::-1]}, "did not fall"),
        ({"wrong": ["frozen weights changed: a", "merged weights give other logits"]}, "changed: a; merged weights"),
    ],
)
def test_a_training_that_was_not_right_is_invalid_and_shown(changes: dict[str, Any], said: str) -> None:
    record, series = ended(**changes)
    assert record.status == "invalid"
    assert record.status in BROKEN
    assert record.error is not None
    assert record.error.type == "Invalid"
    assert said in record.error.message
    assert record.error.hint
    assert record.throughput is not None  # shown, never dropped
    assert len(series.loss) == STEPS


def test_a_loss_that_is_not_finite_has_not_learned() -> None:
    record, _ = ended(losses=NAN_AT_THE_END, eval_loss=math.nan, metrics={"perplexity": math.inf})
    assert record.loss is not None
    assert (record.loss.finite, record.loss.learned) == (False, False)
    again = Record.model_validate_json(record.model_dump_json(by_alias=True))
    assert again.loss is not None
    assert (again.loss.final, again.loss.eval, again.metrics["perplexity"]) == (None, None, None)


def test_a_reference_that_is_not_finite_is_left_out() -> None:
    references = [{"name": name, "value": value, "kind": "baseline"} for name, value in (("a", math.nan), ("b", 5.0))]
    record, _ = ended(references=references)
    assert record.loss is not None
    assert [reference.name for reference in record.loss.references] == ["b"]


def held(case: Case, losses: list[float]) -> Record:
    """A case held against the eager one, which trained well."""
    return with_parity(*ended(case, losses=losses), *ended(EAGER))


@pytest.mark.parametrize(("case", "limit"), [(COMPILE, 1e-3), (BF16, 1e-2)])
def test_a_curve_that_strays_too_far_from_eager_is_invalid(case: Case, limit: float) -> None:
    near = held(case, [loss * (1 + 0.9 * limit) for loss in GOOD])
    assert near.status == "ok"
    assert near.parity is not None
    assert (near.parity.verdict, near.parity.reference, near.parity.limit) == ("pass", EAGER.id, limit)
    assert near.parity.value == pytest.approx(0.9 * limit)
    far = held(case, [loss * (1 + 1.1 * limit) for loss in GOOD])
    assert far.status == "invalid"
    assert far.parity is not None
    assert far.parity.verdict == "fail"
    assert far.error is not None
    assert f"strays from {EAGER.id} at step 9: " in far.error.message
    assert f"is {1.1 * limit:.2g}, allowed is {limit:.2g}" in far.error.message
    assert far.error.hint


def test_what_is_invalid_already_keeps_its_reason() -> None:
    record = held(BF16, NAN_AT_THE_END)
    assert record.parity is not None
    assert (record.parity.verdict, record.parity.value) == ("fail", None)
    assert record.error is not None
    assert "not finite" in record.error.message


def test_eager_is_the_reference_and_held_against_fp64_only() -> None:
    record, series = ended(EAGER)
    assert with_parity(record, series, record, series) == record


def test_a_reference_that_failed_tells_nothing() -> None:
    record, series = ended(BF16)
    assert [check.reference for check in record.parity.checks] == ["eager fp64"]
    assert with_parity(record, series, *ended(EAGER, losses=NAN_AT_THE_END)) == record
    failed, _ = finish(begin(EAGER, "cpu"), EAGER, Outcome(code=-9), {})
    assert with_parity(record, series, failed, series) == record


def test_parity_survives_the_disk() -> None:
    """A resumed run holds its cases against the eager one that it reads back."""
    reference, reference_series = ended(EAGER)
    again = Series.model_validate_json(reference_series.model_dump_json())
    record, series = ended(BF16, losses=[loss * 1.001 for loss in GOOD])
    assert with_parity(record, series, reference, again) == with_parity(record, series, reference, reference_series)


# Gradients against fp64


def test_gradients_that_are_right_are_told() -> None:
    record, _ = ended()
    assert record.status == "ok"
    assert record.parity is not None
    assert (record.parity.reference, record.parity.verdict, record.parity.deterministic) == ("eager fp64", "pass", True)
    assert (record.parity.tensor, record.parity.step) == ("blocks.0.w", None)


def test_a_wrong_gradient_is_invalid_with_its_tensor() -> None:
    wrong = RIGHT | {"value": 0.5, "passed": False}
    record, series = ended(COMPILE, gradients=wrong)
    assert record.status == "invalid"
    assert record.error is not None
    assert "strays from eager fp64 at step 0, tensor blocks.0.w" in record.error.message
    # A curve that passes does not make it right.
    record = with_parity(record, series, *ended(EAGER))
    assert record.parity is not None
    assert (record.status, record.parity.verdict, record.parity.tensor) == ("invalid", "fail", "blocks.0.w")
    assert [check.verdict for check in record.parity.checks] == ["fail", "pass"]


def test_a_gradient_that_is_not_finite_is_invalid() -> None:
    record, _ = ended(BF16, gradients=RIGHT | {"value": None, "passed": False})
    assert record.error is not None
    assert "is not finite" in record.error.message


@pytest.mark.parametrize(("fact", "said"), [("weights_sha256", "other weights"), ("batches_sha256", "other batches")])
def test_a_case_that_began_elsewhere_is_invalid(fact: str, said: str) -> None:
    record, _ = ended(facts=FACTS | {fact: "x"})
    assert record.status == "invalid"
    assert said in str(record.error and record.error.message)


def test_without_a_reference_there_is_no_such_check() -> None:
    record, _ = ended(reference={"reason": "no memory"}, gradients=None)
    assert (record.status, record.parity) == ("ok", None)


# Several processes


DDP = resolve(find("smoke"), workloads=["gpt-tiny"], modes=["ddp"], world_sizes=[2])[0]
DDP_ALONE = resolve(find("smoke"), workloads=["gpt-tiny"], modes=["ddp"], world_sizes=[1])[0]


def two_ranks(**changes: Any) -> dict[str, Any]:
    communication = {"seconds_per_step": 0.1, "step_seconds": 0.5, "source": "torch.profiler, gloo"}
    larger = MEMORY | {"peak_rss_bytes": 2**30}
    return {
        "ranks": [
            of_rank(0, communication=communication, energy={"joules": 10.0, "source": "NVML"}),
            of_rank(1, communication={**communication, "seconds_per_step": 0.2}, window_seconds=44.0, memory=larger)
            | {"energy": {"joules": 20.0, "source": "NVML"}, "host": "node2"},
        ]
    } | changes


def test_ranks_make_one_record() -> None:
    record, _ = ended(DDP, **two_ranks())
    assert record.throughput is not None
    assert record.throughput.value == 8 * 128 * 80 / 40.0  # of all ranks together: they share the batch
    assert [(rank.rank, rank.host, rank.communication_seconds) for rank in record.ranks] == [
        (0, "node1", 0.1),
        (1, "node2", 0.2),
    ]
    assert record.rank_spread == pytest.approx(4 / 42)
    assert record.communication is not None
    assert record.communication.seconds_per_step == pytest.approx(0.15)
    assert record.communication.share == pytest.approx(0.3)
    assert record.energy is not None
    assert record.energy.joules == 30.0
    assert record.memory is not None
    assert record.memory.peak_rss_bytes == 2**30  # of the rank that needs most


def test_each_rank_has_a_peak_of_its_own() -> None:
    record, _ = ended(DDP, **two_ranks(peak={"tflops": 2.0, "source": "data sheet"}))
    assert record.tflops is not None
    assert record.mfu == record.tflops / 2 / 2.0
    assert with_measured_peak(record, {"fp32": 1.0}).mfu_of_measured_peak == record.tflops / 2
    assert with_measured_peak(record, {"fp32": None}).measured_peak is None


def test_efficiency_is_against_fewer_ranks_of_the_same() -> None:
    alone, _ = ended(DDP_ALONE, window_seconds=60.0)
    both, _ = ended(DDP, **two_ranks())
    scaled = with_scaling(both, alone)
    assert scaled.scaling is not None
    assert (scaled.scaling.reference, scaled.scaling.kind) == ("gpt-tiny/ddp/ws1", "strong")
    assert scaled.scaling.efficiency == pytest.approx((1 / 40) / (2 / 60))
    assert with_scaling(alone, alone).scaling is None
    assert with_scaling(both, None).scaling is None
    invalid, _ = ended(DDP_ALONE, losses=FLAT)
    assert with_scaling(both, invalid).scaling is None


@settings(max_examples=60)
@given(
    ticks=st.lists(st.integers(1, 1000), min_size=20, max_size=60),
    size=st.sampled_from([1, 2, 4]),
    mode=st.sampled_from(["ddp", "accum4+ddp", "tp", "fsdp"]),
    scaling=st.sampled_from(["strong", "weak"]),
)
def test_known_times_give_exactly_the_known_throughput_in_every_layout(
    ticks: list[int], size: int, mode: str, scaling: str
) -> None:
    """Accumulation, ranks and tensor parallelism change how a batch is worked on, never how much work it is."""
    (case,) = resolve(
        find("smoke"),
        workloads=["gpt-tiny"],
        modes=[mode],
        world_sizes=[size],
        changes=["micro_batch_size=32", f"scaling={scaling}", f"steps={len(ticks) + 1}"],
    )
    assert case.refused is None
    seconds = [tick * 2.0**-10 for tick in ticks]
    window = seconds[5:]
    record, _ = ended(
        case,
        step_seconds=seconds,
        first_timed_step=6,
        window_seconds=sum(window),
        losses=[6.0 - step / 100 for step in range(len(ticks) + 1)],
        ranks=[of_rank(rank, window_seconds=sum(window)) for rank in range(size)],
    )
    ranks_with_data = size if scaling == "weak" and mode != "tp" else 1
    assert record.throughput is not None
    assert record.throughput.value == 32 * ranks_with_data * 128 * len(window) / sum(window)
    assert record.sampling is not None
    assert (record.sampling.steps, record.sampling.extra_steps) == (len(window), 0)


def test_what_nobody_can_run_is_skipped_with_the_reason() -> None:
    record = refused(begin(DDP, "cpu"), "a batch of 8 cannot be split into 3 equal parts: --set micro_batch_size=6")
    assert record.status == "skipped"
    assert record.error is not None
    assert record.error.message == "a batch of 8 cannot be split into 3 equal parts"
    assert record.error.hint == "--set micro_batch_size=6"
