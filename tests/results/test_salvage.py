"""What can be read of damaged records and runs: every line gives one, and every fault is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from llmbench.errors import UserError
from llmbench.results import salvage
from llmbench.results.salvage import record_of, run_of
from llmbench.results.schema import PlannedCase, Record, Run
from llmbench.results.store import RunFolder
from tests.factory import make_run, ok_record, planned

FILE = Path("r1/records.jsonl")
CASE = planned("gpt-tiny", "fsdp", 2)
RECORD = ok_record(CASE)[0]
GOOD: dict[str, Any] = json.loads(RECORD.model_dump_json(by_alias=True))


def read(document: Any, number: int = 7) -> salvage.Recorded:
    line = document if isinstance(document, bytes) else json.dumps(document).encode()
    return record_of(line, FILE, number)


def faults(found: salvage.Recorded) -> list[str]:
    where = "r1/records.jsonl, line 7: "
    assert all(fault.startswith(where) for fault in found.damage)
    return [fault.removeprefix(where) for fault in found.damage]


def test_a_valid_line_has_no_damage() -> None:
    found = read(GOOD)
    assert (found.record, found.damage, found.line) == (RECORD, [], 7)


def test_the_fields_that_other_tools_rely_on_are_enough() -> None:
    """DESIGN's contract, word by word; what else a record of ours holds may be missing."""
    contract = {
        "case": "gpt-tiny/bf16/ws1",
        "workload": "gpt-tiny",
        "mode": "bf16",
        "world_size": 1,
        "device": "cpu",
        "status": "ok",
        "error": None,
        "config": {"micro_batch_size": 8},
        "throughput": {"value": 1.0, "unit": "tokens/s", "ci95": [0.9, 1.1], "n": 80},
        "step_seconds": {"median": 1.0, "mean": 1.0, "p95": 1.0, "ci95": [0.9, 1.1]},
        "phases": {"import": 1.0, "build": 1.0, "compile": 1.0, "warmup": 1.0, "timed": 1.0},
        "flops_per_step": 1.0,
        "tflops": 1.0,
        "mfu": None,
        "mfu_of_measured_peak": 0.5,
        "peak": {"tflops": 1.0, "source": "data sheet"},
        "memory": dict.fromkeys(("peak_allocated_bytes", "peak_reserved_bytes", "peak_rss_bytes", "device_used_bytes")),
        "energy": None,
        "loss": {"first": 7.0, "final": 4.0, "eval": 4.1, "finite": True, "learned": True},
        "parity": {"reference": "eager", "metric": "m", "limit": 0.1, "value": 0.01, "verdict": "pass"},
        "noise": {"cv": 0.01, "verdict": "quiet"},
    }
    assert read(contract).damage == []


