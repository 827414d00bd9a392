"""The kinds that the operator reads and writes, and the type of the raw JSON that passes between it and the API."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

from socadapter_api import API_GROUP

Object = dict[str, Any]
"""One Kubernetes object as JSON. What the client and the cache hand out is shared: copy before changing it."""


class ObjectKey(NamedTuple):
    """Where an object of a known kind is; `namespace` is empty for one of the whole cluster."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: how objects name it, and where the API serves it."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """What an object's `apiVersion` says."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def root(self) -> str:
        """The path of the group and version, where the API server lists the kinds that it serves."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The path of one object, of a collection, or of a subresource."""
        parts = [self.root]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)

    def __str__(self) -> str:
        return f"{self.kind} ({self.api_version})"


def metadata(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """The object's metadata; empty where it has none."""
    found = item.get("metadata")
    # Asked a score of times in each pass: an exact type is told faster than an abstract one.
    return found if type(found) is dict or isinstance(found, Mapping) else {}


def key_of(item: Mapping[str, Any]) -> ObjectKey:
    """The namespace and name of an object."""
    held = metadata(item)
    return ObjectKey(str(held.get("namespace") or ""), str(held.get("name") or ""))


def uid_of(item: Mapping[str, Any]) -> str:
    """The object's uid; empty where it has none yet."""
    return str(metadata(item).get("uid") or "")


def version_of(item: Mapping[str, Any]) -> str:
    """The object's resourceVersion; empty where it has none yet."""
    return str(metadata(item).get("resourceVersion") or "")


def identity_of(item: Mapping[str, Any]) -> Object:
    """What an applied object says of itself so that no namesake is meant: name, namespace and uid."""
    held = metadata(item)
    return {"name": held.get("name"), "namespace": held.get("namespace"), "uid": uid_of(item)}


POOL = Kind(API_GROUP, "v1alpha1", "SocServingPool", "socservingpools")
ADAPTER = Kind(API_GROUP, "v1alpha1", "SocAdapter", "socadapters")
ADAPTER_VERSION = Kind(API_GROUP, "v1alpha1", "SocAdapterVersion", "socadapterversions")

RAY_JOB = Kind("ray.io", "v1", "RayJob", "rayjobs")
RAY_SERVICE = Kind("ray.io", "v1", "RayService", "rayservices")
RAY_CLUSTER = Kind("ray.io", "v1", "RayCluster", "rayclusters")
WORKLOAD = Kind("kueue.x-k8s.io", "v1beta2", "Workload", "workloads")

SECRET = Kind("", "v1", "Secret", "secrets")
CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps")
POD = Kind("", "v1", "Pod", "pods")
SERVICE = Kind("", "v1", "Service", "services")
SERVICE_ACCOUNT = Kind("", "v1", "ServiceAccount", "serviceaccounts")
NAMESPACE = Kind("", "v1", "Namespace", "namespaces", namespaced=False)
JOB = Kind("batch", "v1", "Job", "jobs")
NETWORK_POLICY = Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
LEASE = Kind("coordination.k8s.io", "v1", "Lease", "leases")
EVENT = Kind("events.k8s.io", "v1", "Event", "events")
CUSTOM_RESOURCE_DEFINITION = Kind(
    "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)

KINDS = (
    POOL,
    ADAPTER,
    ADAPTER_VERSION,
    RAY_JOB,
    RAY_SERVICE,
    RAY_CLUSTER,
    WORKLOAD,
    SECRET,
    CONFIG_MAP,
    POD,
    SERVICE,
    SERVICE_ACCOUNT,
    NAMESPACE,
    JOB,
    NETWORK_POLICY,
    LEASE,
    EVENT,
    CUSTOM_RESOURCE_DEFINITION,
)
