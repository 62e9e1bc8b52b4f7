"""A job in a Kubernetes cluster: made, looked after, brought back and deleted through ``kubectl``."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmbench.errors import UserError
from llmbench.results.files import write_atomically
from llmbench.submit.as_yaml import to_yaml
from llmbench.submit.bundle import unpack, without
from llmbench.submit.jobs import ENDED, Condition, Job, JobFolder
from llmbench.submit.kubectl import ANSWER_SECONDS, Kubectl, items
from llmbench.submit.manifests import GOODBYE_SECONDS, KubernetesOptions, reader
from llmbench.submit.pods import Pod, condition, pods

RESOURCES = {"job": "jobs.batch", "jobset": "jobsets.jobset.x-k8s.io", "trainjob": "trainjobs.trainer.kubeflow.org"}
MANIFEST = "manifest.yaml"
READER = "reader.yaml"
LOG = "node-0.log"
READER_SECONDS = 600.0
MOST_LOGS = 16  # of pods that failed, to keep
_CASE = re.compile(r"^\[ *(\d+)/(\d+)\]", re.MULTILINE)


def send(kubectl: Kubectl, manifest: Path, name: str) -> str:
    """Has the objects judged by the server, then makes them; the namespace in which they are.

    Raises:
        UserError: there is no kubectl, no cluster, or it refuses; nothing is left of what it refuses.
    """
    kubectl.check(manifest)
    try:
        made = kubectl.apply(manifest)
    except UserError:
        _forget(kubectl, name, list(RESOURCES)[:1])
        raise
    return next((one["metadata"]["namespace"] for one in made if one.get("metadata", {}).get("namespace")), "default")


def _forget(kubectl: Kubectl, name: str, kinds: list[str]) -> None:
    from llmbench.start import complain

    resources = [*(RESOURCES[kind] for kind in kinds), "services", "configmaps"]
    try:
        kubectl.delete(resources, f"app.kubernetes.io/instance={name}")
    except UserError as error:
        complain(f"llmbench: {error.message}", f"  delete it yourself: label app.kubernetes.io/instance={name}")


class KubernetesJob:
    """A submitted job in Kubernetes, as ``jobs.Submitted`` has it."""

    def __init__(self, folder: JobFolder, pause: Callable[[float], None] = time.sleep) -> None:
        self.folder = folder
        self.job: Job = folder.read()
        details = self.job.details
        namespace, _, self.name = self.job.system_id.rpartition("/")
        self.kind = details.get("kind", "job")
        self.volume = details.get("volume")
        self.kubectl = Kubectl(details.get("context"), namespace or None)
        self._pause = pause
        self._done: int | None = None
        self._seen: list[dict[str, Any]] | None = None

    @property
    def selector(self) -> str:
        return f"app.kubernetes.io/instance={self.name}"

    def look(self) -> Condition:
        self._seen = self._objects()
        found = condition(self._seen, self.job.nodes)
        if found is None:
            return self._gone()
        if found.ended and found.code is not None:
            self._keep(code=str(found.code))
        return self._explained(found)

    def done(self) -> int | None:
        """Cases that node 0 said are finished, while it runs: its log counts them."""
        if self.folder.read().state in ENDED:
            return None  # the run itself says it
        first = self._first(self._objects() if self._seen is None else self._seen)
        if first is not None and first.running:
            try:
                found = _CASE.findall(self.kubectl.logs(first.name, "--tail=100"))
            except UserError:
                return self._done  # a log that cannot be read now
            if found:
                self._done = int(found[-1][0])
        return self._done

    def fetch(self, out: Path | None) -> Path:
        fetched = self.folder.read().details.get("fetched")
        if out is None and fetched and (Path(fetched) / "run.json").exists():
            return Path(fetched)
        target = out or Path(self.job.working_folder, "reports", "runs", self.job.id)
        if target.exists() and any(target.iterdir()):
            raise UserError(f"{target} is not empty", "choose another folder with --out")
        objects = self._objects()
        now = condition(objects, self.job.nodes)
        log = self._log_with_run(objects, now)
        if not unpack(log.splitlines(), target):
            raise UserError(
                f"no run came back from {self.job.system_id}: {_last_words(log, now)}", self._where_to_look()
            )
        if now is not None and now.ended:
            self._keep(fetched=str(target.absolute()))
            self._clean(objects)
        return target

    def cancel(self) -> None:
        """Deletes it. Node 0 closes its run on the way, within two minutes; where no volume keeps it, its log does."""
        first = self._first(self._objects())
        last_words = None
        if first is not None and first.running and not self.volume:
            last_words = self._listen(first)
        self.kubectl.delete([RESOURCES[self.kind], "services", "configmaps"], self.selector)
        self.folder.seen("cancelled")
        if last_words is not None:
            try:
                last_words.wait(GOODBYE_SECONDS + 30)
            except subprocess.TimeoutExpired:
                last_words.kill()
                last_words.wait()

    def _listen(self, pod: Pod) -> subprocess.Popen[bytes]:
        """Follows the log of a pod; on return it is being read, if the pod has said anything yet."""
        file = self.folder.path / LOG
        listener = self.kubectl.following_logs(pod.name, file)
        until = time.monotonic() + ANSWER_SECONDS
        while file.stat().st_size == 0 and listener.poll() is None and time.monotonic() < until:
            self._pause(0.1)
        return listener

    def _objects(self) -> list[dict[str, Any]]:
        return items(self.kubectl.json("get", f"{RESOURCES[self.kind]},pods", f"--selector={self.selector}"))

    def _gone(self) -> Condition:
        """Deleted: by us when its run had been fetched, or by somebody."""
        job = self.folder.read()
        code = job.details.get("code")
        if job.state in ENDED:
            reason = None if job.state == "done" else "as it was seen last"
            return Condition(job.state, reason, code=int(code) if code else None)
        return Condition("cancelled", "it is not in the cluster any more")

    def _explained(self, found: Condition) -> Condition:
        """Why there is not even a pod, such as a quota, stands in the events of the job alone."""
        if found.reason != "no pod yet" or self.kind != "job":
            return found
        try:
            events = items(self.kubectl.json("get", "events", f"--field-selector=involvedObject.name={self.name}"))
        except UserError:
            return found
        told = [one.get("message") for one in events if one.get("type") == "Warning" and one.get("message")]
        return Condition(found.state, f"no pod yet: {told[-1]}" if told else found.reason)

    def _first(self, objects: list[dict[str, Any]]) -> Pod | None:
        return next((pod for pod in pods(objects) if pod.rank == 0), None)

    def _log_with_run(self, objects: list[dict[str, Any]], now: Condition | None) -> str:
        """A log in which the run should be.

        Raises:
            UserError: it is still in the pod.
        """
        if self.volume:
            return self._read_volume()
        first = self._first(objects)
        file = self.folder.path / LOG
        if first is not None and first.ended:
            try:
                file.write_text(self.kubectl.logs(first.name, "--tail=-1"), encoding="utf-8")
            except UserError as error:  # it went with its machine: what was heard before, or why there is nothing
                return file.read_text(encoding="utf-8", errors="replace") if file.exists() else error.message
        if now is not None and not now.ended:
            raise UserError(
                f"{self.job.system_id}: {now}; its run is in the pod until it ends",
                "`llmbench submit status` shows how far it is; with --volume it can be fetched at any time",
            )
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def _read_volume(self) -> str:
        """Starts a pod that prints the run which lies on the volume."""
        options = KubernetesOptions(
            1,
            self.job.details["image"],
            volume=self.volume,
            namespace=self.kubectl.namespace,
            image_pull_secret=self.job.details.get("image_pull_secret"),
            service_account=self.job.details.get("service_account"),
        )
        manifest = reader(self.name, options, self.job.run)
        write_atomically(self.folder.path / READER, to_yaml([manifest]))
        name = manifest["metadata"]["name"]
        self.kubectl.apply(self.folder.path / READER)
        try:
            self._wait_for_reader(name)
            return self.kubectl.logs(name, "--tail=-1")
        finally:
            self.kubectl("delete", "pod", name, "--wait=false", "--ignore-not-found")

    def _wait_for_reader(self, name: str) -> None:
        until = time.monotonic() + READER_SECONDS
        while True:
            found = items(self.kubectl.json("get", "pod", name))
            labels = found[0]["metadata"].get("labels", {}) if found else {}
            labels.pop("app.kubernetes.io/component", None)  # so that it is seen as a pod like others
            pod = next(iter(pods(found)), None)
            if pod is not None and pod.ended:
                return
            if pod is None or time.monotonic() > until:
                why = pod.waiting if pod is not None else "it is gone"
                raise UserError(f"the pod {name}, which is to read the volume, did not run: {why}", None)
            self._pause(1.0)

    def _clean(self, objects: list[dict[str, Any]]) -> None:
        """After the run is here: the logs of pods that failed are kept, the objects are not."""
        failed = [pod for pod in pods(objects) if pod.ended and pod.reason]
        for pod in failed[:MOST_LOGS]:
            try:
                log = self.kubectl.logs(pod.name, "--tail=2000")
            except UserError:
                continue  # the log went with its machine
            text = "\n".join(without(log.splitlines())) + "\n"
            (self.folder.path / f"node-{pod.rank}.log").write_text(text, encoding="utf-8")
        _forget(self.kubectl, self.name, [self.kind])

    def _keep(self, **details: str) -> None:
        job = self.folder.read()
        if job.details | details != job.details:
            self.folder.write(job.model_copy(update={"details": job.details | details}))

    def _where_to_look(self) -> str:
        log = self.folder.path / LOG
        place = str(log) if log.exists() else f"kubectl -n {self.kubectl.namespace} get pods -l {self.selector}"
        return f"look at {place}"


def _last_words(log: str, now: Condition | None) -> str:
    """Why there is no run: what llmbench said last in the pod, else what Kubernetes says."""
    lines = [line.strip() for line in without(log.splitlines()) if line.strip()]
    told = [line for line in lines if line.startswith("llmbench: ") and "no run to hand over" not in line]
    words = [told[-1] if told else lines[-1] if lines else "its log is empty", str(now) if now is not None else ""]
    return "; ".join(filter(None, words))
