"""From what a worker measured to the record of the case."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from llmbench.launch.diagnose import diagnose
from llmbench.launch.merge import of_ranks
from llmbench.launch.target import Outcome
from llmbench.results.schema import (
    Bandwidth,
    Compile,
    Energy,
    Error,
    Hardware,
    Loss,
    Memory,
    MemorySplit,
    MemoryTimeline,
    Parameters,
    Parity,
    ParityCheck,
    Peak,
    Phases,
    Record,
    Sampling,
    Scaling,
    Series,
    Throughput,
)
from llmbench.stats import estimates, verdicts
from llmbench.stats.blocks import enough, steps_to
from llmbench.suite.cases import Case
from llmbench.suite.modes import arithmetic, parity_limit


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def begin(case: Case, device: str) -> Record:
    """The record of a case that is about to run: aborted, until more is known."""
    return Record(
        case=case.id,
        workload=case.workload,
        mode=case.mode,
        world_size=case.world_size,
        device=device,
        status="aborted",
        error=Error(type="Interrupted", message="the run was interrupted", hint="continue it with --resume"),
        started_at=utc_now(),
        wall_seconds=0.0,
        config=case.config,
        flops_per_step=case.flops_per_step,
    )


def interrupted(record: Record, seconds: float, reason: str | None) -> Record:
    """The record of a case that was interrupted.

    Args:
        seconds: since it began.
        reason: why, where somebody knows.
    """
    assert record.error is not None
    error = record.error.model_copy(update={"type": "WallLimit", "message": reason} if reason else {})
    return record.model_copy(update={"wall_seconds": seconds, "error": error})


def refused(record: Record, reason: str) -> Record:
    """The record of a case that nobody could run."""
    message, _, fix = reason.partition(": ")
    return record.model_copy(
        update={"status": "skipped", "error": Error(type="Refused", message=message, hint=fix or None)}
    )


def finish(
    record: Record,
    case: Case,
    outcome: Outcome,
    reference: Mapping[str, Any],
    hardware: Hardware | None = None,
    memory: MemoryTimeline | None = None,
) -> tuple[Record, Series | None]:
    """The record of a case that has ended, and its series; of one that failed, its memory over time alone.

    Args:
        reference: what ``worker/measure/parity.py`` found for the same training; empty if there is none.
        hardware: what was sampled while the clock ran.
        memory: what was sampled all the time.
    """
    record = record.model_copy(update={"wall_seconds": outcome.wall_seconds, "status": "ok", "error": None})
    failure = diagnose(case, outcome, case.config["deadline_seconds"])
    if failure:
        status, error = failure
        series = Series(loss=[], step_seconds=[], first_timed_step=0, memory=memory) if memory else None
        return record.model_copy(update={"status": status, "error": error}), series
    assert outcome.result is not None
    return _measured(record, case, outcome.result, reference, hardware), _series(outcome.result, memory)


def _series(result: dict[str, Any], memory: MemoryTimeline | None) -> Series:
    return Series(
        loss=result["losses"],
        step_seconds=result["step_seconds"],
        first_timed_step=result["first_timed_step"],
        memory=memory,
    )


def _measured(
    record: Record, case: Case, result: dict[str, Any], reference: Mapping[str, Any], hardware: Hardware | None
) -> Record:
    # step_seconds begins with step 1, the window with step first_timed_step.
    window = result["step_seconds"][result["first_timed_step"] - 1 :]
    rate = case.work_per_step * len(window) / result["window_seconds"]
    seconds = estimates.step_seconds(window)
    throughput = Throughput(
        value=rate, unit=case.family.unit, ci95=estimates.throughput_interval(rate, seconds), n=len(window)
    )
    ranks = result.get("ranks") or [result["rank"]]
    losses = result["losses"]
    flops = case.flops_per_step or reference.get("flops_per_step")
    tflops = flops * len(window) / result["window_seconds"] / 1e12 if flops else None
    # Of the device of one rank: so many of them worked on a step.
    peak = Peak(**result["peak"]) if result["peak"] else None
    finite = verdicts.finite([*losses, result["eval_loss"]])  # the last update is seen by the evaluation only
    load = verdicts.machine_load([rank["load"] for rank in ranks])
    record = record.model_copy(
        update={
            "parameters": Parameters(**result["parameters"]),
            "throughput": throughput,
            "step_seconds": seconds,
            "sampling": _sampling(case, result, window),
            "phases": Phases(**result["phases"]),
            "input_wait_seconds": result["input_wait_seconds"],
            "flops_per_step": flops,
            "flops_source": "analytic" if case.flops_per_step else reference.get("flops_source"),
            "tflops": tflops,
            "peak": peak,
            "mfu": tflops / case.world_size / peak.tflops if peak and tflops else None,
            "memory": _memory(case, max((rank["memory"] for rank in ranks), key=_largest)),
            "energy": _energy([rank["energy"] for rank in ranks]),
            "energy_reason": result["energy_reason"],
            "loss": Loss(
                first=losses[0],
                final=verdicts.final(losses),
                eval=result["eval_loss"],
                finite=finite,
                learned=finite and verdicts.learned(losses),
                references=[known for known in result["references"] if math.isfinite(known["value"])],
            ),
            "metrics": result["metrics"],
            "facts": result["facts"] | ({"no_gradient_parity": reference["reason"]} if "reason" in reference else {}),
            "noise": verdicts.noise(
                throughput,
                estimates.coefficient_of_variation(window),
                load,
                hardware,
                case.config["budget_seconds"],
            ).model_copy(update={"waited": _waited(record.device, load, result["facts"], len(ranks))}),
            "hardware": hardware,
            "compile": Compile(**result["compiled"]) if result["compiled"] else None,
            "parity": _gradient_parity(result, reference),
        }
    )
    if case.world_size > 1:
        record = record.model_copy(update=of_ranks(ranks))
    return _judged(record, losses, _differences(result["facts"], reference) + result["wrong"])


def _waited(device: str, load: Mapping[str, float | None], facts: Mapping[str, Any], ranks: int) -> float | None:
    """Of a training on CPUs: one on a device waits for it, and not for them."""
    threads = facts.get("threads")
    return verdicts.waited(load, threads * ranks) if device == "cpu" and threads else None


def _sampling(case: Case, result: dict[str, Any], window: Sequence[float]) -> Sampling:
    target = case.config["interval_target"]
    trained = case.config["steps"] - result["first_timed_step"]
    return Sampling(
        target=target,
        half_width=result["half_width"],
        reached=enough(window, target),
        steps=len(window),
        steps_to_target=steps_to(target, window),
        extra_steps=len(window) - trained,
        seconds=result["window_seconds"],
        budget_seconds=case.config["budget_seconds"],
    )


def _memory(case: Case, found: dict[str, Any]) -> Memory:
    estimate = case.memory_bytes
    return Memory(
        **found,
        estimate_bytes=estimate["total"] if estimate else None,
        estimate=MemorySplit(**estimate) if estimate else None,
    )


def _largest(memory: dict[str, Any]) -> int:
    return int(memory["peak_allocated_bytes"] or memory["peak_rss_bytes"])


def _energy(found: Sequence[dict[str, Any] | None]) -> Energy | None:
    """Of all ranks that have a counter to read."""
    known = [energy for energy in found if energy]
    return Energy(joules=sum(one["joules"] for one in known), source=known[0]["source"]) if known else None


def _gradient_parity(result: dict[str, Any], reference: Mapping[str, Any]) -> Parity | None:
    found = result.get("gradients")
    if found is None:
        return None
    check = ParityCheck(
        reference="eager fp64",
        metric=found["metric"],
        limit=found["limit"],
        value=found["value"],
        verdict="pass" if found["passed"] else "fail",
        step=None if found["passed"] else 0,
        tensor=found["tensor"],
    )
    return verdicts.parity([check], reference.get("deterministic"))


def _differences(facts: dict[str, Any], reference: Mapping[str, Any]) -> list[str]:
    """What a case did not begin with as its reference did; then nothing can be compared."""
    words = {"weights_sha256": "other weights", "batches_sha256": "other batches"}
    return [
        f"it began with {words[key]} than its reference"
        for key in words
        if key in reference and facts[key] != reference[key]
    ]


def _judged(record: Record, losses: Sequence[float], wrong: list[str]) -> Record:
    """A speed is only valid if the training was right."""
    assert record.loss is not None
    if not record.loss.finite:
        step = next((step for step, loss in enumerate(losses) if not math.isfinite(loss)), None)
        since = "after the last step" if step is None else f"from step {step}"
        return _invalid(record, f"the loss is not finite {since}", "a smaller --set learning_rate=…")
    if wrong:
        hint = "a fault of the workload, of torch (`llmbench doctor`), or of llmbench"
        return _invalid(record, "; ".join(wrong), hint)
    if record.parity and record.parity.verdict == "fail":
        return _strayed(record, record.parity)
    if not record.loss.learned:
        return _invalid(record, "the loss did not fall", "more steps, or another --set learning_rate=…")
    return record


def _strayed(record: Record, parity: Parity) -> Record:
    place = f"step {parity.step}" if parity.step is not None else "the end"
    tensor = f", tensor {parity.tensor}" if parity.tensor else ""
    value = "not finite" if parity.value is None else f"{parity.value:.2g}"
    return _invalid(
        record,
        f"it strays from {parity.reference} at {place}{tensor}: {parity.metric} is {value}, "
        f"allowed is {parity.limit:.2g}",
        "the speed of a training that goes elsewhere is no speed-up; `llmbench doctor` tells whether torch is sound",
    )


def _invalid(record: Record, message: str, hint: str | None) -> Record:
    return record.model_copy(update={"status": "invalid", "error": Error(type="Invalid", message=message, hint=hint)})


def with_parity(record: Record, series: Series, reference: Record, reference_series: Series) -> Record:
    """The record with its loss curve held against the eager fp32 case of the same training."""
    if record.case == reference.case or reference.loss is None or not reference.loss.finite:
        return record
    before = [check for check in record.parity.checks if check.reference != reference.case] if record.parity else []
    limit = parity_limit(record.mode)
    checks = verdicts.curve_checks(_curve(series), _curve(reference_series), reference.case, limit)
    found = verdicts.parity([*before, *checks], record.parity.deterministic if record.parity else None)
    record = record.model_copy(update={"parity": found})
    if found.verdict == "fail" and record.status == "ok":
        return _strayed(record, found)
    return record


def with_scaling(record: Record, reference: Record | None) -> Record:
    """The record with its throughput held against fewer ranks of the same.

    Args:
        reference: the same workload and mode at the smallest world size of the run.
    """
    if reference is None or record.throughput is None or reference.throughput is None:
        return record
    if record.world_size <= reference.world_size or reference.status != "ok":
        return record
    ratio = record.world_size / reference.world_size
    efficiency = record.throughput.value / (reference.throughput.value * ratio)
    scaling = Scaling(reference=reference.case, kind=record.config["scaling"], efficiency=efficiency)
    return record.model_copy(update={"scaling": scaling})


def _curve(series: Series) -> list[float]:
    return [math.nan if loss is None else loss for loss in series.loss]


def with_measured_peak(record: Record, peaks: Mapping[str, float | None]) -> Record:
    """The share of the matmul peak that was measured on the same device, in the mode's arithmetic."""
    dtype = arithmetic(record.mode)
    reached = peaks.get(dtype)
    if record.tflops is None or not reached:
        return record
    peak = Peak(tflops=reached, source=f"largest of several {dtype} matmuls on this machine")
    share = record.tflops / record.world_size / reached
    return record.model_copy(update={"measured_peak": peak, "mfu_of_measured_peak": share})


def with_measured_bandwidth(record: Record, bytes_per_second: float | None) -> Record:
    """The record with the bandwidth of memory that was measured on the same device."""
    if record.tflops is None or not bytes_per_second:
        return record
    found = Bandwidth(bytes_per_second=bytes_per_second, source="fastest copy of a large tensor on this machine")
    return record.model_copy(update={"measured_bandwidth": found})
