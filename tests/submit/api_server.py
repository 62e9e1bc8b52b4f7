"""A small Kubernetes API server, for the real kubectl: discovery, objects, logs, and pods that do as a test says.

It judges objects by the published schemas (kubernetes-validate). No scheduler and no kubelet are behind it.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]

# (group/version, resource, kind)
KINDS = (
    ("v1", "pods", "Pod"),
    ("v1", "services", "Service"),
    ("v1", "configmaps", "ConfigMap"),
    ("v1", "events", "Event"),
    ("batch/v1", "jobs", "Job"),
    ("jobset.x-k8s.io/v1alpha2", "jobsets", "JobSet"),
    ("trainer.kubeflow.org/v1alpha1", "trainjobs", "TrainJob"),
)
JOBS = ("jobs", "jobsets", "trainjobs")


@dataclass
class Api:
    """The state of the cluster.

    Attributes:
        script: what the pods of a job are, one list for each time that somebody asks; the last one stays.
        logs: of a pod by its name's start: text, or the file to which it is written.
        refuse: by kind, why the server refuses to make one.
        goodbye: waits for the end of a pod that was deleted while somebody follows its log; what it said last.
        requests: that were made: method and path.
    """

    script: list[Callable[[Object], list[Object]]] = field(default_factory=list)
    logs: dict[str, str | Path] = field(default_factory=dict)
    refuse: dict[str, str] = field(default_factory=dict)
    operators: bool = True
    goodbye: Callable[[], str] = str
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    asked: int = 0
    url: str = ""
    deleted: threading.Event = field(default_factory=threading.Event)

    def kinds(self) -> list[tuple[str, str, str]]:
        return [kind for kind in KINDS if self.operators or kind[1] not in ("jobsets", "trainjobs")]

    def made(self, resource: str) -> list[Object]:
        return [one for (kind, _), one in self.objects.items() if kind == resource]

    def pods(self) -> list[Object]:
        """The pods of the job, as the script has them now, and those that were made one by one."""
        jobs = [one for resource in JOBS for one in self.made(resource)]
        if not jobs or not self.script:
            return self.made("pods")
        now = self.script[min(self.asked, len(self.script) - 1)]
        return [*now(jobs[0]), *self.made("pods")]


def pod(job: Object, rank: int, phase: str, *, state: Object | None = None, **status: Any) -> Object:
    """A pod of a job, as the API has it."""
    name = job["metadata"]["name"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{name}-{rank}-abcde",
            "namespace": job["metadata"]["namespace"],
            "labels": job["metadata"]["labels"],
            "annotations": {"batch.kubernetes.io/job-completion-index": str(rank)},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"containers": [{"name": "node", "image": "x"}], "nodeName": f"machine-{rank}"},
        "status": {"phase": phase, "containerStatuses": [{"name": "node", "state": state or {}}], **status},
    }


def running(job: Object, rank: int) -> Object:
    return pod(job, rank, "Running", state={"running": {}})


def ended(job: Object, rank: int, code: int, reason: str | None = None, **status: Any) -> Object:
    word = reason or ("Error" if code else "Completed")
    phase = "Failed" if code else "Succeeded"
    return pod(job, rank, phase, state={"terminated": {"exitCode": code, "reason": word}}, **status)


@contextmanager
def serving(api: Api) -> Iterator[Api]:
    """The server, as long as it is wanted."""

    class Handler(_Handler):
        pass

    Handler.api = api
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    api.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield api
    finally:
        api.deleted.set()
        server.shutdown()
        server.server_close()


def kubeconfig(url: str) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "small", "cluster": {"server": url}}],
            "users": [{"name": "me", "user": {}}],
            "contexts": [{"name": "small", "context": {"cluster": "small", "user": "me", "namespace": "bench"}}],
            "current-context": "small",
        }
    )


class _Handler(BaseHTTPRequestHandler):
    api: Api
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        self.api.requests.append(format % args)

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path, query = parts.path, {key: values[-1] for key, values in parse_qs(parts.query).items()}
        if path == "/openapi/v2":  # an empty document in protobuf: all that matters is in version 3
            return self._answer(200, b"", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
        fixed = self._discovery(path)
        if fixed is not None:
            return self._send(fixed)
        if found := re.fullmatch(r"/api/v1/namespaces/[^/]+/pods/([^/]+)/log", path):
            return self._log(found[1], query)
        resource, name = self._target(path)
        if resource is None:
            return self._fail(404, "NotFound", f"the server could not find the requested resource {path}")
        if name is not None:
            one = next((one for one in self._all(resource) if one["metadata"]["name"] == name), None)
            return self._send(one) if one else self._fail(404, "NotFound", f'{resource} "{name}" not found')
        kind = next(kind for kind in KINDS if kind[1] == resource)
        chosen = [one for one in self._all(resource) if _selected(one, query)]
        if resource == "pods":
            self.api.asked += 1
        return self._send({"apiVersion": kind[0], "kind": f"{kind[2]}List", "metadata": {}, "items": chosen})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        made = json.loads(self.rfile.read(length))
        resource, _ = self._target(urlsplit(self.path).path)
        if made["kind"] in self.api.refuse:
            return self._fail(403, "Forbidden", self.api.refuse[made["kind"]])
        fault = _fault(made)
        if fault:
            return self._fail(422, "Invalid", fault)
        made["metadata"].setdefault("namespace", "bench")
        made["metadata"]["uid"] = "1234"
        if "dryRun" not in self.path:
            self.api.objects[(str(resource), made["metadata"]["name"])] = made
        return self._send(made, 201)

    def do_DELETE(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        resource, name = self._target(urlsplit(self.path).path)
        gone = self.api.objects.pop((str(resource), str(name)), None)
        if resource in JOBS:
            self.api.deleted.set()
        if gone is None:
            return self._fail(404, "NotFound", f"{resource} {name!r} not found")
        return self._send({"apiVersion": "v1", "kind": "Status", "status": "Success"})

    def _all(self, resource: str) -> list[Object]:
        return self.api.pods() if resource == "pods" else self.api.made(resource)

    def _target(self, path: str) -> tuple[str | None, str | None]:
        found = re.fullmatch(r"/(?:api/v1|apis/[^/]+/[^/]+)(?:/namespaces/[^/]+)?/([a-z]+)(?:/([^/]+))?", path)
        if not found or found[1] not in [kind[1] for kind in self.api.kinds()]:
            return None, None
        return found[1], found[2]

    def _log(self, name: str, query: dict[str, str]) -> None:
        log = next((log for start, log in self.api.logs.items() if name.startswith(start)), None)
        if log is None:
            self._fail(404, "NotFound", f"the log of {name} went with its machine")
            return
        text = log.read_text() if isinstance(log, Path) else log
        if query.get("follow") == "true":
            self._follow(text)
            return
        lines = text.splitlines(keepends=True)
        tail = int(query.get("tailLines", -1))
        body = "".join(lines[-tail:] if tail >= 0 else lines).encode()
        self._answer(200, body, "text/plain")

    def _follow(self, text: str) -> None:
        """As the kubelet does: open until the container has ended, and what it says last comes, too."""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(text.encode())
        self.wfile.flush()
        self.api.deleted.wait(60)
        self.wfile.write(self.api.goodbye().encode())
        self.close_connection = True

    def _discovery(self, path: str) -> Object | None:
        groups: dict[str, list[tuple[str, str, str]]] = {}
        for kind in self.api.kinds():
            groups.setdefault(kind[0], []).append(kind)
        if path == "/version":
            return {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            named = [_group(version) for version in groups if "/" in version]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": named}
        if path == "/openapi/v3":
            return {
                "paths": {
                    _root(version)[1:]: {"serverRelativeURL": f"/openapi/v3{_root(version)}"} for version in groups
                }
            }
        for version, kinds in groups.items():
            if path == _root(version):
                return {
                    "kind": "APIResourceList",
                    "apiVersion": "v1",
                    "groupVersion": version,
                    "resources": [_resource(resource, kind) for _, resource, kind in kinds],
                }
            if path == f"/openapi/v3{_root(version)}":
                return _openapi(version, kinds)
        return None

    def _send(self, body: Object, status: int = 200) -> None:
        self._answer(status, json.dumps(body).encode(), "application/json")

    def _fail(self, code: int, reason: str, message: str) -> None:
        status = {"apiVersion": "v1", "kind": "Status", "status": "Failure"}
        self._send(status | {"reason": reason, "message": message, "code": code}, code)

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _group(version: str) -> Object:
    name, _, short = version.partition("/")
    one = {"groupVersion": version, "version": short}
    return {"name": name, "versions": [one], "preferredVersion": one}


def _resource(resource: str, kind: str) -> Object:
    verbs = ["create", "delete", "get", "list", "patch", "watch"]
    return {"name": resource, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": verbs}


def _openapi(version: str, kinds: list[tuple[str, str, str]]) -> Object:
    """What kubectl asks before it asks for a trial or for a strict check."""
    group, _, short = version.rpartition("/")
    paths = {}
    for _, resource, kind in kinds:
        names = [{"in": "query", "name": name, "schema": {"type": "string"}} for name in ("dryRun", "fieldValidation")]
        gvk = {"group": group, "version": short, "kind": kind}
        operation = {"parameters": names, "x-kubernetes-action": "patch", "x-kubernetes-group-version-kind": gvk}
        paths[f"{_root(version)}/namespaces/{{namespace}}/{resource}/{{name}}"] = {"patch": operation}
    return {"openapi": "3.0.0", "info": {"title": "small", "version": "1"}, "paths": paths}


def _selected(one: Object, query: dict[str, str]) -> bool:
    labels = one["metadata"].get("labels", {})
    for part in filter(None, query.get("labelSelector", "").split(",")):
        key, _, value = part.partition("=")
        if labels.get(key) != value:
            return False
    for part in filter(None, query.get("fieldSelector", "").split(",")):
        key, _, value = part.partition("=")
        outer, _, inner = key.partition(".")
        if one.get(outer, {}).get(inner) != value:
            return False
    return True


def _fault(made: Object) -> str | None:
    if "." in made["apiVersion"]:
        return None  # the schemas of operators are not in the wheel
    import kubernetes_validate

    try:
        kubernetes_validate.validate(made, "1.34", strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error.message)
    return None
