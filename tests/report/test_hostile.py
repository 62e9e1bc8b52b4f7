"""Every page, built from documents that mean harm: it is built, it is whole, nothing in it acts, nothing is dropped."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from llmbench.errors import UserError
from llmbench.report import doctor_page, run_page
from llmbench.report.ab import ab_page
from llmbench.report.benchmarks import benchmarks_page
from llmbench.report.compare import compare_page
from llmbench.report.compare.environment import environments
from llmbench.report.doctor_nodes import doctor_nodes_page
from llmbench.report.format import printable
from llmbench.report.history import history_page
from llmbench.report.scan import scan_page
from llmbench.results.ab import AbSide
from llmbench.results.ab_folder import AbFolder
from llmbench.results.benchmarks import BenchmarkFile
from llmbench.results.history import History, read_history
from llmbench.results.scan import UNITS, Gate, PairTest, Scan, ScanNode, SlowLink, read_scan
from llmbench.results.schema import Error, Memory, PlannedCase, Record, Run, Series
from llmbench.results.sides import load
from llmbench.results.store import RunFolder
from llmbench.stats.ab import compared
from llmbench.stats.comparison import Rules
from llmbench.stats.judge import compare_sides
from llmbench.stats.metrics import METRICS
from llmbench.stats.ratios import ratio_history
from llmbench.stats.scan.document import simulated_scan
from llmbench.stats.scan.simulate import parse_spec
from llmbench.stats.selfcheck import judged_self_checks
from llmbench.stats.trends import reference_case, trends
from tests import ab_factory, factory
from tests.doctor import made as doctor_made
from tests.doctor.nodes import test_page as nodes_page
from tests.report import hostile
from tests.report.html_reader import Page
from tests.results.test_salvage import inside, spoil

ELEMENTS = frozenset(
    re.findall(
        r"\w+",
        "html head meta title style script body header nav main section footer div span p h1 h2 h3 h4 ul ol li dl dt "
        "dd pre code kbd em strong small sub sup b i br wbr a button label input select option output fieldset legend "
        "details summary table caption thead tbody tr th td svg g path rect circle line polyline text tspan desc defs "
        "pattern clippath figure figcaption",
    )
)
"""The only ones that a page is made of: none that loads or embeds."""

UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


@dataclass(frozen=True)
class Built:
    """A page, and texts that it must not drop."""

    source: str
    shown: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """A kind of page.

    Attributes:
        calm: the page of a harmless document.
        build: a page in this folder, of a document made by chance, spoilt to a degree; None where the command would
            refuse the document.
        examples: documents that the test makes.
    """

    name: str
    calm: Callable[[Path], str]
    build: Callable[[Path, Random, float], Built | None]
    examples: int


def written(document: Any) -> str:
    """As JSON with everything that Python's writer lets through: NaN, half surrogate pairs."""
    return json.dumps(document)


def well_formed(document: Any) -> str:
    """The same, as a reader takes it that wants whole characters."""
    return readable(json.dumps(document, ensure_ascii=False))


def readable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


# Runs

GOOD_RUN = json.loads(
    factory.make_run([factory.planned("gpt-tiny", mode) for mode in ("eager", "bf16")]).model_dump_json()
)
GOOD_RECORDS = [
    json.loads(factory.ok_record(factory.planned(*case), steps=70)[0].model_dump_json(by_alias=True))
    for case in (("gpt-tiny", "eager"), ("gpt-tiny", "bf16"), ("lora-tiny", "compile+ddp", 2))
]


def run_of(path: Path, rng: Random, spoilt: float) -> Built:
    records = [_record(rng, spoilt) for _ in range(rng.randrange(5))]
    cases = [hostile.made(PlannedCase, rng, spoilt) for _ in range(rng.randrange(3))]
    known = [record for record in records if isinstance(record, dict) and rng.random() < 0.5]
    cases += [{key: record[key] for key in ("case", "workload", "mode", "config") if key in record} for record in known]
    run = (hostile.poisoned(GOOD_RUN, rng) if rng.random() < 0.5 else hostile.made(Run, rng)) | {"cases": cases}
    if spoilt:
        run = hostile.poisoned(run, rng, spoilt / 4)
        run = run if isinstance(run, dict) else {"cases": cases}
    return write_run(path, run, records, rng, spoilt)


