"""Text for stdout: what would run, and what came out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.results.nodes import difference_lines, place_of
from llmbench.results.schema import Record, Run
from llmbench.stats.verdicts import half_width

if TYPE_CHECKING:
    from llmbench.report.run.rungs import Ladder, Rung
    from llmbench.report.run.speedup import Speedup

SYMBOLS = {"ok": "PASS", "skipped": "SKIP", "invalid": "INVALID", "aborted": "ABORTED", "timeout": "TIMEOUT"}


def status_word(status: str) -> str:
    return SYMBOLS.get(status, "OOM" if status == "oom" else "FAIL")


def bytes_text(count: float | None) -> str:
    """1.5 GiB."""
    if count is None:
        return "–"
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def si(value: float) -> str:
    """12.3 k: three digits that matter."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    power = min(5, max(0, int(math.log10(abs(value)) // 3)))
    return f"{value / 1000**power:.3g} {'kMGTP'[power - 1] if power else ''}".strip()


def rate(record: Record, *, unit: bool = True) -> str:
    """Throughput with its interval."""
    if record.throughput is None:
        return ""
    found = record.throughput
    noisy = " ~" if record.noise and record.noise.verdict == "noisy" else ""
    value = f"{si(found.value)} {found.unit}" if unit else si(found.value)
    return f"{value} ± {half_width(found.value, found.ci95):.1%}{noisy}"


def memory(record: Record) -> str:
    """The peak: of the device's allocator, or on a CPU of the resident set."""
    if record.memory is None:
        return ""
    return bytes_text(record.memory.peak_allocated_bytes or record.memory.peak_rss_bytes)


def case_line(number: int, total: int, record: Record) -> str:
    """One finished case in one line of a log."""
    width = len(str(total))
    head = f"[{number:{width}}/{total}] {status_word(record.status):7} {record.case:34}"
    if record.throughput is None:
        return f"{head} {_reason(record)}"
    text = f"{head} {rate(record):32} {memory(record):>9}"
    return f"{text}  {_reason(record)}".rstrip()


def _reason(record: Record) -> str:
    if record.error is None:
        return ""
    told = record.error.type.lower() == record.status  # the status says it already
    said = record.error.message if told else f"{record.error.type}: {record.error.message}"
    place = place_of(record.error)
    return f"{said} ({place})" if place else said


def plan_table(rows: list[dict[str, Any]]) -> str:
    """What would run, for people."""
    lines = [["case", "parameters", "trainable", "steps", "per step", "FLOPs/step", "memory (estimate)"]]
    for row in rows:
        lines.append(
            [
                row["case"],
                _known(row["parameters"]),
                _known(row["trainable"]),
                str(row["steps"]),
                f"{row['work_per_step']:,} {row['unit']}",
                _known(row["flops_per_step"]),
                "cannot run" if row["refused"] else bytes_text((row["memory_bytes"] or {}).get("total")),
            ]
        )
    return columns(lines) + f"\n{len(rows)} cases; memory without Python and torch themselves"


def _known(value: float | None) -> str:
    return "–" if value is None else si(value)


