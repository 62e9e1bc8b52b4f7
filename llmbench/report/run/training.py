"""How one case trained, whether it was right, and what it was given, as names and texts: only what there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmbench.report.format import NOTHING, flatten, number, of_limit, plain, short, si
from llmbench.report.run.cases import CaseView
from llmbench.report.run.section import CONFIGURATION, Facts, Section, filled
from llmbench.report.run.workloads import metric_text, metric_title
from llmbench.results.schema import ParityCheck, Record


def trained(case: CaseView, record: Record) -> list[Section]:
    """Training, parity and configuration."""
    return filled(
        [
            Section("Training", _training(case, record)),
            _parity(record),
            Section("Began with", _beginning(record)),
            Section(CONFIGURATION, [(key, _setting(value)) for key, value in record.config.items()]),
        ]
    )


def _setting(value: Any) -> str:
    """A setting; those of the model as one line. What is unset says so by a dash that stays."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in flatten(value))
    return plain(value)


def _training(case: CaseView, record: Record) -> Facts:
    loss = record.loss
    facts = []
    if loss:
        finite = "finite" if loss.finite else "not finite"
        fell = "fell" if loss.learned else "did not fall"
        facts += [
            ("loss", f"{number(loss.first, 4)} → {number(loss.final, 4)}, {finite}, {fell}"),
            ("held-out loss", number(loss.eval, 4)),
        ]
    return [
        *facts,
        *((metric_title(name), metric_text(name, value)) for name, value in record.metrics.items()),
        ("log", record.log if record.log and case.verdict.tone == "bad" else NOTHING),
        ("series", case.series_fault or NOTHING),
    ]


def _beginning(record: Record) -> Facts:
    """What the training was given, and what else was made sure of."""
    known = record.parameters
    references = record.loss.references if record.loss else []
    return [
        ("parameters", f"{known.total:,}, {known.trainable:,} trainable" if known else NOTHING),
        ("FLOPs of a step", _flops(record)),
        *((f"{reference.name} ({reference.kind})", number(reference.value, 4)) for reference in references),
        *((name.replace("_", " "), plain(value)) for name, value in flatten(record.facts)),
    ]


def _parity(record: Record) -> Section:
    """Each check: what was compared with what, and how far it went of its limit."""
    found = record.parity
    if found is None:
        return Section("Parity", [])
    checks = found.checks or [found]  # records of an older llmbench hold one comparison only
    facts, terms = [], []
    for index, check in enumerate(checks):
        again = sum(other.reference == check.reference for other in checks[:index])
        name = f"against {check.reference}" + (f" ({again + 1})" if again else "")
        facts.append((name, _check(check)))
        terms.append((f"measure {name}", check.metric))
    if found.deterministic is not None:
        same = "bitwise the same" if found.deterministic else "not bitwise the same"
        terms.append(("eager fp32 twice", f"{same}, from the same weights and batches"))
    return Section("Parity", facts, terms)


def _flops(record: Record) -> str:
    if record.flops_per_step is None:
        return NOTHING
    return si(record.flops_per_step, "FLOP") + (f" ({record.flops_source})" if record.flops_source else "")


def _check(check: ParityCheck) -> str:
    value = "not finite" if check.value is None else number(check.value, 2)
    text = f"{check.verdict}: {value} of {short(check.limit, 2)}"
    text += f" ({of_limit(check.value, check.limit)})" if check.value is not None and check.limit else ""
    text += f", from step {check.step}" if check.step is not None else ""
    return text + (f", at {check.tensor}" if check.tensor else "")
