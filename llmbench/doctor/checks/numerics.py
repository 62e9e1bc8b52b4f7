"""Arithmetic of torch against values known in closed form, and what was changed for the whole process.

By default on the CPU, in one process; with --deep each dtype, layer and attention backend, on each device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Fault, Finding, passed
from llmbench.doctor.process import Outcome
from llmbench.doctor.runner import Context
from llmbench.doctor.system import cpu_flags, read, usable_cpus

REINSTALL = (
    "reinstall torch in a fresh environment; if it stays, test the machine's memory and CPU: memtester 1G 3; "
    "stress-ng --cpu 0 --verify -t 10m"
)
PATCHED = "torch's own code was changed or patched, a library that it calls is broken, or the CPU or memory is faulty"

_DIED = fault(
    "numerics.tensor.died",
    "fail",
    "torch imports, but breaks when it computes",
    cause="torch imports, but breaks when it computes: a library that it calls fails, or the machine is faulty",
    fix=REINSTALL,
)
_SLOW = fault(
    "numerics.tensor.slow",
    "fail",
    "Small computations do not come to an end",
    cause="arithmetic that takes a fraction of a second did not end: this machine is overloaded or very slow, or "
    "torch's "
    "threads wait for each other without end",
    fix="look at what else runs here: uptime; top. Try export OMP_NUM_THREADS=1; or give it more time with --patience",
)
_WRONG = fault(
    "numerics.tensor.wrong",
    "fail",
    "torch computes wrong values",
    cause=f"torch computes wrong values in matmul, sums and softmax: {PATCHED}",
    fix=REINSTALL,
)
_AUTOGRAD = fault(
    "numerics.autograd.wrong",
    "fail",
    "Gradients are wrong",
    cause=f"torch computes wrong values in first and second derivatives: {PATCHED}",
    fix=REINSTALL,
)
_MSE = fault(
    "numerics.mse.wrong",
    "fail",
    "Gradient descent is wrong",
    cause=f"loss or gradient compute wrong values: {PATCHED}",
    fix=REINSTALL,
)
_NAN = fault(
    "numerics.nan.lost",
    "fail",
    "NaN is lost",
    cause="a library was built with -ffast-math, or patches torch: a diverged training looks sound",
    fix=REINSTALL,
)


@check(
    "numerics.tensor",
    "Tensor arithmetic is right",
    deadline=60,
    needs=("torch.import",),
    follows=("cpu.memory", "cpu.limits", "torch.basics", "torch.numpy", "torch.libraries", "python.requirements"),
)
def tensor(context: Context) -> Iterator[Finding]:
    """Runs all the arithmetic in one process; the other checks of this area read what it found."""
    outcome = context.torch_probe("numerics", {"size": 512 if context.deep else 128})
    context.facts["numerics"] = outcome.answer
    faults = [finding for finding in (_compared(context, "tensor", _WRONG), _ended(outcome)) if finding]
    yield from faults
    if not faults:
        yield _right(context, "tensor", "matmul, sums and softmax")


_PARTS = ("mode", "random", "tensor", "autograd", "mse", "nan", "bf16", "fp16")


def _ended(outcome: Outcome) -> Finding | None:
    """The fault that the process did not come to its end."""
    if outcome.ok:
        return None
    at = next((part for part in _PARTS if part not in outcome.answer), "the end")
    evidence = f"the process that computes small examples {outcome.ending} (at: {at})"
    if outcome.timed_out:
        return _SLOW.found(f"{evidence}; load {load()} on {usable_cpus()} CPUs")
    words = outcome.last_words
    return _DIED.found(evidence + (f": {words}" if words and words not in evidence else ""))


def load() -> str:
    return ((read("/proc/loadavg") or "unknown").split() or ["unknown"])[0]


@check("numerics.autograd", "Autograd is right", needs=("numerics.tensor",), follows=("torch.basics", "torch.numpy"))
def autograd(context: Context) -> Iterator[Finding]:
    wrong = _compared(context, "autograd", _AUTOGRAD)
    yield wrong or _right(context, "autograd", "first and second derivatives")


def _compared(context: Context, part: str, wrong: Fault) -> Finding | None:
    found = context.facts["numerics"].get(part)
    if not found or not found["wrong"]:
        return None
    errors = ", ".join(f"{name} by {error:.1e}" for name, error in found["wrong"].items())
    return wrong.found(f"off from the closed form: {errors}")


def _right(context: Context, part: str, what: str) -> Finding:
    return passed(f"{what}: {len(context.facts['numerics'][part]['tried'])} results as their closed forms say")


@check(
    "numerics.mse",
    "Gradient descent follows its closed form",
    needs=("numerics.tensor",),
    follows=("torch.basics", "torch.numpy"),
)
def mse(context: Context) -> Iterator[Finding]:
    found = context.facts["numerics"]["mse"]
    if not found["relative_error"] <= found["limit"]:
        yield _MSE.found(
            f"MSE and weights are off by {found['relative_error']:.1e} after {found['steps']} steps of y = 3x "
            f"(limit {found['limit']:.0e})"
        )
    else:
        yield passed(f"y = 3x: loss and weight of {found['steps']} steps off by {found['relative_error']:.0e} at most")


@check("numerics.nan", "NaN is not lost", needs=("numerics.tensor",), follows=("torch.basics", "torch.numpy"))
def nan(context: Context) -> Iterator[Finding]:
    lost = context.facts["numerics"]["nan"]["lost"]
    if lost:
        yield _NAN.found(f"NaN is lost by {', '.join(lost)}")
    else:
        yield passed("sum, max, relu, matmul, MSE and clamp pass it on")


_REPEATS = fault(
    "numerics.random.seed",
    "fail",
    "The same seed gives other random numbers",
    cause="torch.manual_seed does not reset the generator: no run can be repeated. A library or sitecustomize "
    "patches torch",
    fix="find what is imported with torch: <python> -X importtime -c 'import torch'; reinstall torch in a fresh "
    "environment",
)
_SPREAD = fault(
    "numerics.random.spread",
    "fail",
    "Random numbers are not random",
    cause="torch.randn repeats itself, or gives numbers of another mean or variance: initial weights and dropout "
    f"are wrong. {PATCHED}",
    fix=REINSTALL,
)


@check(
    "numerics.random",
    "Random numbers repeat with their seed, and are spread right",
    needs=("numerics.tensor",),
    follows=("torch.basics", "torch.numpy"),
)
def random(context: Context) -> Iterator[Finding]:
    found = context.facts["numerics"]["random"]
    off = [name for name in ("mean", "variance") if not found[name] <= 1]
    if not found["repeats"]:
        yield _REPEATS.found("randn after manual_seed(1) gave two different results")
    elif off or not found["moves"]:
        what = (
            f"{off[0]} of 4096 normal numbers is off by {6 * found[off[0]]:.0f} sigma" if off else "two draws are equal"
        )
        yield _SPREAD.found(what)
    else:
        yield passed("the same seed gives the same numbers; mean and variance are right")


_WHO = "sitecustomize, a .pth file, or a package that is loaded with torch"
_FIND = "see what is loaded: <python> -v -c 'import torch' 2>&1 | grep -i -e sitecustomize -e usercustomize; "
_DENORMALS = fault(
    "numerics.mode.denormals",
    "warn",
    "Small numbers are flushed to zero in the whole process",
    cause="a library linked with -ffast-math switched the CPU's floating-point unit for everybody: numbers below 1e-38 "
    "become 0 (FTZ, DAZ), in torch and numpy too, and results differ from other machines",
    fix="find and replace <libraries>; until then, torch.set_flush_denormal(False) after all imports",
    link="https://github.com/neuro-ml/imops/issues/37",
)
_ROUNDING = fault(
    "numerics.mode.rounding",
    "fail",
    "Numbers are not rounded to nearest",
    cause="a library changed the rounding mode of the whole process: every sum drifts, and no result can be trusted",
    fix=f"{_FIND}unset LD_PRELOAD",
)
_DTYPE = fault(
    "numerics.mode.dtype",
    "warn",
    "The default dtype is not float32",
    cause=f"{_WHO} calls torch.set_default_dtype: every new weight is <dtype>, with other speed, memory and results",
    fix=f"{_FIND}or call torch.set_default_dtype(torch.float32) in the program",
)
_DEVICE = fault(
    "numerics.mode.device",
    "warn",
    "The default device is not the CPU",
    cause=f"{_WHO} calls torch.set_default_device: tensors are made on <device> without being asked for, and code that "
    "expects them on the CPU (DataLoader, generators) fails",
    fix=f"{_FIND}or call torch.set_default_device('cpu') in the program",
)
_NO_GRADIENTS = fault(
    "numerics.mode.gradients",
    "fail",
    "Gradients are switched off",
    cause=f"{_WHO} calls torch.set_grad_enabled(False): nothing trains, 'element 0 of tensors does not require grad'",
    fix=f"{_FIND}or call torch.set_grad_enabled(True) in the program",
)
_DETERMINISTIC = fault(
    "numerics.mode.deterministic",
    "warn",
    "Deterministic algorithms are switched on for everything",
    cause=f"{_WHO} calls torch.use_deterministic_algorithms(True): it is slower, and operations without one raise",
    fix=_FIND + "or call torch.use_deterministic_algorithms(False) in the program",
)
_ANOMALY = fault(
    "numerics.mode.anomaly",
    "warn",
    "Anomaly detection is switched on for everything",
    cause=f"{_WHO} calls torch.autograd.set_detect_anomaly(True): every backward pass is checked, and is many "
    "times slower",
    fix=_FIND + "or call torch.autograd.set_detect_anomaly(False) in the program",
)


@check(
    "numerics.mode",
    "Nothing changed torch's arithmetic for the whole process",
    needs=("numerics.tensor",),
    follows=("torch.basics", "torch.numpy"),
)
def mode(context: Context) -> Iterator[Finding]:
    found = context.facts["numerics"]["mode"]
    faults = list(_changed(found))
    yield from faults
    if not faults:
        yield passed(
            f"rounds to nearest, keeps denormals; default {found['dtype']} on {found['device']}; "
            f"matmul precision {found['matmul_precision']}"
        )


def _changed(found: dict[str, Any]) -> Iterator[Finding]:
    if found["flushed"]:
        libraries = " and ".join(found["flushing"])
        by = f"; {libraries} has the start code of -ffast-math" if libraries else ""
        yield _DENORMALS.found(
            f"after import torch, 1.1e-308 is 0 (denormals are flushed){by}",
            libraries=libraries
            or "the library that does it (import one package after the other, and print 5e-324 * 1.0)",
        )
    if not found["to_nearest"]:
        yield _ROUNDING.found("after import torch, 1 + 2^-53 and its neighbours are not rounded to nearest")
    if found["dtype"] != "torch.float32":
        yield _DTYPE.found(f"torch.get_default_dtype() is {found['dtype']}", dtype=found["dtype"])
    if found["device"] != "cpu":
        yield _DEVICE.found(f"torch.empty(0) is made on {found['device']}", device=found["device"])
    if not found["gradients"]:
        yield _NO_GRADIENTS.found("torch.is_grad_enabled() is False after import torch")
    if found["deterministic"]:
        yield _DETERMINISTIC.found("torch.are_deterministic_algorithms_enabled() is True after import torch")
    if found["anomaly"]:
        yield _ANOMALY.found("torch.is_anomaly_enabled() is True after import torch")


def _low(name: Literal["bf16", "fp16"]) -> tuple[Fault, Fault]:
    wrong = fault(
        f"numerics.{name}.wrong",
        "fail",
        f"The {name} matmul is wrong",
        cause=f"the {name} matmul of this machine is wrong: training in {name} does not compute what it should",
        fix=f"{REINSTALL}; until then train in fp32",
    )
    sums = fault(
        f"numerics.{name}.sums",
        "warn",
        f"The {name} matmul keeps its sums in {name}",
        cause=f"sums are kept in {name} itself, which loses precision in long dot products",
        fix="train in bf16 with fp32 sums, or in fp32",
    )
    return wrong, sums


_BF16, _FP16 = _low("bf16"), _low("fp16")


@check("numerics.bf16", "bfloat16 matmul is right", needs=("numerics.tensor",), follows=("torch.basics", "torch.numpy"))
def bf16(context: Context) -> Iterator[Finding]:
    yield _low_precision(context, "bf16", _BF16, {"avx512_bf16", "amx_bf16"})


@check("numerics.fp16", "float16 matmul is right", needs=("numerics.tensor",), follows=("torch.basics", "torch.numpy"))
def fp16(context: Context) -> Iterator[Finding]:
    yield _low_precision(context, "fp16", _FP16, {"avx512_fp16", "amx_fp16"})


def _low_precision(context: Context, name: str, faults: tuple[Fault, Fault], in_hardware: set[str]) -> Finding:
    found, (wrong, sums) = context.facts["numerics"][name], faults
    if not found["worst_of_loose_bound"] <= 1:
        return wrong.found(
            f"{name} matmul is off by {found['worst_of_loose_bound']:.1f} times what {name} allows at worst"
        )
    share = found["worst_of_bound"]
    if not share <= 1:
        return sums.found(f"{name} matmul is off by {share:.1f} times the bound for sums kept in fp32")
    flags = in_hardware & cpu_flags()
    speed = f"in hardware ({', '.join(sorted(flags))})" if flags else "in software on this CPU, so it may be slow"
    return passed(f"within {share:.0%} of the error bound; {speed}")


from llmbench.doctor.checks import numerics_deep  # noqa: E402, F401  (checks of this area)
