"""The page of a run: verdict first, then speed, memory and loss of every workload, then every case."""

from __future__ import annotations

import shlex
from pathlib import Path

from llmbench.report import environment
from llmbench.report.charts.stacks import patterns
from llmbench.report.page import render, write_page
from llmbench.report.run import memory, pareto, summary
from llmbench.report.run.cases import matrix_size, read_cases
from llmbench.report.run.data import COLUMNS, document
from llmbench.report.run.details import details as all_details
from llmbench.report.run.explore import explore
from llmbench.report.run.heading import meta, title
from llmbench.report.run.ladder import ladder_views
from llmbench.report.run.matrix import STEPS, matrix
from llmbench.report.run.nodes import nodes_view
from llmbench.report.run.pick import RULE, inked, picked
from llmbench.report.run.roofline import roofline_section
from llmbench.report.run.shared import told_once
from llmbench.report.run.table import table as all_cases
from llmbench.report.run.workloads import panels
from llmbench.report.verdict import URGENCY, VERDICTS, pills
from llmbench.results.store import RunFolder

_SHOWN_AT_ONCE = 5  # groups of attention on the first screen


def run_page(folder: RunFolder) -> str:
    """The HTML of a run that is finished, still going on, or was killed.

    Raises:
        UserError: the folder holds no run. What is damaged in one is shown, and named in ``folder.damage``.
    """
    run = folder.recorded_run()
    cases = read_cases(folder, run)
    damage = [told.removeprefix(f"{folder.path}/") for told in folder.damage]
    drawn = [case.id for row in matrix(cases).rows for case in picked(row.cases)]
    cases = inked(cases, [case for case in cases if case.id in drawn])
    speeds = matrix(cases)
    speedups = speeds.speedups()
    calm = summary.unmeasured(cases)
    ran = [case for case in cases if case.verdict.key not in ("skipped", "missing")]
    shared, details = told_once(all_details(ran, [case for case in ran if case.id in drawn], speedups))
    attention = [group for group in summary.attention(cases, run, str(folder.path)) if group.verdict.key != "skipped"]
    attention += summary.damaged_files(damage, cases)
    attention.sort(key=lambda group: URGENCY.index(group.verdict.key))
    skipped = [group for group in calm if group.verdict.key == "skipped"]
    workloads = panels(speeds)
    return render(
        "run.html.j2",
        document(run, cases),
        styles=["run", "explore"],
        scripts=["tables", "plot", "explore"],
        columns=COLUMNS,
        run=run,
        title=title(run),
        meta=meta(run),
        subtitle=matrix_size(cases),
        pills=pills((case.verdict for case in cases), VERDICTS),
        nodes=nodes_view(run),
        attention=attention[:_SHOWN_AT_ONCE],
        more_attention=attention[_SHOWN_AT_ONCE:],
        environment=environment.summary(run),
        every_key=environment.every_key(run),
        command=shlex.join(run.command),
        figures=summary.figures(cases, speeds),
        matrix=speeds,
        ramp=list(STEPS),
        notes={entry.note for row in speeds.rows for cell in row.cells for entry in cell},
        legend=list(dict.fromkeys(case.column for case in cases if case.id in drawn)),
        pick_rule=RULE,
        groups=speeds.groups() if speeds.turned else [],
        left_out=speeds.left_out() if speeds.turned else [],
        ladders=ladder_views(run, cases),
        panels=workloads,
        explore=explore(speeds),
        memory_kinds=memory.legend([panel.memory for panel in workloads]),
        patterns=patterns(),
        tradeoffs=pareto.pareto_views(speeds),
        shapes=pareto.shape_legend([case for case in cases if case.throughput is not None]),
        hollow=any(case.throughput is not None and not case.counts for case in cases),
        roofline=roofline_section(speeds),
        table=all_cases(ran, calm, speedups),
        calm=calm,
        skipped=skipped,
        skipped_cases=sum(len(group.cases) for group in skipped),
        shared=shared,
        details=details,
    )


def write_run_report(folder: RunFolder) -> Path:
    """Writes ``report.html`` into the run's folder, in one step.

    Raises:
        UserError: as ``run_page``.
        OSError: the folder cannot be written.
    """
    write_page(folder.report, run_page(folder))
    return folder.report
