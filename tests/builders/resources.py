"""Resources for the builders: an adapter, a pool, a run, and the space of what their owners may ask for."""

import base64
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from socadapter_api.adapter import SocAdapter
from socadapter_api.pool import RAY_PORTS, SocServingPool
from socadapter_api.serving_table import ContextRoute, ServedVersion, ServingTable
from socadapter_api.training import KeyRef, RunSpec
from socadapter_operator.backends import serve_config
from socadapter_operator.builders import objects, pods, rayservice
from socadapter_operator.builders.installation import Installation, Peer

DIGEST = "sha256:" + "a" * 64
TOKEN = "ray-token-7f3c9d"
CALLER_TOKEN = "caller-token-51be02"
TOOL_TOKEN = "tool-token-99ad10"
SECRET_VALUES = (TOKEN, CALLER_TOKEN, TOOL_TOKEN)
FORBIDDEN = (*SECRET_VALUES, *(base64.b64encode(value.encode()).decode() for value in SECRET_VALUES))
"""A secret's value in any form that a manifest could hold it in."""

SIGNING_KEY = KeyRef(name="signing", key="key.pem")
TABLE = ServingTable(
    generation=3,
    routes=(
        ContextRoute(
            context="cloud",
            match='alert.provider in ["aws", "gcp"]',
            stable=ServedVersion(name="cloud-v1-aaaaaaaa", uri="s3://soc/cloud/run", digest=DIGEST),
        ),
    ),
)
INSTALLATION = Installation(
    training_image="registry.example/socadapter-ray@" + DIGEST,
    serving_image="registry.example/socadapter-ray@" + DIGEST,
    operators=(
        Peer("socadapter-system", {"app.kubernetes.io/name": "socadapter-operator"}),
        Peer("kuberay", {"app.kubernetes.io/name": "kuberay-operator"}),
    ),
)


def make_adapter(**compute: Any) -> SocAdapter:
    return SocAdapter.model_validate(
        {
            "metadata": {"name": "cloud", "namespace": "soc", "uid": "0d9f3c52-5b4e-4f6e-9a57-8a4a5c9f3e11"},
            "spec": {
                "context": "cloud",
                "servingPoolRef": {"name": "soc-base"},
                "data": {"alerts": [{"uri": "s3://soc/alerts/"}]},
                "compute": compute,
            },
        }
    )


def make_pool(name: str = "soc-base", ray: dict[str, Any] | None = None, **spec: Any) -> SocServingPool:
    whole: dict[str, Any] = {
        "base": {"uri": "s3://soc/base/", "digest": DIGEST},
        "store": "s3://soc/adapters",
        "tools": [
            {"name": "siem", "url": "https://siem.example/mcp", "tokenSecretRef": {"name": "siem", "key": "token"}}
        ],
        "callers": [{"name": "soar", "tokenSecretRef": {"name": "soar", "key": "token"}}],
        "ray": ray or {},
    }
    metadata = {"name": name, "namespace": "soc", "uid": "5a1f0a6e-30f5-4f0c-8f3e-2f8bb1f2c0de"}
    return SocServingPool.model_validate({"metadata": metadata, "spec": whole | spec})


def make_run(adapter: SocAdapter, pool: SocServingPool, run_id: str = "cloud-0123456789", **changes: Any) -> RunSpec:
    return RunSpec(
        run_id=run_id,
        namespace=adapter.metadata.namespace,
        adapter=adapter.metadata.name,
        context=adapter.spec.context,
        version_number=1,
        training_hash=DIGEST,
        base=pool.spec.base,
        store=pool.spec.store,
        data=adapter.spec.data,
        tools=pool.spec.tools,
        compute=adapter.spec.compute.of_run(),
        **changes,
    )


def run_objects(adapter: SocAdapter, pool: SocServingPool) -> objects.RunObjects:
    run = make_run(adapter, pool)
    return objects.of_run(run, adapter, pool, INSTALLATION, signing_key=SIGNING_KEY)


def config_of(pool: SocServingPool) -> dict[str, Any]:
    """What the serving application is told, secrets included."""
    return serve_config.build(
        pool,
        state_dir=rayservice.STATE_DIR,
        cache_dir=pods.CACHE,
        trusted_keys=(),
        tokens={"soar/token": CALLER_TOKEN, "siem/token": TOOL_TOKEN},
    )


def pool_objects(pool: SocServingPool, table: ServingTable = TABLE, token: str = TOKEN) -> objects.PoolObjects:
    return objects.of_pool(pool, table, config_of(pool), INSTALLATION, token=token)


