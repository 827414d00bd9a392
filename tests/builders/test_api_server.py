"""A real API server takes everything that is built, and its Pod Security admission agrees with the builders' check."""

import copy
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.builders.breaches import BREACHES, broken
from tests.builders.resources import SIDECAR, make_adapter, make_pool, pool_objects, run_objects, templates
from tests.controlplane.cluster import Cluster

pytestmark = pytest.mark.slow

RUNS: dict[str, dict[str, Any]] = {
    "together": {},
    "spread": {"placement": "Spread", "workers": 2, "gpusPerWorker": 1, "scratch": {"claimName": "shared"}},
    "with everything": {
        "tolerations": [{"operator": "Exists"}, {"key": "gpu", "effect": "NoExecute", "tolerationSeconds": 5}],
        "nodeSelector": {"gpu": "a100"},
        "volumes": [{"name": "corpus", "persistentVolumeClaim": {"claimName": "corpus"}}],
        "volumeMounts": [{"name": "corpus", "mountPath": "/corpus", "subPath": "cloud", "readOnly": True}],
        "scratch": {"sizeLimit": "10Gi"},
        "queue": "soc",
        "podTemplate": {
            "metadata": {"labels": {"team": "soc"}},
            "spec": {
                "topologySpreadConstraints": None,
                "hostUsers": False,
                "serviceAccountName": "trainer",
                "securityContext": {"runAsUser": None, "fsGroup": 2000},
                "containers": [SIDECAR],
                "initContainers": [SIDECAR | {"name": "prepare"}],
                "volumes": [
                    {
                        "name": "identity",
                        "projected": {
                            "sources": [{"serviceAccountToken": {"path": "token", "audience": "sts.amazonaws.com"}}]
                        },
                    }
                ],
            },
        },
    },
}


def create_pod(cluster: Cluster, namespace: str, template: dict[str, Any]) -> httpx.Response:
    """The answer to creating a pod from `template`, with the init container that KubeRay adds; nothing is kept."""
    pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(template)}
    pod["metadata"]["name"] = "tried"
    ray = pod["spec"]["containers"][0]
    waits = {key: ray[key] for key in ("image", "securityContext", "volumeMounts") if key in ray}
    pod["spec"].setdefault("initContainers", []).append({"name": "wait-gcs-ready", **waits})
    return cluster.http().post(
        f"/api/v1/namespaces/{namespace}/pods", params={"dryRun": "All", "fieldValidation": "Strict"}, json=pod
    )


def plain_objects() -> list[dict[str, Any]]:
    """Everything that is made but for Ray's own kinds."""
    pool = make_pool(access={"gatewayNamespaces": ["soar"], "metricsNamespaces": ["monitoring"]})
    return [
        made for made in (*run_objects(make_adapter(), pool), *pool_objects(pool)) if made["apiVersion"] != "ray.io/v1"
    ]


@pytest.mark.parametrize("name", RUNS)
def test_training_pods_are_let_in(cluster: Cluster, namespace: str, name: str) -> None:
    """A namespace that enforces the restricted standard takes every pod of a run, each field known to it."""
    for template in templates(run_objects(make_adapter(**RUNS[name]), make_pool(storeSecretRef={"name": "s3"})).job):
        answer = create_pod(cluster, namespace, template)
        assert answer.status_code == httpx.codes.CREATED, answer.text


def test_serving_pods_are_let_in(cluster: Cluster, namespace: str) -> None:
    """So it does every pod that serves."""
    pool = make_pool(ray={"gpusPerReplica": 1, "priorityClassName": None}, feedbackStore={"claimName": "feedback"})
    for template in templates(pool_objects(pool).service):
        answer = create_pod(cluster, namespace, template)
        assert answer.status_code == httpx.codes.CREATED, answer.text


