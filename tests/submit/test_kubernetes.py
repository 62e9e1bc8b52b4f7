"""``llmbench submit kubernetes`` with the real kubectl and a small API server: the whole way, and what goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from llmbench.cli import app
from llmbench.errors import UserError
from llmbench.results.store import RunFolder
from llmbench.submit.bundle import pack
from tests.conftest import Command, wait_for
from tests.submit.api_server import Api, ended, kubeconfig, pod, running, serving

SUBMIT = ("submit", "kubernetes", "smoke", "--workload", "gpt-tiny", "--nodes", "2", "--image", "example.com/x:1")
OLDEST_KUBECTL = 30
Submit = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def kubectl() -> None:
    """The real one. One that is older asks for the API's description in a form that the small server has not."""
    if shutil.which("kubectl") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs kubectl (Debian package kubernetes-client)")
    told = subprocess.run(["kubectl", "version", "--client", "-o", "json"], capture_output=True, text=True, check=True)
    minor = int(json.loads(told.stdout)["clientVersion"]["minor"].rstrip("+"))
    if minor < OLDEST_KUBECTL:
        pytest.skip(f"needs kubectl 1.{OLDEST_KUBECTL} or newer; here is 1.{minor}")


@pytest.fixture
def api(kubectl: None) -> Iterator[Api]:
    with serving(Api()) as found:
        yield found


@pytest.fixture
def variables(api: Api, tmp_path: Path) -> dict[str, str]:
    """Of commands that are to find this cluster, and no other."""
    (tmp_path / "kubeconfig").write_text(kubeconfig(api.url))
    return {"KUBECONFIG": str(tmp_path / "kubeconfig"), "HOME": str(tmp_path), "KUBECACHEDIR": str(tmp_path / "cache")}


@pytest.fixture
def submit(llmbench: Command, variables: dict[str, str]) -> Submit:
    def run(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        return llmbench(*arguments, **(variables | more))

    return run


def log_of(run: Path, progress: str = "[1/2] PASS gpt-tiny/eager/ws1") -> str:
    return "\n".join([progress, "2 of 2 cases trained right", *pack(run)[0]]) + "\n"


def the_run(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "reports" / "runs").iterdir()
    return found


def the_job(tmp_path: Path) -> dict[str, object]:
    (found,) = (tmp_path / "reports" / "jobs").glob("*/job.json")
    return dict(json.loads(found.read_text()))


def test_a_run_from_beginning_to_end(api: Api, submit: Submit, made_run: Callable[..., Path], tmp_path: Path) -> None:
    source = made_run()
    api.logs["llmbench-"] = log_of(source)
    api.script = [
        lambda job: [pod(job, 0, "Pending"), pod(job, 1, "Pending")],
        lambda job: [running(job, 0), running(job, 1)],
        lambda job: [ended(job, 0, 0), ended(job, 1, 0)],
    ]
    done = submit(*SUBMIT)
    assert done.returncode == 0, done.stderr
    told = done.stderr.splitlines()
    assert "queued (0 of 2 pods run)" in told[0]
    assert "running (on 2 of 2 pods)" in told[1]
    assert told[2].startswith("  1 of ")
    assert "done" in told[-1]
    assert "gpt-tiny/eager/ws1" in done.stdout
    run = the_run(tmp_path)
    assert (run / "records.jsonl").read_bytes() == (source / "records.jsonl").read_bytes()
    assert (run / "report.html").exists()
    # Nothing is left in the cluster, and the job is known here all the same.
    assert api.objects == {}
    status = submit("submit", "status", "--json")
    (row,) = json.loads(status.stdout)
    assert (row["state"], row["code"], row["problem"]) == ("done", 0, None)
    again = submit("submit", "fetch", row["id"])
    assert again.returncode == 0
    assert "gpt-tiny/eager/ws1" in again.stdout


def test_the_server_judges_before_anything_is_made(api: Api, submit: Submit, tmp_path: Path) -> None:
    api.refuse["Job"] = "jobs.batch is forbidden: exceeded quota: compute"
    done = submit(*SUBMIT)
    assert done.returncode == 2
    assert "exceeded quota: compute" in done.stderr
    assert "--namespace" in done.stderr
    assert api.objects == {}
    assert not (tmp_path / "reports" / "jobs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jobset", "trainjob"])
