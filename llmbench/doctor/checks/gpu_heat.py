"""What slows GPUs down: heat, power, clocks."""

from __future__ import annotations

from collections.abc import Iterator

from llmbench.doctor.checks.registry import fault
from llmbench.doctor.model import Finding
from llmbench.doctor.nvml import Gpu, Reading, gpu_check, told
from llmbench.doctor.runner import Context

_REASONS = "https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html"
IDLE, APPLICATION_CLOCKS, POWER_CAP, HARDWARE, SYNC_BOOST = 0x1, 0x2, 0x4, 0x8, 0x10
SOFTWARE_THERMAL, HARDWARE_THERMAL, POWER_BRAKE, DISPLAY_CLOCKS = 0x20, 0x40, 0x80, 0x100
REASONS = {
    IDLE: "idle",
    APPLICATION_CLOCKS: "application clocks",
    POWER_CAP: "software power cap",
    HARDWARE: "hardware slowdown",
    SYNC_BOOST: "sync boost",
    SOFTWARE_THERMAL: "software thermal slowdown",
    HARDWARE_THERMAL: "hardware thermal slowdown",
    POWER_BRAKE: "hardware power brake",
    DISPLAY_CLOCKS: "display clocks",
}
_NEAR = 4
"""Degrees below the slowdown threshold at which a little more load throttles."""

THERMAL = fault(
    "gpu.throttle.thermal",
    "warn",
    "A GPU is thermally throttled",
    cause="it is too hot, so the driver or the hardware lowers its clocks (thermal slowdown): training is slower, "
    "and in a job of many GPUs all wait for this one",
    fix="check fans, filters, airflow or coolant and the room's temperature; lower the limit until then: "
    "sudo nvidia-smi -i <gpus> -pl WATTS; drain the node if it does not cool down",
    link=_REASONS,
)
BRAKE = fault(
    "gpu.throttle.power-brake",
    "warn",
    "A GPU is held back by its hardware power brake",
    cause="the power supply, a power cable or the chassis signals that it cannot deliver: the hardware slows the GPU "
    "down to a fraction of its clocks",
    fix="check power supplies, power cables and the power cap of the BMC or rack (ipmitool dcmi power get_limit)",
    link=_REASONS,
)
SLOWDOWN = fault(
    "gpu.throttle.hardware",
    "warn",
    "A GPU is in hardware slowdown",
    cause="the hardware halves the clocks or worse: too hot, an external power brake, or too high a current",
    fix="nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER -i <gpus>; check cooling and power cables",
    link=_REASONS,
)
CAP_IDLE = fault(
    "gpu.throttle.power-cap",
    "warn",
    "A GPU is power capped although it draws little",
    cause="the software power cap lowers its clocks far below its limit: the node's or the module's power budget is "
    "used up, or its power sensor is wrong",
    fix="nvidia-smi -q -d POWER -i <gpus>; check the power budget of the BMC, then reset the GPU",
    link=_REASONS,
)
SYNC = fault(
    "gpu.throttle.sync-boost",
    "warn",
    "Sync boost holds a GPU at the clocks of the slowest",
    cause="a sync boost group makes all its GPUs run at the clocks of the slowest one",
    fix="remove the group (dcgmi group / nvidia-smi boost-slider), and look at the slowest GPU",
    link=_REASONS,
)
HOT = fault(
    "gpu.throttle.hot",
    "warn",
    "A GPU is near the temperature at which it slows down",
    cause="under a little more load it will throttle; heat also shortens its life",
    fix="check fans, filters, airflow or coolant; nvidia-smi -q -d TEMPERATURE -i <gpus>",
)
HOT_MEMORY = fault(
    "gpu.throttle.hot-memory",
    "warn",
    "The memory of a GPU is at its temperature limit",
    cause="memory at its limit is throttled, and errs more often",
    fix="check cooling (thermal pads of the memory, airflow); nvidia-smi -q -d TEMPERATURE -i <gpus>",
)
FAN = fault(
    "gpu.throttle.fan",
    "warn",
    "A fan of a GPU stands still although it is hot",
    cause="the fan has failed, is blocked, or is held at 0 by a fan curve: the GPU will throttle or switch off",
    fix="nvidia-settings -a GPUFanControlState=0 gives control back to the driver; else clean or replace the fan",
)


