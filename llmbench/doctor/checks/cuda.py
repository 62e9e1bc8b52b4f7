"""NVIDIA GPUs: the build of torch, the driver, and what the devices compute."""

from __future__ import annotations

from collections.abc import Iterator

from llmbench.doctor.checks.registry import check
from llmbench.doctor.checks.torch import install
from llmbench.doctor.model import Finding, failure, passed, skipped, warning
from llmbench.doctor.runner import Context
from llmbench.doctor.system import nvidia_devices, nvidia_driver

# First Linux driver branch that runs programs of a CUDA major version (minor version compatibility).
# CUDA Compatibility guide, table "CUDA toolkit and minimum required driver version".
_LEAST_DRIVER = {11: 450, 12: 525, 13: 580}
_GUIDE = "https://docs.nvidia.com/deploy/cuda-compatibility/"
_FP32_ROUNDOFF = 2.0**-24


@check("cuda.build", "The build of torch fits to the devices", needs=("torch.import",))
def build(context: Context) -> Iterator[Finding]:
    """Keeps the devices and the driver as fact ``nvidia``."""
    devices, driver = nvidia_devices(), nvidia_driver()
    context.facts["nvidia"] = {"devices": devices, "driver": driver}
    torch = context.facts["torch"]
    if torch["hip"]:
        yield skipped(f"torch {torch['version']} is a ROCm build")
    elif torch["cuda"]:
        here = f"{len(devices)} NVIDIA devices here" if devices else "no NVIDIA device here"
        yield passed(f"torch {torch['version']} is built for CUDA {torch['cuda']}; {here}")
    elif devices:
        yield failure(
            f"{len(devices)} NVIDIA devices here (driver {driver or 'not loaded'}), "
            f"but torch {torch['version']} is a CPU-only build, not compiled with CUDA",
            "training uses the CPU although there are GPUs",
            install(context, "torch", "--force-reinstall")
            + ", with the index URL that https://pytorch.org/get-started gives for this driver",
        )
    else:
        yield passed(f"torch {torch['version']} is a CPU build, and there is no NVIDIA device")


@check("cuda.driver", "The driver is new enough for torch", needs=("cuda.build",))
def driver(context: Context) -> Iterator[Finding]:
    cuda, nvidia = context.facts["torch"]["cuda"], context.facts["nvidia"]
    if not cuda or not nvidia["devices"]:
        yield skipped("no NVIDIA device" if cuda else "not a CUDA build of torch")
        return
    version = nvidia["driver"]
    if version is None:
        yield failure(
            f"{len(nvidia['devices'])} NVIDIA devices here, but no NVIDIA driver is loaded",
            "the kernel module is not installed, not loaded, or hidden by nouveau: torch sees no GPU",
            "install the driver (Debian, Ubuntu: apt-get install nvidia-driver), reboot, then run nvidia-smi",
        )
        return
    least = _LEAST_DRIVER.get(int(cuda.partition(".")[0]))
    if least is not None and int(version.partition(".")[0]) < least:
        yield failure(
            f"driver {version} is older than {least}, which CUDA {cuda} needs",
            f"torch {context.facts['torch']['version']} cannot use the GPUs",
            f"install driver {least} or newer, or a torch built for an older CUDA",
            _GUIDE,
        )
    else:
        yield passed(f"driver {version} for CUDA {cuda}" + (f" (at least {least} is needed)" if least else ""))


@check("cuda.devices", "torch computes right on each GPU", deadline=90, needs=("cuda.driver", "torch.import"))
def devices(context: Context) -> Iterator[Finding]:
    torch, nvidia = context.facts["torch"], context.facts["nvidia"]
    if not (torch["cuda"] or torch["hip"]) or (torch["cuda"] and not nvidia["devices"]):
        yield skipped("no device that this torch could use")
        return
    visible = context.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        yield warning(
            f"CUDA_VISIBLE_DEVICES is set to {visible.strip() or 'nothing'}",
            "it hides every GPU of this machine from torch",
            "unset CUDA_VISIBLE_DEVICES",
        )
        return
    outcome = context.torch_probe("cuda_devices")
    found = outcome.answer
    if not outcome.ok:
        yield failure(
            f"using the GPUs {outcome.ending}" + (f": {outcome.last_words}" if not outcome.error else ""),
            "the driver or a device fails as soon as torch uses it",
            "run nvidia-smi and read the kernel log: dmesg | grep -i -e nvrm -e xid",
        )
    elif not found["available"]:
        shown = f" (CUDA_VISIBLE_DEVICES={visible})" if visible is not None else ""
        yield failure(
            f"torch sees none of {len(nvidia['devices'])} devices{shown}: {found['reason']}",
            "the driver does not work with this torch, or its devices may not be used",
            "run nvidia-smi; look at CUDA_VISIBLE_DEVICES and at the rights of /dev/nvidia*",
        )
    else:
        context.facts["devices"] = found["devices"]
        yield from (_judge(index, device) for index, device in enumerate(found["devices"]))


def _judge(index: int, device: dict[str, object]) -> Finding:
    error = float(str(device["relative_error"]))
    # Each element is a sum of 256 products: off by at most (256 + 1) roundings of its magnitude, twice that with
    # the reference's own input rounding.
    limit = 2 * 257 * _FP32_ROUNDOFF
    name = f"GPU {index}, {device['name']} (compute capability {device['capability']})"
    if not error <= limit:
        return failure(
            f"{name}: fp32 matmul is off by {error:.1e} (limit {limit:.1e})",
            "the device computes wrong values",
            "do not train on it; run its diagnosis: dcgmi diag -r 3",
        )
    free, total = (int(str(device[key])) / 2**30 for key in ("free_bytes", "memory_bytes"))
    if free < total / 2:
        return warning(
            f"{name}: only {free:.1f} of {total:.1f} GiB is free",
            "another process uses this GPU: less fits on it, and timings are wrong",
            "nvidia-smi shows which process it is",
        )
    return passed(f"{name}: {free:.1f} of {total:.1f} GiB free; fp32 matmul off by {error:.0e}")
