"""Pod templates of Ray's pods that a namespace with the restricted Pod Security Standard lets in.

Nobody is root, the root file system is read-only, and what Ray, torch and their caches write goes to volumes of the
pod's own. No pod has an API token. KubeRay takes the first container for Ray's, copies its security context, variables
and mounts to the init container that it adds to workers, and leaves a /dev/shm that is mounted already alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypedDict

from socadapter_api.errors import OverlayRefused
from socadapter_api.pods import PodSettings
from socadapter_api.training import KeyRef
from socadapter_operator.builders import labels, overlay, quantities

HOME = "/home/socadapter"
CACHE = "/var/cache/socadapter"
SECRETS = f"{overlay.OWN_FILES}/secrets"
STORE_CREDENTIALS = f"{overlay.OWN_FILES}/store"

GCS_PORT = 6379
DASHBOARD_PORT = 8265
CLIENT_PORT = 10001
METRICS_PORT = 8080

BOOTSTRAP_FILE = "ray_bootstrap_config.yaml"
"""Where it is in the home folder, Ray asks no cloud provider's metadata address where it runs."""
BOOTSTRAP = "{}\n"

_USER = 1000
_USER_NAME = "socadapter"
_SECRET_MODE = 0o440
_FILE_MODE = 0o444
_SHARED_MEMORY = "shared-mem"
_WRITABLE = (("tmp", "/tmp"), ("home", HOME), ("cache", CACHE))  # noqa: S108  each pod's own

Json = dict[str, Any]


class Mount(TypedDict, total=False):
    """A volumeMount."""

    name: str
    mountPath: str
    subPath: str
    readOnly: bool


class Variable(TypedDict):
    """An environment variable with a plain value."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Resources:
    """What a container asks for, and what it gets at most: cores, bytes, GPUs."""

    cpus: Fraction
    memory: Fraction
    gpus: int = 0
    gpu_name: str = "nvidia.com/gpu"

    def as_json(self) -> Json:
        """Requests and limits. A core more than asked for may be used while nobody else wants it."""
        memory = quantities.memory(self.memory)
        gpus = {self.gpu_name: str(self.gpus)} if self.gpus else {}
        return {
            "requests": {"cpu": quantities.cores(self.cpus), "memory": memory, **gpus},
            "limits": {"cpu": quantities.cores(self.cpus + 1), "memory": memory, **gpus},
        }


@dataclass(frozen=True, slots=True)
class RayPod:
    """What a Ray pod is made from, besides what its resource's owner set."""

    image: str
    labels: Mapping[str, str]
    resources: Resources
    variables: Mapping[str, str]
    ports: Mapping[str, int] = field(default_factory=dict)
    volumes: tuple[Json, ...] = ()
    mounts: tuple[Mount, ...] = ()
    store_secret: str | None = None
    readiness: Mapping[str, Any] | None = None
    grace_s: int = 60


def template(pod: RayPod, settings: PodSettings, where: str) -> Json:
    """The PodTemplateSpec of a Ray pod, with what its owner set in `settings` at `where` merged over it.

    Raises:
        OverlayRefused: the owner's volumes, mounts or overlay would break what the pod must keep to.
    """
    ours = {
        "metadata": {"labels": labels.of_pods(dict(pod.labels))},
        "spec": {
            **_of_pod(settings),
            "terminationGracePeriodSeconds": pod.grace_s,
            "containers": [_container(pod, settings)],
            "volumes": [
                {"name": _SHARED_MEMORY, "emptyDir": {"medium": "Memory", "sizeLimit": _memory(pod)}},
                *({"name": name, "emptyDir": {}} for name, _ in _WRITABLE),
                *_store_volume(pod.store_secret),
                *pod.volumes,
            ],
        },
    }
    _refuse_clashes(ours, settings, where)
    return overlay.apply(ours, (_of_owner(settings), settings.pod_template.model_dump(mode="json")), where)


def submitter(image: str, own_labels: Mapping[str, str], settings: PodSettings, where: str) -> Json:
    """The PodTemplateSpec of the pod that hands a job to Ray and follows its log; KubeRay adds command and token.

    Of its owner's overlay in `settings` at `where` it takes what is about pods; containers and volumes are Ray's.

    Raises:
        OverlayRefused: as `template`.
    """
    container = {
        "name": "ray-job-submitter",
        "image": image,
        "imagePullPolicy": settings.image_pull_policy.value,
        "env": _environment(_OF_EVERY_POD),
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        "securityContext": _container_context(),
        "volumeMounts": [Mount(name=name, mountPath=path) for name, path in _WRITABLE],
    }
    ours = {
        "metadata": {"labels": labels.of_pods(dict(own_labels))},
        "spec": {
            **_of_pod(settings),
            "restartPolicy": "Never",
            "containers": [container],
            "volumes": [{"name": name, "emptyDir": {}} for name, _ in _WRITABLE],
        },
    }
    return overlay.apply(ours, (overlay.of_pod(settings.pod_template.model_dump(mode="json")),), where)


