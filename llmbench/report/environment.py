"""The environment of a run: a few lines for the first screen, and every key for the end of the page.

The fingerprint is read leniently: a key that is missing leaves its line out, one that is unknown is still listed.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmbench.report.format import NOTHING, count, flatten, plain, size
from llmbench.results.nodes import name_list, node_names
from llmbench.results.schema import Run


def host(run: Run) -> str | None:
    return first(_flat(run), "host.name", "hostname", "host")


def first(flat: Mapping[str, str], *keys: str) -> str | None:
    """The value of the first key that there is."""
    return next((flat[key] for key in keys if flat.get(key, NOTHING) != NOTHING), None)


def summary(run: Run) -> list[tuple[str, str]]:
    """Device, torch, host, data and commit, each in one line."""
    flat = _flat(run)
    names = list(node_names(run.nodes).values())
    lines = [
        ("Nodes", f"{len(names)}: {name_list(names)}; of the first of them:" if len(names) > 1 else ""),
        ("Device", _joined(_devices(run, flat), _prefixed("driver ", first(flat, "driver", "torch.driver")))),
        ("torch", _joined(first(flat, "torch.version", "torch"), _prefixed("Python ", first(flat, "python.version")))),
        ("Host", _joined(host(run), _system(flat), _cores(flat), _memory(run))),
        ("Data", _data(run)),
        ("Commit", _joined(run.git.commit[:12], "with local changes" if run.git.dirty else "clean") if run.git else ""),
        ("llmbench", run.llmbench),
    ]
    return [(name, text) for name, text in lines if text]


def every_key(run: Run) -> list[tuple[str, str]]:
    """All that was recorded of the machine and the run."""
    about = {
        "run": run.id,
        "suite": run.suite,
        "suite file": run.suite_file,
        "working folder": run.working_folder,
        "interpreter": run.python,
        "device": run.device,
        "llmbench": run.llmbench,
        "git commit": run.git.commit if run.git else None,
        "git dirty": run.git.dirty if run.git else None,
        "resumed": run.resumed,
        "data": run.data,
    }
    return [(key, plain(value)) for key, value in [*flatten(about), *flatten(run.environment)]]


def _flat(run: Run) -> dict[str, str]:
    return {key: plain(value) for key, value in flatten(run.environment)}


def _joined(*parts: str | None) -> str:
    return " · ".join(part for part in parts if part)


def _prefixed(prefix: str, text: str | None) -> str | None:
    return f"{prefix}{text}" if text else None


def _devices(run: Run, flat: Mapping[str, str]) -> str:
    """``2× NVIDIA H200 140 GiB``; the bare kind of device where the fingerprint lists none."""
    listed = run.environment.get("devices")
    devices = [device for device in listed if isinstance(device, Mapping)] if isinstance(listed, list) else []
    named = []
    for device in devices:
        memory = device.get("memory_bytes")
        text = str(device.get("name") or device.get("kind") or "device")
        if device.get("kind") == "cpu":
            named.append(first(flat, "host.cpu", "cpu.model", "cpu") or text)
        else:
            named.append(f"{text} {size(memory)}" if isinstance(memory, int) else text)
    if not named:
        return run.device
    counted = {name: named.count(name) for name in named}
    text = ", ".join(f"{amount}× {name}" if amount > 1 else name for name, amount in counted.items())
    return text if run.device in text else f"{run.device}: {text}"


def _system(flat: Mapping[str, str]) -> str | None:
    return first(flat, "host.os", "os", "platform")


def _cores(flat: Mapping[str, str]) -> str | None:
    cores = first(flat, "host.cpus_usable", "host.cores", "cpus")
    return count(int(cores), "CPU") if cores and cores.isdecimal() else None


def _memory(run: Run) -> str | None:
    known = run.environment.get("host")
    amount = known.get("memory_bytes") if isinstance(known, Mapping) else None
    return f"{size(amount)} memory" if isinstance(amount, int) and not isinstance(amount, bool) else None


def _data(run: Run) -> str:
    name = run.data.get("name")
    return plain(name) if name is not None else ""
