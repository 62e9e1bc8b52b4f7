"""Why torch does not reach a GPU that is there: the faults of ``cuda.reach`` and ``cuda.count``, and their errors."""

from __future__ import annotations

from llmbench.doctor.checks.cuda_build import TOO_OLD as _TOO_OLD
from llmbench.doctor.checks.registry import fault

_CONTAINERS = "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/docker-specialized.html"
_FORWARD = "https://docs.nvidia.com/deploy/cuda-compatibility/forward-compatibility.html"
_UVM = "https://github.com/pytorch/pytorch/issues/49081"
_ERRORS = "https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TYPES.html"
_ROCM = "https://rocm.docs.amd.com/projects/install-on-linux/en/latest/install/prerequisites.html"
_DMESG = "sudo dmesg | grep -i -e nvrm -e xid"

# --- the library and the driver

TOO_OLD = fault(
    "cuda.reach.too-old",
    "fail",
    "torch says that the driver is too old",
    cause=_TOO_OLD.cause,
    fix=_TOO_OLD.fix,
    link=_TOO_OLD.link,
)
NO_LIBRARY = fault(
    "cuda.reach.no-library",
    "fail",
    "The driver's library libcuda.so.1 is not installed",
    cause="the kernel driver is loaded, but its library libcuda.so.1 is not found: torch says that there is no NVIDIA "
    "driver. Servers that were set up for display only, or from a stripped package, lack it",
    fix="install the compute library of the loaded driver's version (Ubuntu: sudo apt-get install "
    "libnvidia-compute-<branch>; Debian: sudo apt-get install libcuda1; Fedora: sudo dnf install "
    "xorg-x11-drv-nvidia-cuda), then sudo ldconfig",
)
BROKEN_LIBRARY = fault(
    "cuda.reach.broken-library",
    "fail",
    "The driver's library libcuda.so.1 cannot be loaded",
    cause="a libcuda.so.1 is found, but it is cut off, of another processor, or lacks what it needs: torch says that "
    "there is no NVIDIA driver",
    fix="remove that file if it is a leftover (and its folder from LD_LIBRARY_PATH), else reinstall the driver",
)
STUB = fault(
    "cuda.reach.stub-library",
    "fail",
    "The toolkit's stub of libcuda.so.1 is used instead of the driver's library",
    cause="the folder stubs of a CUDA toolkit is for linking only; its libcuda does nothing, and hides the driver's",
    fix="remove …/lib64/stubs from LD_LIBRARY_PATH and from /etc/ld.so.conf.d, then sudo ldconfig",
    link=_ERRORS,
)
COMPAT = fault(
    "cuda.reach.compat",
    "fail",
    "A forward-compatibility library of CUDA that these GPUs or this driver do not support",
    cause="the package cuda-compat brings a newer libcuda.so.1 than the driver; that works on data-centre GPUs only, "
    "and never beside a driver that is newer than it (errors 804 and 803): torch sees no GPU",
    fix="remove <folder> from LD_LIBRARY_PATH and from /etc/ld.so.conf.d (then sudo ldconfig), or uninstall "
    "cuda-compat; if torch then needs a newer driver: upgrade the driver",
    link=_FORWARD,
)
MISMATCH = fault(
    "cuda.reach.mismatch",
    "fail",
    "The driver's library and its kernel module have different versions",
    cause="the driver was upgraded while the old module stayed loaded, or a container brings a libcuda of its own: "
    "error 803, torch sees no GPU until both have the same version",
    fix="reboot (or stop all users of the GPUs, then: sudo modprobe -r nvidia_drm nvidia_modeset nvidia_uvm nvidia && "
    "sudo modprobe nvidia); in a container: remove its own libcuda",
    link="https://github.com/NVIDIA/nvidia-docker/issues/1256",
)
WSL = fault(
    "cuda.reach.wsl-library",
    "fail",
    "WSL 2 does not use the driver of Windows",
    cause="in WSL 2 the driver's library comes from Windows, in /usr/lib/wsl/lib; a Linux driver that was installed "
    "beside it hides it, and cannot work there",
    fix="sudo apt-get purge 'nvidia-driver-*' 'libnvidia-compute-*'; upgrade the NVIDIA driver of Windows; wsl "
    "--shutdown",
    link="https://docs.nvidia.com/cuda/wsl-user-guide",
)
FABRIC = fault(
    "cuda.reach.fabric",
    "fail",
    "The NVSwitches are not set up: no fabric manager",
    cause="error 802, system not yet initialized: on machines with NVSwitch (HGX, DGX) CUDA works only while the "
    "fabric manager of exactly the driver's version runs; with confidential computing, only once the GPUs are set "
    "ready",
    fix="sudo apt-get install nvidia-fabricmanager-<branch>; sudo systemctl enable --now nvidia-fabricmanager; "
    "systemctl status nvidia-fabricmanager  (confidential computing: sudo nvidia-smi conf-compute -srs 1)",
    link="https://github.com/pytorch/pytorch/issues/35710",
)
MPS = fault(
    "cuda.reach.mps",
    "fail",
    "The Multi-Process Service does not answer",
    cause="CUDA was told to go through MPS (its pipe folder is there, or CUDA_MPS_PIPE_DIRECTORY is set), but the "
    "server does not run, belongs to another user, or has no place left",
    fix="echo quit | nvidia-cuda-mps-control; then start it again (nvidia-cuda-mps-control -d), or unset "
    "CUDA_MPS_PIPE_DIRECTORY and remove /tmp/nvidia-mps",
    link="https://docs.nvidia.com/deploy/mps/index.html",
)
BUSY = fault(
    "cuda.reach.busy",
    "fail",
    "The GPUs are busy or prohibited",
    cause="the compute mode of the GPUs is Exclusive_Process and another process holds them, or it is Prohibited",
    fix="nvidia-smi shows who holds them; sudo nvidia-smi -c DEFAULT lets several processes share a GPU",
    link=_ERRORS,
)

