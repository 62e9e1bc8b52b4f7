"""The objects that Kubernetes is given. Pure: nothing is asked, nothing is started.

One pod is one node. Each pod runs the same command; torchrun's variables ``PET_*`` tell it which node it is. An Indexed
Job numbers its pods; its headless service gives each a name that the others can find, before it is ready, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmbench.errors import UserError
from llmbench.submit import quantities

Manifest = dict[str, Any]
Kind = Literal["job", "jobset", "trainjob"]

CONTAINER = "node"  # Kubeflow's name of it, which its runtimes have, too
RESULTS = "/results"
SUITE_FOLDER = "/etc/llmbench"
PORT = 29500
MOST_NODES = 100_000  # indexes of an Indexed Job
SUITE_BYTES = 900_000  # a ConfigMap has at most 1 MiB
GOODBYE_SECONDS = 120  # from the wish to end until it is enforced: the run is closed and handed over
KEPT_SECONDS = 7 * 86400  # after its end, for whoever left without fetching
NO_BEGINNING = 2  # exit code of a node 0 that never began: no other node can do better
INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


@dataclass(frozen=True)
class KubernetesOptions:
    """What the pods need.

    Attributes:
        gpus_per_node: None asks for no GPUs.
        nproc_per_node: ranks of a node; None: one a GPU, without GPUs one.
        volume: claim of a volume that keeps the run; None: the run comes back through the log.
        time: limit of each pod, once a machine has taken it.
        runtime: for ``trainjob``: [KIND/]NAME of the runtime.
    """

    nodes: int
    image: str
    kind: Kind = "job"
    gpus_per_node: int | None = None
    gpu_resource: str = "nvidia.com/gpu"
    nproc_per_node: int | None = None
    cpu: str | None = None
    memory: str | None = None
    shm_size: str = "8Gi"
    volume: str | None = None
    time: str | None = None
    namespace: str | None = None
    runtime: str = "torch-distributed"
    node_selector: Sequence[str] = ()
    labels: Sequence[str] = ()
    env: Sequence[str] = ()
    service_account: str | None = None
    image_pull_secret: str | None = None

    @property
    def ranks_per_node(self) -> int:
        return self.nproc_per_node or self.gpus_per_node or 1

    def check(self) -> None:
        """Raises: UserError: a value that Kubernetes would refuse, by the name of its option."""
        if not 1 <= self.nodes <= MOST_NODES:
            raise UserError(f"--nodes {self.nodes}: 1 to {MOST_NODES}", None)
        quantities.image("--image", self.image)
        quantities.resource("--gpu-resource", self.gpu_resource)
        quantities.quantity("--shm-size", self.shm_size)
        for option, value in (("--cpu", self.cpu), ("--memory", self.memory)):
            if value is not None:
                quantities.quantity(option, value)
        if self.namespace is not None:
            quantities.name("--namespace", self.namespace, label=True)
        named = {
            "--volume": self.volume,
            "--service-account": self.service_account,
            "--image-pull-secret": self.image_pull_secret,
            "--runtime": self.runtime.rpartition("/")[2],
        }
        for option, value in named.items():
            if value is not None:
                quantities.name(option, value)
        if self.runtime.partition("/")[0] not in (self.runtime, "TrainingRuntime", "ClusterTrainingRuntime"):
            raise UserError(f"--runtime {self.runtime!r}: not a runtime", "NAME, or TrainingRuntime/NAME")
        if self.time is not None:
            quantities.seconds("--time", self.time)
        quantities.labels("--node-selector", self.node_selector)
        quantities.variables("--env", self.env)
        for key in quantities.labels("--label", self.labels):
            if key in OWN_LABELS:
                raise UserError(f"--label {key}: llmbench finds its objects by it", "choose another key")


OWN_LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/managed-by")


@dataclass(frozen=True)
class Submission:
    """One job with a name of its own.

    Attributes:
        name: of all its objects; a DNS label that begins with a letter.
        arguments: of ``llmbench``, the same in every pod.
        run: folder of the run in the pods.
        suite_file: name and text of a suite that is not shipped with llmbench.
    """

    name: str
    options: KubernetesOptions
    arguments: Sequence[str]
    run: str
    suite_file: tuple[str, str] | None = None

    @property
    def selector(self) -> dict[str, str]:
        return {"app.kubernetes.io/instance": self.name}

    @property
    def master(self) -> str:
        """Where the pods find node 0: HOSTNAME.SERVICE."""
        inner = f"{self.name}-{CONTAINER}-0" if self.options.kind != "job" else self.name
        return f"{inner}-0.{self.name}"


def suite_key(file_name: str) -> str:
    """The name of a suite's file as a key of a ConfigMap."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", file_name.removesuffix(".toml")).strip("-") or "suite"
    return f"{stem[:100]}.toml"


def suite_path(file_name: str) -> str:
    """Where the pods find it."""
    return f"{SUITE_FOLDER}/{suite_key(file_name)}"


