"""One node's share of a job that several do together: which ranks, by which network, and what comes back of it."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from llmbench.launch.target import Outcome, RankState, log_of

LONGEST_LOG = 200_000  # characters of each log that travel; of a longer one, the end
LONGEST_EVIDENCE = 2_000_000


def fill(world_size: int, processes: Sequence[int]) -> list[int]:
    """How many ranks each node has, filled in order; nodes without any are left out.

    Args:
        processes: ranks that each node can take.

    Returns:
        Fewer than ``world_size`` in all, if there is no room for them.
    """
    counts = []
    for most in processes:
        if world_size <= 0:
            break
        counts.append(min(most, world_size))
        world_size -= most
    return counts


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as found:
        found.bind(("", 0))
        port: int = found.getsockname()[1]
    return port


def interface_of(address: str) -> str | None:
    """The network interface that has an address of this machine; None if none has it."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in addresses):
            return name
    return None


def packed(outcome: Outcome, evidence: Path | None = None) -> dict[str, Any]:
    """An outcome as a message, with what its processes wrote.

    Args:
        evidence: folder of a file for each rank (``worker/evidence.py``).
    """
    files = sorted(evidence.glob("rank*.jsonl")) if evidence and evidence.is_dir() else []
    plain = {key: value for key, value in asdict(outcome).items() if key not in ("log", "log_begin", "ranks", "parts")}
    return plain | {
        "log": outcome.log_text()[-LONGEST_LOG:],
        "ranks": {
            str(rank): asdict(state) | {"log": outcome.log_text(rank)[-LONGEST_LOG:]}
            for rank, state in outcome.ranks.items()
        },
        "evidence": {
            file.name: file.read_text(encoding="utf-8", errors="replace")[-LONGEST_EVIDENCE:] for file in files
        },
    }


def unpacked(message: Mapping[str, Any], log: Path, node: int, evidence: Path | None = None) -> Outcome:
    """The outcome of a message; its logs lie beside that of the job, as if all ranks had been here.

    Args:
        evidence: folder that gets the files of its ranks.

    Raises:
        OSError: they cannot be written.
    """
    outcome = Outcome(**{key: value for key, value in message.items() if key not in ("log", "ranks", "evidence")})
    outcome.log = log.with_name(f"{log.stem}.node{node}{log.suffix}")
    outcome.log_begin = _append(outcome.log, message["log"])
    outcome.evidence = evidence
    for rank, state in message["ranks"].items():
        begin = _append(log_of(log, int(rank)), state.pop("log"))
        outcome.ranks[int(rank)] = RankState(**(state | {"log_begin": begin}))
    if evidence is not None and message["evidence"]:
        evidence.mkdir(parents=True, exist_ok=True)
        for name, text in message["evidence"].items():
            (evidence / Path(name).name).write_text(text, encoding="utf-8")
    return outcome


def _append(file: Path, text: str) -> int:
    """Where the text begins in the file."""
    with open(file, "a", encoding="utf-8") as out:
        begin = out.tell()
        out.write(text)
    return begin
