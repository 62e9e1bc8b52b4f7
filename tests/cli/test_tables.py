"""What a run prints in a terminal."""

from __future__ import annotations

import pytest

from llmbench.cli.tables import ladder_table, summary
from llmbench.report.run.rungs import ladders
from llmbench.results.schema import Error
from llmbench.results.store import RunFolder
from tests import factory

WIDTH = 110


def printed(folder):
    return summary(folder.read_run(), folder.records(), folder.path, folder.report)


def table(text):
    """The lines of the first table."""
    return text.split("\n\n")[0].splitlines()


@pytest.fixture(scope="module")
def modes(tmp_path_factory):
    return printed(factory.modes_run(tmp_path_factory.mktemp("modes") / "run"))


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    return factory.ladder_run(tmp_path_factory.mktemp("ladder") / "run")


def test_the_table_has_a_line_for_each_case_that_ran(tmp_path):
    folder = factory.smoke_run(tmp_path / "run")
    head, *rows, notes = table(printed(folder))
    assert head.split() == ["case", "status", "throughput", "speed-up", "memory", "loss", "parity"]
    assert len(rows) == 16
    found = {row.split()[0]: row.split() for row in rows}
    assert found["gpt-tiny/compile/ws1"][1:9] == ["PASS", "16.2", "k", "tokens/s", "±", "0.5%", "1.44×", "513"]
    assert found["gpt-tiny/compile/ws1"][-1].endswith("%")
    assert found["lora-tiny/compile+bf16/ws1"] == ["lora-tiny/compile+bf16/ws1", "OOM"]
    assert found["bert-tiny/bf16/ws1"][7] == "~"
    assert notes == "loss: held out; parity: share of its limit"


def test_an_invalid_speed_is_printed_but_compared_with_nothing(tmp_path):
    rows = table(printed(factory.smoke_run(tmp_path / "run")))
    invalid = next(row for row in rows if row.startswith("gpt-tiny/bf16/ws1"))
    assert "INVALID" in invalid
    assert "7.78 k tokens/s" in invalid
    assert invalid.count("×") == 1  # the parity, beyond its limit
    assert invalid.endswith("8.3×")


def test_a_unit_that_all_share_stands_in_the_head(ladder):
    head, eager, *_ = table(printed(ladder))
    assert head.split()[:3] == ["case", "status", "tokens/s"]
    assert eager.split()[2:6] == ["11.2", "k", "±", "1.2%"]


def test_scaling_is_a_column_only_where_there_is_any(modes, tmp_path):
    assert "scaling" in table(modes)[0].split()
    assert "scaling" not in table(printed(factory.smoke_run(tmp_path / "run")))[0].split()


def test_tables_fit_a_terminal(modes, ladder, tmp_path):
    for text in (modes, printed(ladder), printed(factory.smoke_run(tmp_path / "run"))):
        widest = max(text.split("\n\n")[0].splitlines(), key=len)
        assert len(widest) <= WIDTH, widest
    assert max(len(line) for line in ladder_table(ladder.read_run(), ladder.records()).splitlines()) <= WIDTH


def test_skipped_cases_take_a_line_for_each_reason(modes):
    lines = [line for line in modes.splitlines() if line.startswith("SKIP")]
    assert len(lines) == 7
    assert lines[0] == "SKIP 2 × tf32 of gpt-tiny, bert-tiny: tf32 needs a CUDA device (--device cuda)"
    assert lines[1].startswith("SKIP 4 × fp8, compile-blocks+fp8 of gpt-tiny, bert-tiny: fp8 needs")
    assert not any("/tf32/" in line for line in table(modes))
    assert "113 of 142 cases trained right, 26 skipped, 3 did not" in modes


def test_many_names_are_cut(tmp_path):
    cases = [factory.planned("gpt-tiny", mode) for mode in factory.PARALLEL]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases))
    for case in cases:
        folder.append(factory.unavailable(case, "2 ranks need 2 CUDA devices, there are 1"))
    (line,) = [line for line in printed(folder).splitlines() if line.startswith("SKIP")]
    assert line == (
        "SKIP 22 × ddp, fsdp, hsdp, tp, pp, fsdp+tp and 16 more of gpt-tiny: 2 ranks need 2 CUDA devices, there are 1"
    )


def test_a_single_skipped_case_is_named_whole(tmp_path):
    folder = RunFolder.create(tmp_path / "run", factory.make_run([factory.planned("gpt-tiny", "tf32")]))
    folder.append(factory.unavailable(factory.planned("gpt-tiny", "tf32"), "tf32 needs a CUDA device"))
    assert "\nSKIP gpt-tiny/tf32/ws1: tf32 needs a CUDA device\n" in f"\n{printed(folder)}"


def test_problems_have_cause_and_hint(modes):
    assert (
        "FAIL bert-tiny/hsdp/ws2: SIGKILL: rank 1 of 2 on node-17: killed by SIGKILL in phase timed, "
        "not by llmbench; it left no stack\n    see dmesg"
    ) in modes
    assert "INVALID gpt-tiny/fp16/ws1: it strays from gpt-tiny/eager/ws1 at step 17" in modes


