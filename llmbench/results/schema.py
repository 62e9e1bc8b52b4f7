"""The schema of what a run writes: ``run.json``, ``records.jsonl`` (a ``Record`` a line), ``series/*.json``.

Units stand in a field's name or beside its value. A metric that can get better or worse says in its JSON Schema
which way is better (``"direction": "higher"`` or ``"lower"``). A number that is not finite is written as ``null``.
``llmbench list schema`` prints all this as JSON Schema.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1

Status = Literal["ok", "failed", "oom", "timeout", "invalid", "skipped", "aborted"]
FINISHED: frozenset[str] = frozenset({"ok", "invalid"})
"""Statuses that ``--resume`` keeps: running such a case again would tell nothing new."""
BROKEN: frozenset[str] = frozenset({"failed", "oom", "timeout", "invalid", "aborted"})
"""Statuses that make ``llmbench run`` exit with 3."""

Interval = tuple[float, float]


def metric(direction: Literal["higher", "lower"], unit: str | None = None, **field: Any) -> Any:
    """A field that gets better in ``direction``."""
    extra: dict[str, Any] = {"direction": direction} | ({"unit": unit} if unit else {})
    return Field(json_schema_extra=extra, **field)


class Part(BaseModel):
    """Base of everything stored: fields that a newer llmbench added are ignored, not refused."""

    model_config = ConfigDict(extra="ignore", ser_json_inf_nan="null", populate_by_name=True)


class Error(Part):
    """Why a case has no valid result."""

    type: str = Field(description="exception type, signal name or verdict, e.g. OutOfMemoryError, SIGKILL, Timeout")
    message: str
    hint: str | None = Field(None, description="what to do about it")
    rank: int | None = Field(None, description="the rank that is the cause, where there are several")
    host: str | None = Field(None, description="the host of that rank")


class Throughput(Part):
    value: float = metric("higher", description="all work of the timed window / its wall time")
    unit: Literal["tokens/s", "samples/s", "ops/s"] = Field(description="ops/s: of files of pytest-benchmark alone")
    ci95: Interval
    n: int = Field(description="timed steps")


class Sampling(Part):
    """How long was timed, and whether it was enough."""

    target: float = Field(description="half-width of the 95 % interval of the throughput to reach, as a share of it")
    half_width: float = Field(description="reached at the end of the window")
    reached: bool
    steps: int = Field(description="timed steps")
    steps_to_target: int | None = Field(None, description="timed steps after which the target was reached first")
    extra_steps: int = Field(0, description="beyond the training, at learning rate zero: same work, same weights")
    seconds: float
    budget_seconds: float = Field(description="the window is not extended beyond this")


class StepSeconds(Part):
    median: float = metric("lower", "s")
    mean: float = metric("lower", "s")
    p95: float = metric("lower", "s")
    ci95: Interval = Field(description="95 % interval of the mean, from means of consecutive blocks of steps")


class Phases(Part):
    """Wall seconds of each phase of the worker; ``compile`` is the whole first step, in every mode."""

    import_: float = Field(alias="import")
    build: float
    compile: float = metric("lower", "s")
    warmup: float
    timed: float
    evaluate: float = 0.0


class Compile(Part):
    """What ``torch.compile`` did."""

    cold_seconds: float | None = metric(
        "lower", "s", default=None, description="first step with an empty cache of compiled code"
    )
    cold_at: str | None = Field(None, description="when that was: the compiled code is kept from run to run")
    warm_seconds: float | None = metric(
        "lower",
        "s",
        default=None,
        description="first step of a fresh process that finds the compiled code in the cache",
    )
    graphs: int = Field(description="graphs that were compiled, recompilations included")
    graph_breaks: int = metric("lower")
    recompiles: int = metric("lower")
    reasons: list[str] = Field([], description="of graph breaks and recompilations, the most frequent first")


class Peak(Part):
    tflops: float
    source: str


class Bandwidth(Part):
    bytes_per_second: float
    source: str


class MemorySplit(Part):
    """Bytes by what they hold, of one rank; ``null`` where it cannot be told."""

    parameters: int | None = None
    gradients: int | None = None
    optimizer: int | None = None
    activations: int | None = Field(None, description="kept by the forward pass for the backward pass")


class Memory(Part):
    """Bytes; ``null`` where the device has no such notion."""

    peak_allocated_bytes: int | None = metric("lower", "bytes", default=None)
    peak_reserved_bytes: int | None = metric("lower", "bytes", default=None)
    peak_rss_bytes: int | None = metric("lower", "bytes", default=None)
    device_used_bytes: int | None = metric("lower", "bytes", default=None)
    start_rss_bytes: int | None = Field(None, description="resident before the case built anything: Python and torch")
    capacity_bytes: int | None = Field(None, description="of the device, or of the host (cgroup limit included)")
    estimate_bytes: int | None = Field(None, description="the peak that --plan printed")
    split: MemorySplit | None = Field(None, description="measured, of the largest rank")
    estimate: MemorySplit | None = Field(None, description="the same as --plan printed it")


class Energy(Part):
    joules: float = metric("lower", "J")
    source: str


class Range(Part):
    mean: float
    low: float
    high: float


class Hardware(Part):
    """State of the device while the clock ran, sampled from outside the process that trains."""

    samples: int
    source: str
    clock_mhz: Range | None = Field(None, description="of the SMs, or of the CPU cores on average")
    memory_clock_mhz: Range | None = None
    temperature_celsius: Range | None = None
    power_watts: Range | None = None
    utilization: Range | None = Field(None, description="share of the time in which the device, or the CPUs, were busy")
    throttled: list[str] = Field([], description="reasons for which the clock was held down, e.g. power cap, thermal")
    reason: str | None = Field(None, description="why something is null")


class Rank(Part):
    """What one process of a case measured."""

    rank: int
    host: str
    node: int = Field(0, description="rank of its node; 0 on one machine")
    device: str
    window_seconds: float
    step_median_seconds: float | None = Field(None, description="of the steps of the timed window")
    step_p95_seconds: float | None = None
    communication_seconds: float | None = Field(None, description="of one step, waiting for others included")
    peak_allocated_bytes: int | None = None
    peak_rss_bytes: int | None = None


class OverRanks(Part):
    """One quantity of all ranks that know it."""

    sum: float | None = Field(None, description="null where a sum means nothing, as of seconds that pass together")
    max: float
    spread: float | None = Field(None, description="(largest - smallest) / mean; null where the mean is 0")
    max_rank: int = Field(description="the rank that has the largest")


class Communication(Part):
    """Time in collectives, by torch's profiler in steps after the timed window. They may overlap with computing."""

    seconds_per_step: float = metric("lower", "s", description="mean over the ranks")
    share: float = Field(description="of the step")
    source: str


