"""What the manifest says, done: each pod's command with its variables, on a host with the name of the pod.

No Kubernetes runs: the real kubectl speaks to a small API server, behind which a small kubelet starts the pods.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmbench.results.store import RunFolder
from tests.cluster.hosts import Hosts, hosts, with_checkout
from tests.conftest import Command, records_of, wait_for
from tests.submit.api_server import Api, Object, ended, kubeconfig, running, serving

pytestmark = [pytest.mark.slow, pytest.mark.hosts]

SUITE = """
workloads = ["gpt-tiny"]
modes = ["eager", "ddp"]
world_sizes = [2]
settings = { steps = 20, threads = 1, eval_batches = 1, budget_seconds = 0, deadline_seconds = 120 }
"""
ENDLESS_DDP = (
    SUITE
    + """
[[override]]
mode = "ddp"
settings = { steps = 500_000, micro_batch_size = 2 }
"""
)


class Kubelet:
    """Starts the pods of a Job on hosts, one on each, and tells the API server how they are."""

    def __init__(self, machines: Hosts, folder: Path, environment: dict[str, str]) -> None:
        self.machines, self.folder, self.environment = machines, folder, environment
        self.pods: dict[int, subprocess.Popen[str]] = {}

    def states(self, job: Object) -> list[Object]:
        if not self.pods:
            self._start(job)
        return [self._state(job, rank, process) for rank, process in self.pods.items()]

    def log(self, rank: int) -> Path:
        return self.folder / f"pod{rank}.log"

    def _state(self, job: Object, rank: int, process: subprocess.Popen[str]) -> Object:
        code = process.poll()
        return running(job, rank) if code is None else ended(job, rank, 128 - code if code < 0 else code)

    def _start(self, job: Object) -> None:
        name, spec = job["metadata"]["name"], job["spec"]["template"]["spec"]
        names = Path(self.machines.names["LLB_STATE"], "hosts")
        with names.open("a") as file:  # the headless service
            for rank in range(job["spec"]["completions"]):
                host = f"{name}-{rank}"
                file.write(f"{self.machines.address(rank)} {host}.{spec['subdomain']} {host}\n")
        for rank in range(job["spec"]["completions"]):
            self.pods[rank] = self._pod(rank, f"{name}-{rank}", spec["containers"][0])

    def _pod(self, rank: int, host: str, container: Object) -> subprocess.Popen[str]:
        program, *arguments = [self._mounted(text, rank) for text in (*container["command"], *container["args"])]
        assert program == "llmbench"
        variables = {one["name"]: one.get("value", str(rank)) for one in container["env"]}
        command = ["sh", "-c", 'hostname "$0"; exec "$@"', host, sys.executable, "-m", "llmbench", *arguments]
        with self.log(rank).open("w") as log:
            return self.machines.start(
                rank, command, self.environment | variables, self.folder, stdout=log, stderr=subprocess.STDOUT
            )

    def _mounted(self, text: str, rank: int) -> str:
        """Paths of a pod's volumes, on this machine."""
        text = text.replace("$$", "$")
        text = text.replace("/results/", f"{self.folder}/results{rank}/")
        return text.replace("/etc/llmbench/", f"{self.folder}/suite/")


@pytest.fixture
def kubelet(environment: dict[str, str], tmp_path: Path) -> Iterator[Kubelet]:
    with hosts(2) as machines:
        yield Kubelet(machines, tmp_path, with_checkout(environment))


@pytest.fixture
def api(kubelet: Kubelet) -> Iterator[Api]:
    with serving(Api(script=[kubelet.states], logs={"llmbench-": kubelet.log(0)})) as found:
        yield found


@pytest.fixture
def variables(api: Api, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "kubeconfig").write_text(kubeconfig(api.url))
    return {"KUBECONFIG": str(tmp_path / "kubeconfig"), "KUBECACHEDIR": str(tmp_path / "cache")}


def submission(tmp_path: Path, text: str) -> list[Any]:
    (tmp_path / "suite").mkdir()
    file = tmp_path / "suite" / "mine.toml"
    file.write_text(text)
    return ["submit", "kubernetes", file, "--nodes", "2", "--image", "example.com/x:1", "--device", "cpu"]


def the_run(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "reports" / "runs").iterdir()
    return found


def test_two_pods_train_together(
    kubelet: Kubelet, llmbench: Command, variables: dict[str, str], tmp_path: Path
) -> None:
    done = llmbench(*submission(tmp_path, SUITE), timeout=280, **variables)
    assert done.returncode == 0, f"{done.stderr}\n{kubelet.log(0).read_text()}\n{kubelet.log(1).read_text()}"
    records = records_of(the_run(tmp_path))
    assert {case: record.status for case, record in records.items()} == {
        "gpt-tiny/eager/ws1": "ok", "gpt-tiny/ddp/ws2": "ok"
    }  # fmt: skip
    told = RunFolder(the_run(tmp_path)).read_run().model_dump_json()
    job = next((tmp_path / "reports" / "jobs").iterdir()).name
    assert all(f"llmbench-{job}-{rank}" in told for rank in (0, 1))  # the host name of each pod


def test_a_pod_that_is_killed_is_named(
    kubelet: Kubelet, started: Callable[..., subprocess.Popen[str]], variables: dict[str, str], tmp_path: Path
) -> None:
    process = started(*submission(tmp_path, ENDLESS_DDP), **variables)
    wait_for(lambda: kubelet.log(0).exists() and "[1/2]" in kubelet.log(0).read_text())
    wait_for(lambda: len(kubelet.machines.pids(1)) > 4)  # ranks of the endless case, too
    os.killpg(kubelet.pods[1].pid, signal.SIGKILL)
    for pid in kubelet.machines.pids(1):
        os.kill(pid, signal.SIGKILL)
    out, errors = process.communicate(timeout=280)
    assert process.returncode == 3, f"{out}\n{errors}\n{kubelet.log(0).read_text()}"
    records = records_of(the_run(tmp_path))
    assert records["gpt-tiny/eager/ws1"].status == "ok"
    error = records["gpt-tiny/ddp/ws2"].error
    assert error is not None
    assert "-1" in error.message
    assert "node 1" in errors


def test_a_cancelled_job_closes_its_run(
    kubelet: Kubelet, api: Api, llmbench: Command, variables: dict[str, str], tmp_path: Path
) -> None:
    """Deleting the job sends SIGTERM to the pods; the record that was finished comes through the log."""
    name = llmbench(*submission(tmp_path, ENDLESS_DDP), "--detach", **variables).stdout.strip()
    assert "queued" not in llmbench("submit", "status", name, **variables).stdout
    wait_for(lambda: "[1/2]" in kubelet.log(0).read_text())

    said = len(kubelet.log(0).read_text())

    def terminate() -> str:
        for process in kubelet.pods.values():
            process.send_signal(signal.SIGTERM)
        kubelet.pods[0].wait()
        return kubelet.log(0).read_text()[said:]

    api.goodbye = terminate
    cancelled = llmbench("submit", "cancel", name, **variables)
    assert cancelled.returncode == 0, cancelled.stderr
    done = llmbench("submit", "fetch", name, **variables)
    assert done.returncode == 3, done.stderr
    assert records_of(the_run(tmp_path))["gpt-tiny/eager/ws1"].status == "ok"