def manifests(submission: Submission) -> list[Manifest]:
    """All objects of a submission, in the order in which they are to be made; the last one is the job.

    Raises:
        UserError: the suite is too long to be handed over.
    """
    objects = []
    if submission.suite_file:
        objects.append(_config_map(submission))
    if submission.options.kind == "job":
        objects.append(_service(submission))
    objects.append({"job": _job, "jobset": _job_set, "trainjob": _train_job}[submission.options.kind](submission))
    return objects


def reader(submission_name: str, options: KubernetesOptions, run: str) -> Manifest:
    """A pod that reads a run from the volume and prints it into its log."""
    name = f"{submission_name}-reader"
    pod = {
        **_pod_common(options),
        "restartPolicy": "Never",
        "activeDeadlineSeconds": 600,
        "containers": [
            {
                "name": "reader",
                "image": options.image,
                "command": ["llmbench", "submit", "pod", "--hand-over", run],
                "volumeMounts": [{"name": "results", "mountPath": RESULTS, "readOnly": True}],
            }
        ],
        "volumes": [_claim(options.volume, read_only=True)] if options.volume else [],
    }
    labels = _labels(submission_name, options) | {"app.kubernetes.io/component": "reader"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": _metadata(name, options, labels), "spec": pod}


def _labels(name: str, options: KubernetesOptions) -> dict[str, str]:
    ours = dict(zip(OWN_LABELS, ("llmbench", name, "llmbench"), strict=True))
    return quantities.labels("--label", options.labels) | ours


def _metadata(name: str, options: KubernetesOptions, labels: dict[str, str]) -> Manifest:
    return {"name": name, **({"namespace": options.namespace} if options.namespace else {}), "labels": labels}


def _own(submission: Submission) -> Manifest:
    return _metadata(submission.name, submission.options, _labels(submission.name, submission.options))


def _config_map(submission: Submission) -> Manifest:
    assert submission.suite_file is not None
    name, text = submission.suite_file
    if len(text.encode()) > SUITE_BYTES:
        raise UserError(f"{name}: {len(text.encode())} bytes are too many for a ConfigMap", "put it into the image")
    data = {suite_key(name): text}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _own(submission), "immutable": True, "data": data}


def _service(submission: Submission) -> Manifest:
    spec = {
        "clusterIP": "None",
        # Node 0 is looked for while it starts.
        "publishNotReadyAddresses": True,
        "selector": submission.selector,
        "ports": [{"name": "rendezvous", "port": PORT, "protocol": "TCP"}],
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": _own(submission), "spec": spec}


def _job(submission: Submission) -> Manifest:
    spec = {**_job_spec(submission), "ttlSecondsAfterFinished": KEPT_SECONDS}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": _own(submission), "spec": spec}


def _job_spec(submission: Submission) -> Manifest:
    options = submission.options
    return {
        "completionMode": "Indexed",
        "completions": options.nodes,
        "parallelism": options.nodes,
        # Nothing is run twice, and a node that is lost is one failed index: node 0 goes on with what needs it not.
        "backoffLimitPerIndex": 0,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [NO_BEGINNING]},
                }
            ]
        },
        "template": {"metadata": {"labels": _labels(submission.name, options)}, "spec": _pod(submission)},
    }


def _job_set(submission: Submission) -> Manifest:
    spec = {
        "failurePolicy": {"maxRestarts": 0},
        "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
        "ttlSecondsAfterFinished": KEPT_SECONDS,
        "replicatedJobs": [{"name": CONTAINER, "replicas": 1, "template": {"spec": _job_spec(submission)}}],
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": _own(submission), "spec": spec
    }  # fmt: skip


def _train_job(submission: Submission) -> Manifest:
    """Kubeflow's operator sets ``PET_*`` itself, and refuses them from others. Its runtime says how often a pod is
    begun again, so that the exit code of a pod is no failure there: ``--report-code`` tells it in another way.
    """
    options = submission.options
    runtime_kind, _, runtime = options.runtime.rpartition("/")
    trainer: Manifest = {
        "image": options.image,
        "command": ["llmbench", "submit", "pod"],
        "args": [*_pod_arguments(submission), "--report-code", "--", *map(_literal, submission.arguments)],
        "numNodes": options.nodes,
        "numProcPerNode": options.ranks_per_node,
        "env": [{"name": key, "value": value} for key, value in _env(options).items()],
    }
    if _resources(options):
        trainer["resourcesPerNode"] = _resources(options)
    pod: Manifest = {
        "containers": [{"name": CONTAINER, "volumeMounts": _mounts(submission)}],
        "volumes": _volumes(submission),
        "affinity": _apart(submission),
        "terminationGracePeriodSeconds": GOODBYE_SECONDS,
        **_chosen(options),
    }
    patch = {"metadata": {"labels": _labels(submission.name, options)}, "spec": pod}
    spec: Manifest = {
        "runtimeRef": {"name": runtime, "kind": runtime_kind or "ClusterTrainingRuntime"},
        "trainer": trainer,
        "runtimePatches": [
            {
                "manager": "llmbench.dev/submit",
                "trainingRuntimeSpec": {
                    "template": {
                        "spec": {"replicatedJobs": [{"name": CONTAINER, "template": {"spec": {"template": patch}}}]}
                    }
                },
            }
        ],
    }
    if options.time:
        spec["activeDeadlineSeconds"] = quantities.seconds("--time", options.time)
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": _own(submission), "spec": spec
    }  # fmt: skip