def _record(rng: Random, spoilt: float) -> Any:
    if rng.random() < 0.4:
        record = hostile.poisoned(rng.choice(GOOD_RECORDS), rng, spoilt / 4)
        valid = [key for key in ("status", "parity", "noise", "throughput", "scaling", "loss") if rng.random() < 0.5]
        return record | {key: GOOD_RECORDS[0][key] for key in valid} if isinstance(record, dict) else record
    return hostile.made(Record, rng, spoilt)


def write_run(path: Path, run: dict[str, Any], records: list[Any], rng: Random, spoilt: float = 0.0) -> Built:
    write_files(path, written(run), [written(record) for record in give_files(path, records, rng, spoilt)])
    cases = [*(run["cases"] if isinstance(run.get("cases"), list) else []), *records]
    return Built(run_page(RunFolder(path)), [*named(cases), *lost(records)])


def give_files(path: Path, records: list[Any], rng: Random, spoilt: float) -> list[Any]:
    """Most records get a series and a log, which are written; the records are changed."""
    for part in ("series", "logs"):
        (path / part).mkdir(parents=True)
    for number, record in enumerate(records):
        if isinstance(record, dict) and rng.random() < 0.7:
            record |= {"series": f"series/{number}.json", "log": f"logs/{number}.log"}
            series = hostile.made(Series, rng, spoilt)
            (path / f"series/{number}.json").write_text(written(_curve(series, rng)))
            (path / f"logs/{number}.log").write_text(hostile.text(rng) * 3, encoding="utf-8", errors="surrogatepass")
    return records


