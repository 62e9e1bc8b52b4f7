"""Everything that NVML tells of each GPU, field by field: what was read before a crash or a hang is kept."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

FUNCTION_NOT_FOUND = 13
NOT_FOUND = 6
INVALID_ARGUMENT = 2

# Field, then the functions that may give it, the first that the driver has wins; then their arguments.
SYSTEM: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("driver", ("nvmlSystemGetDriverVersion",)),
    ("library", ("nvmlSystemGetNVMLVersion",)),
    ("cuda", ("nvmlSystemGetCudaDriverVersion_v2", "nvmlSystemGetCudaDriverVersion")),
)
DEVICE: tuple[tuple[Any, ...], ...] = (
    ("name", ("nvmlDeviceGetName",)),
    ("pci", ("nvmlDeviceGetPciInfo",)),
    ("uuid", ("nvmlDeviceGetUUID",)),
    ("recovery", "field_value", 230),
    ("memory", ("nvmlDeviceGetMemoryInfo",)),
    ("memory_reserved", "reserved"),
    ("temperature", ("nvmlDeviceGetTemperature",), 0),
    ("temperature_shutdown", ("nvmlDeviceGetTemperatureThreshold",), 0),
    ("temperature_slowdown", ("nvmlDeviceGetTemperatureThreshold",), 1),
    ("temperature_memory_limit", ("nvmlDeviceGetTemperatureThreshold",), 2),
    ("temperature_memory", "field_value", 82),
    ("fan", ("nvmlDeviceGetFanSpeed",)),
    ("utilization", ("nvmlDeviceGetUtilizationRates",)),
    ("performance_state", ("nvmlDeviceGetPerformanceState",)),
    ("clock", ("nvmlDeviceGetClockInfo",), 1),
    ("clock_maximum", ("nvmlDeviceGetMaxClockInfo",), 1),
    ("clock_application", ("nvmlDeviceGetApplicationsClock",), 1),
    ("clock_application_default", ("nvmlDeviceGetDefaultApplicationsClock",), 1),
    ("clock_memory", ("nvmlDeviceGetClockInfo",), 2),
    ("clock_memory_maximum", ("nvmlDeviceGetMaxClockInfo",), 2),
    ("clock_memory_application", ("nvmlDeviceGetApplicationsClock",), 2),
    ("clock_memory_application_default", ("nvmlDeviceGetDefaultApplicationsClock",), 2),
    ("reasons", ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")),
    ("power", ("nvmlDeviceGetPowerUsage",)),
    ("power_limit", ("nvmlDeviceGetPowerManagementLimit",)),
    ("power_limit_default", ("nvmlDeviceGetPowerManagementDefaultLimit",)),
    ("power_limit_enforced", ("nvmlDeviceGetEnforcedPowerLimit",)),
    ("power_source", ("nvmlDeviceGetPowerSource",)),
    ("pcie_width", ("nvmlDeviceGetCurrPcieLinkWidth",)),
    ("pcie_width_maximum", ("nvmlDeviceGetMaxPcieLinkWidth",)),
    ("pcie_generation", ("nvmlDeviceGetCurrPcieLinkGeneration",)),
    ("pcie_generation_maximum", ("nvmlDeviceGetMaxPcieLinkGeneration",)),
    ("pcie_replays", ("nvmlDeviceGetPcieReplayCounter",)),
    ("bar1", ("nvmlDeviceGetBAR1MemoryInfo",)),
    ("ecc", ("nvmlDeviceGetEccMode",)),
    ("ecc_default", ("nvmlDeviceGetDefaultEccMode",)),
    ("corrected", ("nvmlDeviceGetTotalEccErrors",), 0, 0),
    ("corrected_ever", ("nvmlDeviceGetTotalEccErrors",), 0, 1),
    ("uncorrected", ("nvmlDeviceGetTotalEccErrors",), 1, 0),
    ("uncorrected_ever", ("nvmlDeviceGetTotalEccErrors",), 1, 1),
    ("sram", "sram"),
    ("rows", ("nvmlDeviceGetRemappedRows",)),
    ("row_histogram", ("nvmlDeviceGetRowRemapperHistogram",)),
    ("retired_single", ("nvmlDeviceGetRetiredPages",), 0),
    ("retired_double", ("nvmlDeviceGetRetiredPages",), 1),
    ("retired_pending", ("nvmlDeviceGetRetiredPagesPendingStatus",)),
    ("repair", ("nvmlDeviceGetRepairStatus",)),
    ("mig", ("nvmlDeviceGetMigMode",)),
    ("mig_instances", "mig_instances"),
    ("persistence", ("nvmlDeviceGetPersistenceMode",)),
    ("compute_mode", ("nvmlDeviceGetComputeMode",)),
    ("processes", "processes", "nvmlDeviceGetComputeRunningProcesses"),
    ("graphics", "processes", "nvmlDeviceGetGraphicsRunningProcesses"),
    ("display", ("nvmlDeviceGetDisplayActive",)),
    ("brand", ("nvmlDeviceGetBrand",)),
    ("virtualization", ("nvmlDeviceGetVirtualizationMode",)),
    ("licences", "licences"),
    ("vbios", ("nvmlDeviceGetVbiosVersion",)),
    ("capability", ("nvmlDeviceGetCudaComputeCapability",)),
    ("gsp", ("nvmlDeviceGetGspFirmwareMode",)),
    ("accounting", ("nvmlDeviceGetAccountingMode",)),
    ("minor", ("nvmlDeviceGetMinorNumber",)),
    ("fabric", "fabric"),
    ("nvlinks", "nvlinks"),
    ("nvlink_errors", "nvlink_errors"),
    ("inforom", "inforom"),
)
# Read again where the GPU is busy: one sample may have caught the end of a step.
AGAIN = ("utilization", "performance_state", "clock", "reasons", "pcie_generation")


def probe(arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Arguments: ``pynvml``: file of llmbench's own; ``files``: of devices; ``skip``, ``without``: GPUs, fields not "
    "asked.
    """
    yield {"asking": "the import of pynvml"}
    nvml = load(arguments.get("pynvml"))
    yield {"asking": "its library"}
    attempt(nvml, getattr(nvml, "_LoadNvmlLibrary", None))
    yield {"loaded": loaded(), "asking": "nvmlInit"}
    failure = attempt(nvml, nvml.nvmlInit)
    yield {"init": failure, "nodes": nodes(arguments["files"])}
    if "error" in failure:
        return
    reader = Reader(nvml)
    for field, names in SYSTEM:
        yield {"asking": names[0]}
        yield {field: reader.first(names)}
    yield {"asking": "nvmlDeviceGetCount_v2"}
    count = attempt(nvml, nvml.nvmlDeviceGetCount)
    yield {"count": count}
    handles = {}
    for index in range(min(count.get("value", 0), 64)):
        yield {"asking": f"nvmlDeviceGetHandleByIndex_v2 of GPU {index}"}
        handle = attempt(nvml, nvml.nvmlDeviceGetHandleByIndex, index)
        if "value" in handle:
            handles[index] = handle["value"]
        yield {f"gpu/{index}": {} if "value" in handle else handle}
    asked = {index: handle for index, handle in handles.items() if index not in arguments.get("skip", ())}
    table = [row for row in DEVICE if row[0] not in arguments.get("without", ())]
    for index, handle in asked.items():
        yield from fields(reader, index, handle, table)
    busy = [index for index in asked if reader.load(asked[index]) >= 20]
    if busy:
        time.sleep(1.0)  # a sample may be that of a job which has just ended
    for index in busy:
        again = [(f"again/{row[0]}", *row[1:]) for row in table if row[0] in AGAIN]
        yield from fields(reader, index, asked[index], again)
    yield {
        "asking": "nvmlDeviceGetP2PStatus",
        "asked_gpu": None,
        "asked_field": None,
        "missing": sorted(reader.missing),
    }
    yield {"peers": reader.peers(handles)}
    yield {"asking": "nvmlSystemGetConfComputeState"}
    state = attempt(nvml, getattr(nvml, "nvmlSystemGetConfComputeState", None))
    yield {"confidential": state if "error" in state else {"value": plain(state["value"])}}
    yield {"missing": sorted(reader.missing), "asking": "nvmlShutdown"}