def test_problems_of_one_cause_stand_together(tmp_path):
    cases = [factory.planned("gpt-tiny", mode) for mode in ("bf16+fsdp", "bf16+hsdp", "ddp")]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases))
    for case, message in zip(cases, ("it broke", "it broke", "it broke too"), strict=True):
        folder.append(
            factory.broken_record(case, "failed", Error(type="RuntimeError", message=message, hint="mend it"))
        )
    text = printed(folder)
    assert "FAIL 2 × bf16+fsdp, bf16+hsdp of gpt-tiny: RuntimeError: it broke\n    mend it" in text
    assert "FAIL gpt-tiny/ddp/ws1: RuntimeError: it broke too\n    mend it" in text


def test_noise_takes_one_line(tmp_path):
    cases = [factory.planned("gpt-tiny", mode) for mode in ("eager", "bf16", "compile")]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases))
    for case in cases:
        record, _ = factory.ok_record(case, noisy=case.mode != "eager")
        record.noise.cv = {"eager": 0.01, "bf16": 0.3, "compile": 0.2}[case.mode]
        folder.append(record)
    (line,) = [line for line in printed(folder).splitlines() if line.startswith("~")]
    assert line == (
        "~ 2 noisy, gpt-tiny/bf16/ws1 the most: other processes used 6.1 CPUs; stop them; time more steps: "
        "--set steps=400"
    )


def test_perplexity_stands_beside_that_of_the_word_frequencies_once_a_workload(modes):
    lines = modes.splitlines()
    at = next(index for index, line in enumerate(lines) if line.split()[:3] == ["held-out", "text", "perplexity"])
    gpt, bert, end = lines[at + 1 : at + 4]
    assert gpt.split()[0] == "gpt-tiny"
    assert gpt.split()[2] == "to"
    assert gpt.split()[-2:] == ["411.6", "21.1"]
    assert bert.split()[-2:] == ["411.6", "–"]
    assert end == ""


def test_ladder_rung_by_rung(ladder):
    run, records = ladder.read_run(), ladder.records()
    gpt, bert = (block.splitlines() for block in ladder_table(run, records).split("\n\n"))
    (found, _) = ladders(run, records)
    assert gpt[0].split()[:2] == ["gpt-tiny", "tokens/s"]
    assert [line[:12].strip() for line in gpt[1:]] == [rung.name for rung in found.rungs]
    fused = found.rungs[2]
    assert f"{fused.over_eager.value:.2f}×" in gpt[3]
    assert f"{fused.over_before.value:.2f}×" in gpt[3]
    assert f"{fused.memory_change:+.0%}" in gpt[3]
    assert f"{fused.record.parity.value:.2g} / 0.022" in gpt[3]
    cold, warm = found.rungs[3].compile_seconds
    assert gpt[4].endswith(f"{cold:.1f} s ({warm:.1f} s)")
    assert [line.split()[2] for line in bert[3:6]] == ["OOM", "SKIP", "INVALID"]
    assert bert[7:9] == [
        "+ fused: killed by the kernel at step 0: the memory limit of the cgroup (2.00 GiB) was reached",
        "+ compile: torch.compile needs a C++ compiler",
    ]
    assert bert[9].startswith("+ chunked-ce: it strays from")
    assert bert[9].endswith("…")
    # Held against bf16, the last rung that trained right.
    assert f"{ladders(run, records)[1].rungs[5].over_before.value:.2f}×" in bert[6]


def test_a_gain_that_cannot_be_told_is_marked(tmp_path):
    cases = [factory.planned("gpt-tiny", mode) for mode in ("eager", "fused")]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases, ladder=["fused"]))
    for case in cases:
        record, _ = factory.ok_record(case)
        record.throughput.value, record.throughput.ci95 = 100.0, (97.0, 103.0)
        folder.append(record)
    assert ladder_table(folder.read_run(), folder.records()).splitlines()[2].count("≈ 1.00×") == 2


def test_the_ladder_is_part_of_what_a_run_prints(ladder, tmp_path):
    assert ladder_table(ladder.read_run(), ladder.records()) in printed(ladder)
    folder = factory.smoke_run(tmp_path / "run")
    assert ladder_table(folder.read_run(), folder.records()) == ""


def test_a_run_that_was_cut_short_says_what_is_missing(tmp_path):
    cases = [factory.planned("gpt-tiny", mode) for mode in ("eager", "bf16")]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases, ladder=["bf16"]))
    folder.append(factory.ok_record(cases[0])[0])
    text = printed(folder)
    assert "1 of 2 cases trained right, 1 not run" in text
    assert f"again:  llmbench run --resume {folder.path}" in text
    assert "+ bf16     NOT RUN" in text


def test_a_run_without_any_record(tmp_path):
    folder = RunFolder.create(tmp_path / "run", factory.make_run([factory.planned("gpt-tiny", "eager")]))
    assert printed(folder).startswith("0 of 1 cases trained right, 1 not run")


def test_a_loss_that_is_not_finite_is_called_so(tmp_path):
    case = factory.planned("gpt-tiny", "eager")
    folder = RunFolder.create(tmp_path / "run", factory.make_run([case]))
    record, _ = factory.ok_record(case)
    record.status, record.error = "invalid", Error(type="Invalid", message="the loss is not finite from step 2")
    record.loss.eval = record.parity.value = None
    folder.append(record)
    text = printed(folder)
    assert table(text)[1].count("not finite") == 2
    assert "INVALID gpt-tiny/eager/ws1: the loss is not finite from step 2" in text
