"""Text for stdout: what would run, and what came out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from llmbench.results.schema import Record, Run
from llmbench.stats.verdicts import half_width

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


def rate(record: Record) -> str:
    """Throughput with its interval."""
    if record.throughput is None:
        return ""
    found = record.throughput
    noisy = " ~" if record.noise and record.noise.verdict == "noisy" else ""
    return f"{si(found.value)} {found.unit} ± {half_width(found.value, found.ci95):.1%}{noisy}"


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
    return f"{record.error.type}: {record.error.message}" if record.error else ""


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


def summary(run: Run, records: list[Record], folder: Path, report: Path) -> str:
    """The end of a run: what came out, what is wrong, where the report is, what to do next."""
    parts = [_result_table(records)] if records else []
    text = _held_out(records)
    if text:
        parts.append(text)
    problems = [record for record in records if record.status not in ("ok", "skipped")]
    for record in [*problems, *(record for record in records if record.status == "skipped")]:
        hint = f"\n    {record.error.hint}" if record.error and record.error.hint else ""
        parts.append(f"{status_word(record.status)} {record.case}: {_reason(record)}{hint}")
    noisy = [record for record in records if record.noise and record.noise.verdict == "noisy"]
    if noisy:
        worst = max(noisy, key=lambda record: record.noise.cv if record.noise else 0.0)
        parts.append(f"~ {len(noisy)} noisy: {worst.case}: {worst.noise.cause if worst.noise else ''}")
    missing = len(run.cases) - len(records)
    done = sum(record.status == "ok" for record in records)
    skipped = sum(record.status == "skipped" for record in records)
    verdict = f"{done} of {len(run.cases)} cases trained right"
    verdict += f", {skipped} skipped" if skipped else ""
    verdict += f", {len(problems)} did not" if problems else ""
    verdict += f", {missing} not run" if missing else ""
    parts.append(f"{verdict}\nreport: {report}")
    if problems or missing:
        parts[-1] += f"\nagain:  llmbench run --resume {folder}"
    return "\n\n".join(parts)


def _result_table(records: list[Record]) -> str:
    eager = {record.workload: record for record in records if record.mode == "eager"}
    lines = [["case", "status", "throughput", "speed-up", "memory", "loss", "held-out"]]
    for record in records:
        base = eager.get(record.workload)
        speed_up = ""
        if record.throughput and base and base.throughput and base is not record:
            speed_up = f"{record.throughput.value / base.throughput.value:.2f}×"
        lines.append(
            [
                record.case,
                status_word(record.status),
                rate(record),
                speed_up,
                memory(record),
                f"{_number(record.loss.first)} → {_number(record.loss.final)}" if record.loss else "",
                _number(record.loss.eval) if record.loss else "",
            ]
        )
    return columns(lines)


def _held_out(records: list[Record]) -> str:
    """Perplexity beside that of the word frequencies of the same text, which is what a model must beat."""
    lines = [["held-out text", "perplexity", "unigram", "floor"]]
    for record in records:
        references = {known.name: known.value for known in record.loss.references} if record.loss else {}
        perplexity = record.metrics.get("perplexity")
        if perplexity is None or "unigram" not in references:
            continue
        floor = references.get("source entropy")
        lines.append(
            [
                record.case,
                f"{perplexity:.1f}",
                f"{math.exp(references['unigram']):.1f}",
                f"{math.exp(floor):.1f}" if floor is not None else "–",
            ]
        )
    return columns(lines) if len(lines) > 1 else ""


def _number(value: float | None) -> str:
    return "not finite" if value is None or not math.isfinite(value) else f"{value:.3f}"