class Scaling(Part):
    """Throughput against the same workload and mode at the smallest world size of the run."""

    reference: str
    kind: Literal["strong", "weak"] = Field(description="strong: equal global batch; weak: equal batch of a rank")
    efficiency: float = metric("higher", description="throughput / (reference throughput × ratio of world sizes)")


class Reference(Part):
    """A loss to hold the curve against."""

    name: str = Field(description="e.g. unigram, least squares, source entropy")
    value: float
    kind: Literal["baseline", "floor"] = Field(description="baseline: to be beaten; floor: cannot be beaten on average")


class Loss(Part):
    first: float | None
    final: float | None = metric("lower", description="mean of the last tenth of the training steps")
    eval: float | None = metric("lower", description="on held-out data, after the last step")
    finite: bool
    learned: bool = Field(description="finite, and the loss fell")
    references: list[Reference] = []


class ParityCheck(Part):
    """One comparison with a reference on the same weights and batches."""

    reference: str = Field(description="what the case is held against: another case, or fp64 eager")
    metric: str
    limit: float
    value: float | None
    verdict: Literal["pass", "fail"]
    step: int | None = Field(None, description="first training step (from 0) that left the limit")
    tensor: str | None = Field(None, description="the tensor that left the limit, or came closest to it")


class Parity(ParityCheck):
    """The check that failed; else the one that came closest to its limit."""

    checks: list[ParityCheck] = []
    deterministic: bool | None = Field(None, description="eager fp32 twice from the same state was bitwise the same")


class Noise(Part):
    cv: float = Field(description="coefficient of variation of the timed steps")
    verdict: Literal["quiet", "noisy"]
    cause: str | None = Field(None, description="likely cause, and the setting that helps")
    waited: float | None = Field(
        None,
        description="seconds for which others may have kept it from its CPUs, per CPU second of its own; "
        "null where it did not train on a CPU",
    )


class Parameters(Part):
    total: int
    trainable: int


