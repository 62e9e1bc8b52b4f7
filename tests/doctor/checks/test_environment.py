"""Variables, user and working folder as people leave them, set for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmbench.doctor import system
from llmbench.doctor.checks.environment_leftovers import LEFTOVERS, SETTINGS
from llmbench.doctor.runner import diagnose
from llmbench.doctor.variables import misspelled
from tests.doctor.conftest import ask, findings, inside, needs_root, one

_OF_JOBS = ("RANK", "WORLD_", "LOCAL_", "MASTER_", "GROUP_", "NODE_RANK", "SLURM_", "OMPI_", "PMI", "PET_", "MPI_")
_OF_OTHERS = (
    "TORCH",
    "PYTORCH",
    "NCCL_",
    "CUDA_",
    "HF_",
    "TRANSFORMERS_",
    "ACCELERATE_",
    "FSDP_",
    "LC_",
    "KUBERNETES_",
)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith((*_OF_JOBS, *_OF_OTHERS)) or name in {setting.name for setting in SETTINGS}:
            monkeypatch.delenv(name)


# Fault, variable, a value that acts, one that does not (None: every value acts).
_LEFTOVERS = [
    ("environment.leftovers.torchdynamo-disable", "TORCHDYNAMO_DISABLE", "1", "0"),
    ("environment.leftovers.torch-compile-disable", "TORCH_COMPILE_DISABLE", "1", "0"),
    ("environment.leftovers.torch-compile-debug", "TORCH_COMPILE_DEBUG", "1", "0"),
    ("environment.leftovers.torch-trace", "TORCH_TRACE", "1", ""),
    ("environment.leftovers.torch-compile-cprofile", "TORCH_COMPILE_CPROFILE", "1", ""),
    ("environment.leftovers.torchdynamo-suppress-errors", "TORCHDYNAMO_SUPPRESS_ERRORS", "1", ""),
    ("environment.leftovers.torchdynamo-repro-after", "TORCHDYNAMO_REPRO_AFTER", "1", ""),
    ("environment.leftovers.torchdynamo-translation-validation", "TORCHDYNAMO_TRANSLATION_VALIDATION", "1", "0"),
    ("environment.leftovers.torchinductor-force-disable-caches", "TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1", "0"),
    ("environment.leftovers.torchinductor-fx-graph-cache", "TORCHINDUCTOR_FX_GRAPH_CACHE", "0", "1"),
    ("environment.leftovers.torchinductor-autograd-cache", "TORCHINDUCTOR_AUTOGRAD_CACHE", "0", "1"),
    ("environment.leftovers.torchinductor-compile-threads", "TORCHINDUCTOR_COMPILE_THREADS", "1", "0"),
    ("environment.leftovers.torchinductor-nan-asserts", "TORCHINDUCTOR_NAN_ASSERTS", "1", "0"),
    ("environment.leftovers.torchinductor-save-args", "TORCHINDUCTOR_SAVE_ARGS", "1", "0"),
    ("environment.leftovers.torchinductor-emulate-precision-casts", "TORCHINDUCTOR_EMULATE_PRECISION_CASTS", "1", "0"),
    ("environment.leftovers.torchinductor-profile", "TORCHINDUCTOR_PROFILE", "1", ""),
    ("environment.leftovers.triton-interpret", "TRITON_INTERPRET", "1", "0"),
    ("environment.leftovers.triton-always-compile", "TRITON_ALWAYS_COMPILE", "1", "0"),
    ("environment.leftovers.triton-kernel-dump", "TRITON_KERNEL_DUMP", "1", "0"),
    ("environment.leftovers.mlir-enable-dump", "MLIR_ENABLE_DUMP", "1", "0"),
    ("environment.leftovers.torch-logs", "TORCH_LOGS", "+dynamo", "0"),
    ("environment.leftovers.pytorch-jit", "PYTORCH_JIT", "0", "1"),
    ("environment.leftovers.aten-cpu-capability", "ATEN_CPU_CAPABILITY", "DEFAULT", "0"),
    ("environment.leftovers.onednn-verbose", "ONEDNN_VERBOSE", "1", "0"),
    ("environment.leftovers.dnnl-verbose", "DNNL_VERBOSE", "1", "0"),
    ("environment.leftovers.mkl-verbose", "MKL_VERBOSE", "1", "0"),
    ("environment.leftovers.onednn-max-cpu-isa", "ONEDNN_MAX_CPU_ISA", "AVX2", "ALL"),
    ("environment.leftovers.dnnl-max-cpu-isa", "DNNL_MAX_CPU_ISA", "AVX2", "ALL"),
    ("environment.leftovers.mkl-enable-instructions", "MKL_ENABLE_INSTRUCTIONS", "1", ""),
    ("environment.leftovers.mkl-cbwr", "MKL_CBWR", "1", ""),
    ("environment.leftovers.mkl-threading-layer", "MKL_THREADING_LAYER", "SEQUENTIAL", "0"),
    ("environment.leftovers.kmp-duplicate-lib-ok", "KMP_DUPLICATE_LIB_OK", "1", "0"),
    ("environment.leftovers.omp-thread-limit", "OMP_THREAD_LIMIT", "1", "0"),
    ("environment.leftovers.omp-display-env", "OMP_DISPLAY_ENV", "1", "0"),
    ("environment.leftovers.torch-show-cpp-stacktraces", "TORCH_SHOW_CPP_STACKTRACES", "1", "0"),
    ("environment.leftovers.torch-cpp-log-level", "TORCH_CPP_LOG_LEVEL", "0", "1"),
    ("environment.leftovers.torch-distributed-debug", "TORCH_DISTRIBUTED_DEBUG", "DETAIL", "0"),
    ("environment.leftovers.torch-force-no-weights-only-load", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1", "0"),
    ("environment.leftovers.cuda-launch-blocking", "CUDA_LAUNCH_BLOCKING", "1", "0"),
    ("environment.leftovers.pytorch-no-cuda-memory-caching", "PYTORCH_NO_CUDA_MEMORY_CACHING", "1", None),
    ("environment.leftovers.nvidia-tf32-override", "NVIDIA_TF32_OVERRIDE", "0", "1"),
    ("environment.leftovers.torch-allow-tf32-cublas-override", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1", "0"),
    ("environment.leftovers.cuda-cache-disable", "CUDA_CACHE_DISABLE", "1", "0"),
    ("environment.leftovers.cuda-force-ptx-jit", "CUDA_FORCE_PTX_JIT", "1", "0"),
    ("environment.leftovers.cuda-disable-ptx-jit", "CUDA_DISABLE_PTX_JIT", "1", "0"),
    ("environment.leftovers.cuda-module-loading", "CUDA_MODULE_LOADING", "EAGER", "0"),
    ("environment.leftovers.cuda-enable-coredump-on-exception", "CUDA_ENABLE_COREDUMP_ON_EXCEPTION", "1", "0"),
    ("environment.leftovers.cuda-injection64-path", "CUDA_INJECTION64_PATH", "1", ""),
    ("environment.leftovers.cudnn-loginfo-dbg", "CUDNN_LOGINFO_DBG", "1", "0"),
    ("environment.leftovers.cudnn-loglevel-dbg", "CUDNN_LOGLEVEL_DBG", "1", "0"),
    ("environment.leftovers.cudnn-frontend-log-info", "CUDNN_FRONTEND_LOG_INFO", "1", "0"),
    ("environment.leftovers.torch-cudnn-v8-api-disabled", "TORCH_CUDNN_V8_API_DISABLED", "1", "0"),
    ("environment.leftovers.cublas-loginfo-dbg", "CUBLAS_LOGINFO_DBG", "1", "0"),
    ("environment.leftovers.cublaslt-log-level", "CUBLASLT_LOG_LEVEL", "1", "0"),
    ("environment.leftovers.nccl-p2p-disable", "NCCL_P2P_DISABLE", "1", "0"),
    ("environment.leftovers.nccl-p2p-level", "NCCL_P2P_LEVEL", "0", "1"),
    ("environment.leftovers.nccl-ib-disable", "NCCL_IB_DISABLE", "1", "0"),
    ("environment.leftovers.nccl-shm-disable", "NCCL_SHM_DISABLE", "1", "0"),
    ("environment.leftovers.nccl-nvls-enable", "NCCL_NVLS_ENABLE", "0", "1"),
    ("environment.leftovers.nccl-net", "NCCL_NET", "SOCKET", "0"),
    ("environment.leftovers.nccl-net-gdr-level", "NCCL_NET_GDR_LEVEL", "0", "1"),
    ("environment.leftovers.nccl-algo", "NCCL_ALGO", "Ring", ""),
    ("environment.leftovers.nccl-proto", "NCCL_PROTO", "LL", ""),
    ("environment.leftovers.nccl-max-nchannels", "NCCL_MAX_NCHANNELS", "1", "0"),
    ("environment.leftovers.nccl-check-pointers", "NCCL_CHECK_POINTERS", "1", "0"),
    ("environment.leftovers.nccl-debug", "NCCL_DEBUG", "INFO", "0"),
    ("environment.leftovers.torch-nccl-async-error-handling", "TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", "1"),
    ("environment.leftovers.torch-nccl-blocking-wait", "TORCH_NCCL_BLOCKING_WAIT", "1", "0"),
    ("environment.leftovers.torch-nccl-enable-timing", "TORCH_NCCL_ENABLE_TIMING", "1", "0"),
    ("environment.leftovers.torch-nccl-desync-debug", "TORCH_NCCL_DESYNC_DEBUG", "1", "0"),
    ("environment.leftovers.torch-nccl-nan-check", "TORCH_NCCL_NAN_CHECK", "1", "0"),
    ("environment.leftovers.torch-nccl-enable-monitoring", "TORCH_NCCL_ENABLE_MONITORING", "0", "1"),
    ("environment.leftovers.pythonoptimize", "PYTHONOPTIMIZE", "1", "0"),
    ("environment.leftovers.pythondevmode", "PYTHONDEVMODE", "1", "0"),
    ("environment.leftovers.pythonmalloc", "PYTHONMALLOC", "debug", "0"),
    ("environment.leftovers.pythonprofileimporttime", "PYTHONPROFILEIMPORTTIME", "1", "0"),
    ("environment.leftovers.pythonverbose", "PYTHONVERBOSE", "1", "0"),
    ("environment.leftovers.pythontracemalloc", "PYTHONTRACEMALLOC", "1", "0"),
    ("environment.leftovers.pythonasynciodebug", "PYTHONASYNCIODEBUG", "1", "0"),
    ("environment.leftovers.pythoninspect", "PYTHONINSPECT", "1", ""),
    ("environment.leftovers.malloc-check", "MALLOC_CHECK_", "1", "0"),
    ("environment.leftovers.malloc-perturb", "MALLOC_PERTURB_", "1", "0"),
    ("environment.leftovers.ld-debug", "LD_DEBUG", "1", ""),
]
_VALUES = [
    ("environment.values.torch-distributed-debug", "TORCH_DISTRIBUTED_DEBUG", "yes", "OFF"),
    ("environment.values.torch-cpp-log-level", "TORCH_CPP_LOG_LEVEL", "VERBOSE", "ERROR"),
    ("environment.values.aten-cpu-capability", "ATEN_CPU_CAPABILITY", "avx", "avx2"),
    ("environment.values.torchinductor-compile-threads", "TORCHINDUCTOR_COMPILE_THREADS", "many", "8"),
    ("environment.values.nccl-debug", "NCCL_DEBUG", "YES", "WARN"),
    ("environment.values.nccl-algo", "NCCL_ALGO", "Rings", "allreduce:tree,ring;broadcast:ring"),
    ("environment.values.nccl-proto", "NCCL_PROTO", "Fast", "^LL128"),
    ("environment.values.nccl-p2p-level", "NCCL_P2P_LEVEL", "FAR", "NVL"),
    ("environment.values.nccl-p2p-disable", "NCCL_P2P_DISABLE", "true", "0"),
    ("environment.values.nccl-ib-disable", "NCCL_IB_DISABLE", "yes", "0"),
    ("environment.values.nccl-shm-disable", "NCCL_SHM_DISABLE", "on", "0"),
    ("environment.values.cuda-device-order", "CUDA_DEVICE_ORDER", "PCI", "PCI_BUS_ID"),
    ("environment.values.cuda-module-loading", "CUDA_MODULE_LOADING", "SLOW", "LAZY"),
    ("environment.values.cuda-device-max-connections", "CUDA_DEVICE_MAX_CONNECTIONS", "0", "1"),
    ("environment.values.cublas-workspace-config", "CUBLAS_WORKSPACE_CONFIG", "4096:8", ":4096:8"),
    ("environment.values.omp-proc-bind", "OMP_PROC_BIND", "yes", "close"),
    ("environment.values.omp-wait-policy", "OMP_WAIT_POLICY", "busy", "passive"),
    ("environment.values.mkl-threading-layer", "MKL_THREADING_LAYER", "GOMP", "GNU"),
    ("environment.values.wandb-mode", "WANDB_MODE", "off", "offline"),
]


@pytest.mark.parametrize(("fault", "name", "acts", "harmless"), _LEFTOVERS)
def test_left_over_variable(
    monkeypatch: pytest.MonkeyPatch, fault: str, name: str, acts: str, harmless: str | None
) -> None:
    monkeypatch.setenv(name, acts)
    finding = one("environment.leftovers")
    assert (finding.fault, finding.verdict, finding.fix) == (fault, "warn", f"unset {name}")
    assert finding.evidence == f"{name}={acts} is set"
    if harmless is not None:
        monkeypatch.setenv(name, harmless)
        assert one("environment.leftovers").verdict == "pass"


def test_every_leftover_is_tested() -> None:
    assert {leftover.name for leftover in LEFTOVERS} == {name for _, name, _, _ in _LEFTOVERS}


@pytest.mark.parametrize(("fault", "name", "wrong", "right"), _VALUES)
def test_value_that_is_not_understood(
    monkeypatch: pytest.MonkeyPatch, fault: str, name: str, wrong: str, right: str
) -> None:
    monkeypatch.setenv(name, wrong)
    finding = one("environment.values")
    assert finding.fault == fault
    assert f"{name}={wrong}" in finding.evidence
    assert one("environment.leftovers").verdict == "pass"
    monkeypatch.setenv(name, right)
    assert one("environment.values").verdict == "pass"


@pytest.mark.parametrize(
    ("text", "fault", "named"),
    [
        ("expandable_segment:True", "environment.allocator.option", "expandable_segments"),
        ("max_split_size=512", "environment.allocator.option", "max_split_size_mb"),
        ("foo:1", "environment.allocator.option", "'foo'"),
        ("expandable_segments:true", "environment.allocator.value", "'true'"),
        ("expandable_segments", "environment.allocator.value", "expandable_segments"),
        ("max_split_size_mb:5", "environment.allocator.value", "at least 20"),
        ("garbage_collection_threshold:80", "environment.allocator.value", "between 0 and 1"),
        ("backend:cudaMallocASync", "environment.allocator.value", "cudaMallocAsync"),
    ],
)
def test_settings_of_the_allocator(monkeypatch: pytest.MonkeyPatch, text: str, fault: str, named: str) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", text)
    finding = one("environment.allocator")
    assert finding.fault == fault
    assert f"PYTORCH_CUDA_ALLOC_CONF={text}" in finding.evidence
    assert named in finding.evidence


@pytest.mark.parametrize(
    "text",
    [
        "expandable_segments:True",
        "max_split_size_mb:512, garbage_collection_threshold:0.8,backend:native",
        "roundup_power2_divisions:[256:1,512:2,1024:4,>:8],expandable_segments:False",
        "backend:cudaMallocAsync",
    ],
)
def test_settings_that_torch_takes(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", text)
    assert one("environment.allocator").verdict == "pass"


def test_two_settings_of_the_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:128")
    assert one("environment.allocator").fault == "environment.allocator.two"
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    assert one("environment.allocator").verdict == "pass"


def test_the_allocator_breaks_only_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(system, "ROOT", tmp_path)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "foo:1")
    assert one("environment.allocator").verdict == "warn"
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia0").touch()
    assert one("environment.allocator").verdict == "fail"


@pytest.mark.parametrize(
    ("name", "fault", "meant"),
    [
        ("CUDA_VISIBLE_DEVICE", "environment.names.misspelled", "CUDA_VISIBLE_DEVICES"),
        ("OMP_NUM_THREAD", "environment.names.misspelled", "OMP_NUM_THREADS"),
        ("PYTORCH_CUDA_ALLOC_CONFIG", "environment.names.misspelled", "PYTORCH_CUDA_ALLOC_CONF"),
        ("NCCL_SOCKET_IFNAMES", "environment.names.misspelled", "NCCL_SOCKET_IFNAME"),
        ("NCCL_DISABLE_P2P", "environment.names.misspelled", "NCCL_P2P_DISABLE"),
        ("NCCL_IFNAME", "environment.names.misspelled", "NCCL_SOCKET_IFNAME"),
        ("Cuda_Visible_Devices", "environment.names.misspelled", "CUDA_VISIBLE_DEVICES"),
        ("NCCL_BLOCKING_WAIT", "environment.names.renamed", "TORCH_NCCL_BLOCKING_WAIT"),
        ("NCCL_TIMEOUT", "environment.names.idle", "init_process_group"),
    ],
)
def test_names_that_nothing_reads(monkeypatch: pytest.MonkeyPatch, name: str, fault: str, meant: str) -> None:
    monkeypatch.setenv(name, "hunter2-is-never-shown")
    finding = one("environment.names")
    assert finding.fault == fault
    assert finding.evidence.startswith(f"{name} is set")
    assert meant in f"{finding.evidence} {finding.fix}"
    assert "hunter2" not in str(finding)


@pytest.mark.parametrize(
    "name",
    [
        "CUDA_VERSION",
        "NCCL_VERSION",
        "MUSA_VISIBLE_DEVICES",
        "NCCL_OFI_VERSION",
        "TORCHX_HOME",
        "MY_RANK",
        "CUDA_ROOT",
        "CUDNN_VERSION",
        "NCCL_GPUDIRECTTCPX_CTRL_DEV",
        "NV_CUDA_LIB_VERSION",
        "TORCH_HOME",
        "HF_TOKEN",
        "LOCAL_USER",
    ],
)
def test_names_that_others_read(name: str) -> None:
    assert misspelled([name]) == {}


def test_offline_without_a_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert one("environment.offline").verdict == "pass"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    finding = one("environment.offline")
    assert (finding.fault, finding.verdict) == ("environment.offline.empty", "warn")
    assert str(tmp_path / "hub") in finding.evidence
    (tmp_path / "hub" / "models--gpt2").mkdir(parents=True)
    assert one("environment.offline").verdict == "pass"


# --- jobs


@pytest.mark.parametrize(
    ("variables", "fault", "named"),
    [
        ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1", "environment.distributed.stale", "RANK=0 WORLD_SIZE=2"),
        ("RANK=0", "environment.distributed.half", "but not WORLD_SIZE"),
        ("RANK=2 WORLD_SIZE=2", "environment.distributed.invalid", "RANK=2 is not below WORLD_SIZE=2"),
        ("RANK=zero WORLD_SIZE=2", "environment.distributed.invalid", "RANK=zero is not a number"),
        ("RANK=0 WORLD_SIZE=2 MASTER_PORT=99999", "environment.distributed.invalid", "MASTER_PORT=99999"),
        ("SLURM_JOB_ID=4 SLURM_NTASKS=4 SLURM_PROCID=0", "environment.distributed.slurm", "SLURM_NTASKS=4"),
        ("PET_NNODES=4 PET_NODE_RANK=1", "environment.distributed.torchrun", "PET_NNODES=4"),
    ],
)
def test_variables_of_a_job(monkeypatch: pytest.MonkeyPatch, variables: str, fault: str, named: str) -> None:
    _set(monkeypatch, variables)
    finding = one("environment.distributed")
    assert finding.fault == fault
    assert named in finding.evidence


@pytest.mark.parametrize(
    "variables",
    [
        "",
        "MASTER_ADDR=10.0.0.1 MASTER_PORT=29500",
        "WORLD_SIZE=1 MASTER_ADDR=10.0.0.1",
        "RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 MASTER_ADDR=localhost MASTER_PORT=29500",
        "RANK=1 WORLD_SIZE=4 LOCAL_RANK=1 TORCHELASTIC_RUN_ID=7",
        "RANK=1 WORLD_SIZE=4 MASTER_ADDR=a KUBERNETES_SERVICE_HOST=10.0.0.1 PET_NNODES=4",
        "SLURM_JOB_ID=4 SLURM_NTASKS=4 SLURM_PROCID=1 SLURM_STEP_ID=0 RANK=1 WORLD_SIZE=4",
        "SLURM_JOB_ID=4 SLURM_NTASKS=1 SLURM_PROCID=0",
        "OMPI_COMM_WORLD_SIZE=1 OMPI_COMM_WORLD_RANK=0",
    ],
)
def test_variables_that_a_job_has(monkeypatch: pytest.MonkeyPatch, variables: str) -> None:
    _set(monkeypatch, variables)
    assert one("environment.distributed").verdict == "pass"


@pytest.mark.parametrize(
    ("variables", "fault"),
    [
        ("TORCHELASTIC_RUN_ID=7 RANK=1 WORLD_SIZE=4", "environment.distributed.elastic"),
        ("OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_RANK=0", "environment.distributed.mpi"),
        ("PMI_SIZE=4 PMI_RANK=0", "environment.distributed.mpi"),
        ("ACCELERATE_USE_FSDP=true", "environment.distributed.accelerate"),
    ],
)
def test_variables_of_a_launcher_that_is_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: str, fault: str
) -> None:
    _set(monkeypatch, variables)
    _parent(monkeypatch, tmp_path, "/bin/bash")
    assert one("environment.distributed").fault == fault
    _parent(monkeypatch, tmp_path, "python /opt/bin/torchrun train.py" if "mpi" not in fault else "mpirun -n 4 bash")
    assert one("environment.distributed").verdict == "pass"


def _set(monkeypatch: pytest.MonkeyPatch, variables: str) -> None:
    for variable in variables.split():
        monkeypatch.setenv(*variable.split("="))


def _parent(monkeypatch: pytest.MonkeyPatch, root: Path, command: str) -> None:
    """A /proc in which this process's parent is this command, and has none itself."""
    folder = root / "proc" / str(os.getppid())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "status").write_text("Name:\tx\nPPid:\t0\n")
    (folder / "cmdline").write_text(command.replace(" ", "\0"))
    monkeypatch.setattr(system, "ROOT", root)