def config_files(name: str, volume: Json, folder: str) -> tuple[tuple[Json, ...], tuple[Mount, ...]]:
    """The volume `name`, made from `volume`, mounted at `folder`, and its bootstrap file in the home folder."""
    mounts = (
        Mount(name=name, mountPath=folder, readOnly=True),
        Mount(name=name, mountPath=f"{HOME}/{BOOTSTRAP_FILE}", subPath=BOOTSTRAP_FILE, readOnly=True),
    )
    return ({"name": name, **volume},), mounts


def secret_files(refs: Iterable[KeyRef]) -> tuple[tuple[Json, ...], tuple[Mount, ...]]:
    """One volume with the file ``<secret>/<key>`` of each of `refs`, and nothing else of their Secrets; its mount."""
    keys: dict[str, set[str]] = {}
    for ref in refs:
        keys.setdefault(ref.name, set()).add(ref.key)
    if not keys:
        return (), ()
    sources = [
        {"secret": {"name": name, "items": [{"key": key, "path": f"{name}/{key}"} for key in sorted(keys[name])]}}
        for name in sorted(keys)
    ]
    volume = {"name": "secrets", "projected": {"defaultMode": _SECRET_MODE, "sources": sources}}
    return (volume,), (Mount(name="secrets", mountPath=SECRETS, readOnly=True),)


def config_map(name: str) -> Json:
    """A volume's source: all of a ConfigMap."""
    return {"configMap": {"name": name, "defaultMode": _FILE_MODE}}


def secret(name: str) -> Json:
    """A volume's source: all of a Secret."""
    return {"secret": {"secretName": name, "defaultMode": _SECRET_MODE}}


_OF_EVERY_POD = {
    "HOME": HOME,
    # torch asks for the user's name, and the image may know none for this number.
    "LOGNAME": _USER_NAME,
    "USER": _USER_NAME,
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONSAFEPATH": "1",
    "PYTHONUNBUFFERED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def _of_pod(settings: PodSettings) -> Json:
    spec: Json = {
        "automountServiceAccountToken": False,
        # Off: a Service named "ray" would put its own RAY_PORT into every pod.
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if settings.service_account_name:
        spec["serviceAccountName"] = settings.service_account_name
    if settings.priority_class_name:
        spec["priorityClassName"] = settings.priority_class_name
    if settings.node_selector:
        spec["nodeSelector"] = dict(sorted(settings.node_selector.items()))
    if settings.tolerations:
        spec["tolerations"] = [
            {key: value for key, value in toleration.model_dump(mode="json", exclude_none=True).items() if value != ""}
            for toleration in settings.tolerations
        ]
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": ref.name} for ref in settings.image_pull_secrets]
    return spec


def _container(pod: RayPod, settings: PodSettings) -> Json:
    container: Json = {
        "name": overlay.RAY_CONTAINER,
        "image": pod.image,
        "imagePullPolicy": settings.image_pull_policy.value,
        "env": _environment({**_OF_EVERY_POD, "SOCADAPTER_CACHE": CACHE, **pod.variables}),
        "ports": [{"name": name, "containerPort": port} for name, port in pod.ports.items()],
        "resources": pod.resources.as_json(),
        "securityContext": _container_context(),
        "volumeMounts": [
            Mount(name=_SHARED_MEMORY, mountPath="/dev/shm"),  # noqa: S108
            *(Mount(name=name, mountPath=path) for name, path in _WRITABLE),
            *(
                [Mount(name="store-credentials", mountPath=STORE_CREDENTIALS, readOnly=True)]
                if pod.store_secret
                else []
            ),
            *pod.mounts,
        ],
    }
    if pod.store_secret:
        # A variable in `env` wins over one from here: this Secret can set none of ours.
        container["envFrom"] = [{"secretRef": {"name": pod.store_secret}}]
    if pod.readiness:
        container["readinessProbe"] = dict(pod.readiness)
    return container


def _container_context() -> Json:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}


def _environment(variables: Mapping[str, str]) -> list[Variable]:
    return [Variable(name=name, value=value) for name, value in variables.items()]


def _memory(pod: RayPod) -> str:
    """As KubeRay sizes it: nothing is set aside, and what is used counts against the container's limit."""
    return quantities.memory(pod.resources.memory)


def _store_volume(name: str | None) -> tuple[Json, ...]:
    return ({"name": "store-credentials", **secret(name)},) if name else ()


def _of_owner(settings: PodSettings) -> Json:
    """The owner's volumes and mounts in the form of an overlay, so that they are held to the same rules."""
    spec: Json = {}
    if settings.volumes:
        spec["volumes"] = [volume.model_dump(mode="json") for volume in settings.volumes]
    if settings.volume_mounts:
        mounts = [mount.model_dump(mode="json", exclude_none=True) for mount in settings.volume_mounts]
        spec["containers"] = [{"name": overlay.RAY_CONTAINER, "volumeMounts": mounts}]
    return {"spec": spec} if spec else {}


def _refuse_clashes(ours: Json, settings: PodSettings, where: str) -> None:
    """Two sources under one name would be merged into one volume of both kinds."""
    taken = {volume["name"] for volume in ours["spec"]["volumes"]}
    for volume in settings.volumes:
        if volume.name in taken:
            raise OverlayRefused(f"{where}.volumes names {volume.name!r}, which the operator uses: choose another name")