def fields(reader: Reader, index: int, handle: Any, table: Iterable[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """One part for each field of a GPU, told before it is asked for."""
    for field, how, *arguments in table:
        name = how if isinstance(how, str) else how[0]
        yield {"asking": f"{name} of GPU {index}", "asked_gpu": index, "asked_field": field}
        yield {f"gpu/{index}/{field}": reader.field(handle, how, arguments)}


class Reader:
    """Asks NVML, whatever driver and whatever pynvml there is."""

    def __init__(self, nvml: Any) -> None:
        self.nvml = nvml
        self.missing: set[str] = set()
        self.links: dict[int, list[int]] = {}

    def first(self, names: tuple[str, ...], *arguments: Any) -> dict[str, Any]:
        """The answer of the first of these functions that the driver has."""
        answer: dict[str, Any] = {"error": FUNCTION_NOT_FOUND, "words": "Function Not Found"}
        for name in names:
            answer = attempt(self.nvml, getattr(self.nvml, name, None), *arguments)
            if answer.get("error") != FUNCTION_NOT_FOUND:
                break
            self.missing.add(name)
        return answer if "error" in answer else {"value": plain(answer["value"])}

    def field(self, handle: Any, how: Any, arguments: list[Any]) -> dict[str, Any]:
        if not isinstance(how, str):
            return self.first(how, handle, *arguments)
        answer = attempt(self.nvml, getattr(self, how), handle, *arguments)
        return answer if "error" in answer else {"value": plain(answer["value"])}

    def load(self, handle: Any) -> int:
        """Percent of the time that a kernel ran."""
        return int(self.first(("nvmlDeviceGetUtilizationRates",), handle).get("value", {}).get("gpu", 0))

    def inforom(self, handle: Any) -> None:
        """Fails if the infoROM is corrupted. Cards for consumers have next to none, and are not asked."""
        name = self.first(("nvmlDeviceGetName",), handle).get("value", "")
        if not re.search("GeForce|TITAN|Quadro|RTX|GTX|GT |MX[0-9]", str(name)):
            self.call("nvmlDeviceValidateInforom", handle)

    def reserved(self, handle: Any) -> int:
        """Bytes that the driver keeps to itself; NVML counts them as used, except in its second version."""
        version = getattr(self.nvml, "nvmlMemory_v2", 0x02000028)
        try:
            return int(self.nvml.nvmlDeviceGetMemoryInfo(handle, version=version).reserved)
        except self.nvml.NVMLError as error:
            if error.value == FUNCTION_NOT_FOUND:
                self.missing.add("nvmlDeviceGetMemoryInfo_v2")
            raise

    def processes(self, handle: Any, name: str) -> list[dict[str, Any]]:
        """Number, bytes (None if not told) and program of each process."""
        found = self.first((f"{name}_v3", f"{name}_v2"), handle)
        if "error" in found:
            raise self.nvml.NVMLError(found["error"])
        return [
            {"pid": process["pid"], "memory": process["usedGpuMemory"], "name": self.program(process["pid"])}
            for process in found["value"]
        ]

    def program(self, pid: int) -> str | None:
        """Name of a process' program, without its folder and arguments."""
        answer = attempt(self.nvml, getattr(self.nvml, "nvmlSystemGetProcessName", None), pid)
        words = text(answer.get("value") or "").split()
        return os.path.basename(words[0]) if words else None

    def sram(self, handle: Any) -> Any:
        status = getattr(self.nvml, "c_nvmlEccSramErrorStatus_v1_t")()  # noqa: B009
        self.call("nvmlDeviceGetSramEccErrorStatus", handle, ctypes.byref(status))
        return status

    def mig_instances(self, handle: Any) -> int:
        """How many MIG devices there are; an error where the driver does not tell."""
        if not self.nvml.nvmlDeviceGetMigMode(handle)[0]:
            return 0
        found = 0
        for index in range(self.nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            try:
                self.call("nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
                found += 1
            except self.nvml.NVMLError as error:
                if error.value not in (NOT_FOUND, INVALID_ARGUMENT):
                    raise
        return found

    def licences(self, handle: Any) -> list[dict[str, Any]]:
        """State of each licensable feature of a virtual GPU; none on others."""
        if self.nvml.nvmlDeviceGetVirtualizationMode(handle) != 2:
            return []
        features = self.call("nvmlDeviceGetGridLicensableFeatures_v4", handle)
        listed = features.gridLicensableFeatures[: min(features.licensableFeaturesCount, 3)]
        return [
            {"product": text(feature.productName), "enabled": bool(feature.featureEnabled)}
            for feature in listed
            if features.isGridLicenseSupported
        ]

    def fabric(self, handle: Any) -> dict[str, Any]:
        """Registration with the NVSwitch fabric; health only where the driver has the newer function."""
        for name, kind in (
            ("nvmlDeviceGetGpuFabricInfoV", "c_nvmlGpuFabricInfo_v3_t"),
            ("nvmlDeviceGetGpuFabricInfoV", "c_nvmlGpuFabricInfo_v2_t"),
            ("nvmlDeviceGetGpuFabricInfo", "c_nvmlGpuFabricInfo_t"),
        ):
            if not hasattr(self.nvml, kind):
                continue
            info = getattr(self.nvml, kind)()
            try:
                self.call(name, handle, ctypes.byref(info))
            except self.nvml.NVMLError as error:
                if error.value in (FUNCTION_NOT_FOUND, INVALID_ARGUMENT, 25):
                    continue
                raise
            return {
                "state": info.state,
                "status": info.status,
                "health": getattr(info, "healthMask", None),
                "summary": getattr(info, "healthSummary", None),
            }
        raise self.nvml.NVMLError(FUNCTION_NOT_FOUND)

    def nvlinks(self, handle: Any) -> list[int]:
        """1 for each NVLink that is up, 0 for each that is down, in their order."""
        states = []
        for link in range(36):
            try:
                states.append(self.call("nvmlDeviceGetNvLinkState", handle, link))
            except self.nvml.NVMLError as error:
                if error.value in (FUNCTION_NOT_FOUND, 15, 16, 999):
                    raise
                break
        self.links[id(handle)] = states
        return states

    def nvlink_errors(self, handle: Any) -> dict[str, list[int]]:
        """Counts by kind, one for each link that is up, of the links that ``nvlinks`` found."""
        kinds = ("replay", "recovery", "CRC flit", "CRC data")
        up = [link for link, state in enumerate(self.links.get(id(handle), [])) if state]
        return {
            kind: [self.call("nvmlDeviceGetNvLinkErrorCounter", handle, link, number) for link in up]
            for number, kind in enumerate(kinds)
        }

    def field_value(self, handle: Any, number: int) -> Any:
        value = self.call("nvmlDeviceGetFieldValues", handle, [number])[0]
        if value.nvmlReturn:
            raise self.nvml.NVMLError(value.nvmlReturn)
        kinds = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}
        return getattr(value.value, kinds.get(value.valueType, "ullVal"))

    def peers(self, handles: dict[int, Any]) -> dict[str, Any]:
        """Status of reading each other's memory, by pair."""
        found = {}
        for one, first in handles.items():
            for other, second in handles.items():
                if one < other:
                    answer = attempt(self.nvml, getattr(self.nvml, "nvmlDeviceGetP2PStatus", None), first, second, 0)
                    found[f"{one}-{other}"] = answer
        return found

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        """As the function of pynvml, and keeps in mind that the driver lacks it."""
        function = getattr(self.nvml, name, None)
        try:
            if function is None:
                raise self.nvml.NVMLError(FUNCTION_NOT_FOUND)
            return function(*arguments, **options)
        except self.nvml.NVMLError as error:
            if error.value == FUNCTION_NOT_FOUND:
                self.missing.add(name)
            raise


def load(path: str | None) -> Any:
    """The module pynvml of llmbench itself, whatever the interpreter has; without that file, the interpreter's."""
    if path and os.path.exists(path):
        spec = importlib.util.spec_from_file_location("pynvml", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["pynvml"] = module  # its own functions look it up there
        spec.loader.exec_module(module)
        return module
    import pynvml

    return pynvml


def attempt(nvml: Any, function: Any, *arguments: Any) -> dict[str, Any]:
    """``value``, or ``error`` (number of the NVML error, -1 for any other) and ``words``."""
    if function is None:
        return {"error": FUNCTION_NOT_FOUND, "words": "Function Not Found (pynvml)"}
    try:
        return {"value": function(*arguments)}
    except nvml.NVMLError as error:
        return {"error": error.value, "words": str(error)}
    except Exception as error:
        if type(error).__name__ == "NVMLLibraryMismatchError":
            return {"error": FUNCTION_NOT_FOUND, "words": "Function Not Found"}
        return {"error": -1, "words": f"{type(error).__name__}: {error}"}


def plain(value: Any) -> Any:
    """The value as JSON: structures become dictionaries."""
    if isinstance(value, bytes):
        return text(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, ctypes.Structure):
        return {name: plain(getattr(value, name)) for name, *_ in value._fields_}
    if isinstance(value, ctypes.Array):
        return [plain(item) for item in value]
    if isinstance(value, (int, float, str, dict)) or value is None:
        return value
    return {name: plain(item) for name, item in vars(value).items()}


def text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def loaded() -> str | None:
    """File of the NVML library that was loaded."""
    try:
        with open("/proc/self/maps", errors="replace") as maps:
            for line in maps:
                if "libnvidia-ml" in line:
                    return line.split(None, 5)[5].strip()
    except (OSError, IndexError):
        pass
    return None


def nodes(paths: list[str]) -> dict[str, int]:
    """For each device file: 0 if it can be opened, else the number of the error."""
    found = {}
    for path in paths:
        try:
            os.close(os.open(path, os.O_RDWR))
            found[path] = 0
        except OSError as error:
            found[path] = error.errno or -1
    return found
