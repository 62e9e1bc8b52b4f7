"""What keeps torch from being imported: the faults, and the words by which each is known."""

from __future__ import annotations

from llmbench.doctor.checks.registry import fault
from llmbench.doctor.model import Fault

MISSING = fault(
    "torch.import.missing",
    "fail",
    "torch is not installed",
    cause="torch is not installed in this environment",
    fix="<install>  (or give the environment that has it: --python .venv/bin/python)",
    link="https://pytorch.org/get-started/locally/",
)
DEPENDENCY = fault(
    "torch.import.dependency-missing",
    "fail",
    "A package that torch needs is not installed",
    cause="<module>, which torch needs, is not installed: torch was installed with --no-deps, or it was removed later",
    fix="<install>",
)
OLD_DEPENDENCY = fault(
    "torch.import.dependency-old",
    "fail",
    "A package that torch needs is too old",
    cause="<module> is older than torch requires: another package pinned it, or a copy of it comes first on the path",
    fix="<install>",
)
BACKEND = fault(
    "torch.import.backend",
    "fail",
    "A backend extension keeps torch from being imported",
    cause="<package> asks torch to load it whenever torch is imported (autoload), and is broken or fits another torch",
    fix="<command>",
    link="https://docs.pytorch.org/docs/main/accelerator/autoload.html",
)
VARIABLE = fault(
    "torch.import.variable",
    "fail",
    "An environment variable keeps torch from being imported",
    cause="<variables> makes the import fail: tried again without it, torch imports",
    fix="<command>",
)
OTHER_PACKAGE = fault(
    "torch.import.other-package",
    "fail",
    "Another package keeps torch from being imported",
    cause="<other>, which is imported along with torch, is broken or fits another version or machine",
    fix="<install>",
)
HANGS = fault(
    "torch.import.hangs",
    "fail",
    "Importing torch hangs",
    cause="importing torch hangs: a library waits for a device, a lock or a network file system, and so does every "
    "program",
    fix="the place is in the evidence; watch it with: <python> -X importtime -c 'import torch'",
)
SLOW = fault(
    "torch.import.slow",
    "warn",
    "Importing torch takes long",
    cause="the environment lies on slow storage, such as a network file system; every process pays this, every "
    "worker too",
    fix="put the environment on a local disk",
)
NOISE = fault(
    "torch.import.noise",
    "warn",
    "Importing torch prints an error",
    cause="a library that is loaded along with torch could not do all that it should",
    fix="see all of it: <python> -c 'import torch'",
)
DIES_AFTER = fault(
    "torch.import.dies-after",
    "fail",
    "torch imports, then its process dies",
    cause="a library crashes as soon as it is used",
    fix="<python> -X faulthandler -c 'import torch; torch.get_num_threads()' shows where",
)
ENDS = fault(
    "torch.import.ends",
    "fail",
    "Importing torch ends the program",
    cause="a library that is loaded along with torch calls exit",
    fix="<reinstall>",
)
RAISES = fault(
    "torch.import.raises",
    "fail",
    "Importing torch raises",
    cause="torch is installed, but broken, or something that it loads is",
    fix="<reinstall>",
)

# --- told by how the process ended

CRASHES = fault(
    "torch.import.crashes",
    "fail",
    "Importing torch crashes",
    cause="a compiled library that torch loads crashes: it was replaced, or fits to another version or machine",
    fix="unset LD_LIBRARY_PATH LD_PRELOAD; if it stays: <reinstall>",
)
ILLEGAL = fault(
    "torch.import.illegal-instruction",
    "fail",
    "Importing torch uses an instruction that this CPU lacks",
    cause="this CPU, or what a virtual machine shows of it, lacks instructions that this build of torch uses (illegal "
    "instruction)",
    fix="give the virtual machine the host's CPU model (host-passthrough), or build torch from source here",
)
BUS = fault(
    "torch.import.bus-error",
    "fail",
    "Importing torch reads beyond the end of a file",
    cause="a library file is truncated, or the disk under it fails",
    fix="free disk space, then <reinstall>",
)
KILLED = fault(
    "torch.import.killed",
    "fail",
    "Importing torch is killed",
    cause="something killed it, most likely the kernel for want of memory",
    fix="give the container or job more memory, and look into the kernel log: dmesg | grep -i kill",
)
ABORTS = fault(
    "torch.import.aborts",
    "fail",
    "Importing torch aborts",
    cause="a library that torch loads found itself in a state that it cannot go on from, and ended the program",
    fix="what it said is in the evidence; unset LD_LIBRARY_PATH LD_PRELOAD; if it stays: <reinstall>",
)
CPU_TIME = fault(
    "torch.import.cpu-time",
    "fail",
    "Importing torch runs into the limit of CPU time",
    cause="the CPU time of a process is limited (ulimit -t), mostly on a login node: training is killed in the same "
    "way",
    fix="ulimit -t unlimited; on a cluster's login node, ask for a job instead",
)
SANDBOX = fault(
    "torch.import.sandbox",
    "fail",
    "Importing torch is ended by a sandbox",
    cause="a filter of system calls (seccomp) of the container or service forbids one that a library uses",
    fix="use the default profile of a current container engine, or --security-opt seccomp=unconfined",
)
SIGNALS: dict[str, Fault] = {
    "SIGSEGV": CRASHES,
    "SIGILL": ILLEGAL,
    "SIGBUS": BUS,
    "SIGKILL": KILLED,
    "SIGABRT": ABORTS,
    "SIGXCPU": CPU_TIME,
    "SIGSYS": SANDBOX,
}