@gpu_check("gpu.throttle", "No GPU is slowed down by heat or power", fields=("reasons", "temperature"))
def throttle(context: Context, reading: Reading) -> Iterator[Finding | str]:
    """Clocks event reasons, temperatures against their thresholds, fans."""
    thermal = [gpu for gpu in reading.gpus if reasons(gpu) & (SOFTWARE_THERMAL | HARDWARE_THERMAL)]
    brake = [gpu for gpu in reading.gpus if reasons(gpu) & POWER_BRAKE]
    slow = [gpu for gpu in reading.gpus if reasons(gpu) & HARDWARE and gpu not in thermal + brake]
    for kind, gpus in ((THERMAL, thermal), (BRAKE, brake), (SLOWDOWN, slow)):
        yield from told(kind, [(gpu, _state(gpu)) for gpu in gpus])
    yield from told(SYNC, [(gpu, _state(gpu)) for gpu in reading.gpus if reasons(gpu) & SYNC_BOOST])
    yield from told(CAP_IDLE, [(gpu, _state(gpu)) for gpu in reading.gpus if _capped_for_nothing(gpu)])
    hot = [(gpu, _state(gpu)) for gpu in reading.gpus if gpu not in thermal + slow and _is_hot(gpu)]
    yield from told(HOT, hot)
    yield from told(HOT_MEMORY, [(gpu, text) for gpu in reading.gpus if (text := _hot_memory(gpu))])
    yield from told(FAN, [(gpu, text) for gpu in reading.gpus if (text := _dead_fan(gpu))])
    seen = {bit for gpu in reading.gpus for bit in REASONS if reasons(gpu) & bit}
    if any(gpu.number("reasons") is not None for gpu in reading.gpus):
        yield "reasons for lower clocks: " + (", ".join(REASONS[bit] for bit in sorted(seen)) or "none")


def reasons(gpu: Gpu) -> int:
    """Bits that are set now, and if it was read twice, in both samples."""
    again = gpu.number("again/reasons")
    first = gpu.number("reasons") or 0
    return first if again is None else first & again


def _state(gpu: Gpu) -> str:
    active = [name for bit, name in REASONS.items() if reasons(gpu) & bit and bit != IDLE]
    parts = [f"throttled: {' and '.join(active)}"] if active else []
    temperature, slowdown = gpu.number("temperature"), gpu.number("temperature_slowdown")
    if temperature is not None:
        parts.append(f"temperature {temperature} C" + (f" (slowdown at {slowdown} C)" if slowdown else ""))
    clock, maximum = gpu.number("clock"), gpu.number("clock_maximum")
    if clock and maximum:
        parts.append(f"SM clock {clock} of {maximum} MHz")
    power, limit = gpu.number("power"), gpu.number("power_limit")
    if power and limit:
        parts.append(f"{power / 1000:.0f} of {limit / 1000:.0f} W")
    return ", ".join(parts)


def _capped_for_nothing(gpu: Gpu) -> bool:
    power, limit = gpu.number("power"), gpu.number("power_limit")
    # Laptops share one budget between CPU and GPU: there it is normal.
    return bool(gpu.is_data_centre and reasons(gpu) & POWER_CAP and power and limit and power < limit / 2)


def _is_hot(gpu: Gpu) -> bool:
    temperature, slowdown = gpu.number("temperature"), gpu.number("temperature_slowdown")
    return temperature is not None and slowdown is not None and temperature >= slowdown - _NEAR > 0


def _hot_memory(gpu: Gpu) -> str | None:
    temperature, limit = gpu.number("temperature_memory"), gpu.number("temperature_memory_limit")
    if temperature is None or not limit or temperature < limit:
        return None
    return f"memory temperature {temperature} C (limit {limit} C)"


def _dead_fan(gpu: Gpu) -> str | None:
    temperature = gpu.number("temperature")
    if gpu.number("fan") != 0 or temperature is None or temperature < 80:
        return None
    return f"fan at 0 % at a temperature of {temperature} C"


LIMIT = fault(
    "gpu.power.limit",
    "warn",
    "The power limit of a GPU is below its default",
    cause="a power cap was set (nvidia-smi -pl, or the BMC): under load the clocks stay low, and training is slower",
    fix="sudo nvidia-smi -i <gpus> -pl <default>",
    link="https://docs.nvidia.com/deploy/nvidia-smi/index.html",
)
UNDERSIZED = fault(
    "gpu.power.source",
    "warn",
    "A GPU has no full power supply",
    cause="it runs from a battery, or from a power supply that is too weak: the driver keeps its clocks low",
    fix="plug in the power supply that belongs to the machine; check the card's power cables",
)


@gpu_check("gpu.power", "No GPU is capped below its power limit", fields=("power_limit", "power_source"))
def power(context: Context, reading: Reading) -> Iterator[Finding | str]:
    """The limit in force against the default."""
    capped = [(gpu, limits) for gpu in reading.gpus if (limits := _limits(gpu)) and limits[0] < 0.95 * limits[1]]
    for default in dict.fromkeys(limits[1] for _, limits in capped):
        same = [(gpu, limits[0]) for gpu, limits in capped if limits[1] == default]
        yield from told(
            LIMIT,
            [(gpu, f"power limit {now / 1000:.0f} W, default {default / 1000:.0f} W") for gpu, now in same],
            default=f"{default / 1000:.0f}",
        )
    sources = {1: "runs on battery", 2: "its power supply is undersized"}
    yield from told(UNDERSIZED, [(g, sources[s]) for g in reading.gpus if (s := g.number("power_source")) in (1, 2)])
    watts = {limits[0] / 1000 for gpu in reading.gpus if (limits := _limits(gpu))}
    if watts:
        yield f"power limit {' and '.join(f'{value:.0f}' for value in sorted(watts))} W, as by default"