# --- the device nodes

UVM = fault(
    "cuda.reach.uvm",
    "fail",
    "/dev/nvidia-uvm is missing",
    cause="CUDA needs the module nvidia_uvm and its node /dev/nvidia-uvm, which nvidia-smi does not: torch fails with "
    "CUDA unknown error (999) while nvidia-smi works",
    fix="sudo modprobe nvidia-uvm && sudo nvidia-modprobe -u -c=0; after a suspend: sudo rmmod nvidia_uvm && sudo "
    "modprobe nvidia_uvm",
    link=_UVM,
)
NODES = fault(
    "cuda.reach.nodes",
    "fail",
    "Device nodes of the GPUs are missing",
    cause="the driver is loaded, but the nodes through which programs reach it were not made: torch sees no GPU",
    fix="sudo nvidia-modprobe -c=0 -u (as root, nvidia-smi makes them too)",
    link=_CONTAINERS,
)
PERMISSION = fault(
    "cuda.reach.permission",
    "fail",
    "The device nodes of the GPUs may not be opened",
    cause="this user has no right to read and write the nodes: torch sees no GPU, though root may",
    fix="sudo usermod -aG <group> $USER, and log in anew; or let all use them: NVreg_DeviceFileMode=0666 as option of "
    "the module nvidia",
    link="https://github.com/AUTOMATIC1111/stable-diffusion-webui/issues/3207",
)
DENIED = fault(
    "cuda.reach.denied",
    "fail",
    "The control group denies the device nodes of the GPUs",
    cause="the nodes are there, but the device rules of the control group (container, SLURM job, systemd) do not allow "
    "them; containers lose the right when systemd reloads",
    fix="ask the scheduler for GPUs (sbatch --gpus=1), or restart the container with --gpus all (or with --device for "
    "each node)",
    link="https://github.com/NVIDIA/nvidia-container-toolkit/issues/48",
)
STALE_NODE = fault(
    "cuda.reach.stale-node",
    "fail",
    "/dev/nvidia-uvm has an old number",
    cause="the kernel numbers nvidia-uvm anew at each boot; a node that was copied or bound into this container still "
    "has the old number: CUDA fails with error 304 or 999",
    fix="sudo rm /dev/nvidia-uvm && sudo mknod -m 666 /dev/nvidia-uvm c <major> 0; for good: correct the container's "
    "rule",
)
NODE_HANGS = fault(
    "cuda.reach.node-hangs",
    "fail",
    "A GPU does not answer when it is opened",
    cause="the driver waits for a GPU that does not start, and so does every program that looks for GPUs",
    fix=f"{_DMESG}; reset that GPU (sudo nvidia-smi --gpu-reset) or power-cycle the machine",
)
CAPS = fault(
    "cuda.reach.mig-caps",
    "fail",
    "The capability nodes of MIG are missing",
    cause="a MIG instance is reached through /dev/nvidia-caps as well: without its nodes CUDA sees no device",
    fix="sudo nvidia-modprobe -m -f /proc/driver/nvidia/capabilities/mig/config; in a container: the toolkit makes "
    "them for --gpus device=<uuid of the instance>",
    link="https://docs.nvidia.com/datacenter/tesla/mig-user-guide/",
)

# --- containers and jobs