def templates(manifest: Any) -> Iterator[dict[str, Any]]:
    """Every PodTemplateSpec in a manifest."""
    if isinstance(manifest, dict):
        spec = manifest.get("spec")
        if isinstance(spec, dict) and "containers" in spec:
            yield manifest
        for value in manifest.values():
            yield from templates(value)
    if isinstance(manifest, list):
        for item in manifest:
            yield from templates(item)


SIDECAR: dict[str, Any] = {
    "name": "audit",
    "image": "audit:1",
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    },
    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}},
}
"""A container of an owner's that keeps to all that is asked."""

NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
QUANTITIES = st.sampled_from(["512Mi", "1Gi", "1.5Gi", "8Gi", "64G", "2048M", "100000000"])
SAFE_TEMPLATES = st.sampled_from(
    [
        {},
        {"metadata": {"labels": {"team": "soc"}, "annotations": {"sidecar.istio.io/inject": "false"}}},
        {"spec": {"runtimeClassName": "nvidia", "hostUsers": False}},
        {"spec": {"securityContext": {"runAsUser": None, "fsGroup": 2000}}},
        {"spec": {"containers": [{"name": "ray", "env": [{"name": "NCCL_DEBUG", "value": "INFO"}]}]}},
        {"spec": {"containers": [{"name": "ray", "resources": {"limits": {"ephemeral-storage": "50Gi"}}}]}},
        {"spec": {"containers": [SIDECAR], "initContainers": [SIDECAR | {"name": "prepare"}]}},
    ]
)
TOLERATIONS = st.sampled_from(
    [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"operator": "Exists"},
        {"key": "team", "value": "soc", "effect": "NoExecute", "tolerationSeconds": 60},
    ]
)
SETTINGS: dict[str, st.SearchStrategy[Any]] = {
    "image": st.sampled_from(["train:1", "registry.example/a/b@" + DIGEST]),
    "imagePullPolicy": st.sampled_from(["Always", "IfNotPresent", "Never"]),
    "imagePullSecrets": st.lists(NAMES.map(lambda name: {"name": name}), max_size=2, unique_by=str),
    "serviceAccountName": NAMES,
    "priorityClassName": NAMES,
    "nodeSelector": st.dictionaries(NAMES, NAMES, max_size=3),
    "tolerations": st.lists(TOLERATIONS, max_size=3),
    "volumes": st.just([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]),
    "volumeMounts": st.just([{"name": "data", "mountPath": "/data", "readOnly": True}]),
    "gpuResourceName": st.sampled_from(["nvidia.com/gpu", "amd.com/gpu"]),
    "podTemplate": SAFE_TEMPLATES,
}
COMPUTES: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"placement": st.just("Together")},
    optional=SETTINGS
    | {
        "workers": st.integers(1, 16),
        "gpusPerWorker": st.integers(0, 8),
        "cpusPerWorker": st.floats(0.1, 64).map(lambda cpus: round(cpus, 2)),
        "memoryPerWorker": QUANTITIES,
        "scratch": st.sampled_from([{}, {"claimName": "scratch"}, {"sizeLimit": "100Gi"}]),
        "queue": NAMES,
        "activeDeadlineSeconds": st.integers(1_800, 1_000_000),
        "ttlSecondsAfterFinished": st.integers(0, 10_000),
    },
)
SPREAD: st.SearchStrategy[dict[str, Any]] = COMPUTES.map(
    lambda compute: compute | {"placement": "Spread", "scratch": {"claimName": "scratch"}}
)
ADAPTERS: st.SearchStrategy[SocAdapter] = (COMPUTES | SPREAD).map(lambda compute: make_adapter(**compute))
RAYS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional=SETTINGS
    | {
        "cpusPerReplica": st.floats(0.1, 64).map(lambda cpus: round(cpus, 2)),
        "memoryPerReplica": QUANTITIES,
        "gpusPerReplica": st.integers(0, 8),
        "upgradeStrategy": st.sampled_from(["NewCluster", "None"]),
    },
)
POOL_SPECS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"ray": RAYS},
    optional={
        "replicas": st.integers(0, 20),
        "port": st.integers(1024, 65535).filter(lambda port: port not in RAY_PORTS),
        "storeSecretRef": NAMES.map(lambda name: {"name": name}),
        "feedbackStore": st.just({"claimName": "feedback"}),
        "access": st.fixed_dictionaries(
            {}, optional={key: st.lists(NAMES, max_size=3) for key in ("gatewayNamespaces", "metricsNamespaces")}
        ),
    },
)
POOLS: st.SearchStrategy[SocServingPool] = st.builds(
    lambda name, spec: make_pool(name, **spec),
    st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True),
    POOL_SPECS,
)
