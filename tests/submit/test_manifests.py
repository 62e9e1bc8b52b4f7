"""Manifests against the published schemas, whatever the options say; the command in them against the command line."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from llmbench.cli import app
from llmbench.errors import UserError
from llmbench.submit.as_yaml import to_yaml
from llmbench.submit.manifests import KubernetesOptions, Submission, manifests, reader, suite_key

PLAIN = KubernetesOptions(2, "ghcr.io/me/llmbench:1")
FULL = replace(
    PLAIN,
    nodes=3,
    gpus_per_node=8,
    cpu="16",
    memory="64Gi",
    volume="results",
    time="30m",
    namespace="bench",
    node_selector=["example.com/pool=gpu"],
    labels=["kueue.x-k8s.io/queue-name=gpu"],
    env=["NCCL_DEBUG=INFO", "NUMBER=1e3", "HOSTILE=$(HOME) $$ \"': - {x}\n\ttab: yes"],
    service_account="runner",
    image_pull_secret="registry",
)
KINDS = ("job", "jobset", "trainjob")
OWN_SUITE = ("mine.toml", 'workloads = ["gpt-tiny"]\n')


def submission(options: KubernetesOptions, own: tuple[str, str] | None = None) -> Submission:
    arguments = ["run", "smoke", "--mode", "ddp", "--out", "/results/1", "--nnodes", str(options.nodes)]
    return Submission("llmbench-20260101-120000-ab12", options, arguments, "/results/1", own)


def pod_spec(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """The pod of a Job or of a JobSet."""
    spec = objects[-1]["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"] if "replicatedJobs" in spec else spec
    return job["template"]["spec"]


def check(one: dict[str, Any]) -> None:
    """Holds an object against its published schema, of the oldest and the newest Kubernetes of today."""
    if one["kind"] == "JobSet":
        from kubeflow_trainer_api.models import JobsetV1alpha2JobSet

        _same(JobsetV1alpha2JobSet.from_dict(one), one)
        for job in one["spec"]["replicatedJobs"]:
            check({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, **job["template"]})
    elif one["kind"] == "TrainJob":
        from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

        _same(TrainerV1alpha1TrainJob.from_dict(one), one)
    else:
        for version in ("1.31", "1.37"):
            kubernetes_validate.validate(one, version, strict=True)


def _same(model: Any, one: dict[str, Any]) -> None:
    """These models drop what they do not know: nothing may be lost."""
    assert json.loads(json.dumps(model.to_dict(), default=str)) == one


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", [None, OWN_SUITE])
@pytest.mark.parametrize("options", [PLAIN, FULL])
def test_all_objects_are_valid(options: KubernetesOptions, own: tuple[str, str] | None, kind: Any) -> None:
    options = replace(options, kind=kind)
    options.check()
    for one in manifests(submission(options, own)):
        check(one)
        assert one["metadata"]["labels"]["app.kubernetes.io/instance"] == one["metadata"]["name"]
        assert one["metadata"].get("namespace") == options.namespace


@pytest.mark.parametrize("kind", KINDS)
def test_every_choice_alone_and_with_each_other_is_valid(kind: Any) -> None:
    fields = ("gpus_per_node", "cpu", "volume", "time", "node_selector", "env", "service_account", "image_pull_secret")
    for chosen in itertools.combinations(fields, 2):
        options = replace(PLAIN, kind=kind, **{name: getattr(FULL, name) for name in chosen})
        for one in manifests(submission(options)):
            check(one)


@pytest.mark.parametrize(("path", "value"), [(("backoffLimitPerIndex",), "0"), (("completionz",), 3)])
def test_the_check_sees_faults(path: tuple[str], value: Any) -> None:
    job = manifests(submission(PLAIN))[-1]
    job["spec"][path[0]] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        check(job)
    train = manifests(submission(replace(PLAIN, kind="trainjob")))[-1]
    train["spec"]["trainer"]["numNode"] = 3
    with pytest.raises(AssertionError):
        check(train)


def test_a_reader_is_valid() -> None:
    check(reader("llmbench-20260101-120000-ab12", FULL, "/results/1"))


@pytest.mark.parametrize("kind", ["job", "jobset"])
def test_each_pod_learns_which_node_it_is(kind: Any) -> None:
    made = submission(replace(FULL, kind=kind))
    (container,) = pod_spec(manifests(made))["containers"]
    env = {one["name"]: one for one in container["env"]}
    assert env["PET_NNODES"]["value"] == "3"
    assert env["PET_NPROC_PER_NODE"]["value"] == "8"
    assert "job-completion-index" in env["PET_NODE_RANK"]["valueFrom"]["fieldRef"]["fieldPath"]
    host, service = env["PET_MASTER_ADDR"]["value"].split(".")
    inner = {"job": f"{made.name}-0", "jobset": f"{made.name}-node-0-0"}
    assert (host, service) == (inner[kind], made.name)


def test_the_names_of_pods_lead_through_the_service() -> None:
    service, job = manifests(submission(PLAIN))
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"]
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()


def test_kubeflow_sets_the_variables_of_torchrun_itself() -> None:
    (job,) = manifests(submission(replace(FULL, kind="trainjob", runtime="TrainingRuntime/mine")))
    assert not [one["name"] for one in job["spec"]["trainer"]["env"] if one["name"].startswith("PET_")]
    assert job["spec"]["trainer"]["numNodes"] == 3
    assert job["spec"]["trainer"]["numProcPerNode"] == 8
    assert job["spec"]["runtimeRef"] == {"name": "mine", "kind": "TrainingRuntime"}


@pytest.mark.parametrize("kind", ["job", "jobset"])
def test_nothing_is_run_twice(kind: Any) -> None:
    made = manifests(submission(replace(PLAIN, kind=kind)))[-1]
    job = made["spec"]["replicatedJobs"][0]["template"]["spec"] if kind == "jobset" else made["spec"]
    assert job["backoffLimitPerIndex"] == 0
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    if kind == "jobset":
        assert made["spec"]["failurePolicy"] == {"maxRestarts": 0}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [PLAIN, FULL])
def test_the_command_is_one_of_ours(options: KubernetesOptions, kind: Any) -> None:
    """Parsed by the command line itself, without doing it."""
    made = manifests(submission(replace(options, kind=kind), OWN_SUITE))
    holder = made[-1]["spec"]["trainer"] if kind == "trainjob" else pod_spec(made)["containers"][0]
    program, *outer = [*holder["command"], *holder["args"]]
    assert program == "llmbench"
    outer_values = parsed(outer, "submit", "pod")
    assert (outer_values["hand_over"] is None) == (options.volume is not None)
    assert outer_values["report_code"] == (kind == "trainjob")
    inner = list(outer_values["arguments"])
    assert inner[0] == "run"
    known = {option for one in get_command(app).commands["run"].params for option in one.opts}
    if "--nnodes" in known:
        assert parsed(inner, "run")["nnodes"] == options.nodes
    at = inner.index("--out")
    assert inner[at + 1] == "/results/1"


def test_the_commands_of_the_guide_are_ours() -> None:
    guide = Path(__file__).resolve().parents[2] / "docs" / "clusters.md"
    lines = re.findall(r"^\$ llmbench (submit (?:kubernetes|status|fetch|cancel).*)$", guide.read_text(), re.MULTILINE)
    assert len(lines) >= 6
    for line in lines:
        _, name, *rest = shlex.split(line)
        parsed(["submit", name, *rest], "submit", name)


def parsed(arguments: list[str], *path: str) -> dict[str, Any]:
    command: Any = get_command(app)
    for name in path:
        assert arguments[0] == name
        command, arguments = command.commands[name], arguments[1:]
    return dict(command.make_context(path[-1], list(arguments)).params)


def test_what_kubernetes_would_replace_stays() -> None:
    (container,) = pod_spec(manifests(submission(FULL)))["containers"]
    env = {one["name"]: one.get("value") for one in container["env"]}
    assert str(env["HOSTILE"]).startswith("$$(HOME) $$$$ ")


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"nodes": 0}, "--nodes 0"),
        ({"nodes": 100_001}, "--nodes"),
        ({"image": "no image"}, "--image"),
        ({"memory": "64GB"}, "--memory"),
        ({"cpu": "0"}, "--cpu"),
        ({"shm_size": "x"}, "--shm-size"),
        ({"gpu_resource": "gpu"}, "--gpu-resource"),
        ({"volume": "My Volume"}, "--volume"),
        ({"namespace": "a.b"}, "--namespace"),
        ({"time": "soon"}, "--time"),
        ({"env": ["PET_NODE_RANK=0"]}, "--env PET_NODE_RANK"),
        ({"labels": ["app.kubernetes.io/instance=x"]}, "--label"),
        ({"node_selector": ["pool"]}, "--node-selector"),
        ({"service_account": "?"}, "--service-account"),
        ({"image_pull_secret": ""}, "--image-pull-secret"),
        ({"runtime": "Runtime/x"}, "--runtime"),
        ({"runtime": "X"}, "--runtime"),
    ],
)
def test_a_wrong_option_is_told_by_its_name(changes: dict[str, Any], names: str) -> None:
    with pytest.raises(UserError, match=names):
        replace(PLAIN, **changes).check()


def test_a_suite_that_is_too_long() -> None:
    with pytest.raises(UserError, match=r"mine\.toml: .* bytes are too many"):
        manifests(submission(PLAIN, ("mine.toml", "#" * 1_000_000)))


@pytest.mark.parametrize("name", ["mine.toml", "my suite (2).toml", "é.toml", ".toml", "x" * 250 + ".toml"])
def test_keys_of_suites(name: str) -> None:
    check(manifests(submission(PLAIN, (name, "x")))[0])
    key = suite_key(name)
    assert len(key) <= 110
    assert key.endswith(".toml")
    assert key.removesuffix(".toml").replace("-", "").replace("_", "").isalnum()


TEXTS = [
    *("yes", "on", "1e3", "0o17", "12:30:45", "~", "#", "é", "01", "=", ".inf", "0x1F", "1_000", "null", "N"),
    *("!!str", "&a", "*a", "%", "@", "`", "2026-01-01", "-", "?", "---", "...", "{}", "[a]", "|", ">", "'", '"'),
    *("", " x", "x ", "a: b", "- a", "\x85", "a\n\nb", "\tx", "line\nline \n", "\n", "\x7f", "a\\n"),
]


def test_yaml_keeps_every_text() -> None:
    document = {"data": {f"k{number}": text for number, text in enumerate(TEXTS)}}
    assert list(yaml.safe_load_all(to_yaml([document, document]))) == [document, document]


@given(st.dictionaries(st.text("ab", min_size=1), st.text(st.characters(exclude_categories=["Cs"]))))
def test_yaml_keeps_any_text(data: dict[str, str]) -> None:
    assert yaml.safe_load(to_yaml([{"data": data}])) == {"data": data}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_kubectl_reads_the_same_text() -> None:
    """Another parser of YAML, which takes other words for numbers."""
    data = {f"k{number}": text for number, text in enumerate(TEXTS)}
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": data}
    command = ["kubectl", "annotate", "--local", "-f", "-", "a=b", "-o", "json"]
    done = subprocess.run(command, input=to_yaml([made]), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"] == data