CONTAINER = fault(
    "cuda.reach.container",
    "warn",
    "The container was started without GPUs",
    cause="the machine has NVIDIA GPUs, but this container was given none: there is neither a /dev/nvidia* node nor "
    "the driver's library in it",
    fix="docker run --gpus all … (Compose: deploy.resources.reservations.devices; Kubernetes: a limit of "
    "nvidia.com/gpu; Apptainer: --nv); the host needs nvidia-container-toolkit",
    link=_CONTAINERS,
)
VOID = fault(
    "cuda.reach.void",
    "warn",
    "NVIDIA_VISIBLE_DEVICES keeps the GPUs out of the container",
    cause="void, none and nothing mean no GPU to the container runtime, so it mounted neither GPUs nor driver",
    fix="start the container with --gpus all, or with NVIDIA_VISIBLE_DEVICES=all",
    link=_CONTAINERS,
)
CAPABILITIES = fault(
    "cuda.reach.capabilities",
    "fail",
    "NVIDIA_DRIVER_CAPABILITIES leaves CUDA out",
    cause="the container runtime mounts libcuda.so.1 only with the capability compute: nvidia-smi works, torch sees no "
    "NVIDIA driver",
    fix="start the container with NVIDIA_DRIVER_CAPABILITIES=compute,utility (or all)",
    link=_CONTAINERS,
)
NOT_MOUNTED = fault(
    "cuda.reach.not-mounted",
    "fail",
    "The driver's library was not mounted into the container",
    cause="the container has the device nodes, but no libcuda.so.1: it was started with --device or --privileged, "
    "without NVIDIA's runtime, so torch sees no NVIDIA driver",
    fix="install nvidia-container-toolkit on the host and start the container with --gpus all",
    link=_CONTAINERS,
)
NO_ALLOCATION = fault(
    "cuda.reach.no-allocation",
    "warn",
    "The SLURM job has no GPU",
    cause="this job did not ask SLURM for GPUs, so it may not use those of the node",
    fix="submit with --gpus=1 (or --gres=gpu:1)",
    link="https://slurm.schedmd.com/gres.html",
)

# --- one GPU, or nothing but the error

LOST = fault(
    "cuda.reach.lost",
    "fail",
    "One GPU makes CUDA fail for all",
    cause="CUDA starts all visible GPUs at once: one that is lost or does not start makes it fail for all",
    fix=f"export CUDA_VISIBLE_DEVICES=<without> trains on the others; see what happened: {_DMESG}; then power-cycle",
)
TOGETHER = fault(
    "cuda.reach.together",
    "fail",
    "Each GPU works alone, but not all together",
    cause="CUDA starts each GPU alone, but fails with all of them: the links between them, the fabric manager, or a "
    "limit of memory or of open files",
    fix=f"{_DMESG}; nvidia-smi topo -m; ulimit -a",
)
FEWER = fault(
    "cuda.count.fewer",
    "warn",
    "torch sees fewer GPUs than there are",
    cause="<missing> of the GPUs are missing: they did not start (fell off the bus, failed to initialise), or with MIG "
    "a process is shown one instance only; jobs for all GPUs fail, others run",
    fix=f"nvidia-smi -L; {_DMESG}; power-cycle the machine, and reseat a GPU that stays away",
)
HANG = fault(
    "cuda.reach.hang",
    "fail",
    "Starting CUDA hangs",
    cause="the driver or a GPU does not answer, and every program that uses CUDA waits for it",
    fix=f"{_DMESG}; a process in state D (ps axo pid,stat,wchan,comm) waits in the driver; reboot",
)
CRASH = fault(
    "cuda.reach.crash",
    "fail",
    "Starting CUDA crashes the process",
    cause="a library of the driver, or one found before it, crashes as soon as torch starts CUDA",
    fix="unset LD_LIBRARY_PATH LD_PRELOAD; if it stays, reinstall the driver: its library and module may differ",
)
NO_DEVICE = fault(
    "cuda.reach.no-device",
    "fail",
    "The driver works, but offers no GPU",
    cause="no CUDA-capable device is detected (error 100): a variable or the container hides them, the GPUs did not "
    "start, MIG is on without instances, or all are held by a virtual machine",
    fix=f"unset CUDA_VISIBLE_DEVICES; nvidia-smi -L; {_DMESG}",
    link=_ERRORS,
)
ORDINAL = fault(
    "cuda.reach.ordinal",
    "fail",
    "CUDA fails with invalid device ordinal",
    cause="a GPU vanished while the driver counted (error 101): it is lost or about to be",
    fix=f"{_DMESG}; nvidia-smi; power-cycle the machine",
    link=_ERRORS,
)
OS_CALL = fault(
    "cuda.reach.os-call",
    "fail",
    "A call of the driver to the operating system failed",
    cause="error 304: mostly /dev/nvidia-uvm may not be used, a seccomp or AppArmor profile forbids a call, or a limit "
    "(ulimit -v, -l) is too low",
    fix="sudo modprobe nvidia-uvm; ulimit -a; strace -f -e trace=openat,ioctl,mmap <python> -c 'import torch; "
    "torch.cuda.init()' shows the call",
    link=_ERRORS,
)
UNKNOWN = fault(
    "cuda.reach.unknown",
    "fail",
    "CUDA unknown error",
    cause="error 999: mostly the state of the module nvidia_uvm is broken (after a suspend, or an upgrade of the "
    "driver), or a GPU is lost",
    fix=f"sudo rmmod nvidia_uvm && sudo modprobe nvidia_uvm; {_DMESG}; if it stays, reboot",
    link=_UVM,
)
MEMORY = fault(
    "cuda.reach.memory",
    "fail",
    "CUDA starts with out of memory",
    cause="CUDA reserves hundreds of GiB of address space and some GiB of memory when it starts: ulimit -v or the "
    "memory of the control group is too small for it, or the GPU is full",
    fix="ulimit -v unlimited; give the container or job more memory; nvidia-smi shows what fills the GPU",
    link=_ERRORS,
)
INIT = fault(
    "cuda.reach.init",
    "fail",
    "The driver does not start",
    cause="driver initialization failed (error 3): the driver's library and module differ, MIG is on without "
    "instances, or a GPU did not start",
    fix=f"nvidia-smi; {_DMESG}; reboot after an upgrade of the driver",
    link="https://github.com/canonical/lxd/issues/11804",
)
OTHER = fault(
    "cuda.reach.other",
    "fail",
    "torch cannot use the GPUs",
    cause="the driver and this torch do not work together, for a reason that only the error tells",
    fix=f"nvidia-smi; {_DMESG}; CUDA_VISIBLE_DEVICES and the rights of /dev/nvidia*",
    link=_ERRORS,
)