def _pod_arguments(submission: Submission) -> list[str]:
    return [] if submission.options.volume else ["--hand-over", submission.run]


def _pod(submission: Submission) -> Manifest:
    options = submission.options
    found: Manifest = {
        **_pod_common(options),
        **({"subdomain": submission.name} if options.kind == "job" else {}),
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GOODBYE_SECONDS,
        "affinity": _apart(submission),
        "containers": [
            {
                "name": CONTAINER,
                "image": options.image,
                "command": ["llmbench", "submit", "pod"],
                "args": [*_pod_arguments(submission), "--", *map(_literal, submission.arguments)],
                "env": _rendezvous(submission)
                + [{"name": key, "value": value} for key, value in _env(options).items()],
                "ports": [{"name": "rendezvous", "containerPort": PORT, "protocol": "TCP"}],
                **({"resources": _resources(options)} if _resources(options) else {}),
                "volumeMounts": _mounts(submission),
            }
        ],
        "volumes": _volumes(submission),
    }
    if options.time:
        # Of the pod, not of the job: a pod that reaches it stays, with its log, and waiting does not count.
        found["activeDeadlineSeconds"] = quantities.seconds("--time", options.time)
    return found


def _pod_common(options: KubernetesOptions) -> Manifest:
    return {
        "enableServiceLinks": False,
        **({} if options.service_account else {"automountServiceAccountToken": False}),
        **_chosen(options),
    }


def _chosen(options: KubernetesOptions) -> Manifest:
    """What the user chose, in the words that a pod and a patch of a runtime have in common."""
    found: Manifest = {}
    if options.node_selector:
        found["nodeSelector"] = quantities.labels("--node-selector", options.node_selector)
    if options.service_account:
        found["serviceAccountName"] = options.service_account
    if options.image_pull_secret:
        found["imagePullSecrets"] = [{"name": options.image_pull_secret}]
    return found


def _apart(submission: Submission) -> Manifest:
    """Pods on machines of their own, where there are enough."""
    term = {"labelSelector": {"matchLabels": submission.selector}, "topologyKey": "kubernetes.io/hostname"}
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def _rendezvous(submission: Submission) -> list[Manifest]:
    options = submission.options
    return [
        {"name": "PET_NNODES", "value": str(options.nodes)},
        {"name": "PET_NPROC_PER_NODE", "value": str(options.ranks_per_node)},
        {"name": "PET_NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": INDEX}}},
        {"name": "PET_MASTER_ADDR", "value": submission.master},
        {"name": "PET_MASTER_PORT", "value": str(PORT)},
    ]


def _env(options: KubernetesOptions) -> dict[str, str]:
    given = quantities.variables("--env", options.env)
    return {"PYTHONUNBUFFERED": "1"} | {key: _literal(value) for key, value in given.items()}


def _literal(text: str) -> str:
    """Kubernetes would replace ``$(NAME)`` by a variable, and ``$$`` by one ``$``."""
    return text.replace("$", "$$")


def _resources(options: KubernetesOptions) -> Manifest:
    asked = {key: value for key, value in (("cpu", options.cpu), ("memory", options.memory)) if value}
    gpus = {options.gpu_resource: str(options.gpus_per_node)} if options.gpus_per_node else {}
    found = {"requests": asked, "limits": asked | gpus}
    return {key: value for key, value in found.items() if value}


def _mounts(submission: Submission) -> list[Manifest]:
    shm = {"name": "shm", "mountPath": "/dev/shm"}  # noqa: S108  # of the pod, as NCCL expects it
    suite = [{"name": "suite", "mountPath": SUITE_FOLDER, "readOnly": True}] if submission.suite_file else []
    return [{"name": "results", "mountPath": RESULTS}, shm, *suite]


def _volumes(submission: Submission) -> list[Manifest]:
    options = submission.options
    volumes = [
        _claim(options.volume) if options.volume else {"name": "results", "emptyDir": {}},
        # Data loaders and NCCL share memory through it; a container's own has 64 MiB.
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": options.shm_size}},
    ]
    if submission.suite_file:
        volumes.append({"name": "suite", "configMap": {"name": submission.name}})
    return volumes


def _claim(claim: str | None, *, read_only: bool = False) -> Manifest:
    source = {"claimName": claim, **({"readOnly": True} if read_only else {})}
    return {"name": "results", "persistentVolumeClaim": source}
