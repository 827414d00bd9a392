"""The RayService of a pool: `socadapter_serve` on a Ray cluster of its own.

The serving table travels in `serveConfigV2` as both deployments' `user_config`: a rollout is an update in place, no
replica restarts for it. So is another number of replicas: KubeRay leaves that out when it compares clusters. Any other
change is a change of the pods, and makes a new cluster that takes over once it serves (upgradeStrategy NewCluster).

The head pod runs Ray's own processes and the gateway, each worker pod one engine replica; a custom resource on either
side sees to that. Proxies answer on every pod that has a replica, and hand requests on to the gateway.
"""

import json
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from socadapter_api import digest
from socadapter_api.errors import InsecureBind
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ServingTable
from socadapter_operator.builders import labels, overlay, pods, quantities, raycluster, secrets
from socadapter_operator.builders.installation import Installation, refuse_large
from socadapter_operator.builders.pods import RayPod, Resources
from socadapter_operator.builders.raycluster import WorkerGroup

APP_NAME = "socadapter"
IMPORT_PATH = "socadapter_serve.app:build_app"
GATEWAY = "Gateway"
ENGINE = "EngineReplica"

CONFIG_FOLDER = f"{overlay.OWN_FILES}/serve"
CONFIG_PATH = f"{CONFIG_FOLDER}/{secrets.CONFIG_FILE}"
STATE_DIR = "/var/lib/socadapter"

MAX_NAME_LENGTH = 40
"""Below KubeRay's 47: it cuts the name of the Service in front of the gateway at 50 characters, from the left."""

WHERE = "spec.ray"
_GIB = 2**30
_HEAD = Resources(Fraction(1), Fraction(4 * _GIB))
_AGENTS = Resources(Fraction(1, 2), Fraction(1 * _GIB))
_CPU_SHARE = 0.1
_ON_HEAD = "socadapter-gateway"
_ON_WORKER = "socadapter-engine"
_DRAIN_S = 60
_HASH_LENGTH = 8

Json = dict[str, Any]


def service_name(pool: SocServingPool) -> str:
    """The name of the pool's RayService: the pool's own where KubeRay takes it, or a shorter one made from it."""
    name = pool.metadata.name
    if len(name) <= MAX_NAME_LENGTH and re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        return name
    stem = name if name[:1].isalpha() else f"p-{name}"
    suffix = digest.of_json(name).removeprefix("sha256:")[:_HASH_LENGTH]
    return f"{stem[: MAX_NAME_LENGTH - _HASH_LENGTH - 1].rstrip('-')}-{suffix}"


def endpoint(pool: SocServingPool) -> str:
    """The URL of the gateway within the cluster: the Service that KubeRay puts in front of it."""
    return f"http://{service_name(pool)}-serve-svc.{pool.metadata.namespace}.svc:{pool.spec.port}"


def image_of(service: Mapping[str, Any]) -> str:
    """The image in the pods of a RayService that was made here."""
    head = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    return str(head["containers"][0]["image"])


def build(
    pool: SocServingPool, table: ServingTable, installation: Installation, *, config_secret: str, token_secret: str
) -> Json:
    """The RayService that serves `pool` with `table`. `config_secret` is made by `secrets.serving_config`.

    Raises:
        InsecureBind: the pool names no callers.
        OverlayRefused: as `pods.template`.
        SpecError: the object is too large.
    """
    if not pool.spec.callers:
        raise InsecureBind(
            f"pool {pool.metadata.name!r} names no callers, and in a cluster its gateway is reachable by other pods: "
            "name at least one caller with a token in spec.callers"
        )
    ray = pool.spec.ray
    made: Json = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": dict(labels.metadata(service_name(pool), pool, labels.of_pool(pool))),
        "spec": {
            "serveConfigV2": serve_config(pool, table),
            "upgradeStrategy": {"type": ray.upgrade_strategy.value},
            # No replicas: KubeRay takes the cluster away, and Ray Serve knows no deployment without any.
            "suspend": pool.spec.replicas == 0,
            "rayClusterConfig": _cluster(pool, installation, config_secret, token_secret),
        },
    }
    refuse_large(made, f"the RayService of pool {pool.metadata.name!r}")
    return made


