"""How many sequences or samples are staged for one optimizer step."""

from __future__ import annotations

from typing import Any


def global_batch(config: dict[str, Any]) -> int:
    """Of one optimizer step over all ranks; the loop cuts it into ranks and micro-batches.

    A case that was planned before there were ranks has the micro-batch only, which is the same in one process.
    """
    return int(config.get("global_batch_size") or config["micro_batch_size"])