# --- told by the words of the linker, of torch or of a library

LIBSTDCXX = fault(
    "torch.import.libstdcxx",
    "fail",
    "An older libstdc++ than torch needs is loaded",
    cause="an older libstdc++.so.6 than torch needs is found first, mostly because LD_LIBRARY_PATH or LD_PRELOAD "
    "names it, or because another library loaded it before",
    fix="unset LD_LIBRARY_PATH LD_PRELOAD; in a conda environment: conda install -c conda-forge libstdcxx-ng",
)
GLIBC = fault(
    "torch.import.glibc",
    "fail",
    "The system's C library is too old",
    cause="the system's C library is older than this torch needs",
    fix="use a newer system or container image, or an older torch",
)
MUSL = fault(
    "torch.import.musl",
    "fail",
    "torch does not run on this C library",
    cause="this system uses musl instead of glibc (Alpine), and torch's wheels are built for glibc",
    fix="use an image with glibc, such as Debian's python:3.12-slim",
)
NVJITLINK = fault(
    "torch.import.nvjitlink",
    "fail",
    "An older libnvJitLink is loaded",
    cause="libcusparse finds the nvJitLink of an older CUDA toolkit before torch's own, mostly because LD_LIBRARY_PATH "
    "names that toolkit",
    fix="unset LD_LIBRARY_PATH",
    link="https://github.com/pytorch/pytorch/issues/134929",
)
CUDA_SYMBOL = fault(
    "torch.import.cuda-symbol",
    "fail",
    "A CUDA library of another version is loaded",
    cause="a CUDA library does not have what torch, or another CUDA library, was built for: LD_LIBRARY_PATH names "
    "another toolkit, or the nvidia-* packages are of different versions",
    fix="unset LD_LIBRARY_PATH; if it stays, install torch again with its dependencies",
)
MKL_SYMBOL = fault(
    "torch.import.mkl-symbol",
    "fail",
    "This MKL does not fit to this torch",
    cause="torch was built with an older Intel MKL than 2024.1, which no longer has this symbol",
    fix="conda install 'mkl<2024.1', or torch from pip, which brings its own",
    link="https://github.com/pytorch/pytorch/issues/123097",
)
TORCH_SYMBOL = fault(
    "torch.import.torch-symbol",
    "fail",
    "Libraries of two versions of torch are mixed",
    cause="a library was built for another version of torch than the one it finds: files of two versions are mixed, or "
    "LD_LIBRARY_PATH leads to another libtorch",
    fix="unset LD_LIBRARY_PATH; if it stays: <python> -m pip uninstall -y torch; rm -rf <folder>; <reinstall>",
)
SYMBOL = fault(
    "torch.import.symbol",
    "fail",
    "Two libraries do not fit together",
    cause="two libraries do not fit together: one lacks a symbol that the other was built for",
    fix="unset LD_LIBRARY_PATH LD_PRELOAD; if it stays, reinstall torch in a fresh environment",
)
LIBRARY = fault(
    "torch.import.library-missing",
    "fail",
    "A shared library that torch needs is missing",
    cause="<library> is not found; it comes from <provider>",
    fix="install that, or install torch again with its dependencies: <python> -m pip install --force-reinstall torch",
)
NOEXEC = fault(
    "torch.import.noexec",
    "fail",
    "torch lies on a file system that allows no programs",
    cause="the file system is mounted with noexec, so that no library on it can be loaded",
    fix="move the environment to another file system, or remount it: mount -o remount,exec <its mount point>",
)
MEMORY = fault(
    "torch.import.memory",
    "fail",
    "No memory to load torch",
    cause="no memory for torch's libraries: the address space (ulimit -v) or the memory of this process is limited",
    fix="ulimit -v unlimited; on a cluster's login node, ask for a job instead",
    script="ulimit -v unlimited",
)
STATIC_TLS = fault(
    "torch.import.static-tls",
    "fail",
    "No room for thread-local storage of a library",
    cause="a library with much static thread-local storage is loaded too late, mostly libgomp on ARM: others took "
    "the room",
    fix="export LD_PRELOAD=<library>, or import torch before the others",
    link="https://github.com/pytorch/pytorch/issues/2575",
)
EXECSTACK = fault(
    "torch.import.execstack",
    "fail",
    "A library of torch asks for an executable stack",
    cause="glibc 2.41 and hardened kernels refuse libraries that are marked to need an executable stack, as some "
    "builds of torch were by mistake",
    fix="upgrade torch, or clear the mark: patchelf --clear-execstack <library>",
    link="https://github.com/conda-forge/pytorch-cpu-feedstock/issues/350",
)
NOT_ELF = fault(
    "torch.import.not-elf",
    "fail",
    "A library is damaged",
    cause="a library is cut off, empty, or holds something else: the disk was full, or large files were not copied",
    fix="free disk space, then <reinstall>",
)
WRONG_CLASS = fault(
    "torch.import.wrong-machine",
    "fail",
    "A library is for another kind of machine",
    cause="a library is for another processor: the environment was copied from another machine, or LD_LIBRARY_PATH "
    "leads to such libraries",
    fix="<reinstall>, on this machine",
)
PERMISSION = fault(
    "torch.import.permission",
    "fail",
    "A file may not be read",
    cause="a file of torch, or of what it needs, is closed to this user",
    fix="as its owner: chmod -R a+rX <folder>",
)
NOT_COMPILED = fault(
    "torch.import.not-compiled",
    "fail",
    "The compiled part of torch is not found",
    cause="a folder torch without its compiled part is imported: a source tree in the working folder or on "
    "PYTHONPATH, or torch of another Python",
    fix="work in another folder and unset PYTHONPATH; if it stays: <reinstall>",
)
CIRCULAR = fault(
    "torch.import.circular",
    "fail",
    "torch is imported while it is being imported",
    cause="a file that bears the name of a module that torch needs imports torch again, or torch is incomplete",
    fix="rename the file that the evidence names; if it is torch's own: <reinstall>",
)
TWICE = fault(
    "torch.import.twice",
    "fail",
    "torch is loaded twice in a process",
    cause="two copies of torch, or of its libraries, are loaded, by LD_PRELOAD, LD_LIBRARY_PATH or a file that starts "
    "with Python (.pth, sitecustomize)",
    fix="unset LD_LIBRARY_PATH LD_PRELOAD PYTHONPATH",
)
OPERATOR = fault(
    "torch.import.operator",
    "fail",
    "A companion of torch fits to another torch",
    cause="the compiled part of a package such as torchvision does not load with this torch, so its operators are "
    "missing",
    fix="<python> -m pip install --upgrade --force-reinstall torch torchvision torchaudio",
)
LOGS = fault(
    "torch.import.logs",
    "fail",
    "TORCH_LOGS holds a name that torch does not know",
    cause="TORCH_LOGS holds a name that torch does not know, and import torch raises",
    fix="unset TORCH_LOGS; TORCH_LOGS=help lists the names",
    script="unset TORCH_LOGS",
    link="https://docs.pytorch.org/docs/stable/logging.html",
)
SYNTAX = fault(
    "torch.import.syntax",
    "fail",
    "A Python file cannot be understood",
    cause="it is written for a newer Python than this, or it is damaged",
    fix="use a newer Python; if the file is damaged: <reinstall>",
)
OPENMP = fault(
    "torch.import.openmp",
    "fail",
    "Two OpenMP libraries are loaded",
    cause="two packages brought an OpenMP library each (libiomp5, libomp), and the second refuses to start",
    fix="keep one: in a conda environment conda install nomkl, or remove intel-openmp; unset LD_PRELOAD",
)
MKL = fault(
    "torch.import.mkl",
    "fail",
    "A part of Intel MKL is missing",
    cause="Intel MKL loads its kernels when it is first used, and does not find them, or finds those of another "
    "version",
    fix="unset LD_LIBRARY_PATH LD_PRELOAD; in a conda environment: conda install --force-reinstall mkl",
    link="https://github.com/pytorch/pytorch/issues/29711",
)
CUDA_PRELOAD = fault(
    "torch.import.cuda-library",
    "fail",
    "torch does not find its CUDA libraries",
    cause="the nvidia-* packages that this torch was installed with are missing or incomplete",
    fix="<python> -m pip install --force-reinstall torch",
)