@pytest.mark.parametrize(
    ("change", "fault", "gone"),
    [
        ({"throughput": GOOD["throughput"] | {"ci95": [1, 2, 3]}}, "throughput.ci95: Tuple", "throughput"),
        ({"throughput": GOOD["throughput"] | {"ci95": [1, "x"]}}, "throughput.ci95.1: Input", "throughput"),
        ({"throughput": GOOD["throughput"] | {"unit": "furlongs"}}, "throughput.unit: Input", "throughput"),
        ({"noise": {"cv": 1.0}}, "noise.verdict: Field required; noise is left out", "noise"),
        ({"phases": []}, "phases: Input should be an object", "phases"),
        ({"memory": None, "loss": "fell"}, "loss: Input should be an object", "loss"),
        ({"wall_seconds": "long"}, "wall_seconds: Input should be a valid number", "wall_seconds"),
        ({"ranks": "two"}, "ranks: Input should be an array", "ranks"),
        ({"metrics": None}, "metrics: Input should be an object", "metrics"),
        ({"mfu": {"a": 1}}, "mfu: Input should be a valid number", "mfu"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_part_that_may_be_missing_is_left_out_and_the_rest_stays(
    change: dict[str, Any], fault: str, gone: str
) -> None:
    found = read(GOOD | change)
    assert [text[: len(fault)] for text in faults(found)] == [fault]
    expected = {key: value for key, value in (GOOD | change).items() if key != gone}
    assert found.record == Record.model_validate(expected)
    assert found.record.status == "ok"


def test_only_the_innermost_part_is_left_out() -> None:
    memory = GOOD["memory"] | {"peak_rss_bytes": "much", "capacity_bytes": 5}
    ranks = [{"rank": 0}, *GOOD["ranks"][1:]]
    found = read(GOOD | {"memory": memory, "ranks": ranks, "metrics": {"perplexity": "low", "accuracy": 0.5}})
    assert found.record.memory is not None
    assert (found.record.memory.peak_rss_bytes, found.record.memory.capacity_bytes) == (None, 5)
    assert found.record.ranks == RECORD.ranks[1:]
    assert found.record.metrics == {"accuracy": 0.5}
    assert [fault.split(":")[0] for fault in faults(found)] == [
        "memory.peak_rss_bytes",
        "metrics.perplexity",
        "ranks.0.host",
        "ranks.0.device",
        "ranks.0.window_seconds",
    ]


def test_what_must_be_there_has_a_placeholder() -> None:
    found = read({"case": "gpt-tiny/bf16+fsdp/ws4", "throughput": GOOD["throughput"]})
    record = found.record
    assert (record.case, record.workload, record.mode) == ("gpt-tiny/bf16+fsdp/ws4", "gpt-tiny", "bf16+fsdp")
    assert (record.status, record.device, record.config) == ("failed", "unknown", {})
    assert record.throughput == RECORD.throughput
    assert record.error is not None
    assert (record.error.type, record.error.message) == ("Damaged", "\n".join(found.damage))
    assert [fault.split(":")[0] for fault in faults(found)] == ["workload", "mode", "device", "status", "config"]


def test_a_wrong_world_size_is_that_of_the_id() -> None:
    assert read(GOOD | {"world_size": "two"}).record.world_size == 2
    assert read(GOOD | {"world_size": None, "case": "odd"}).record.world_size == 1


def test_a_valid_status_and_a_valid_error_stay() -> None:
    error = {"type": "OutOfMemoryError", "message": "2 GiB"}
    kept = read(GOOD | {"status": "oom", "error": error, "mfu": []}).record
    assert (kept.status, kept.error and kept.error.type) == ("oom", "OutOfMemoryError")
    kept = read(GOOD | {"status": "died", "error": error}).record
    assert (kept.status, kept.error and kept.error.type) == ("failed", "OutOfMemoryError")
    kept = read(GOOD | {"status": "died", "error": {"type": 3}}).record
    assert (kept.status, kept.error and kept.error.type) == ("failed", "Damaged")


DEEP = b'{"a":' * 300 + b"1" + b"}" * 300
TOO_DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
WHOLE = json.dumps(GOOD).encode()


@pytest.mark.parametrize(
    ("line", "case", "said"),
    [
        (b"garbage", "records.jsonl line 7", "document: Invalid JSON: expected value at column 1"),
        (b"", "records.jsonl line 7", "document: Invalid JSON: EOF"),
        (b"\xff\xfe\x00", "records.jsonl line 7", "document: Invalid JSON"),
        (b"[1]", "records.jsonl line 7", "document: Input should be an object"),
        (b"NaN", "records.jsonl line 7", "document: Input should be an object"),
        (b'"text"', "records.jsonl line 7", "document: Input should be an object"),
        (b'{"case": "gpt-tiny/bf16/ws1", "mode": ', "gpt-tiny/bf16/ws1", "document: Invalid JSON: EOF"),
        (b'{"case": "gpt\\u00e4/bf16/ws1", "mode": ', "gptä/bf16/ws1", "document: Invalid JSON: EOF"),
        (b'{"case": "\\x", "mode": ', "records.jsonl line 7", "document: Invalid JSON"),
        (WHOLE.replace(b'"config": {', b'"config": {"x": ' + DEEP + b","), CASE.case, "document: Invalid JSON: recurs"),
        (WHOLE.replace(b'"config": {', b'"config": {"x": ' + TOO_DEEP + b","), CASE.case, "document: Invalid JSON"),
        (WHOLE.replace(b'"n_layer": 2', b'"n_layer": ' + b"9" * 5000), CASE.case, "document: Invalid JSON: number"),
        (WHOLE.replace(b'"cpu"', b'"c\\ud800pu"', 1), CASE.case, "document: Invalid JSON: "),
        (WHOLE.replace(b'"cpu"', b'"c\0pu"', 1), CASE.case, "document: Invalid JSON: control character"),
        (WHOLE.replace(b'"cpu"', b'"c\xffpu"', 1), CASE.case, "document: Invalid JSON: "),
    ],
)  # fmt: skip
def test_a_line_that_is_no_json_of_ours_is_a_record_too(line: bytes, case: str, said: str) -> None:
    found = read(line)
    assert found.record.case == case
    assert faults(found)[0].startswith(said)
    assert len(faults(found)) == 1  # what is missing of it besides follows from that
    written = found.record.model_dump_json(by_alias=True)
    assert Record.model_validate_json(written).model_dump_json(by_alias=True) == written


def test_what_json_cannot_say_is_shown_as_text() -> None:
    assert read(WHOLE.replace(b'"cpu"', b'"c\\ud800pu"', 1)).record.device == "c\\ud800pu"
    assert read(WHOLE.replace(b'"cpu"', b'"c\0pu"', 1)).record.device == "c\0pu"
    assert read(WHOLE.replace(b'"cpu"', b'"c\xffpu"', 1)).record.device == "c\ufffdpu"
    deep = read(WHOLE.replace(b'"config": {', b'"config": {"x": ' + DEEP + b",")).record
    assert "…" in deep.model_dump_json()
    assert deep.throughput == RECORD.throughput


def test_a_number_of_endless_digits_is_no_number() -> None:
    for digits in (b"9" * 5000, b"-" + b"9" * 5000):
        found = read(WHOLE.replace(b'"n": ', b'"n": ' + digits + b', "x": ', 1))
        assert faults(found)[1:] == ["throughput.n: Input should be a finite number; throughput is left out"]


def test_no_end_of_faults_is_cut() -> None:
    found = read(GOOD | {"ranks": [1] * 500})
    assert len(found.damage) == 21
    assert faults(found)[-1] == "480 more faults"
    named = read(GOOD | {"metrics": {"x" * 100_000: "y"}})
    assert max(map(len, named.damage)) < 300


def test_long_texts_are_kept() -> None:
    assert read(GOOD | {"device": "x" * 10_000_000}).damage == []
    assert len(read(GOOD | {"device": "x" * 10_000_000, "mfu": []}).record.device) == 10_000_000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def inside(document: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document."""
    if not isinstance(document, dict | list):
        return []
    steps = document.items() if isinstance(document, dict) else enumerate(document)
    return [place for key, value in steps for place in ((*prefix, key), *inside(value, (*prefix, key)))]


def spoil(document: Any, place: tuple[Any, ...], value: Any) -> None:
    for step in place[:-1]:
        document = document[step]
    document[place[-1]] = value


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_value_at_any_place(data: st.DataObject) -> None:
    """What comes out is a record that can be written and read; damage is told exactly where the schema finds any."""
    document = json.loads(WHOLE)
    spoil(document, data.draw(st.sampled_from(inside(document))), data.draw(JSON))
    line = json.dumps(document).encode()
    found = read(line)
    again = found.record.model_dump_json(by_alias=True)
    assert Record.model_validate_json(again).model_dump_json(by_alias=True) == again
    try:
        assert found.record.model_dump_json() == Record.model_validate_json(line).model_dump_json()
        assert found.damage == []
    except ValidationError:
        assert found.damage


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_line(line: bytes) -> None:
    found = read(line)
    assert found.damage
    assert found.record.error is not None
    found.record.model_dump_json()


@pytest.mark.parametrize("model", [Record, PlannedCase, Run])
def test_every_field_that_must_be_there_has_a_placeholder(model: type[BaseModel]) -> None:
    """Without one, a record that lacks it could not be shown at all."""
    found = salvage._PLACEHOLDERS[model]({}, "somewhere")
    assert {name for name, field in model.model_fields.items() if field.is_required()} <= set(found)
    model.model_validate(found)


# The run


def run_file(tmp_path: Path, **changes: Any) -> RunFolder:
    folder = RunFolder.create(tmp_path / "r1", make_run([CASE, planned("gpt-tiny", "bf16")]))
    file = folder.path / "run.json"
    document = {key: value for key, value in json.loads(file.read_text()).items() if changes.get(key, 0) != "GONE"}
    file.write_text(json.dumps(document | {key: value for key, value in changes.items() if value != "GONE"}))
    return folder


def test_a_run_that_is_valid_has_no_damage(tmp_path: Path) -> None:
    folder = run_file(tmp_path)
    assert folder.recorded_run() == folder.read_run()
    assert folder.damage == []


def test_a_run_is_salvaged_field_by_field(tmp_path: Path) -> None:
    cases = [
        {"case": "gpt-tiny/fsdp/ws2", "config": []},
        {"workload": "w", "mode": "m", "world_size": 1, "config": {}},
        "gpt-tiny/bf16/ws1",
    ]
    changes = {"cases": cases, "environment": None, "git": "dirty", "id": 3, "suite": "GONE", "resumed": "twice"}
    folder = run_file(tmp_path, **changes)
    with pytest.raises(UserError, match=r"run\.json: id: Input should be a valid string"):
        folder.read_run()
    run = folder.recorded_run()
    file = folder.path / "run.json"
    assert [fault.removeprefix(f"{file}: ").split(":")[0] for fault in folder.damage] == [
        "id",
        "suite",
        "cases.0.workload",
        "cases.0.mode",
        "cases.0.world_size",
        "cases.0.config",
        "cases.1.case",
        "cases.2",
        "environment",
        "git",
        "resumed",
    ]
    assert (run.id, run.suite, run.environment, run.git, run.resumed) == ("r1", "unknown", {}, None, 0)
    assert run.cases == [
        PlannedCase(case="gpt-tiny/fsdp/ws2", workload="gpt-tiny", mode="fsdp", world_size=2, config={}),
        PlannedCase(case="r1 cases.1", workload="w", mode="m", world_size=1, config={}),
    ]
    assert run.command == folder.recorded_run().command != []


def test_a_run_of_nothing_is_a_run(tmp_path: Path) -> None:
    run, damage = run_of(b"{}", tmp_path / "r1" / "run.json")
    assert (run.id, run.suite, run.cases, run.command) == ("r1", "unknown", [], [])
    assert len(damage) == 10


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"garbage", b"7", TOO_DEEP])
def test_a_run_that_is_no_object_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(UserError) as error:
        RunFolder(tmp_path).recorded_run()
    assert error.value.message.startswith(f"{tmp_path / 'run.json'}: document: ")