# --- AMD

KFD = fault(
    "cuda.reach.kfd",
    "fail",
    "/dev/kfd is missing",
    cause="ROCm reaches AMD GPUs through /dev/kfd, which the driver amdgpu makes: torch says that no HIP GPUs are "
    "available",
    fix="sudo modprobe amdgpu; containers: docker run --device=/dev/kfd --device=/dev/dri --group-add video "
    "--group-add render …",
    link=_ROCM,
)
KFD_PERMISSION = fault(
    "cuda.reach.kfd-permission",
    "fail",
    "The device nodes of the AMD GPUs may not be opened",
    cause="/dev/kfd and /dev/dri/renderD* belong to the groups render and video, of which this user is no member: "
    "torch says that no HIP GPUs are available",
    fix="sudo usermod -aG render,video $USER, and log in anew; containers: --group-add <group>",
    link=_ROCM,
)
GFX_OVERRIDE = fault(
    "cuda.reach.gfx-override",
    "fail",
    "HSA_OVERRIDE_GFX_VERSION makes ROCm fail",
    cause="the variable makes ROCm take the GPU for another model; with one that is too different, it fails or "
    "computes nonsense",
    fix="unset HSA_OVERRIDE_GFX_VERSION, or give the nearest supported model (gfx1031, gfx1032: 10.3.0)",
    script="unset HSA_OVERRIDE_GFX_VERSION",
)
HIP_OTHER = fault(
    "cuda.reach.hip",
    "fail",
    "torch cannot use the AMD GPUs",
    cause="ROCm's runtime finds no GPU that it supports, or is of another version than the driver amdgpu",
    fix="rocminfo; rocm-smi; sudo dmesg | grep -i -e amdgpu -e kfd; unset HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES",
    link=_ROCM,
)

BY_CODE = (
    (("804",), r"Error 804|forward compatibility was attempted", COMPAT),
    (("803",), r"Error 803|unsupported display driver", MISMATCH),
    (("802",), r"Error 802|system not yet initialized", FABRIC),
    (("805", "806", "807", "808", "809"), r"Error 80[5-9]|\bMPS\b", MPS),
    (("46",), r"Error 46\b|busy or unavailable", BUSY),
    (("34",), r"Error 34\b|stub library", STUB),
)
"""Errors that have one cause each: the codes of ``cuInit``, torch's words, the fault."""

BY_WORDS = (
    ("304", r"Error 304|OS call failed", OS_CALL),
    ("999", r"Error 999|unknown error", UNKNOWN),
    ("101", r"Error 101|invalid device ordinal", ORDINAL),
    ("2", r"Error 2\b|out of memory", MEMORY),
    ("3", r"Error 3\b|driver initialization failed", INIT),
    ("100", r"Error 100|no CUDA-capable device|No CUDA GPUs", NO_DEVICE),
)
"""Errors that say little by themselves: the code of ``cuInit``, torch's words, the fault."""
