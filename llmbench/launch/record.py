"""From what a worker measured to the record of the case."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from llmbench.launch.diagnose import diagnose
from llmbench.launch.target import Outcome
from llmbench.results.schema import (
    Energy,
    Error,
    Loss,
    Memory,
    Parameters,
    Peak,
    Phases,
    Record,
    Series,
    Throughput,
)
from llmbench.stats import estimates, verdicts
from llmbench.suite.cases import Case
from llmbench.suite.modes import EAGER, ingredients, parity_limit


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


def finish(record: Record, case: Case, outcome: Outcome) -> tuple[Record, Series | None]:
    """The record of a case that has ended, and its series if it trained."""
    record = record.model_copy(update={"wall_seconds": outcome.wall_seconds, "status": "ok", "error": None})
    failure = diagnose(case, outcome, case.config["deadline_seconds"])
    if failure:
        status, error = failure
        return record.model_copy(update={"status": status, "error": error}), None
    assert outcome.result is not None
    return _measured(record, case, outcome.result), _series(outcome.result)


def _series(result: dict[str, Any]) -> Series:
    return Series(
        loss=result["losses"], step_seconds=result["step_seconds"], first_timed_step=result["first_timed_step"]
    )


def _measured(record: Record, case: Case, result: dict[str, Any]) -> Record:
    # step_seconds begins with step 1, the window with step first_timed_step.
    window = result["step_seconds"][result["first_timed_step"] - 1 :]
    seconds = estimates.step_seconds(window)
    rate = case.work_per_step * len(window) / result["window_seconds"]
    throughput = Throughput(
        value=rate, unit=case.family.unit, ci95=estimates.throughput_interval(rate, seconds), n=len(window)
    )
    tflops = case.flops_per_step * len(window) / result["window_seconds"] / 1e12
    peak = Peak(**result["peak"]) if result["peak"] else None
    losses = result["losses"]
    finite = verdicts.finite([*losses, result["eval_loss"]])  # the last update is seen by the evaluation only
    record = record.model_copy(
        update={
            "parameters": Parameters(**result["parameters"]),
            "throughput": throughput,
            "step_seconds": seconds,
            "phases": Phases(**result["phases"]),
            "input_wait_seconds": result["input_wait_seconds"],
            "tflops": tflops,
            "peak": peak,
            "mfu": tflops / peak.tflops if peak else None,
            "memory": Memory(**result["memory"], estimate_bytes=case.memory_bytes["total"]),
            "energy": Energy(**result["energy"]) if result["energy"] else None,
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
            "facts": result["facts"],
            "noise": verdicts.noise(throughput, estimates.coefficient_of_variation(window), result["load"]),
        }
    )
    return _judged(record, result["wrong"])


def _judged(record: Record, wrong: list[str]) -> Record:
    """A speed is only valid if the training was right."""
    assert record.loss is not None
    if not record.loss.finite:
        return _invalid(record, "the loss is not finite", "a smaller --set learning_rate=…")
    if not record.loss.learned:
        return _invalid(record, "the loss did not fall", "more steps, or another --set learning_rate=…")
    if wrong:
        return _invalid(record, "; ".join(wrong), "torch computes wrongly here, or llmbench does: `llmbench doctor`")
    return record


def _invalid(record: Record, message: str, hint: str | None) -> Record:
    return record.model_copy(update={"status": "invalid", "error": Error(type="Invalid", message=message, hint=hint)})


def with_parity(record: Record, series: Series, reference: Record, reference_series: Series) -> Record:
    """The record held against the eager fp32 case of the same training; ``invalid`` if it strays too far."""
    if record.mode == EAGER or reference.loss is None or not reference.loss.finite:
        return record
    limit = parity_limit(record.mode)
    found = verdicts.parity(_curve(series), _curve(reference_series), reference.case, limit)
    record = record.model_copy(update={"parity": found})
    if found.verdict == "fail" and record.status == "ok":
        return _invalid(
            record,
            f"the loss curve strays {found.value:.2%} from {reference.case}; its arithmetic explains {limit:.2%}",
            "the speed of a training that goes elsewhere is no speed-up",
        )
    return record


def _curve(series: Series) -> list[float]:
    return [math.nan if loss is None else loss for loss in series.loss]


def with_measured_peak(record: Record, peaks: dict[str, float]) -> Record:
    """The share of the matmul peak that was measured on the same device, in the mode's arithmetic."""
    dtype = "bf16" if "bf16" in ingredients(record.mode) else "fp32"
    if record.tflops is None or dtype not in peaks:
        return record
    peak = Peak(tflops=peaks[dtype], source=f"largest of several {dtype} matmuls in this run")
    return record.model_copy(update={"measured_peak": peak, "mfu_of_measured_peak": record.tflops / peak.tflops})