# --- the user, the folder, text


def test_deleted_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.delenv("PYTHONPATH", raising=False)
    diagnosis = diagnose()
    assert [check.id for check, _ in diagnosis.of("fail", "incomplete")] == ["environment.folder"]
    (finding,) = findings(diagnosis, "environment.folder")
    assert finding.fault == "environment.folder.gone"
    assert [f.evidence for f in findings(diagnosis, "torch.import")] == ["needs environment.folder"]
    assert [f.evidence for f in findings(diagnosis, "storage.disk")] == ["needs environment.folder"]


def test_unreadable_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    monkeypatch.chdir(closed)
    closed.chmod(0o100)
    try:
        (finding,) = as_nobody(lambda: ask("environment.folder"))
    finally:
        closed.chmod(0o700)
    assert finding["fault"] == "environment.folder.unreadable"
    assert "Permission denied" in finding["evidence"]


def as_nobody(ask_it: Any) -> list[dict[str, Any]]:
    """Findings of a forked child that is an ordinary user, whoever runs the tests."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        if os.geteuid() == 0:
            os.setuid(65534)
        os.write(write, json.dumps([vars(finding) for finding in ask_it()]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text)


def test_home_that_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/no/such/home")
    finding = one("environment.user")
    assert finding.fault == "environment.user.home-missing"
    assert "/no/such/home" in finding.evidence


def test_home_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    finding = one("environment.user")
    assert finding.verdict == "pass"
    assert "HOME is not set" in finding.evidence


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_home_of_another_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    os.chown(tmp_path, 54321, -1)
    monkeypatch.setenv("HOME", str(tmp_path))
    finding = one("environment.user")
    assert finding.fault == "environment.user.home-other"
    assert "user 54321" in finding.evidence


@needs_root
def test_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/")
    program = [sys.executable, "-m", "llmbench", "doctor", "--json", "--only", "environment.user"]
    done = subprocess.run(["unshare", "--user", "--map-user=54321", *program], capture_output=True, text=True)
    if "unshare" in done.stderr:
        pytest.skip("this kernel gives no user namespaces")
    found = [f for check in json.loads(done.stdout)["checks"] for f in check["findings"] if f["fault"]]
    assert [finding["fault"] for finding in found] == ["environment.user.unknown"]
    assert "54321" in found[0]["evidence"]


@pytest.mark.parametrize(
    ("variables", "fault", "named"),
    [
        ("LC_ALL=xx_YY.UTF-8", "environment.encoding.locale", "LC_ALL=xx_YY.UTF-8"),
        ("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0", "environment.encoding.ascii", "LC_ALL=C"),
        ("LC_ALL=C.UTF-8 PYTHONIOENCODING=latin-1", "environment.encoding.ascii", "PYTHONIOENCODING=latin-1"),
    ],
)
def test_language_settings(monkeypatch: pytest.MonkeyPatch, variables: str, fault: str, named: str) -> None:
    _set(monkeypatch, variables)
    faults = {finding.fault: finding for finding in ask("environment.encoding")}
    assert fault in faults
    assert named in faults[fault].evidence


def test_text_is_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    assert one("environment.encoding").verdict == "pass"


def test_bytes_that_are_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", os.fsdecode(b"eth\xe9"))
    finding = one("environment.encoding")
    assert finding.fault == "environment.encoding.bytes"
    assert "GLOO_SOCKET_IFNAME=eth\\xe9" in finding.evidence
    json.dumps(vars(finding), ensure_ascii=False).encode()


def test_path_of_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert one("environment.path").fault == "environment.path.system"
    monkeypatch.delenv("PATH")
    assert one("environment.path").fault == "environment.path.system"
    monkeypatch.setenv("PATH", f"bin:{path}")
    finding = one("environment.path")
    assert finding.fault == "environment.path.relative"
    assert "bin" in finding.evidence
    monkeypatch.setenv("PATH", path)
    assert one("environment.path").verdict == "pass"


@needs_root
def test_in_a_container_without_proc(tmp_path: Path) -> None:
    found = inside(
        f"mount --bind {tmp_path} /proc; export TORCHELASTIC_RUN_ID=7 RANK=0 WORLD_SIZE=1", "--only", "environment"
    )
    verdicts = {finding["verdict"] for check in found.values() for finding in check}
    assert "incomplete" not in verdicts