def _limits(gpu: Gpu) -> tuple[int, int] | None:
    """Milliwatts: the least limit in force, and the default."""
    now = [value for name in ("power_limit", "power_limit_enforced") if (value := gpu.number(name))]
    default = gpu.number("power_limit_default")
    return (min(now), default) if now and default else None


CLOCKS = fault(
    "gpu.clocks.application",
    "warn",
    "The application clocks of a GPU are below their default",
    cause="clocks were set by hand (nvidia-smi -ac or -lgc, often left over from a benchmark): the GPU never runs "
    "faster",
    fix="sudo nvidia-smi -i <gpus> -rac; sudo nvidia-smi -i <gpus> -rgc; sudo nvidia-smi -i <gpus> -rmc",
)
LOCKED = fault(
    "gpu.clocks.locked",
    "warn",
    "The clocks of a GPU are locked below what it can",
    cause="under load, and neither hot nor out of power, it runs below its clocks because of a setting: locked clocks "
    "(nvidia-smi -lgc), left over from a benchmark",
    fix="sudo nvidia-smi -i <gpus> -rgc; sudo nvidia-smi -i <gpus> -rmc; sudo nvidia-smi -i <gpus> -rac",
)
STUCK = fault(
    "gpu.clocks.stuck",
    "warn",
    "The clocks of a GPU are stuck low under load",
    cause="it is busy but stays in a power saving state, for which the driver gives no reason: often after a power "
    "failure signal, a crashed job, or suspend",
    fix="reset it after its jobs have ended (sudo nvidia-smi --gpu-reset -i <gpus>), or reboot; check its power cables",
)
_BUSY = 90
"""Percent of the time that kernels run, from which clocks ought to be high."""


@gpu_check("gpu.clocks", "No GPU is held at low clocks", fields=("clock", "clock_application", "performance_state"))
def clocks(context: Context, reading: Reading) -> Iterator[Finding | str]:
    """Application clocks against their default; under load, clocks against the maximum."""
    set_low = [(gpu, text) for gpu in reading.gpus if (text := _application_clocks(gpu))]
    yield from told(CLOCKS, set_low)
    rest = [gpu for gpu in reading.gpus if gpu not in [found for found, _ in set_low]]
    yield from told(LOCKED, [(gpu, _clock(gpu)) for gpu in rest if _is_slow(gpu) and _is_set(gpu)])
    yield from told(STUCK, [(gpu, _clock(gpu)) for gpu in rest if _is_slow(gpu) and not _is_set(gpu)])
    maximum = {value for gpu in reading.gpus if (value := gpu.number("clock_maximum"))}
    if maximum:
        yield f"SM clocks up to {' and '.join(str(value) for value in sorted(maximum))} MHz"


def _application_clocks(gpu: Gpu) -> str | None:
    for kind, prefix in (("SM", "clock"), ("memory", "clock_memory")):
        now, default = gpu.number(f"{prefix}_application"), gpu.number(f"{prefix}_application_default")
        if now and default and now < 0.97 * default:
            active = " (reason for its clocks now)" if reasons(gpu) & APPLICATION_CLOCKS else ""
            return f"application clocks: {kind} {now} MHz of {default} MHz by default{active}"
    return None


def _is_slow(gpu: Gpu) -> bool:
    """Busy, and slow without heat or power being a reason."""
    explained = POWER_CAP | HARDWARE | SYNC_BOOST | SOFTWARE_THERMAL | HARDWARE_THERMAL | POWER_BRAKE
    if gpu.load < _BUSY or reasons(gpu) & explained:
        return False
    states = [
        value for name in ("performance_state", "again/performance_state") if (value := gpu.number(name)) is not None
    ]
    clocks = [value for name in ("clock", "again/clock") if (value := gpu.number(name)) is not None]
    # Older Teslas run at their default application clocks, which are below the maximum.
    aims = [value for name in ("clock_maximum", "clock_application_default") if (value := gpu.number(name))]
    saves_power = bool(states) and min(states) >= 5
    is_low = bool(clocks and aims) and max(clocks) < 0.7 * min(aims) and not reasons(gpu) & IDLE
    return saves_power or is_low


def _is_set(gpu: Gpu) -> bool:
    return bool(reasons(gpu) & APPLICATION_CLOCKS)


def _clock(gpu: Gpu) -> str:
    state = gpu.number("performance_state")
    why = ", reason: application or locked clocks" if _is_set(gpu) else ", no reason given by the driver"
    return (
        f"SM clock {gpu.number('clock')} of {gpu.number('clock_maximum')} MHz at {gpu.load} % load"
        f"{'' if state is None else f', performance state P{state}'}{why}"
    )
