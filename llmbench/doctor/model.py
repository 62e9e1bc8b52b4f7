"""The words of doctor: a check asks, a finding answers, a diagnosis is all of them."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from llmbench.results.redact import MASK, is_secret_name, redact

if TYPE_CHECKING:
    from llmbench.doctor.runner import Context

SCHEMA_VERSION = 1

Verdict = Literal["pass", "warn", "fail", "skip", "incomplete"]
VERDICTS: tuple[Verdict, ...] = ("fail", "incomplete", "warn", "pass", "skip")
"""Worst first. ``incomplete``: the check could not be carried out, so nothing is known."""

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]+")


@dataclass(frozen=True)
class Finding:
    """One answer. What is not ``pass`` or ``skip`` has a cause and a fix.

    Attributes:
        verdict: see ``VERDICTS``.
        evidence: what was read or measured, and from where.
        cause: why it is so, and what it does to training.
        fix: the command or the change that mends it.
        link: documentation or the upstream report.
        fault: id of the ``Fault`` that was found.
        script: shell commands of the fix, if it is safe to run them without a second thought.
        root: id of the check that this follows from: it was not asked for its sake, or failed because of it.
        nodes: node ranks that it names, of a check between nodes.
    """

    verdict: Verdict
    evidence: str
    cause: str | None = None
    fix: str | None = None
    link: str | None = None
    fault: str | None = None
    script: str | None = None
    root: str | None = None
    nodes: tuple[int, ...] = ()


def passed(evidence: str) -> Finding:
    return Finding("pass", evidence)


def skipped(reason: str) -> Finding:
    return Finding("skip", reason)


@dataclass(frozen=True)
class Fault:
    """One thing that can be wrong with a machine, told apart from all others.

    Texts may hold ``<placeholders>``, which the finding fills; ``<python>`` is the interpreter under test.

    Attributes:
        id: stable, ``area.check.fault``.
        verdict: ``fail`` if training breaks or computes wrong, ``warn`` if it is slower or will break later.
        title: what is wrong, in a line.
        cause: why it is so, and what it does to training.
        fix: what mends it.
        link: documentation or an upstream report.
        script: shell commands of the fix, if it is safe to run them without a second thought.
    """

    id: str
    verdict: Literal["fail", "warn"]
    title: str
    cause: str
    fix: str
    link: str | None = None
    script: str | None = None

    @property
    def check(self) -> str:
        """Id of the check that finds it."""
        return self.id.rpartition(".")[0]

    def found(
        self,
        evidence: str,
        *,
        verdict: Literal["fail", "warn"] | None = None,
        cause: str | None = None,
        fix: str | None = None,
        script: str | None = None,
        **values: object,
    ) -> Finding:
        """The finding that it is here.

        Args:
            evidence: what was read or measured, and from where.
            verdict: if it is graver, or less grave, than in general; so with ``cause``, ``fix`` and ``script``.
            values: for the placeholders; ``free_space`` fills ``<free space>``.
        """
        script = script or (None if fix else self.script)
        return Finding(
            verdict or self.verdict,
            evidence,
            fill(cause or self.cause, values),
            fill(fix or self.fix, values),
            self.link,
            self.id,
            script and fill_script(script, values),
        )


def fill(text: str, values: Mapping[str, object]) -> str:
    """The text with ``<name>`` replaced for each name that has a value."""
    for name, value in values.items():
        text = text.replace(f"<{name.replace('_', ' ')}>", str(value))
    return text


def fill_script(script: str, values: Mapping[str, object]) -> str:
    """As ``fill``, with each value quoted for the shell as one word; a list or tuple as so many words."""

    def words(value: object) -> str:
        return " ".join(map(_word, map(str, value))) if isinstance(value, list | tuple) else _word(str(value))

    return fill(script, {name: words(value) for name, value in values.items()})


def _word(text: str) -> str:
    """Quoted for the shell, unless it is quoted already: fixes, too, are filled with what is to be copied."""
    try:
        parts = shlex.split(text)
    except ValueError:
        parts = []
    quoted = len(parts) == 1 and shlex.quote(parts[0]) == text
    return text if quoted else shlex.quote(text)


@dataclass(frozen=True)
class Check:
    """One question.

    Attributes:
        id: stable, ``area.name``.
        area: the first part of the id; ``--only`` selects by it.
        title: what is asked, in a few words.
        deadline: seconds after which its process is killed.
        needs: ids of the checks without which this one could only repeat their fault: it is not asked if one failed.
        follows: ids of the checks whose fault would explain one found here, which is then told under it.
        deep: it is slow, and asked only with ``--deep`` or by its id.
        alone: it measures, so that nothing else may run beside it.
        run: gives the findings. It may keep what others need in ``context.facts``.
    """

    id: str
    area: str
    title: str
    deadline: float
    needs: tuple[str, ...]
    run: Callable[[Context], Iterator[Finding]]
    follows: tuple[str, ...] = ()
    deep: bool = False
    alone: bool = False


@dataclass(frozen=True)
class Answer:
    """The findings of one check."""

    check: Check
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """The worst of its findings."""
        verdicts = {finding.verdict for finding in self.findings}
        return next((verdict for verdict in VERDICTS if verdict in verdicts), "pass")


@dataclass(frozen=True)
class Diagnosis:
    """What doctor found in one environment.

    Attributes:
        python: the interpreter that was judged.
        answers: one per check that was asked, in the order of the registry.
        facts: what was read on the way: versions, devices, compiler …
        environment: the variables that matter to training, redacted.
        seconds: wall time of all checks.
        started_at: ISO 8601, UTC.
        deep: whether ``--deep`` was asked for.
    """

    python: str
    answers: tuple[Answer, ...]
    facts: dict[str, Any]
    environment: dict[str, str]
    seconds: float
    started_at: str
    deep: bool = False
    llmbench: str = field(default="")

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many findings there are of each verdict."""
        verdicts = [finding.verdict for answer in self.answers for finding in answer.findings]
        return {verdict: verdicts.count(verdict) for verdict in VERDICTS}

    @property
    def verdict(self) -> Verdict:
        """``fail`` if anything failed or could not be carried out, else ``warn`` if anything warned, else ``pass``."""
        counts = self.counts
        if counts["fail"] or counts["incomplete"]:
            return "fail"
        return "warn" if counts["warn"] else "pass"

    def exit_code(self, strict: bool = False) -> int:
        """0: nothing failed; 1: something did, or with ``strict`` warned."""
        return int(self.verdict == "fail" or (strict and self.verdict == "warn"))

    def of(self, *verdicts: Verdict) -> list[tuple[Check, Finding]]:
        """The findings with these verdicts, worst first, else in the order of the checks."""
        found = [(a.check, f) for a in self.answers for f in a.findings if f.verdict in verdicts]
        return sorted(found, key=lambda pair: VERDICTS.index(pair[1].verdict))

    def to_json(self) -> dict[str, Any]:
        """The document that ``--json`` prints and ``--html`` draws; every text in it is redacted and printable."""
        from llmbench.doctor.headline import headline

        document: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "llmbench": self.llmbench,
            "headline": headline(self),
            "verdict": self.verdict,
            "counts": self.counts,
            "python": self.python,
            "started_at": self.started_at,
            "seconds": round(self.seconds, 2),
            "deep": self.deep,
            "checks": [answer_json(answer) for answer in self.answers],
            "facts": self.facts,
            "environment": self.environment,
        }
        ours = ("verdict", "counts", "checks")  # their words are known, and no secret looks like them
        return {key: value if key in ours else clean(value) for key, value in document.items()}