def test_other_kinds_of_job(api: Api, submit: Submit, made_run: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    api.logs["llmbench-"] = log_of(made_run())
    api.script = [lambda job: [ended(job, 0, 0), ended(job, 1, 0)]]
    done = submit(*SUBMIT, "--kind", kind)
    assert done.returncode == 0, done.stderr
    assert any(f"/{kind}s" in line and line.startswith('"POST') for line in api.requests)
    assert api.objects == {}


@pytest.mark.slow
def test_an_operator_that_is_not_there(api: Api, submit: Submit) -> None:
    api.operators = False
    done = submit(*SUBMIT, "--kind", "jobset")
    assert done.returncode == 2
    assert 'no matches for kind "JobSet"' in done.stderr
    assert "--kind job needs none" in done.stderr


@pytest.mark.slow
def test_a_case_that_failed_is_code_3(api: Api, submit: Submit, made_run: Callable[..., Path]) -> None:
    api.logs["llmbench-"] = log_of(made_run(recorded=1))
    api.script = [lambda job: [ended(job, 0, 3), ended(job, 1, 0)]]
    done = submit(*SUBMIT)
    assert done.returncode == 3, done.stderr
    assert "1 of 2 cases have no record yet" in done.stderr
    assert "again:  the whole suite as before: only a run on a --volume" in done.stdout


@pytest.mark.slow
def test_a_job_without_a_run_says_why(api: Api, submit: Submit) -> None:
    api.logs["llmbench-"] = "llmbench: unknown suite 'smoke'\nllmbench: no run to hand over: /results/1 is not a run\n"
    api.script = [lambda job: [ended(job, 0, 2), running(job, 1)]]
    done = submit(*SUBMIT)
    assert done.returncode == 2
    assert "unknown suite 'smoke'" in done.stderr
    assert "exit code 2" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_image_that_cannot_be_pulled_is_told_while_it_waits(
    api: Api, variables: dict[str, str], started: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "example.com/x:1"'}}
    api.script = [lambda job: [pod(job, 0, "Pending", state=waiting), pod(job, 1, "Pending", state=waiting)]]
    process = started(*SUBMIT, **variables)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "queued" in line
    assert 'ImagePullBackOff: Back-off pulling image "example.com/x:1"' in line
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=240)
    assert process.returncode == 130
    assert "goes on without being followed" in rest
    assert the_job(tmp_path)["state"] == "queued"


@pytest.mark.slow
def test_no_pod_because_of_a_quota(api: Api, submit: Submit) -> None:
    api.script = [lambda job: []]
    name = submit(*SUBMIT, "--detach").stdout.strip()
    event = {"kind": "Event", "type": "Warning", "message": "exceeded quota: gpus", "metadata": {"name": "e"}}
    api.objects["events", "e"] = event | {"involvedObject": {"name": f"llmbench-{name}"}, "apiVersion": "v1"}
    assert "queued (no pod yet: exceeded quota: gpus)" in submit("submit", "status", name).stdout


@pytest.mark.slow
def test_an_evicted_node_is_named(api: Api, submit: Submit) -> None:
    evicted = {"reason": "Evicted", "message": "The node was low on resource: memory"}
    api.script = [lambda job: [pod(job, 0, "Failed", **evicted), running(job, 1)]]
    done = submit(*SUBMIT)
    assert done.returncode == 2
    assert "on machine-0): Evicted: The node was low on resource: memory" in done.stderr
    assert "went with its machine" in done.stderr


@pytest.mark.slow
def test_cancelling_brings_what_is_finished(
    api: Api, submit: Submit, made_run: Callable[..., Path], tmp_path: Path
) -> None:
    """Node 0 says its last words while it is being deleted: they are listened to."""
    api.script = [lambda job: [running(job, 0), running(job, 1)]]
    api.logs["llmbench-"] = "[1/2] PASS gpt-tiny/eager/ws1\n"
    last_words = log_of(made_run(recorded=1))
    api.goodbye = lambda: last_words
    name = submit(*SUBMIT, "--detach").stdout.strip()
    early = submit("submit", "fetch", name)
    assert early.returncode == 2
    assert "its run is in the pod until it ends" in early.stderr
    assert submit("submit", "cancel", name).returncode == 0
    assert api.objects == {}
    assert "cancelled" in submit("submit", "status", name).stdout
    done = submit("submit", "fetch", name)
    assert done.returncode == 3
    assert "1 of 2 cases have no record yet" in done.stderr
    assert len(RunFolder(the_run(tmp_path)).records()) == 1


@contextmanager
def a_reader_that_succeeds(api: Api) -> Iterator[None]:
    """A kubelet that lets each pod that is made meanwhile run to its end."""
    before = set(api.objects)

    def finish() -> bool:
        new = [one for key, one in api.objects.items() if key not in before]
        for one in new:
            state = {"terminated": {"exitCode": 0, "reason": "Completed"}}
            one["status"] = {"phase": "Succeeded", "containerStatuses": [{"name": "reader", "state": state}]}
        return bool(new)

    kubelet = threading.Thread(target=wait_for, args=(finish,))
    kubelet.start()
    yield
    kubelet.join()


@pytest.mark.slow
def test_a_run_on_a_volume_is_read_by_a_pod_and_gone_on_with(
    api: Api, submit: Submit, made_run: Callable[..., Path], tmp_path: Path
) -> None:
    api.script = [lambda job: [ended(job, 0, 0), ended(job, 1, 0)]]
    name = submit(*SUBMIT, "--volume", "results", "--detach").stdout.strip()
    api.logs = {f"llmbench-{name}-reader": log_of(made_run(recorded=1)), "llmbench-": "nothing\n"}
    with a_reader_that_succeeds(api):
        done = submit("submit", "fetch", name)
    assert done.returncode == 3, done.stderr
    assert api.objects == {}
    again = f"submit kubernetes --nodes 2 --image example.com/x:1 --volume results --resume /results/{name}"
    assert f"again:  llmbench {again}, with the other options" in done.stdout
    second = submit(*again.split(), "--detach").stdout.strip()
    (container,) = next(one for one in api.made("jobs"))["spec"]["template"]["spec"]["containers"]
    words = [*container.get("command", []), *container["args"]]
    assert words[words.index("--resume") + 1] == f"/results/{name}"
    assert "smoke" not in words
    api.logs = {f"llmbench-{second}-reader": log_of(made_run("whole")), "llmbench-": "nothing\n"}
    with a_reader_that_succeeds(api):
        done = submit("submit", "fetch", second)
    assert done.returncode == 0, done.stderr
    assert sorted(len(RunFolder(run).records()) for run in (tmp_path / "reports" / "runs").iterdir()) == [1, 2]


@pytest.mark.slow
def test_deleted_by_somebody(api: Api, submit: Submit) -> None:
    api.script = [lambda job: [running(job, 0)]]
    name = submit(*SUBMIT, "--detach").stdout.strip()
    api.objects.clear()
    assert "cancelled (it is not in the cluster any more)" in submit("submit", "status", name).stdout


def test_a_server_that_is_not_there(api: Api, submit: Submit, tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text(kubeconfig("http://127.0.0.1:9"))
    done = submit(*SUBMIT)
    assert done.returncode == 2
    assert "refused" in done.stderr
    assert "--plan needs no cluster" in done.stderr
    assert not (tmp_path / "reports" / "jobs").exists()


def test_without_kubectl(llmbench: Command, tmp_path: Path) -> None:
    done = llmbench(*SUBMIT, PATH=str(tmp_path))
    assert done.returncode == 2
    assert "there is no kubectl" in done.stderr
    assert "--plan" in done.stderr
    planned = llmbench(*SUBMIT, "--plan", PATH=str(tmp_path))
    assert planned.returncode == 0
    assert [one["kind"] for one in yaml.safe_load_all(planned.stdout)] == ["Service", "Job"]
    assert not (tmp_path / "reports").exists()


def test_a_suite_of_ones_own_travels_along(llmbench: Command, suite: Callable[..., Path]) -> None:
    text = 'workloads = ["gpt-tiny"]\nsettings = { steps = 20 }\n'
    done = llmbench("submit", "kubernetes", suite(text, "my suite.toml"), "--image", "x/y", "--plan")
    made = list(yaml.safe_load_all(done.stdout))
    assert made[0]["data"] == {"my-suite.toml": text}
    assert "/etc/llmbench/my-suite.toml" in made[-1]["spec"]["template"]["spec"]["containers"][0]["args"]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["smoke"], ("--image",)),
        (["--image", "x"], ("which suite?", "smoke")),
        (["smokey", "--image", "x"], ("'smokey'", "smoke")),
        (["smoke", "--image", "x y"], ("--image", "'x y'")),
        (["smoke", "--image", "x", "--nodes", "0"], ("--nodes",)),
        (["smoke", "--image", "x", "--memory", "64GB"], ("--memory", "64Gi")),
        (["smoke", "--image", "x", "-m", "bf61"], ("'bf61'", "bf16")),
        (["smoke", "--image", "x", "--set", "steps=3"], ("steps=3",)),
        (["smoke", "--image", "x", "--resume", "/results/1"], ("--resume", "choices")),
        (["--image", "x", "--resume", "/results/1"], ("--volume",)),
        (["--image", "x", "--volume", "v", "--resume", "/results/../etc"], ("/results/ID",)),
        (["smoke", "--image", "x", "--kind", "pytorchjob"], ("pytorchjob", "trainjob")),
    ],
)
def test_mistakes(arguments: list[str], names: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, ["submit", "kubernetes", *arguments, "--plan"])
    told = done.output if isinstance(done.exception, SystemExit) else str(done.exception.__dict__)
    assert done.exit_code == 2 or isinstance(done.exception, UserError)
    assert all(name in told for name in names), told