def write_files(path: Path, run: str, lines: list[str]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "run.json").write_text(run, encoding="utf-8")
    (path / "records.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def named(cases: list[Any]) -> list[str]:
    return [case["case"] for case in cases if isinstance(case, dict) and isinstance(case.get("case"), str)]


def lost(records: list[Any]) -> list[str]:
    return [f"records.jsonl line {n}" for n, record in enumerate(records, 1) if not isinstance(record, dict)]


def _curve(series: Any, rng: Random) -> Any:
    """Long enough to be drawn, mostly."""
    if isinstance(series, dict) and rng.random() < 0.7:
        amount = rng.choice((1, 2, 70, 300))
        return series | {
            "loss": [hostile.number(rng) if rng.random() < 0.1 else 5 / (1 + step) for step in range(amount)],
            "step_seconds": [abs(hostile.number(rng)) for _ in range(amount)],
            "first_timed_step": rng.choice((0, 20, -5, 10**6)),
        }
    return series


def calm_run(path: Path) -> str:
    return run_page(factory.plain_run(path, ["gpt-tiny"], ["eager"]))


# Diagnoses

GOOD_DIAGNOSIS = json.loads(
    written(
        doctor_made.diagnosis(
            (
                "torch.version",
                doctor_made.failed("2.4", fault="old", link="https://pytorch.org/", script="pip x"),
            ),
            ("python.version", doctor_made.warned("3.9")),
            ("gpu.driver", doctor_made.failed("535", fault="driver-old", root="torch.version")),
            facts={"torch": {"version": "2.13"}, "devices": [{"name": "H200"}]},
            environment={"CUDA_VISIBLE_DEVICES": "0"},
        ).to_json()
    )
)


def diagnosis_of(path: Path, rng: Random, spoilt: float) -> Built:
    document = hostile.poisoned(GOOD_DIAGNOSIS, rng, spoilt)
    document = document if isinstance(document, dict) else {"checks": document}
    shown = [] if spoilt else [finding["title"] for check in document["checks"] for finding in check["findings"]]
    return Built(doctor_page(document), [title for title in shown if title])


# Diagnoses of several nodes

GOOD_NODES = json.loads(written(nodes_page.made(nodes_page.gathered_of_three())))


TOLD_BY_NODES = {"host", "address", "headline", "python", "torch", "title", "evidence", "cause", "fix", "link"}


def nodes_of(path: Path, rng: Random, spoilt: float) -> Built:
    """It is never read from a file: what other nodes tell are texts, their types and verdicts are ours."""
    return Built(doctor_nodes_page(_as_told(GOOD_NODES, rng)))


def _as_told(value: Any, rng: Random) -> Any:
    if isinstance(value, list):
        return [_as_told(item, rng) for item in value]
    if isinstance(value, dict):
        return {
            key: hostile.text(rng) if key in TOLD_BY_NODES and isinstance(item, str) else _as_told(item, rng)
            for key, item in value.items()
        }
    return value


# Micro benchmarks


def benchmarks_of(path: Path, rng: Random, spoilt: float) -> Built | None:
    document = hostile.made(BenchmarkFile, rng)
    if spoilt:
        parts = ("machine_info", "commit_info", "datetime", "version")
        document |= {part: hostile.poisoned(document.get(part), rng, spoilt) for part in parts}
    for number, benchmark in enumerate(document["benchmarks"]):
        benchmark["name"] += f" {number}"
        if rng.random() >= spoilt:  # else most would be refused
            benchmark["stats"] = {key: abs(rng.gauss(1e-3, 1e-3)) for key in ("median", "q1", "q3", "mean", "stddev")}
    path.mkdir(parents=True)
    file = path / "micro.json"
    file.write_text(written(document))
    try:
        return Built(benchmarks_page(file), [one["name"] for one in document["benchmarks"]])
    except UserError as error:
        assert str(file) in error.message  # noqa: PT017 (a page or a refusal, and both are checked)
        return None


def calm_benchmarks(path: Path) -> str:
    path.mkdir(parents=True)
    (path / "micro.json").write_text('{"benchmarks": [{"name": "test_matmul", "stats": {"median": 0.25}}]}')
    return benchmarks_page(path / "micro.json")


# Comparisons


def compare_of(path: Path, rng: Random, spoilt: float) -> Built | None:
    names = [hostile.text(rng) for _ in range(3)]
    shown = []
    for side in ("base", "cand"):
        for number in range(rng.choice((1, 1, 2))):
            records = [_record_of(rng.choice(names), rng, spoilt) for _ in range(rng.randrange(8))]
            run = hostile.poisoned(GOOD_RUN, rng, spoilt / 4)
            run = run | {"suite": names[0], "cases": []} if isinstance(run, dict) else {"suite": names[0]}
            folder = path / side / str(number)
            write_files(folder, written(run), [written(record) for record in give_files(folder, records, rng, spoilt)])
            shown += [*named(records), *lost(records)]
    rules = Rules(across_hardware=rng.random() < 0.5, strict=rng.random() < 0.5)
    try:
        sides = load(path / "base", path / "cand")
    except UserError as error:
        assert str(path) in error.message  # noqa: PT017
        return None
    comparison = compare_sides(*sides, rules)
    found = environments(sides[0].runs, sides[1].runs)
    return Built(compare_page(comparison, found, ["llmbench", "compare", hostile.text(rng)]), shown)


def _record_of(case: str, rng: Random, spoilt: float, speed: float = 1.0) -> Any:
    """Of this case, mostly with what runs are compared by; some much faster than the others."""
    good = GOOD_RECORDS[0]
    record = hostile.poisoned(good, rng, spoilt / 4)
    if not isinstance(record, dict):
        return record
    value = good["throughput"]["value"] * speed * rng.choice((1.0, 1.001, 0.999, 1.0, 1.001, 0.999, 1.5))
    throughput = good["throughput"] | {"value": value, "ci95": [0.99 * value, 1.01 * value]}
    parts = ("config", "device", "energy", "loss", "memory", "noise", "phases", "step_seconds")
    record |= {key: good[key] for key in parts if rng.random() < 0.7 and key in good}
    record |= {"throughput": throughput} if rng.random() < 0.8 else {}
    record |= {key: good[key] for key in ("config", "device") if rng.random() < 0.8}
    return record | {"case": case, "status": rng.choice(("ok",) * 9 + ("failed", "oom", record.get("status")))}


def calm_compare(path: Path) -> str:
    for side in ("base", "cand"):
        factory.plain_run(path / side, ["gpt-tiny"], ["eager"], steps=30)
    sides = load(path / "base", path / "cand")
    return compare_page(compare_sides(*sides, Rules()), environments(sides[0].runs, sides[1].runs), ["llmbench"])


# Histories


def history_of(path: Path, rng: Random, spoilt: float) -> Built | None:
    names = [hostile.text(rng) for _ in range(2)] + ["gpt-tiny/eager/ws1"]
    metric = METRICS[rng.choice(("throughput", *METRICS))]
    reference = rng.choice((None, None, "eager", names[0]))
    lines = {}
    for number in range(rng.choice((1, 3, 13, 13))):
        folder = path / f"{number:02d}"
        run = hostile.poisoned(GOOD_RUN, rng, spoilt / 4)
        if isinstance(run, dict) and rng.random() >= spoilt:
            # One machine, so that there are series to be drawn; software that differs from run to run.
            run |= {"id": hostile.text(rng), "started_at": f"2026-08-{number + 1:02d}T02:00:00+00:00", "device": "cpu"}
            run["environment"] = GOOD_RUN["environment"] | {"torch": run.get("environment")}
        speed = 1.0 if number < 6 else 0.1
        lines[folder] = [_record_of(name, rng, spoilt, speed) for name in names if rng.random() < 0.9]
        # Most would be refused for their half surrogate pairs.
        run, *told = (written(one) if rng.random() < 0.1 else well_formed(one) for one in (run, *lines[folder]))
        write_files(folder, run, told)
    write_comparisons(path / "ab", names, rng, spoilt)
    try:
        past = read_history([path])
        checks = judged_self_checks(past.comparisons)
        if metric.of_comparisons:
            past = ratio_history(past)
            cases = [record.case for record in past.records]
            page = history_page(past, trends(past, metric), metric, checks=checks)
            return Built(page, [*map(str, past.faults), *map(readable, cases)])
        found = trends(past, metric, reference=reference)
    except UserError as error:
        assert str(path) in error.message or "no run has the case" in error.message  # noqa: PT017
        return None
    page = history_page(past, found, metric, reference=reference, checks=checks)
    return Built(page, [*map(str, past.faults), *_expected(lines, past, reference)])


def write_comparisons(path: Path, names: list[str], rng: Random, spoilt: float) -> None:
    """Self-checks and comparisons of two sides, half of them slower."""
    path.mkdir(parents=True)
    for number in range(rng.choice((0, 4, 9))):
        cases = [factory.planned("gpt-tiny", "eager").model_copy(update={"case": readable(name)}) for name in names]
        slower = rng.choice((1.0, 1.2))
        made = factory.ab_comparison(
            path / "made", number, cases, lambda case, session, slower=slower: slower, self_check=rng.random() < 0.5
        )
        ab = json.loads((made.path / "ab.json").read_text())
        if rng.random() < spoilt / 4:
            ab = hostile.poisoned(ab, rng)
        if isinstance(ab, dict) and isinstance(ab.get("base"), dict):
            ab["base"] |= {"label": readable(hostile.text(rng)), "git": None}
            ab |= {"id": readable(hostile.text(rng)), "suite": readable(hostile.text(rng))}
        lines = (made.path / "sessions.jsonl").read_text().split("\n")[:-1]  # a name may hold other ends of lines
        told = [json.loads(line) for line in lines]
        lines = [well_formed(hostile.poisoned(one, rng) if rng.random() < spoilt / 4 else one) for one in told]
        (made.path / "ab.json").write_text(well_formed(ab))
        (made.path / "sessions.jsonl").write_text("\n".join(lines) + "\n")


def _expected(lines: dict[Path, list[Any]], past: History, reference: str | None) -> list[str]:
    """The case of every line that is not told to be left out, and that nothing is divided by."""
    only_a_part = (": no object", ": no number")
    out = {(fault.path, fault.line) for fault in past.faults if not fault.message.endswith(only_a_part)}
    runs = [folder for folder in lines if folder not in past.copies and (folder / "run.json", None) not in out]
    kept = [
        record["case"]
        for folder in runs
        for number, record in enumerate(lines[folder], 1)
        if (folder / "records.jsonl", number) not in out
    ]
    return [readable(case) for case in kept if readable(case) != reference_case(readable(case), reference)]


def calm_history(path: Path) -> str:
    factory.plain_run(path / "run", ["gpt-tiny"], ["eager"], steps=30)
    past = read_history([path])
    return history_page(past, trends(past, METRICS["throughput"]), METRICS["throughput"])


# Scans

_COUNTS = frozenset({"round", "rounds", "pair_tests", "values", "message_bytes"})


def scan_of(path: Path, rng: Random, spoilt: float) -> Built | None:
    names = [f"{hostile.text(rng)} {number}" for number in range(rng.choice((0, 1, 2, 3, 12, 40)))]
    gates = [hostile.made(Gate, rng) | {"metric": metric} for metric in (*UNITS, hostile.text(rng))]
    pairs = [_between(names, PairTest, rng) for _ in range(rng.randrange(60) if names else 0)]
    links = [_between(names, SlowLink, rng) for _ in range(rng.randrange(12) if names else 0)]
    nodes = [
        hostile.made(ScanNode, rng)
        | {"name": name, "estimates": {gate["metric"]: hostile.number(rng) for gate in gates if rng.random() < 0.8}}
        for name in names
    ]
    document = hostile.made(Scan, rng) | {"kind": "scan", "schema_version": 1, "gates": gates[rng.randrange(4) :]}
    document |= {"nodes": nodes, "pairs": pairs, "links": links}
    document = {key: _counted(value, key, rng) for key, value in document.items()}
    if spoilt and rng.random() < 0.3:  # else all would be refused
        document = hostile.poisoned(document, rng, spoilt / 40) | {"kind": "scan"}
    path.mkdir(parents=True)
    file = path / "scan.json"
    file.write_text(well_formed(document), encoding="utf-8")
    try:
        scan = read_scan(file)
    except UserError as error:
        assert str(file) in error.message  # noqa: PT017
        return None
    assert scan is not None
    against = [node["evidence"] for node in nodes if node["verdict"] != "ok"]
    ends = [end for one in (*pairs, *links) for end in (one["a"], one["b"])]
    return Built(scan_page(scan), list(map(readable, [*names, *against, *ends, *document["exclude"]])))


def _between(names: list[str], model: type[PairTest | SlowLink], rng: Random) -> Any:
    return hostile.made(model, rng) | {"a": rng.choice(names), "b": rng.choice((*names, hostile.text(rng)))}


def _counted(value: Any, key: str, rng: Random) -> Any:
    """With counts that are counts: a scan with others is refused."""
    if isinstance(value, dict):
        return {name: _counted(item, name, rng) for name, item in value.items()}
    if isinstance(value, list):
        return [_counted(item, "", rng) for item in value]
    return rng.choice((0, 1, 7, 10**9)) if key in _COUNTS else value


def calm_scan(_: Path) -> str:
    return scan_page(simulated_scan(parse_spec("nodes=4"), command=["llmbench", "scan"]))


# A/B comparisons

GOOD_AB = json.loads(ab_factory.made_ab().model_dump_json())
GOOD_SESSIONS = [json.loads(one.model_dump_json()) for one in ab_factory.made_sessions(3, rounds=4, seed_of_loss=1)]


def ab_of(path: Path, rng: Random, spoilt: float) -> Built | None:
    names = [hostile.text(rng) for _ in range(rng.randrange(4))]
    ab = hostile.poisoned(GOOD_AB, rng, spoilt / 8)
    cases = [_case_of(name, rng) for name in names]
    if isinstance(ab, dict):  # else all would be refused
        ab |= {key: GOOD_AB[key] for key in ("schema_version", "kind", "status") if rng.random() < 0.95}
        ab |= {
            "gate": GOOD_AB["gate"] | _rules(rng) if rng.random() < 0.9 else hostile.poisoned(GOOD_AB["gate"], rng),
            "rounds": 4,
            "cases": cases,
        }
        ab |= {key: hostile.made(AbSide, rng) for key in ("base", "cand")}
    lines = [
        _session_of(rng.choice([*map(readable, names * 3), "gone"]), rng, spoilt) for _ in range(rng.randrange(14))
    ]
    (path / "logs").mkdir(parents=True)
    # Most would be refused for their half surrogate pairs.
    (path / "ab.json").write_text(written(ab) if rng.random() < 0.1 else well_formed(ab), encoding="utf-8")
    (path / "sessions.jsonl").write_text("".join(f"{written(line)}\n" for line in lines), encoding="utf-8")
    (path / "logs/x.log").write_text(hostile.text(rng) * 3, encoding="utf-8", errors="surrogatepass")
    folder = AbFolder(path)
    try:
        comparison = compared(folder.read(), folder.recorded(), strict=rng.random() < 0.5)
    except UserError as error:
        assert str(path) in error.message  # noqa: PT017
        return None
    return Built(ab_page(comparison, folder), [*map(readable, names), *folder.damage])


def _case_of(name: str, rng: Random) -> Any:
    planned = [hostile.made(PlannedCase, rng) | {"config": {"a": 1}} for _ in range(2)]
    return {"id": name, "base": planned[0], "cand": planned[rng.randrange(2)]}


def _rules(rng: Random) -> dict[str, Any]:
    return rng.choice(({}, {}, {"tolerance": 0.0}, {"loss_margin": 0.02}, {"limit": 0.9}, {"looks": [2, 3]}))


def _session_of(case: str, rng: Random, spoilt: float) -> Any:
    """Mostly whole, with numbers that the schema takes."""
    good = rng.choice(GOOD_SESSIONS)
    line = hostile.poisoned(good, rng, spoilt / 8)
    if not isinstance(line, dict):
        return line
    kept = ("schema_version", "design", "first", "seconds", "session", "seed", "cpus", "rounds")
    line |= {key: good[key] for key in kept if rng.random() < 0.95}
    if rng.random() < 0.1:
        line["rounds"] = [one | hostile.poisoned({"base": one["base"]}, rng) for one in good["rounds"]]
    for side in ("base", "cand"):
        trained = good[side] | {"facts": hostile.anything(rng), "log": rng.choice(("logs/x.log", hostile.text(rng)))}
        failed = {"status": rng.choice(("failed", "oom")), "error": hostile.made(Error, rng)}
        loss = [hostile.number(rng) if rng.random() < 0.2 else 1.0 for _ in range(rng.choice((0, 1, 70)))]
        changes = rng.choice(({}, {}, {}, failed, {"loss": loss}, {"memory": hostile.made(Memory, rng)}))
        line[side] = (trained if isinstance(trained["facts"], dict) else good[side]) | changes
    return line | {"case": case}


def calm_ab(path: Path) -> str:
    made = ab_factory.SCENARIOS["same"]
    return ab_page(made.comparison, made.folder(path))


KINDS = (
    Kind("ab", calm_ab, ab_of, 60),
    Kind("run", calm_run, run_of, 60),
    Kind("doctor", lambda _: doctor_page(GOOD_DIAGNOSIS), diagnosis_of, 80),
    Kind("doctor_nodes", lambda _: doctor_nodes_page(GOOD_NODES), nodes_of, 80),
    Kind("benchmarks", calm_benchmarks, benchmarks_of, 80),
    Kind("compare", calm_compare, compare_of, 40),
    Kind("history", calm_history, history_of, 40),
    Kind("scan", calm_scan, scan_of, 50),
)


def acts(source: str) -> tuple[list[str], str]:
    """What in a page may act: the policy, and the text of style and script; checked against each other."""
    page = Page(source)
    (policy,) = [m for m in page.all("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy"]
    style, script = page.one("style").text, page.all("script")[0].text
    hashed = ["sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    assert policy.attributes["content"] == (
        f"default-src 'none'; style-src '{hashed[0]}'; script-src '{hashed[1]}'; base-uri 'none'; form-action 'none'"
    )
    return hashed, policy.attributes["content"]


def check(source: str, calm: str, shown: Iterable[str]) -> Page:
    """Parsed strictly: balanced, of known elements, with no more that acts than a harmless page has."""
    source.encode()  # every character can be written
    page = Page(source)
    assert acts(source) == acts(calm)
    assert len(page.all("script")) == len(page.all("style")) + 1 == 2
    data = page.one("script", id="data")
    assert not UNSEEN.search(source.replace(data.text, ""))
    json.loads(data.text, parse_constant=pytest.fail)
    for element in page.elements:
        assert element.tag in ELEMENTS, element.tag
        for name, value in element.attributes.items():
            assert re.fullmatch(r"[A-Za-z][A-Za-z0-9:-]*", name), name
            assert not name.startswith("on"), name
            assert name not in {"style", "src", "srcset", "action", "formaction", "ping", "background", "xlink:href"}
            # Patterns of the page's own; nothing from a record stands in a fill.
            own = name == "fill" and re.fullmatch(r"url\(#cut-(stripes|dots)\)", value)
            assert "url(" not in value or own or name.startswith(("aria-", "data-")), name
            assert name != "href" or re.match(r"#|https://", value), value
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    body = page.body
    for text in shown:
        assert visible(text) in body or visible(_written(text)) in body, text
    return page


def visible(text: str) -> str:
    """A text as a page shows it."""
    return " ".join(printable(text).split())


def _written(text: str) -> str:
    """With half surrogate pairs as the store reads them, where it can take them at all."""
    return text.encode("utf-8", "backslashreplace").decode()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_no_document_breaks_a_page_or_acts_in_it(kind: Kind, tmp_path: Path) -> None:
    calm = kind.calm(tmp_path / "calm")

    # A seed that is smaller is no simpler.
    @settings(derandomize=True, deadline=None, max_examples=kind.examples, phases=[Phase.explicit, Phase.generate])
    @given(seed=st.integers(0, 2**32 - 1), spoilt=st.sampled_from([0.0, 0.0, 0.03, 0.15]))
    def any_document(seed: int, spoilt: float) -> None:
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            built = kind.build(Path(folder) / "x", Random(seed), spoilt)
            if built is not None:
                check(built.source, calm, built.shown)

    any_document()


@settings(derandomize=True, deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_value_at_any_place_of_a_good_run(data: st.DataObject, tmp_path: Path) -> None:
    """Shrinks to the one field and value that does harm."""
    documents = {"run": json.loads(written(GOOD_RUN)), "records": json.loads(written(GOOD_RECORDS))}
    place = data.draw(st.sampled_from([place for place in inside(documents) if len(place) > 1]))
    values = st.sampled_from([*hostile.TEXTS, *hostile.FLOATS, *hostile.INTEGERS, *hostile.WRONG])
    spoil(documents, place, data.draw(values))
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        built = write_run(Path(folder) / "x", documents["run"], documents["records"], Random(1))
        check(built.source, CALM, built.shown)


CALM = calm_run(Path(tempfile.mkdtemp()) / "run")


def test_a_link_of_a_diagnosis_leads_to_a_page_of_the_web_only() -> None:
    links = [text for text in hostile.TEXTS if ":" in text] + ["HTTPS://a.invalid", "http://a.invalid", " https://x"]
    for link in links:
        page = Page(doctor_page({"checks": [{"id": "a.b", "findings": [{"verdict": "fail", "link": link}]}]}))
        found = {a.attributes["href"] for a in page.all("a") if not a.attributes["href"].startswith("#")}
        assert found == ({visible(link)} if link.startswith("https://") else set())


def test_the_kinds_are_all_the_pages_there_are() -> None:
    """A new page is an entry in ``KINDS``."""
    import llmbench.report

    templates = Path(llmbench.report.__file__).parent / "templates"
    pages = {file.name.split(".")[0] for file in templates.glob("*.html.j2")} - {"base", "macros"}
    assert pages == {kind.name for kind in KINDS}


# In a browser


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_nothing_acts_in_a_browser(kind: Kind, open_page: Callable[..., Any], tmp_path: Path) -> None:
    for seed in range(6):
        built = kind.build(tmp_path / str(seed), Random(seed), 0.0 if seed % 2 else 0.03)
        if built is None:
            continue
        file = tmp_path / f"{seed}.html"
        file.write_text(built.source, encoding="utf-8")
        opened = open_page(file, "#q=<img src=x onerror=window.pwned=1>&problems=1&w=__proto__")
        dialogs: list[str] = []
        opened.page.on("dialog", lambda dialog, seen=dialogs: (seen.append(dialog.message), dialog.dismiss()))
        opened.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
        for button in opened.page.locator("th button:visible, button[data-do=theme]:visible").all()[:6]:
            button.click()
        if opened.page.locator("button[data-do=json]:visible").count():
            with opened.page.expect_download() as download:
                opened.page.locator("button[data-do=json]").click()
            given_ = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
            assert given_ == Page(built.source).data
        assert opened.page.evaluate("window.pwned") is None
        assert opened.page.evaluate("Object.keys(Object.prototype).length") == 0
        assert opened.messages == []
        assert dialogs == []
        assert [url.split("#")[0] for url in opened.requests if not url.startswith("blob:")] == [file.as_uri()]