def answer_json(answer: Answer) -> dict[str, Any]:
    """One of ``checks`` in the document; its texts are redacted."""
    check = answer.check
    return {
        "id": check.id,
        "area": check.area,
        "title": check.title,
        "verdict": answer.verdict,
        "seconds": round(answer.seconds, 2),
        "needs": list(check.needs),
        "follows": list(check.follows),
        "findings": [_finding_json(finding) for finding in answer.findings],
    }


def _finding_json(finding: Finding) -> dict[str, Any]:
    from llmbench.doctor.checks.registry import title_of

    ours = ("verdict", "link", "fault", "root")
    said = {name: value if name in ours else clean(value) for name, value in vars(finding).items()}
    nodes = said.pop("nodes")
    return said | {"title": title_of(finding.fault)} | ({"nodes": list(nodes)} if nodes else {})


def clean(value: Any) -> Any:
    """The value with every text redacted, without control characters, and with bytes that are no UTF-8 escaped."""
    if isinstance(value, str):
        known = redact(value)
        shown = _printable(known)
        # A secret may hold what is not printable, or be made whole by leaving it out.
        return shown if shown == known else redact(shown)
    if isinstance(value, dict):
        return {clean(key): _clean_item(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no word for it
    return value if value is None or isinstance(value, bool | int | float) else clean(str(value))


def _clean_item(name: Any, value: Any) -> Any:
    return MASK if isinstance(value, str) and isinstance(name, str) and is_secret_name(name) else clean(value)


def _printable(text: str) -> str:
    """The arguments of a command line are kept apart by a control character."""
    text = _CONTROL.sub(" ", _COLOUR.sub("", text))
    return text.encode("utf-8", "backslashreplace").decode()
