from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError as SchemaError
from pydantic import BaseModel, ValidationError

from llmbench.results.documents import json_schema
from llmbench.results.schema import BROKEN, FINISHED, Record, Run, Series, Status
from tests.factory import MODES, OUT_OF_MEMORY, WORKLOADS, broken_record, make_run, ok_record, planned

CASES = [planned(workload, mode) for workload in WORKLOADS for mode in MODES]
DOCUMENTS: list[BaseModel] = [
    make_run(CASES),
    make_run([], git=None, finished_at=None, status="running"),
    *(document for case in CASES for document in ok_record(case)),
    *(broken_record(CASES[0], status, OUT_OF_MEMORY) for status in get_args(Status)),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: type(document).__name__)
def test_a_document_is_read_as_it_was_written(document: BaseModel) -> None:
    assert type(document).model_validate_json(document.model_dump_json(by_alias=True)) == document


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(json_schema()[name])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: type(document).__name__)
def test_a_document_fits_the_published_schema(document: BaseModel) -> None:
    validator(type(document).__name__).validate(json.loads(document.model_dump_json(by_alias=True)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": "good"},
        {"throughput": {"value": 1.0, "unit": "tokens", "ci95": [1, 2], "n": 3}},
        {"case": None},
        {"loss": {"first": "high"}},
    ],
)
def test_what_is_no_record_does_not_fit_the_published_schema(wrong: dict[str, Any]) -> None:
    record, _ = ok_record(CASES[0])
    document = json.loads(record.model_dump_json(by_alias=True)) | wrong
    with pytest.raises(SchemaError):
        validator("Record").validate(document)
    with pytest.raises(ValidationError):
        Record.model_validate(document)


def test_the_published_schema_is_one() -> None:
    assert set(json_schema()) == {"Record", "Run", "Series", "Ab", "AbSession"}
    for name in json_schema():
        Draft202012Validator.check_schema(json_schema()[name])


# What the design promises to other tools: each with the way that is better, or None where there is none.
PROMISED = {
    "throughput.value": "higher",
    "step_seconds.median": "lower",
    "step_seconds.mean": "lower",
    "step_seconds.p95": "lower",
    "phases.compile": "lower",
    "input_wait_seconds": "lower",
    "tflops": "higher",
    "mfu": "higher",
    "mfu_of_measured_peak": "higher",
    "memory.peak_allocated_bytes": "lower",
    "memory.peak_reserved_bytes": "lower",
    "memory.peak_rss_bytes": "lower",
    "memory.device_used_bytes": "lower",
    "energy.joules": "lower",
    "loss.final": "lower",
    "loss.eval": "lower",
    "compile.cold_seconds": "lower",
    "compile.warm_seconds": "lower",
    "compile.graph_breaks": "lower",
    "compile.recompiles": "lower",
    "rank_spread": "lower",
    "communication.seconds_per_step": "lower",
    "scaling.efficiency": "higher",
}
FIELDS: dict[str, tuple[str, ...]] = {
    "": ("case", "workload", "mode", "world_size", "device", "status", "config", "flops_per_step", "tflops", "mfu"),
    "error": ("type", "message", "hint", "rank", "host"),
    "throughput": ("value", "unit", "ci95", "n"),
    "step_seconds": ("median", "mean", "p95", "ci95"),
    "phases": ("import", "build", "compile", "warmup", "timed"),
    "peak": ("tflops", "source"),
    "memory": ("peak_allocated_bytes", "peak_reserved_bytes", "peak_rss_bytes", "device_used_bytes"),
    "energy": ("joules", "source"),
    "loss": ("first", "final", "eval", "finite", "learned"),
    "parity": ("reference", "metric", "limit", "value", "verdict"),
    "noise": ("cv", "verdict"),
}


def properties() -> dict[str, dict[str, Any]]:
    """The fields of a record by their dotted names, as its JSON Schema has them."""
    document = json_schema()["Record"]
    found: dict[str, dict[str, Any]] = {}

    def collect(part: dict[str, Any], prefix: str) -> None:
        for name, field in part["properties"].items():
            found[prefix + name] = field
            for reference in [field, *field.get("anyOf", [])]:
                if "$ref" in reference:
                    collect(document["$defs"][reference["$ref"].rsplit("/", 1)[1]], f"{prefix}{name}.")

    collect(document, "")
    return found


def test_the_promised_fields_are_there() -> None:
    names = {f"{part}.{name}".removeprefix(".") for part, fields in FIELDS.items() for name in fields}
    assert names | {"mfu_of_measured_peak"} <= set(properties())


def test_each_metric_says_which_way_is_better() -> None:
    assert {name: field["direction"] for name, field in properties().items() if "direction" in field} == PROMISED


def test_fields_that_a_newer_version_added_are_ignored() -> None:
    record, series = ok_record(CASES[0])
    for document in (record, series, make_run(CASES)):
        newer = document.model_dump(mode="json", by_alias=True) | {"sung_by": "a choir"}
        assert type(document).model_validate(newer) == document
    nested = record.model_dump(mode="json", by_alias=True)
    nested["throughput"]["per_watt"] = 3.0
    assert Record.model_validate(nested) == record


def test_the_import_phase_is_written_by_its_own_name() -> None:
    record, _ = ok_record(CASES[0])
    assert json.loads(record.model_dump_json(by_alias=True))["phases"]["import"] == record.phases.import_


def test_a_record_begins_with_the_version() -> None:
    """The store tells by it a record that was cut off from a line that is something else."""
    for model in (Record, Run):
        assert next(iter(model.model_fields)) == "schema_version"
    assert ok_record(CASES[0])[0].model_dump_json(by_alias=True).startswith('{"schema_version":')


def test_every_status_but_skipped_is_kept_or_broken() -> None:
    statuses = set(get_args(Status))
    assert statuses - FINISHED - BROKEN == {"skipped"}
    assert statuses >= FINISHED | BROKEN
    assert {"invalid"} == FINISHED & BROKEN


def test_a_series_may_lack_losses_and_nothing_else() -> None:
    series = Series(loss=[1.0, None], step_seconds=[0.5], first_timed_step=1)
    assert Series.model_validate_json(series.model_dump_json()) == series
    with pytest.raises(ValidationError):
        Series(loss=[1.0], step_seconds=[None], first_timed_step=1)
