"""``llmbench scan`` as a user starts it."""

from __future__ import annotations

import json

import pytest

from llmbench.results.scan import Scan

THOUSAND = "nodes=1024,slow=3,slowdown=0.1:0.3,noise=0.015,seed=3"


def test_json_names_the_slow_nodes_beside_the_truth(llmbench):
    done = llmbench("scan", "--simulate", THOUSAND, "--json")
    assert (done.returncode, done.stderr) == (1, "")
    document = json.loads(done.stdout)
    assert document["slow_nodes"] == document["truth"]["slow_nodes"] == document["exclude"]
    assert len(document["slow_nodes"]) == 3
    assert document["slow_links"] == document["truth"]["slow_links"] == []
    assert document["rounds"] == 3
    assert 512 < document["pair_tests"] <= 614
    assert document["simulated"] is True
    assert document["command"][1:] == ["scan", "--simulate", THOUSAND, "--json"]
    assert Scan.model_validate(document).model_dump(mode="json") == document


def test_nobody_slow_is_exit_code_0(llmbench):
    done = llmbench("scan", "--simulate", "nodes=64,seed=2")
    assert done.returncode == 0
    assert done.stdout.startswith("Simulated: No slow node or link found among 64 nodes\n1 round, 32 pair tests\n")
    assert "--exclude" not in done.stdout


def test_text_tells_evidence_and_whom_to_exclude(llmbench):
    done = llmbench("scan", "--simulate", "nodes=64,slow=2,links=1,dead=1,fault=network,seed=5")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "Simulated: 1 failed node, 2 slow nodes, 1 slow link of 64 nodes"
    assert [line.split()[1] for line in lines[1:5]] == ["failed", "slow", "slow", "slow"]
    assert "bus bandwidth low with each of 3 fast partners" in lines[2]
    assert lines[-1].startswith("--exclude=node-")
    assert lines[-1].count(",") == 2


def test_html_is_written_and_report_builds_it_from_the_document(llmbench, tmp_path):
    done = llmbench("scan", "--simulate", "nodes=16,slow=1", "--json", "--html", "scan.html")
    page = (tmp_path / "scan.html").read_text()
    assert "1 slow node of 16 nodes" in page
    (tmp_path / "again.json").write_text(done.stdout)
    assert llmbench("report", "again.json").returncode == 0
    assert (tmp_path / "again.html").read_text() == page


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"nodes": [{"name": "a"}]}, "again.json: nodes.0.verdict: Field required"),
        ({"rounds": "many"}, "again.json: rounds: "),
        ({"rounds": 10**40}, "again.json: rounds: "),
        ({"schema_version": 99}, "again.json: schema_version 99 is newer"),
    ],
)
def test_a_damaged_document_names_the_field(llmbench, tmp_path, change, named):
    document = json.loads(llmbench("scan", "--simulate", "nodes=4", "--json").stdout)
    (tmp_path / "again.json").write_text(json.dumps(document | change))
    done = llmbench("report", "again.json")
    assert done.returncode == 2
    assert named in done.stderr


def test_links_tests_every_pair(llmbench):
    done = llmbench("scan", "--simulate", "nodes=12,links=1,slowdown=0.3", "--links", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert document["slow_links"] == document["truth"]["slow_links"]
    assert len({(test["a"], test["b"]) for test in document["pairs"]}) == 66


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "how many nodes?"),
        (["--json"], "how many nodes?"),
        (["--nnodes", "2"], "which of the 2 nodes is this?"),
        (["--nnodes", "2", "--node-rank", "1"], "where is node 0?"),
        (["--nnodes", "2", "--node-rank", "2", "--master-addr", "h0"], "--node-rank 2"),
        (["--nnodes", "2", "--simulate", "nodes=4"], "--simulate needs no nodes, but --nnodes is given"),
        (["--nnodes", "1", "--html", "nowhere/scan.html"], "--html nowhere/scan.html"),
        (["--nnodes", "1", "--python", "nowhere/python"], "--python nowhere/python"),
        (["--simulate", "nodes=64,slwo=3"], "`slwo=3`: there is no slwo"),
        (["--simulate", "nodes=64,noise=much"], "`noise=much`: not a number"),
        (["--simulate", "nodes=600", "--links"], "nodes=600"),
        (["--simulate", "nodes=4", "--html", "nowhere/scan.html"], "cannot write nowhere/scan.html"),
        (["--simulate", "nodes=4", "--rounds", "0"], "--rounds"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_names_what(llmbench, arguments, named):
    done = llmbench("scan", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_help_tells_how_it_is_started(llmbench):
    done = llmbench("scan", "--help", COLUMNS="200")
    assert "srun --ntasks-per-node=1 llmbench scan" in done.stdout
    assert "--master-addr" in done.stdout