# First match counts. Groups fill the placeholders of the fault.
CAUSES: tuple[tuple[str, Fault], ...] = (
    (r"Invalid log (settings|level|qualified)|TORCH_LOGS", LOGS),
    (r"GLIBCXX_\d|CXXABI_\d", LIBSTDCXX),
    (r"version [`']GLIBC_\d", GLIBC),
    (r"ld-linux[\w.-]*: (cannot open|No such)|Error relocating .*: symbol not found|__\w+_chk: symbol not found", MUSL),
    (r"undefined symbol: \w*[nN]vJitLink", NVJITLINK),
    (r"undefined symbol: (iJIT_|mkl_|MKL_)", MKL_SYMBOL),
    (r"undefined symbol: (cu[A-Z]|cuda|cudnn|cublas|nccl|nvrtc|cusparse|cusolver|cufft|curand|__cuda)", CUDA_SYMBOL),
    (r"undefined symbol: \w*(c10|3c10|torch|2at|THP)", TORCH_SYMBOL),
    (r"undefined symbol|symbol lookup error|cannot find version", SYMBOL),
    (r"(?P<library>[^\s'\"]+): cannot enable executable stack", EXECSTACK),
    (r"(?P<library>[^\s'\"]+): cannot allocate memory in static TLS block|more object with static TLS", STATIC_TLS),
    (r"failed to map segment from shared object: Operation not permitted", NOEXEC),
    (r"failed to map segment|[Cc]annot allocate memory|MemoryError|[Oo]ut of memory|can't start new thread", MEMORY),
    (r"invalid ELF header|file too short|ELF file's phentsize|cannot read file data|ELF load command", NOT_ELF),
    (r"wrong ELF class|cannot open shared object file: Exec format|incompatible ELF|wrong architecture", WRONG_CLASS),
    (r"(?P<library>lib[\w.+-]+?\.so[\w.]*): cannot open shared object file: No such", LIBRARY),
    (
        r"(?P<library>lib\w+\.so\.\*?\[?[-\d]*\]?\S*) not found in the system path|Could not load this library",
        CUDA_PRELOAD,
    ),
    (r"cannot open shared object file: Permission|Permission denied|PermissionError", PERMISSION),
    (r"Failed to load PyTorch C extensions|No module named 'torch\._C|from 'torch\._C'", NOT_COMPILED),
    (r"operator \S+::\w+ does not exist", OPERATOR),
    (r"partially initialized module", CIRCULAR),
    (r"already has a docstring|Only a single TORCH_LIBRARY|already registered|registered twice", TWICE),
    (r"OMP: Error #15", OPENMP),
    (r"MKL FATAL ERROR", MKL),
)

