"""--baseline: what differs from another machine is told, what always differs is not."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from llmbench.doctor import baseline
from llmbench.doctor.checks import all_checks
from llmbench.doctor.model import Answer, Diagnosis, Finding, passed, skipped
from llmbench.errors import UserError
from tests.conftest import Command

from .made import failed, made, warned

FACTS: dict[str, Any] = {
    "python": {"version": "3.11.7", "platform": "Linux-6.1-x86_64", "executable": "/venv/bin/python"},
    "torch": {"version": "2.13.0", "cuda": "13.0", "seconds": 1.5, "threads": 2},
    "memory": {"total_bytes": 25_276_510_208, "available_bytes": 1_000},
    "devices": [{"name": "H100", "uuid": "GPU-1", "memory_bytes": 85e9}] * 2,
    "cpus": {"usable": 8, "quota": None},
    "limits": {"nofile": 65536},
    "storage": {"file_systems": {"home": "ext4"}},
    "packages": {"folders": ["/venv/lib"], "versions": {"numpy": "2.4"}},
    "libraries": {"nccl": "2.28.9"},
}
ENVIRONMENT = {"OMP_NUM_THREADS": "8", "RANK": "0", "HF_TOKEN": "***"}


def machine(**answers: Finding) -> Diagnosis:
    """A diagnosis; ``torch_import`` is the finding of ``torch.import``."""
    known = {"torch.import": passed("2.13.0"), "storage.shm": passed("big"), "cuda.devices": passed("2")}
    known |= {name.replace("_", "."): finding for name, finding in answers.items()}
    given = tuple(Answer(made(id), (finding,), 0.1) for id, finding in known.items())
    about: dict[str, Any] = {"seconds": 1.0, "started_at": "2026-01-01T00:00:00+00:00"}
    return Diagnosis("/venv/bin/python", given, copy.deepcopy(FACTS), dict(ENVIRONMENT), **about)


def recorded(diagnosis: Diagnosis, folder: Path) -> baseline.Baseline:
    file = folder / "golden.json"
    file.write_text(json.dumps(diagnosis.to_json()))
    return baseline.load(file)


def differences(here: Diagnosis, there: Diagnosis, folder: Path) -> list[tuple[str | None, str]]:
    """Fault and evidence of each finding of baseline.same."""
    compared = baseline.compared(here, recorded(there, folder))
    last = compared.answers[-1]
    assert last.check.id == "baseline.same"
    assert compared.answers[:-1] == here.answers
    return [(finding.fault, finding.evidence.replace(str(folder) + "/", "")) for finding in last.findings]


@pytest.fixture(autouse=True)
def known_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    same = [check for check in all_checks() if check.id == "baseline.same"]
    checks = [made(id) for id in ("torch.import", "storage.shm", "cuda.devices")] + same
    monkeypatch.setattr(baseline, "all_checks", lambda: checks)


def test_the_same_machine(tmp_path: Path) -> None:
    assert differences(machine(), machine(), tmp_path) == [
        (None, "3 checks and their facts are as in golden.json"),
    ]


DIFFERS, MISSING, WORSE = "baseline.same.differs", "baseline.same.missing", "baseline.same.worse"


@pytest.mark.parametrize(
    ("path", "value", "fault", "evidence"),
    [
        ("torch.version", "2.9.1", DIFFERS, "torch.version: 2.13.0 in golden.json, 2.9.1 here"),
        ("python.platform", "Linux-5.4", DIFFERS, "python.platform: Linux-6.1-x86_64 in golden.json, Linux-5.4 here"),
        ("cpus.usable", 4, DIFFERS, "cpus.usable: 8 in golden.json, 4 here"),
        ("cpus.quota", 1.5, DIFFERS, "cpus.quota: none in golden.json, 1.5 here"),
        ("storage.file_systems.home", "nfs", DIFFERS, "storage.file_systems.home: ext4 in golden.json, nfs here"),
        ("limits.nofile", 1024, DIFFERS, "limits.nofile: 65536 in golden.json, 1024 here"),
        ("memory.total_bytes", 10**10, DIFFERS, "memory.total_bytes: 25276510208 in golden.json, 10000000000 here"),
        ("torch.cuda", None, MISSING, "torch.cuda: 13.0 in golden.json, none here"),
        ("devices", [{"name": "H100"}], MISSING, "devices: 2 in golden.json, 1 here"),
        ("devices", [{"name": "H100"}] * 3, DIFFERS, "devices: 2 in golden.json, 3 here"),
        ("devices", [{"name": "H100"}, {"name": "A100"}], DIFFERS, "devices.1.name: H100 in golden.json, A100 here"),
        ("devices", [], MISSING, "devices: 2 in golden.json, 0 here"),
    ],
)  # fmt: skip
def test_a_fact_that_differs(path: str, value: Any, fault: str, evidence: str, tmp_path: Path) -> None:
    here = machine()
    *parents, last = path.split(".")
    place = here.facts
    for name in parents:
        place = place[name]
    place[last] = value
    assert (fault, evidence) in differences(here, machine(), tmp_path)


@pytest.mark.parametrize(("group", "key"), [("libraries", None), ("libraries", "nccl")])
def test_a_fact_that_is_gone_is_told_once(group: str, key: str | None, tmp_path: Path) -> None:
    here = machine()
    (here.facts if key is None else here.facts[group]).pop(key or group)
    ((fault, evidence),) = differences(here, machine(), tmp_path)
    assert fault == MISSING
    assert "2.28.9 in golden.json, not known here" in evidence


def test_facts_of_checks_that_were_not_asked_are_not_missed(tmp_path: Path) -> None:
    here = machine()
    here.facts.pop("libraries")
    here = dataclasses.replace(here, answers=here.answers[:1])
    ((fault, _),) = differences(here, machine(), tmp_path)
    assert fault is None


def test_what_always_differs_is_not_told(tmp_path: Path) -> None:
    here = machine()
    here.facts["torch"]["seconds"] = 99.0
    here.facts["memory"] |= {"available_bytes": 5, "total_bytes": 25_276_000_000}
    here.facts["python"]["executable"] = "/other/bin/python"
    here.facts["packages"]["folders"] = ["/other/lib", "/more"]
    here.facts["devices"] = [{"name": "H100", "uuid": "GPU-9", "memory_bytes": 85.01e9}] * 2
    here.facts["new"] = {"something": "that an older llmbench did not read"}
    here.environment.update(RANK="7", SLURM_JOB_ID="1")
    ((fault, _),) = differences(here, machine(), tmp_path)
    assert fault is None


def test_every_reason_for_leaving_out_is_given() -> None:
    assert all(reason for _, reason in baseline.VOLATILE)


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [
        ({"OMP_NUM_THREADS": "1"}, {}, ["OMP_NUM_THREADS is not set in golden.json, OMP_NUM_THREADS=1 here"]),
        ({}, {"NCCL_DEBUG": "INFO"}, ["NCCL_DEBUG=INFO in golden.json, is not set here"]),
        ({"HF_TOKEN": "***"}, {"HF_TOKEN": "***"}, []),
    ],
)
def test_variables(here: dict[str, str], there: dict[str, str], expected: list[str], tmp_path: Path) -> None:
    ours, theirs = (dataclasses.replace(machine(), environment=values) for values in (here, there))
    assert [evidence for fault, evidence in differences(ours, theirs, tmp_path) if fault] == expected


FULL = Finding("fail", "no space", "c", "f", fault="storage.shm.full")
UNKNOWN = Finding("incomplete", "?")
SMALL = Finding("warn", "64 MB", "c", "f", fault="storage.shm.small")


@pytest.mark.parametrize(
    ("here", "there", "fault", "evidence"),
    [
        (FULL, passed(""), WORSE, "storage.shm: pass in golden.json, fail here (storage.shm.full: no space)"),
        (FULL, SMALL, WORSE, "storage.shm: warn in golden.json, fail here (storage.shm.full: no space)"),
        (UNKNOWN, passed(""), WORSE, "storage.shm: pass in golden.json, incomplete here (storage.shm: ?)"),
        (SMALL, passed(""), DIFFERS, "storage.shm.small is found here, and not in golden.json: 64 MB"),
        (SMALL, FULL, DIFFERS, "storage.shm.small is found here, and not in golden.json: 64 MB"),
        (passed(""), FULL, None, "storage.shm.full is in golden.json, and not here"),
        (skipped("no such"), passed(""), MISSING, "storage.shm: pass in golden.json, does not apply here: no such"),
    ],
)  # fmt: skip
def test_findings(here: Finding, there: Finding, fault: str | None, evidence: str, tmp_path: Path) -> None:
    found = differences(machine(storage_shm=here), machine(storage_shm=there), tmp_path)
    assert (fault, evidence) in found
    assert len([other for other, _ in found if other]) == (fault is not None)


@pytest.mark.parametrize("same", [FULL, SMALL, skipped("x"), Finding("skip", "needs a.b", root="a.b")])
def test_the_same_fault_on_both_is_no_difference(same: Finding, tmp_path: Path) -> None:
    assert [fault for fault, _ in differences(machine(storage_shm=same), machine(storage_shm=same), tmp_path)] == [None]


def test_what_follows_from_a_fault_here_is_not_told_again(tmp_path: Path) -> None:
    here = machine(
        torch_import=failed("gone", fault="torch.import.missing"),
        cuda_devices=Finding("skip", "needs torch.import", root="torch.import"),
    )
    assert [fault for fault, _ in differences(here, machine(), tmp_path)] == [WORSE]


def test_a_worse_machine_fails(tmp_path: Path) -> None:
    compared = baseline.compared(machine(storage_shm=FULL), recorded(machine(), tmp_path))
    worse = compared.answers[-1].findings[0]
    assert (worse.verdict, worse.fix) == ("fail", "mend what storage.shm.full found")
    assert baseline.compared(machine(storage_shm=warned()), recorded(machine(), tmp_path)).verdict == "warn"


DOCUMENT = machine().to_json()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "line 1 column 1"),
        ('{\n"a": }', "line 2 column 6"),
        ("[]", "the document is not an object"),
        ("{}", "schema_version is None"),
        (DOCUMENT | {"schema_version": 99}, "schema_version is 99"),
        (DOCUMENT | {"facts": 3}, "facts is not an object"),
        ({key: value for key, value in DOCUMENT.items() if key != "checks"}, "checks is missing"),
        (DOCUMENT | {"checks": [3]}, "checks[0] is not an object"),
        (DOCUMENT | {"checks": [{"id": 3}]}, "checks[0].id is not a text"),
        (DOCUMENT | {"checks": [{"id": "a.b", "verdict": "odd"}]}, "checks[0].verdict is 'odd'"),
        (DOCUMENT | {"checks": [{"id": "a.b", "verdict": "pass", "findings": [1]}]}, "checks[0].findings[0]"),
        (DOCUMENT | {"environment": []}, "environment is not an object"),
        (b"\xff\xfe", "line 1: this is no JSON in UTF-8"),
        ("[" * 100_000, "line 1"),
    ],
)
def test_a_file_that_is_none(content: Any, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "golden.json"
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as error:
        baseline.load(file)
    assert str(file) in error.value.message
    assert expected in error.value.message


@pytest.mark.slow
def test_the_command(llmbench: Command, tmp_path: Path) -> None:
    golden = tmp_path / "golden.json"
    options = ("doctor", "--only", "python,storage.shm")
    golden.write_text(llmbench(*options, "--json").stdout)
    same = llmbench(*options, "--json", "--baseline", golden)
    answer = json.loads(same.stdout)["checks"][-1]
    assert (answer["id"], answer["verdict"]) == ("baseline.same", "pass"), answer
    document = json.loads(golden.read_text())
    document["facts"]["python"]["version"] = "3.9.1"
    golden.write_text(json.dumps(document))
    other = llmbench(*options, "--baseline", golden)
    assert other.returncode == 0
    assert "python.version: 3.9.1 in" in " ".join(other.stdout.split())
    assert "WARN  baseline.same.differs" in other.stdout


@pytest.mark.parametrize("name", ["no-such.json", "."])
def test_a_file_that_cannot_be_read_is_told_before_anything_is_asked(name: str, llmbench: Command) -> None:
    done = llmbench("doctor", "--baseline", name)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--baseline {name}" in done.stderr
