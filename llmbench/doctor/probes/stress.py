"""Real work on one device: a memory pattern test, sustained matmuls, transfers, and the same input again and again.

Every piece of work takes a device as torch names it (``cpu``, ``cuda:0``), so that the CPU runs the same lines.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

WORD = 8  # bytes of an int64
CHUNK_BYTES = 256 * 2**20
PATTERNS = (0, -1, 0x5555555555555555, -0x5555555555555556)  # all bits off, on, and each with both neighbours different


def probe(arguments: dict) -> Iterator[dict]:
    import torch

    device = torch.device(arguments["device"])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    yield from WORK[arguments["work"]](torch, device, arguments)


def memory(torch: Any, device: Any, arguments: dict) -> Iterator[dict]:
    """Fills memory with patterns and reads them back, twice each: what reads differently has lost or coupled bits.

    After the fixed patterns each word gets its own address, which shows address lines that are stuck: two words in one
    place.
    """
    wanted = int(arguments["share"] * free_bytes(torch, device)) if "share" in arguments else arguments["bytes"]
    chunks = allocate(torch, device, wanted)
    tested = sum(chunk.numel() for chunk in chunks) * WORD
    yield {"bytes": tested, "bad": [], "patterns": 0}
    bad: list[dict] = []
    for number, pattern in enumerate((*PATTERNS, None)):
        for index, chunk in enumerate(chunks):
            write(torch, chunk, pattern, index)
        for _ in range(2):
            for index, chunk in enumerate(chunks):
                bad += misread(torch, chunk, pattern, index)
        synchronize(torch, device)
        yield {"bad": bad[:8], "bad_count": len(bad), "patterns": number + 1}


def allocate(torch: Any, device: Any, wanted: int) -> list:
    """Blocks of int64 of so many bytes in all, or of as many as there are."""
    chunks: list = []
    while wanted >= WORD:
        size = min(wanted, CHUNK_BYTES)
        try:
            chunks.append(torch.empty(size // WORD, dtype=torch.int64, device=device))
        except RuntimeError:  # out of memory: free memory is an estimate, and others use it too
            if not chunks:
                raise
            break
        wanted -= size
    return chunks


def write(torch: Any, chunk: Any, pattern: Any, index: int) -> None:
    if pattern is None:
        torch.arange(index << 32, (index << 32) + chunk.numel(), out=chunk)
    else:
        chunk.fill_(pattern)


def misread(torch: Any, chunk: Any, pattern: Any, index: int) -> list:
    """The words that are not what was written: offset, and the bits that differ."""
    if pattern is None:
        expected = torch.arange(index << 32, (index << 32) + chunk.numel(), device=chunk.device)
        wrong = (chunk ^ expected).nonzero().flatten()
    else:
        wrong = (chunk ^ pattern).nonzero().flatten()
    found = []
    for offset in wrong[:8].tolist():
        right = (index << 32) + offset if pattern is None else pattern
        found.append(
            {"offset": index * CHUNK_BYTES + offset * WORD, "bits": hex((int(chunk[offset]) ^ right) & (2**64 - 1))}
        )
    return found


def matmul(torch: Any, device: Any, arguments: dict) -> Iterator[dict]:
    """Matmuls without a pause for so many seconds: the rate of every quarter, and what the device said of itself.

    A matmul of n x n matrices is 2 n^3 floating-point operations.
    """
    n, seconds = arguments["n"], arguments["seconds"]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a = torch.randn(n, n, device=device, dtype=dtype)
    b = torch.randn(n, n, device=device, dtype=dtype)
    out = torch.empty_like(a)
    for _ in range(3):
        torch.mm(a, b, out=out)
    synchronize(torch, device)
    rates = []
    with Sampler(torch, device, arguments.get("pynvml")) as sampler:
        for _ in range(4):
            rates.append(matmul_rate(torch, device, a, b, out, seconds / 4))
            yield {"flops": rates, "samples": sampler.samples}
    yield {"samples": sampler.samples, "finite": bool(torch.isfinite(out.float()).all())}


def matmul_rate(torch: Any, device: Any, a: Any, b: Any, out: Any, seconds: float) -> float:
    """Floating-point operations per second over so many seconds; on a CPU, of the time that its threads really had."""
    count, started, worked = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        for _ in range(8):
            torch.mm(a, b, out=out)
        synchronize(torch, device)  # or the queue would run ahead of the clock
        count += 8
    if device.type == "cpu":
        took = (time.process_time() - worked) / torch.get_num_threads()
    else:
        took = time.perf_counter() - started
    return count * 2.0 * a.shape[0] ** 3 / took


def repeat(torch: Any, device: Any, arguments: dict) -> Iterator[dict]:
    """The same input must give the same bits, wherever and whenever it is computed.

    A batch of identical products spreads over all multiprocessors (or cores): a slice that differs from the first was
    computed by one that errs, and rounds that differ show one that errs now and then. The first slice is compared with
    fp64 on the CPU, since all may err alike.
    """
    n, rounds = arguments["n"], arguments["rounds"]
    batch = arguments["batch"] or slices(torch, device)
    torch.manual_seed(0)
    one, other = torch.randn(n, n), torch.randn(n, n)
    reference = one.double() @ other.double()
    magnitude = one.double().abs() @ other.double().abs()
    previous = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        a, b = one.to(device).expand(batch, n, n).contiguous(), other.to(device).expand(batch, n, n).contiguous()
        first = None
        differing: list[dict] = []
        for number in range(rounds):
            result = torch.bmm(a, b)
            first = result[0].clone() if first is None else first
            # Bits, not values: a NaN differs from itself, and 0 equals -0.
            wrong = (result.view(torch.int32) != first.view(torch.int32)).flatten(1).any(1).nonzero().flatten().tolist()
            differing += [{"round": number, "slice": index} for index in wrong[:4]]
            if number % 16 == 15 or number == rounds - 1:
                yield {"rounds": number + 1, "batch": batch, "differing": differing[:8], "count": len(differing)}
        assert first is not None
        error = ((first.cpu().double() - reference).abs() / magnitude).max()
        yield {"relative_error": float(error), "limit": 2 * (n + 1) * 2.0**-24}
    finally:
        torch.backends.cuda.matmul.allow_tf32 = previous


def slices(torch: Any, device: Any) -> int:
    """Enough products to keep every multiprocessor, or core, busy several times over."""
    if device.type == "cuda":
        return 4 * torch.cuda.get_device_properties(device).multi_processor_count
    return 8 * torch.get_num_threads()


def transfer(torch: Any, device: Any, arguments: dict) -> Iterator[dict]:
    """Copies from and to pinned host memory, and to every other device: bytes per second, and whether all came."""
    count = arguments["bytes"] // 4
    cuda = device.type == "cuda"
    host = torch.arange(count, dtype=torch.int32)
    back = torch.empty_like(host)
    if cuda:
        host, back = host.pin_memory(), back.pin_memory()
    there = torch.empty(count, dtype=torch.int32, device=device)
    with Sampler(torch, device, arguments.get("pynvml")) as sampler:
        for name, target, source in (("to_device", there, host), ("from_device", back, there)):
            yield {name: copy_rate(torch, device, target, source)}
    yield {"intact": bool(torch.equal(back, host)), "samples": sampler.samples}
    peers: dict[str, dict] = {}
    for other in arguments.get("peers", []):
        far = torch.empty(count, dtype=torch.int32, device=other)
        rate = copy_rate(torch, device, far, there)
        peers[other] = {
            "rate": rate,
            "intact": bool(torch.equal(far.cpu(), host)),
            "direct": bool(torch.cuda.can_device_access_peer(device.index, torch.device(other).index))
            if cuda
            else True,
        }
        yield {"peers": peers}


def copy_rate(torch: Any, device: Any, target: Any, source: Any, repeats: int = 8) -> float:
    """Bytes per second, the best of three; the first copy is not counted, since it may map memory."""
    target.copy_(source, non_blocking=True)
    best = 0.0
    for _ in range(3):
        synchronize(torch, device)
        started = time.perf_counter()
        for _ in range(repeats):
            target.copy_(source, non_blocking=True)
        synchronize(torch, device)
        best = max(best, repeats * source.numel() * source.element_size() / (time.perf_counter() - started))
    return best


class Sampler:
    """Reads clock, power, temperature, throttle reasons and link of a CUDA device through NVML while it works."""

    def __init__(self, torch: Any, device: Any, pynvml_folder: Any) -> None:
        self.samples: list[dict] = []
        self._stop = threading.Event()
        self._thread = None
        if device.type == "cuda":
            uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            self._thread = threading.Thread(target=self._sample, args=(uuid, pynvml_folder), daemon=True)

    def __enter__(self) -> Sampler:
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(5)

    def _sample(self, uuid: str, pynvml_folder: Any) -> None:
        if pynvml_folder:
            sys.path.append(pynvml_folder)
        try:
            import pynvml

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        except Exception as error:  # no NVML, another version, no such device: the work is worth doing without it
            self.samples.append({"error": f"{type(error).__name__}: {error}"})
            return
        readers: dict[str, Callable[[], Any]] = {
            "sm_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
            "watts": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
            "celsius": lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
            "throttle": lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
            "pcie_generation": lambda: pynvml.nvmlDeviceGetCurrPcieLinkGeneration(handle),
            "pcie_width": lambda: pynvml.nvmlDeviceGetCurrPcieLinkWidth(handle),
            "pcie_generation_max": lambda: pynvml.nvmlDeviceGetMaxPcieLinkGeneration(handle),
            "pcie_width_max": lambda: pynvml.nvmlDeviceGetMaxPcieLinkWidth(handle),
        }
        while not self._stop.wait(0.1):
            sample: dict = {}
            for name, read in list(readers.items()):
                try:
                    sample[name] = read()
                except Exception:  # this device or driver does not tell it
                    del readers[name]
            self.samples.append(sample)


def free_bytes(torch: Any, device: Any) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def synchronize(torch: Any, device: Any) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


WORK = {"memory": memory, "matmul": matmul, "repeat": repeat, "transfer": transfer}