LINKING = (LIBSTDCXX, NVJITLINK, CUDA_SYMBOL, TORCH_SYMBOL, SYMBOL, TWICE)
"""What LD_LIBRARY_PATH or LD_PRELOAD may have done."""

PROVIDERS = (
    ("libcudart", "the package nvidia-cuda-runtime"),
    ("libcublas", "the package nvidia-cublas"),
    ("libcudnn", "the package nvidia-cudnn"),
    ("libnccl", "the package nvidia-nccl"),
    ("libnvrtc", "the package nvidia-cuda-nvrtc"),
    ("libcupti", "the package nvidia-cuda-cupti"),
    ("libcufft", "the package nvidia-cufft"),
    ("libcufile", "the package nvidia-cufile"),
    ("libcurand", "the package nvidia-curand"),
    ("libcusolver", "the package nvidia-cusolver"),
    ("libcusparseLt", "the package nvidia-cusparselt"),
    ("libcusparse", "the package nvidia-cusparse"),
    ("libnvJitLink", "the package nvidia-nvjitlink"),
    ("libnvToolsExt", "the package nvidia-nvtx"),
    ("libnvshmem", "the package nvidia-nvshmem"),
    ("libcuda.so", "the NVIDIA driver"),
    ("libtorch", "torch itself, whose installation is incomplete"),
    ("libc10", "torch itself, whose installation is incomplete"),
    ("libshm", "torch itself, whose installation is incomplete"),
    ("libgomp", "the GNU compiler's OpenMP (Debian, Ubuntu: apt-get install libgomp1)"),
    ("libiomp5", "the package intel-openmp"),
    ("libmkl", "the package mkl"),
    ("libopenblas", "OpenBLAS (Debian, Ubuntu: apt-get install libopenblas0)"),
    ("libmpi", "an MPI library, such as OpenMPI"),
    ("libamdhip", "ROCm: this torch is built for AMD GPUs"),
    ("libsycl", "Intel's oneAPI: this torch is built for Intel GPUs"),
    ("libstdc++", "the C++ library (Debian, Ubuntu: apt-get install libstdc++6)"),
    ("libpython", "the Python installation, which was moved or removed"),
    ("libnuma", "numactl (Debian, Ubuntu: apt-get install libnuma1)"),
)
"""Beginning of a library's name, and where it comes from."""