@pytest.mark.parametrize(("path", "value", "complaint"), BREACHES)
def test_admission_agrees(cluster: Cluster, namespace: str, path: str, value: Any, complaint: str) -> None:
    """Whatever the builders' check calls a breach, Pod Security admission refuses as one."""
    (template, *_) = templates(run_objects(make_adapter(), make_pool()).job["spec"]["rayClusterSpec"])
    answer = create_pod(cluster, namespace, broken(template, path, value))
    assert answer.status_code in (httpx.codes.FORBIDDEN, httpx.codes.UNPROCESSABLE_ENTITY), complaint
    if answer.status_code == httpx.codes.FORBIDDEN:
        assert 'violates PodSecurity "restricted' in answer.json()["message"]


@pytest.mark.parametrize("made", plain_objects(), ids=lambda made: f"{made['kind']}-{made['metadata']['name']}"[:40])
def test_objects_are_taken(cluster: Cluster, namespace: str, made: dict[str, Any]) -> None:
    """Policies, Secrets and ConfigMaps are valid to the last field."""
    roots = {"NetworkPolicy": "/apis/networking.k8s.io/v1", "Secret": "/api/v1", "ConfigMap": "/api/v1"}
    plurals = {"NetworkPolicy": "networkpolicies", "Secret": "secrets", "ConfigMap": "configmaps"}
    moved = {**made, "metadata": {**made["metadata"], "namespace": namespace}}
    answer = cluster.http().post(
        f"{roots[made['kind']]}/namespaces/{namespace}/{plurals[made['kind']]}",
        params={"dryRun": "All", "fieldValidation": "Strict"},
        json=moved,
    )
    assert answer.status_code == httpx.codes.CREATED, answer.text


def test_overlay_keeps_its_nulls(cluster: Cluster, namespace: str) -> None:
    """A `null` in an overlay, which deletes a field of ours, reaches the operator as it was applied."""
    adapter = make_adapter(podTemplate={"spec": {"securityContext": {"runAsUser": None}, "hostname": "a"}})
    manifest = {
        "apiVersion": adapter.api_version,
        "kind": adapter.kind,
        "metadata": {"name": "cloud", "namespace": namespace},
        "spec": adapter.spec.model_dump(mode="json", exclude_defaults=True),
    }
    path = f"/apis/socadapter.io/v1alpha1/namespaces/{namespace}/socadapters/cloud"
    stored = cluster.apply(manifest, path)
    assert stored["spec"]["compute"]["podTemplate"]["spec"]["securityContext"] == {"runAsUser": None}
    read = type(adapter).model_validate(cluster.get(path))
    (template, *_) = templates(run_objects(read, make_pool()).job["spec"]["rayClusterSpec"])
    assert "runAsUser" not in template["spec"]["securityContext"]


def test_ray_objects_are_taken(cluster: Cluster, namespace: str) -> None:
    """RayJobs and RayServices pass the definitions that are installed, and nothing of them is pruned."""
    job = run_objects(make_adapter(**RUNS["spread"]), make_pool()).job
    service = pool_objects(make_pool()).service
    for made, plural in ((job, "rayjobs"), (service, "rayservices")):
        moved = {**made, "metadata": {**made["metadata"], "namespace": namespace}}
        answer = cluster.http().post(
            f"/apis/ray.io/v1/namespaces/{namespace}/{plural}", params={"dryRun": "All"}, json=moved
        )
        assert answer.status_code == httpx.codes.CREATED, answer.text
        assert not list(lost(made["spec"], answer.json()["spec"]))


def lost(sent: Any, stored: Any, path: str = "spec") -> Iterator[str]:
    """The fields of `sent` that the server did not keep; it may add defaults of its own."""
    if isinstance(sent, dict) and isinstance(stored, dict):
        for key, value in sent.items():
            yield from lost(value, stored.get(key), f"{path}.{key}")
    elif isinstance(sent, list) and isinstance(stored, list) and len(sent) == len(stored):
        for index, (ours, theirs) in enumerate(zip(sent, stored, strict=True)):
            yield from lost(ours, theirs, f"{path}[{index}]")
    elif sent != stored:
        yield f"{path}: {sent!r} became {stored!r}"
