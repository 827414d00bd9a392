"""Labels and owners of everything that the operator makes."""

from typing import TypedDict

from socadapter_api.adapter import SocAdapter
from socadapter_api.pool import SocServingPool

ADAPTER = "socadapter.io/adapter"
CONTEXT = "socadapter.io/context"
POOL = "socadapter.io/pool"
RUN = "socadapter.io/run"

COMPONENT = "app.kubernetes.io/component"
MANAGED_BY = "app.kubernetes.io/managed-by"
OPERATOR = "socadapter-operator"

TRAINING = "training"
SERVING = "serving"


class OwnerReference(TypedDict):
    """What Kubernetes' garbage collector goes by."""

    apiVersion: str
    kind: str
    name: str
    uid: str
    controller: bool
    blockOwnerDeletion: bool


class Metadata(TypedDict, total=False):
    """The part of an object's metadata that the operator writes."""

    name: str
    namespace: str
    labels: dict[str, str]
    annotations: dict[str, str]
    ownerReferences: list[OwnerReference]


def of_run(adapter: SocAdapter, run_id: str) -> dict[str, str]:
    """The labels of a run's objects."""
    own = {ADAPTER: adapter.metadata.name, CONTEXT: adapter.spec.context, RUN: run_id}
    return {"app.kubernetes.io/name": "socadapter", **_common(adapter.metadata.name, TRAINING), **own}


def of_pool(pool: SocServingPool) -> dict[str, str]:
    """The labels of a pool's objects."""
    own = {POOL: pool.metadata.name}
    return {"app.kubernetes.io/name": "socadapter", **_common(pool.metadata.name, SERVING), **own}


def of_pods(labels: dict[str, str]) -> dict[str, str]:
    """The labels of the pods behind an object with `labels`.

    Without ``app.kubernetes.io/name``: KubeRay's head Services select by its own value of that, and would find no pod.
    """
    return {key: value for key, value in labels.items() if key != "app.kubernetes.io/name"}


def _common(instance: str, component: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/instance": instance,
        COMPONENT: component,
        "app.kubernetes.io/part-of": "socadapter",
        MANAGED_BY: OPERATOR,
    }


def owned_by(owner: SocAdapter | SocServingPool) -> OwnerReference:
    """The reference that makes `owner` the controller of an object: it is deleted with it, and adopted by nobody."""
    return OwnerReference(
        apiVersion=owner.api_version,
        kind=owner.kind,
        name=owner.metadata.name,
        uid=owner.metadata.uid,
        controller=True,
        blockOwnerDeletion=True,
    )


def metadata(name: str, owner: SocAdapter | SocServingPool, labels: dict[str, str]) -> Metadata:
    """The metadata of an object of `owner`, in its namespace."""
    return Metadata(
        name=name, namespace=owner.metadata.namespace, labels=dict(labels), ownerReferences=[owned_by(owner)]
    )