def columns(rows: list[list[str]], gap: str = "  ") -> str:
    """Rows with aligned columns: the first left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(gap.join(_aligned(row, widths)).rstrip() for row in rows)


def _aligned(row: list[str], widths: list[int]) -> list[str]:
    first, *others = zip(row, widths, strict=True)
    return [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]


def summary(run: Run, records: list[Record], folder: Path, report: Path, again: str | None = None) -> str:
    """The end of a run: what came out, what is wrong, where the report is, what to do next.

    Args:
        again: how what is missing or failed is run; by default as a run on these machines.
    """
    ran = [record for record in records if record.status != "skipped"]
    skipped = [record for record in records if record.status == "skipped"]
    problems = [record for record in ran if record.status != "ok"]
    parts = [
        differences_between_nodes(run),
        _result_table(ran),
        ladder_table(run, records),
        _held_out(ran),
        *(_told(group, "\n    ") for group in _alike(problems)),
        "\n".join(_told(group, " ", brief=True) for group in _alike(skipped)),
        _noise(records),
    ]
    missing = len(run.cases) - len(records)
    verdict = f"{len(ran) - len(problems)} of {len(run.cases)} cases trained right"
    verdict += f", {len(skipped)} skipped" if skipped else ""
    verdict += f", {len(problems)} did not" if problems else ""
    verdict += f", {missing} not run" if missing else ""
    parts.append(f"{verdict}\nreport: {report}")
    if problems or missing:
        nodes = f" --nnodes {len(run.nodes)} …, on every node" if len(run.nodes) > 1 else ""
        parts[-1] += f"\nagain:  {again or f'llmbench run --resume {folder}{nodes}'}"
    return "\n\n".join(filter(None, parts))


def differences_between_nodes(run: Run) -> str:
    """How the nodes differ; empty where they do not, or there is one."""
    lines, more = difference_lines(run.nodes)
    if not lines:
        return ""
    return "\n".join(
        ["the nodes differ:", *(f"  ! {line}" for line in lines), *([f"  and {more} more"] if more else [])]
    )


def _alike(records: Sequence[Record]) -> list[list[Record]]:
    """Records that ended in the same way for the same reason, together."""
    groups: dict[tuple[str, str, str | None], list[Record]] = {}
    for record in records:
        hint = record.error.hint if record.error else None
        groups.setdefault((record.status, _reason(record), hint), []).append(record)
    return list(groups.values())


def _told(group: Sequence[Record], gap: str, *, brief: bool = False) -> str:
    """How many cases, which, why, and behind ``gap`` what would help; briefly without the type of the error."""
    error = group[0].error
    amount = f"{len(group)} × " if len(group) > 1 else ""
    reason = error.message if brief and error else _reason(group[0]) or "no reason was recorded"
    hint = error.hint if error else None
    fix = f"{gap}({hint})" if brief and hint else f"{gap}{hint}" if hint else ""
    return f"{status_word(group[0].status)} {amount}{_names(group)}: {reason}{fix}"


def _names(records: Sequence[Record], longest: int = 40) -> str:
    """What the cases are, as short as can be: ``bf16, fp16 of gpt-tiny, bert-tiny``."""
    if len(records) == 1:
        return records[0].case
    workloads = dict.fromkeys(record.workload for record in records)
    return f"{_listed(dict.fromkeys(record.mode for record in records), longest)} of {_listed(workloads, longest)}"


def _listed(names: Iterable[str], longest: int) -> str:
    """Names with commas, cut after about ``longest`` characters: ``a, b and 5 more``."""
    first, *others = names
    text = first
    for index, name in enumerate(others):
        if len(text) + len(name) > longest:
            return f"{text} and {len(others) - index} more"
        text += f", {name}"
    return text


def _noise(records: Sequence[Record]) -> str:
    """The cause of the noisiest case: the others differ in their numbers."""
    noisy = [record for record in records if record.noise and record.noise.verdict == "noisy"]
    if not noisy:
        return ""
    worst = max(noisy, key=lambda record: record.noise.cv if record.noise else 0.0)
    most = f"{worst.case} the most" if len(noisy) > 1 else worst.case
    return f"~ {len(noisy)} noisy, {most}: {worst.noise.cause if worst.noise else ''}"


def _result_table(records: Sequence[Record]) -> str:
    """What every case came to; columns that none fills are left out."""
    if not records:
        return ""
    eager = _eager(records)
    units = {record.throughput.unit for record in records if record.throughput}
    throughput = next(iter(units)) if len(units) == 1 else "throughput"
    heads = ["case", "status", throughput, "speed-up", "scaling", "memory", "loss", "parity"]
    rows = [
        [
            record.case,
            status_word(record.status),
            rate(record, unit=len(units) > 1),
            _speed_up(record, eager.get(record.workload)),
            f"{record.scaling.efficiency:.0%}" if record.scaling else "",
            memory(record),
            _number(record.loss.eval) if record.loss else "",
            _of_limit(record),
        ]
        for record in records
    ]
    kept = [index for index in range(len(heads)) if index < 3 or any(row[index] for row in rows)]
    notes = {
        "scaling": "scaling: efficiency against the fewest ranks",
        "loss": "loss: held out",
        "parity": "parity: share of its limit",
    }
    said = "; ".join(notes[heads[index]] for index in kept if heads[index] in notes)
    text = columns([[row[index] for index in kept] for row in [heads, *rows]])
    return f"{text}\n{said}" if said else text


def _eager(records: Sequence[Record]) -> dict[str, Record]:
    """Of each workload, the eager case at the smallest world size."""
    found = sorted((record for record in records if record.mode == "eager"), key=lambda record: -record.world_size)
    return {record.workload: record for record in found}


def _speed_up(record: Record, base: Record | None) -> str:
    """Over eager; of trainings that were right only."""
    if base is None or base is record or record.status != "ok" or base.status != "ok":
        return ""
    if record.throughput is None or base.throughput is None:
        return ""
    return f"{record.throughput.value / base.throughput.value:.2f}×"


def _of_limit(record: Record) -> str:
    """The decisive check's value as a share of its limit."""
    found = record.parity
    if found is None:
        return ""
    if found.value is None or not math.isfinite(found.value):
        return "not finite"
    return f"{found.value / found.limit:.2g}×" if found.value > found.limit > 0 else _percent(found.value, found.limit)