class Record(Part):
    """What is known of one case of a run."""

    schema_version: int = SCHEMA_VERSION
    case: str = Field(description="stable id: workload/mode/wsN")
    workload: str
    mode: str
    world_size: int = 1
    device: str
    status: Status
    error: Error | None = None
    started_at: str | None = Field(None, description="ISO 8601, UTC")
    wall_seconds: float | None = Field(None, description="from asking for the process to its end")
    config: dict[str, Any] = Field(description="all that was resolved: batch, sequence length, size, optimizer, seed …")
    parameters: Parameters | None = None
    throughput: Throughput | None = None
    step_seconds: StepSeconds | None = None
    phases: Phases | None = None
    input_wait_seconds: float | None = metric("lower", "s", default=None)
    flops_per_step: float | None = Field(None, description="of all ranks; causal attention not halved")
    flops_source: str | None = Field(None, description="analytic, or counted by FlopCounterMode")
    tflops: float | None = metric("higher", default=None)
    mfu: float | None = metric("higher", default=None, description="tflops / data-sheet peak")
    mfu_of_measured_peak: float | None = metric("higher", default=None)
    peak: Peak | None = Field(None, description="data-sheet peak of the device in the mode's arithmetic")
    measured_peak: Peak | None = None
    measured_bandwidth: Bandwidth | None = Field(None, description="between memory and processor, reads and writes")
    memory: Memory | None = None
    energy: Energy | None = None
    energy_reason: str | None = Field(None, description="why energy is null")
    loss: Loss | None = None
    metrics: dict[str, float | None] = Field({}, description="the field's own, on held-out data: perplexity, r2 …")
    facts: dict[str, Any] = Field({}, description="what else the workload or mode proved, e.g. frozen_unchanged")
    parity: Parity | None = None
    noise: Noise | None = None
    sampling: Sampling | None = None
    compile: Compile | None = None
    hardware: Hardware | None = None
    ranks: list[Rank] = Field([], description="where there are several")
    rank_spread: float | None = metric("lower", default=None, description="(slowest - fastest) / mean time of a rank")
    over_ranks: dict[str, OverRanks] = Field({}, description="by field of a rank, where there are several")
    communication: Communication | None = None
    scaling: Scaling | None = None
    series: str | None = Field(None, description="file of the step times and loss curve, relative to the run")
    log: str | None = Field(None, description="file of the worker's stderr, relative to the run")


class MemoryTimeline(Part):
    """Memory over the life of a case, sampled from outside, thinned; every peak is kept."""

    seconds: list[float] = Field(description="since the process was asked for")
    bytes: list[int] = Field(description="in use at that time")
    source: str = Field(description="what was read, and of which processes or device")
    phases: dict[str, float] = Field({}, description="seconds at which each phase began, in order")


class Series(Part):
    """Step times and loss curve of one case, empty if it did not train, and its memory over time."""

    loss: list[float | None] = Field(description="of every training step, from step 0")
    step_seconds: list[float] = Field(
        description="of every step but the first (which is phase compile), extra ones of the timed window included"
    )
    first_timed_step: int = Field(description="index into loss of the first step of the timed window")
    memory: MemoryTimeline | None = None


class Git(Part):
    commit: str
    dirty: bool


class Node(Part):
    """One of the machines that trained together."""

    node_rank: int
    host: str
    address: str | None = Field(None, description="as the first node sees it")
    processes: int = Field(1, description="ranks that it can take")
    devices: list[str] = Field([], description="names")
    facts: dict[str, str] = Field({}, description="what speed and losses hang on: versions, kernel, hardware")
    differences: list[str] = Field([], description="what is not as on node 0: `name of node 0 → here`")


class PlannedCase(Part):
    """A case before it ran."""

    case: str
    workload: str
    mode: str
    world_size: int
    config: dict[str, Any]
    refused: str | None = Field(None, description="why it cannot be run at all; it is recorded as skipped")


class Run(Part):
    """One execution of a suite: ``run.json``."""

    schema_version: int = SCHEMA_VERSION
    id: str
    suite: str
    suite_file: str
    description: str = ""
    cases: list[PlannedCase] = Field(description="the suite as resolved, in order of execution")
    ladder: list[str] = Field([], description="the techniques that each mode adds to the one before, for a ladder")
    command: list[str] = Field(description="argv as given, secrets redacted")
    working_folder: str
    llmbench: str = Field(description="version of llmbench")
    python: str = Field(description="interpreter that trained")
    device: str
    data: dict[str, Any] = Field(
        {}, description="which text: name, sha256 of each split, floor in nats per byte if known"
    )
    environment: dict[str, Any] = Field({}, description="of the machine, or of node 0")
    nodes: list[Node] = Field([], description="the machines that trained together; empty for a run on one alone")
    git: Git | None = Field(None, description="of the folder the command was given in")
    status: Literal["running", "done", "interrupted"] = "running"
    started_at: str
    finished_at: str | None = None
    resumed: int = 0
