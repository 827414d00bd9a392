"""A namespace in which one scene of KubeRay is played.

Everything in it is made by the operator's own backend from ``manifests/cluster-samples``, scaled down.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tests.backends.kuberay.played_pods import PlayedPods, Scene, until
from tests.backends.kuberay.played_ray import PlayedRay, RayCluster

from socadapter_api import digest
from socadapter_api.errors import SocAdapterError
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ContextRoute, ServedVersion, ServingTable
from socadapter_api.training import RunSpec
from socadapter_operator.backends.kuberay import KubeRayBackend
from socadapter_operator.builders.installation import Installation
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import (
    ADAPTER,
    POOL,
    RAY_CLUSTER,
    RAY_JOB,
    RAY_SERVICE,
    SECRET,
    Kind,
    Object,
    uid_of,
)
from socadapter_store.signatures import new_private_key

SAMPLES = Path(__file__).parents[3] / "manifests" / "cluster-samples"
INSTALLATION = Installation(training_image="registry.example/ray:1", serving_image="registry.example/ray:1")
RUN = "cloud-0123456789"
DEADLINE_S = 240.0
_SMALL = {"cpusPerWorker": 1, "memoryPerWorker": "1Gi"}
_KEPT_S = 4
"""How long the cluster of an ended run stays: long enough to be seen."""


@dataclass
class Stage:
    """A namespace with a pool and an adapter, in which one scene is played."""

    client: Client
    namespace: str
    store: Path
    pods: PlayedPods
    ray: PlayedRay
    tell: Callable[[str], None]
    compute: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scene = self.pods.scenes[self.namespace] = Scene()
        for path in (SAMPLES / "secrets.yaml", SAMPLES / "pool.yaml", SAMPLES / "cloud-infrastructure.yaml"):
            for item in yaml.safe_load_all(path.read_text("utf-8")):
                item["metadata"]["namespace"] = self.namespace
                self._make(item)
        self.backend = KubeRayBackend(self.client, self.namespace, INSTALLATION)

    def _make(self, item: Object) -> None:
        if item["kind"] == "Secret":
            if item["metadata"]["name"] == "soc-signing":
                item["stringData"]["key.pem"] = new_private_key()
            self.client.create(SECRET, item)
            return
        if item["kind"] == "SocServingPool":
            item["metadata"]["name"] = "base"
            small = {"cpusPerReplica": 1, "memoryPerReplica": "1Gi"}
            item["spec"] |= {"store": str(self.store), "storeSecretRef": None, "replicas": 1, "ray": small}
            item["spec"] = {key: value for key, value in item["spec"].items() if value is not None}
            self.client.create(POOL, item)
            return
        item["metadata"]["name"] = "cloud"
        item["spec"] |= {"servingPoolRef": {"name": "base"}, "compute": self._compute()}
        self.client.create(ADAPTER, item)

    def _compute(self) -> dict[str, Any]:
        return {**_SMALL, "ttlSecondsAfterFinished": _KEPT_S, **self.compute}

    def pool(self, **changes: Any) -> SocServingPool:
        """The pool, with changes to its spec that are not applied."""
        raw = self.client.get(POOL, self.namespace, "base")
        return SocServingPool.model_validate({**raw, "spec": {**raw["spec"], **changes}})

    def start(self, **compute: Any) -> None:
        """Starts the run, with changes to the adapter's compute."""
        self.compute |= compute
        held = self.client.get(ADAPTER, self.namespace, "cloud")
        self.client.replace(ADAPTER, {**held, "spec": {**held["spec"], "compute": self._compute()}})
        told = {
            "run_id": RUN,
            "namespace": self.namespace,
            "adapter": "cloud",
            "context": "cloud-infrastructure",
            "version_number": 1,
            "training_hash": digest.of_bytes(b"training"),
            "base": {"uri": "builtin://smollm2-135m-instruct"},
            "store": str(self.store),
            "data": {"alerts": [{"uri": "alerts.jsonl"}]},
        }
        self.tell("the run is started")
        self.backend.start(RunSpec.model_validate(told), self.pool())

    def apply(self, generation: int, **changes: Any) -> None:
        """Serves a table, with changes to the pool's spec."""
        version = ServedVersion(name=f"cloud-v{generation}-00000000", uri="/v", digest=digest.of_bytes(b"version"))
        route = ContextRoute(context="cloud-infrastructure", stable=version)
        self.tell(
            f"table {generation} is applied" + (f", with {', '.join(sorted(changes))} changed" if changes else "")
        )
        self.backend.apply_table(self.pool(**changes), ServingTable(generation=generation, routes=(route,)))

    def job(self, status: str, message: str = "", **more: Any) -> None:
        """What Ray says about the run from now on."""
        self.tell(f"Ray says {status}")
        with self.ray.news:
            self.cluster().say(self.scene.job, status, message, **more)

    def cluster(self) -> RayCluster:
        """The one Ray cluster that is there."""
        return self.ray_clusters()[0]

    def find(self, kind: Kind, name: str) -> Object | None:
        """The object as it is."""
        return self.client.find(kind, self.namespace, name)

    def change(self, kind: Kind, name: str, said: str, **spec: Any) -> None:
        """Changes an object's spec, as another program would."""
        self.tell(said)

        def done() -> bool:
            held = self.client.get(kind, self.namespace, name)
            try:
                self.client.replace(kind, {**held, "spec": {**held["spec"], **spec}})
            except SocAdapterError:
                return False
            return True

        until(done, said, DEADLINE_S)

    def delete(self, kind: Kind, name: str) -> None:
        """Deletes an object as `kubectl delete` does."""
        self.tell(f"{kind.kind} is deleted")
        self.client.delete(kind, self.namespace, name, uid=uid_of(self.client.get(kind, self.namespace, name)))

    def until_run(self, deployment: str, job: str | None = None, name: str = RUN) -> None:
        """Waits until KubeRay says so about the run."""

        def says() -> bool:
            status = (self.find(RAY_JOB, name) or {}).get("status") or {}
            same_job = job is None or status.get("jobStatus", "") == job
            return bool(status.get("jobDeploymentStatus", "") == deployment and same_job)

        until(says, f"{name} is {deployment} {job or ''} in {self.namespace}", DEADLINE_S)

    def until_gone(self, kind: Kind, name: str) -> None:
        """Waits until the object is no more."""
        until(lambda: self.find(kind, name) is None, f"{kind.kind} {name} is gone", DEADLINE_S)

    def until_cluster_gone(self) -> None:
        """Waits until the run's cluster was taken away."""
        until(lambda: not self.clusters(), "the cluster is gone", DEADLINE_S)

    def clusters(self) -> tuple[Object, ...]:
        """The RayClusters that are there."""
        return self.client.list(RAY_CLUSTER, self.namespace).items

    def until_service(self, holds: Callable[[Object], object], what: str, name: str = "base") -> None:
        """Waits until the RayService's status is so."""
        until(lambda: holds((self.find(RAY_SERVICE, name) or {}).get("status") or {}), what, DEADLINE_S)

    def until_ready(self, status: str = "True", reason: str = "") -> None:
        """Waits for the RayService's condition Ready."""

        def ready(held: Object) -> bool:
            found: Object = next((one for one in held.get("conditions") or () if one["type"] == "Ready"), {})
            return found.get("status") == status and reason in ("", found.get("reason"))

        self.until_service(ready, f"Ready is {status} {reason}")

    def ray_clusters(self) -> list[RayCluster]:
        """Every Ray cluster whose head runs."""
        return [found for (namespace, _), found in list(self.ray.clusters.items()) if namespace == self.namespace]

    def a_minute(self, over: Callable[[], object]) -> None:
        """Waits for something that may never come; what came of it is in the transcript."""
        try:
            until(over, "", 60.0)
        except TimeoutError:
            self.tell("a minute later nothing has changed")