def _percent(value: float, limit: float) -> str:
    return f"{value / limit:.0%}" if limit else f"{value:.2g}"


def ladder_table(run: Run, records: Sequence[Record]) -> str:
    """What each technique of a ladder brought over the rung before it; empty if the run is no ladder."""
    from llmbench.report.run.rungs import ladders

    return "\n\n".join(_ladder(ladder) for ladder in ladders(run, records))


def _ladder(ladder: Ladder) -> str:
    name = f"{ladder.workload} {ladder.variant}".strip()
    lines = [[name, ladder.unit, "", "over eager", "over before", "memory", "", "parity / limit", "compile (warm)"]]
    notes = []
    for rung in ladder.rungs:
        record = rung.record
        if not rung.counts:
            word = "NOT RUN" if record is None else status_word(record.status)
            lines.append([rung.name, word, *[""] * 7])
            notes.append(_cut(f"{rung.name}: {rung.reason}", 110) if record else "")
            continue
        assert record is not None
        assert record.throughput is not None
        lines.append(
            [
                rung.name,
                si(record.throughput.value),
                f"± {half_width(record.throughput.value, record.throughput.ci95):.1%}",
                _over(rung.over_eager),
                _over(rung.over_before),
                bytes_text(rung.memory_bytes),
                f"{rung.memory_change:+.0%}" if rung.memory_change is not None else "",
                f"{record.parity.value:.2g} / {record.parity.limit:.2g}"
                if record.parity and record.parity.value is not None
                else "",
                _compiled(rung),
            ]
        )
    return "\n".join([columns(lines), *filter(None, notes)])


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _over(found: Speedup | None) -> str:
    """A ratio, and whether its interval holds 1."""
    if found is None:
        return ""
    return f"{'≈ ' if found.undecided else ''}{found.value:.2f}×"


def _compiled(rung: Rung) -> str:
    cold, warm = rung.compile_seconds
    said = f"{cold:.1f} s" if cold is not None else ""
    return f"{said} ({warm:.1f} s)".strip() if warm is not None else said


def _held_out(records: Sequence[Record]) -> str:
    """Perplexity of each workload beside that of the word frequencies of the same text, which a model must beat."""
    lines = [["held-out text", "perplexity", "unigram", "floor"]]
    for workload in dict.fromkeys(record.workload for record in records):
        found = [record for record in records if record.workload == workload]
        known = {one.name: one.value for record in found if record.loss for one in record.loss.references}
        reached = [record.metrics.get("perplexity") for record in found if record.status == "ok"]
        finite = [value for value in reached if value is not None]
        if not finite or "unigram" not in known:
            continue
        low, high = f"{min(finite):.1f}", f"{max(finite):.1f}"
        floor = known.get("source entropy")
        lines.append(
            [
                workload,
                low if low == high else f"{low} to {high}",
                f"{math.exp(known['unigram']):.1f}",
                f"{math.exp(floor):.1f}" if floor is not None else "–",
            ]
        )
    return columns(lines) if len(lines) > 1 else ""


def _number(value: float | None) -> str:
    return "not finite" if value is None or not math.isfinite(value) else f"{value:.3f}"
