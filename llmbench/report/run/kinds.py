"""What kind of technique a mode is about: the groups in which many modes are shown."""

from __future__ import annotations

from llmbench.suite.modes import MODES

OTHER = "Other"
_KINDS = {
    "parallel": "Parallel",
    "attention": "Attention",
    "recompute": "Memory",
    "accumulation": "Memory",
    "head": "Memory",
    "offload": "Memory",
    "compile": "Compile and optimizer",
    "optimizer": "Compile and optimizer",
    "precision": "Precision",
}
"""By axis; a mode of several axes belongs to the first of them here."""

KINDS = ["Precision", "Compile and optimizer", "Memory", "Attention", "Parallel", OTHER]
"""In the order of a page."""


def kind(mode: str) -> str:
    """Of a mode as a record spells it; eager is the precision fp32."""
    if mode == "eager":
        return "Precision"
    axes = {MODES[part].axis for part in mode.split("+") if part in MODES}
    return next((title for axis, title in _KINDS.items() if axis in axes), OTHER)
