"""A torch of a few lines that pretends to have GPUs. Each tensor is one number: what all of its elements are.

``FAKE_TORCH`` (JSON) says what it is and what goes wrong: ``cuda``, ``hip``, ``architectures``, ``devices`` (name,
capability, gfx), ``error`` (of initialisation), ``lost`` (devices whose presence makes it fail), ``fails_with_all``,
``raises``, ``hangs`` and ``crashes`` (by operation; ``matmul@1`` is that of device 1 alone), ``off`` (added to
results, alike), ``unsteady``.
"""

import json
import os
import sys
import time
import types
import warnings

WHAT = json.loads(os.environ.get("FAKE_TORCH", "{}"))
H100 = {"name": "NVIDIA H100 80GB HBM3", "capability": "9.0"}
DEVICES = WHAT.get("devices", [H100, H100])
INDEX = [0]
CALLS = [0]


def visible():
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return list(range(len(DEVICES))) if value is None else [int(i) for i in value.split(",") if i.isdigit()]


def act(operation):
    for key in (operation, f"{operation}@{INDEX[0]}"):
        if key in WHAT.get("raises", {}):
            raise RuntimeError(WHAT["raises"][key])
        if key in WHAT.get("hangs", ()):
            time.sleep(600)
        if key in WHAT.get("crashes", ()):
            os.abort()


def off(operation):
    CALLS[0] += 1
    steady = 1.0 if not WHAT.get("unsteady") else CALLS[0]
    return steady * sum(WHAT.get("off", {}).get(key, 0.0) for key in (operation, f"{operation}@{INDEX[0]}"))


class Tensor:
    def __init__(self, value, count=1, on_gpu=False):
        self.value, self.count, self.on_gpu = float(value), count, on_gpu

    def cuda(self, index=0):
        act("copy")
        return Tensor(self.value, self.count, True)

    def same(self, *arguments):
        return self

    cpu = double = float = same

    def abs(self):
        return Tensor(abs(self.value), self.count)

    def max(self):
        return self.value

    def sum(self):
        return Tensor(self.value * self.count)

    def __float__(self):
        return self.value

    def __add__(self, other):
        act("kernel")
        return Tensor(self.value + other + (off("kernel") if self.on_gpu else 0), self.count, self.on_gpu)

    def __sub__(self, other):
        return Tensor(self.value - other.value)

    def __truediv__(self, other):
        return Tensor(self.value / other.value)

    def __matmul__(self, other):
        return compute("matmul", self, other)


def compute(operation, *tensors):
    if not any(tensor.on_gpu for tensor in tensors):
        return Tensor(256.0)
    act(operation)
    return Tensor(256.0 + off(operation), 1, True)


def initialise():
    act("init")
    if WHAT.get("error"):
        raise RuntimeError(WHAT["error"])
    if set(visible()) & set(WHAT.get("lost", ())):
        raise RuntimeError("CUDA unknown error - this may be due to an incorrectly set up environment")
    if WHAT.get("fails_with_all") and len(visible()) == len(DEVICES):
        raise RuntimeError("CUDA error: unspecified launch failure")
    if not visible():
        raise RuntimeError("No CUDA GPUs are available")


def is_available():
    if WHAT.get("available") is not None:
        return WHAT["available"]
    try:
        initialise()
    except RuntimeError as error:
        warnings.warn(f"CUDA initialization: {error}", stacklevel=2)
        return False
    return True


def properties(index):
    device = DEVICES[visible()[index]]
    major, minor = device["capability"].split(".")
    return types.SimpleNamespace(
        name=device["name"],
        major=int(major),
        minor=int(minor),
        total_memory=80 << 30,
        gcnArchName=device.get("gfx", ""),
    )


def zeros(count, device):
    act("zeros")
    return Tensor(0, count, True)


def nccl_version():
    if WHAT.get("nccl") is None:
        raise AttributeError("this build has no NCCL")
    return tuple(WHAT["nccl"])


def cudnn_version():
    act("cudnn")
    return 91900


def namespace(**names):
    return types.SimpleNamespace(**names)


__version__ = WHAT.get("version", "2.13.0+cu130")
version = namespace(cuda=WHAT.get("cuda", "13.0"), hip=WHAT.get("hip"), git_version="", debug=False)
cuda = namespace(
    get_arch_list=lambda: WHAT.get("architectures", "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120").split(),
    PYTORCH_RELEASES_CODE_CC=WHAT.get("wheels", {}),
    is_available=is_available,
    device_count=lambda: len(visible()),
    init=initialise,
    get_device_properties=properties,
    set_device=lambda index: (INDEX.__setitem__(0, index), act("context")),
    mem_get_info=lambda index: (79 << 30, 80 << 30),
    can_device_access_peer=lambda a, b: True,
    nccl=namespace(version=nccl_version),
)
backends = namespace(
    cuda=namespace(matmul=namespace(allow_tf32=True)),
    cudnn=namespace(version=cudnn_version, allow_tf32=True),
    cpu=namespace(get_cpu_capability=lambda: "AVX2"),
    mkldnn=namespace(is_available=lambda: True),
)
distributed = namespace(is_available=lambda: False)
nn = namespace(functional=namespace(
    conv2d=lambda *tensors: compute("conv2d", *tensors), linear=lambda *tensors: compute("linear", *tensors)
))  # fmt: skip


def randn(*shape):
    return Tensor(1.0)


def manual_seed(seed):
    pass


def equal(a, b):
    return a.value == b.value


def get_num_threads():
    return 1


sys.modules["torch.cuda"] = cuda
