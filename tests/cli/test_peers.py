from __future__ import annotations

import pytest

from llmbench.cli.peers import pairs, peers_table, quotient
from llmbench.results.schema import Error, Record, Throughput
from tests.factory import ok_record, planned


def record(workload: str, mode: str = "eager", world_size: int = 1, **changes: object) -> Record:
    """A record of ours, or of a peer made of it."""
    of_ours, _ = ok_record(planned(workload.replace("hf-gpt2", "gpt").replace("peft-", ""), mode, world_size))
    case = f"{workload}/{mode}/ws{world_size}"
    return of_ours.model_copy(update={"workload": workload, "case": case} | changes)


def throughput(value: float, half: float) -> Throughput:
    return Throughput(value=value, unit="tokens/s", ci95=(value * (1 - half), value * (1 + half)), n=80)


def rows(*records: Record) -> list[list[str]]:
    """The cells of the table, without head and foot."""
    return [[cell.strip() for cell in line.split("  ") if cell] for line in peers_table(records).splitlines()[1:-1]]


def test_a_peer_stands_beside_ours_of_the_same_size_mode_and_world() -> None:
    ours = [record("gpt-tiny"), record("gpt-tiny", "bf16"), record("gpt-small"), record("gpt-tiny", "ddp", 2)]
    theirs = [record("hf-gpt2-tiny", "bf16"), record("hf-gpt2-tiny", "ddp", 2), record("hf-gpt2-tiny", "compile")]
    assert [(one.case, other.case) for one, other in pairs([*theirs, *ours])] == [
        ("gpt-tiny/bf16/ws1", "hf-gpt2-tiny/bf16/ws1"),
        ("gpt-tiny/ddp/ws2", "hf-gpt2-tiny/ddp/ws2"),
    ]


def test_without_a_pair_there_is_no_table() -> None:
    assert peers_table([record("gpt-tiny"), record("peft-lora-tiny"), record("gpt-tiny", "compile")]) == ""
    assert peers_table([]) == ""


def test_the_table_tells_both_and_their_ratios() -> None:
    ours, theirs = record("gpt-tiny"), record("hf-gpt2-tiny")
    assert ours.memory is not None
    assert ours.loss is not None
    start = ours.memory.start_rss_bytes
    assert start is not None
    mine = ours.memory.model_copy(update={"peak_rss_bytes": start + 30 * 2**20})
    other = ours.memory.model_copy(update={"peak_rss_bytes": start + 40 * 2**20})
    ours = ours.model_copy(update={"throughput": throughput(12_000, 0.03), "memory": mine})
    theirs = theirs.model_copy(
        update={
            "throughput": throughput(10_000, 0.04),
            "memory": other,
            "loss": ours.loss.model_copy(update={"final": 4.25}),
        }
    )
    (row,) = rows(theirs, ours)
    assert row == [
        "gpt-tiny/eager/ws1 | hf-gpt2-tiny",
        *("12 k tokens/s", "10 k tokens/s", "1.20× [1.14, 1.26]"),
        *("30 MiB", "40 MiB", "0.75×"),
        *(f"{ours.loss.final:.4f}", "4.2500"),
    ]
    assert "beyond Python, torch and the libraries" in peers_table([ours, theirs]).splitlines()[-1]


def test_on_cuda_the_memory_is_that_of_the_allocator() -> None:
    ours, theirs = record("gpt-tiny"), record("hf-gpt2-tiny")
    assert ours.memory is not None
    mine = ours.memory.model_copy(update={"peak_allocated_bytes": 2**20})
    other = ours.memory.model_copy(update={"peak_allocated_bytes": 2**21})
    table = peers_table([ours.model_copy(update={"memory": mine}), theirs.model_copy(update={"memory": other})])
    assert "0.50×" in table
    assert table.endswith("memory: peak of the device's allocator")


def test_a_side_that_did_not_train_is_told_and_has_no_ratio() -> None:
    error = Error(type="Unavailable", message="transformers is not installed beside torch")
    nothing = {"status": "skipped", "error": error, "throughput": None, "memory": None, "loss": None}
    (row,) = rows(record("gpt-tiny"), record("hf-gpt2-tiny", **nothing))
    assert row[2:4] == ["SKIP", "–"]
    assert row[5:7] == ["–", "–"]
    assert row[8] == "–"


def test_a_speed_that_is_invalid_is_marked() -> None:
    (row,) = rows(record("gpt-tiny", status="invalid"), record("hf-gpt2-tiny"))
    assert row[1].endswith("tokens/s INVALID")


def test_the_interval_of_a_ratio_holds_what_both_leave_open() -> None:
    ratio, (low, high) = quotient(throughput(120, 0.03), throughput(100, 0.04))
    assert ratio == pytest.approx(1.2)
    assert (low, high) == pytest.approx((1.2 * 0.95, 1.2 * 1.05))  # 0.03² + 0.04² = 0.05²
    _, (low, high) = quotient(throughput(100, 0.0), throughput(100, 0.04))
    assert (low, high) == pytest.approx((0.96, 1.04))