def serve_config(pool: SocServingPool, table: ServingTable) -> str:
    """Ray Serve's declarative configuration. JSON, which every reader of YAML takes for the same."""
    user_config = table.model_dump(mode="json")
    engine = {
        "name": ENGINE,
        "num_replicas": max(pool.spec.replicas, 1),
        "ray_actor_options": {
            # Ray gives an actor as many threads as cores, and no GPU that it did not ask for.
            "num_cpus": pool.spec.ray.cpus_per_replica,
            "num_gpus": pool.spec.ray.gpus_per_replica,
            "resources": {_ON_WORKER: 1},
        },
        "user_config": user_config,
    }
    gateway = {
        "name": GATEWAY,
        "ray_actor_options": {"num_cpus": _CPU_SHARE, "resources": {_ON_HEAD: 1}},
        "user_config": user_config,
    }
    application = {
        "name": APP_NAME,
        "route_prefix": "/",
        "import_path": IMPORT_PATH,
        "args": {"config": CONFIG_PATH},
        "deployments": [engine, gateway],
    }
    whole = {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": pool.spec.port},  # noqa: S104  a pod's; see `network`
        "applications": [application],
    }
    return json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False)


def _cluster(pool: SocServingPool, installation: Installation, config_secret: str, token_secret: str) -> Json:
    ray = pool.spec.ray
    image = ray.image or installation.serving_image
    own = labels.of_pool(pool)
    volumes, mounts = pods.config_files("config", pods.secret(config_secret), CONFIG_FOLDER)
    serve_port = {"serve": pool.spec.port}
    store_secret = pool.spec.store_secret_ref.name if pool.spec.store_secret_ref else None

    def template(resources: Resources, ports: dict[str, int], state: Json, readiness: Mapping[str, Any] | None) -> Json:
        pod = RayPod(
            image=image,
            labels=own,
            resources=resources,
            variables={},
            ports=ports | raycluster.METRICS_PORTS | serve_port,
            volumes=(*volumes, {"name": "state", **state}),
            mounts=(*mounts, pods.Mount(name="state", mountPath=STATE_DIR)),
            store_secret=store_secret,
            readiness=readiness,
            grace_s=_DRAIN_S,
        )
        return pods.template(pod, ray, WHERE)

    claim = pool.spec.feedback_store.claim_name
    kept: Json = {"persistentVolumeClaim": {"claimName": claim}} if claim else {"emptyDir": {}}
    replica = Resources(
        Fraction(str(ray.cpus_per_replica)) + _AGENTS.cpus,
        quantities.parse(ray.memory_per_replica) + _AGENTS.memory,
        ray.gpus_per_replica,
        ray.gpu_resource_name,
    )
    head = template(_HEAD, raycluster.HEAD_PORTS, kept, None)
    engines = WorkerGroup(
        "engines",
        pool.spec.replicas,
        template(replica, {}, {"emptyDir": {}}, _proxy_answers(pool.spec.port)),
        raycluster.start(ray.cpus_per_replica, ray.gpus_per_replica, **{_ON_WORKER: 1}),
    )
    return raycluster.spec(ray.version, token_secret, head, raycluster.start(1, **{_ON_HEAD: 1}), (engines,))


def _proxy_answers(port: int) -> Json:
    """KubeRay's own probe of a serving pod runs wget, which an image need not have."""
    return {
        "httpGet": {"path": "/-/healthz", "port": port},
        "initialDelaySeconds": 10,
        "periodSeconds": 5,
        "timeoutSeconds": 2,
        "failureThreshold": 2,
    }
