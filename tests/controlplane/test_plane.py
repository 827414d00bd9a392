"""The control plane is a real one: who may do what, which pods it lets in, and what goes when its owner goes."""

import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.controlplane.binaries import PROGRAMS
from tests.controlplane.cluster import OUR_CRDS, RAY_CRDS, Cluster, KubectlFailed, client_of, wait_for
from tests.controlplane.fixtures import program
from tests.controlplane.plane import ControlPlane

pytestmark = pytest.mark.slow

Manifest = dict[str, Any]

POD: Manifest = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "probe"},
    "spec": {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "probe",
                "image": "probe",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    },
}
PRIVILEGED: Manifest = {
    **POD,
    "spec": {"containers": [{"name": "probe", "image": "probe", "securityContext": {"privileged": True}}]},
}


def ray_job(name: str) -> Manifest:
    """The least that makes a RayJob."""
    cluster = {"headGroupSpec": {"rayStartParams": {}, "template": {"spec": POD["spec"]}}}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name},
        "spec": {"entrypoint": "true", "rayClusterSpec": cluster},
    }


def owned_secret(owner: Manifest) -> Manifest:
    """A Secret that the garbage collector deletes once `owner` is gone."""
    reference = {key: owner[key] for key in ("apiVersion", "kind")}
    reference |= {key: owner["metadata"][key] for key in ("name", "uid")}
    reference |= {"controller": True, "blockOwnerDeletion": True}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "owned", "ownerReferences": [reference]}}


def test_is_the_pinned_version(control_plane: ControlPlane) -> None:
    """The API server and kubectl are of the version that go.mod pins."""
    if os.environ.get("KUBEBUILDER_ASSETS"):
        pytest.skip("the programs of KUBEBUILDER_ASSETS are of whatever version they are")
    wanted = PROGRAMS["kube-apiserver"].version
    assert control_plane.http().get("/version").json()["gitVersion"] == wanted
    assert f"Client Version: {wanted}" in control_plane.kubectl("version")


def test_helm(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """Helm is of the version that go.mod pins, and keeps its releases in the cluster."""
    helm = program("helm")
    environment = {name: str(tmp_path) for name in ("HOME", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}

    def said(*arguments: str) -> str:
        command = [str(helm), "--kubeconfig", str(cluster.kubeconfig_of()), "--namespace", namespace, *arguments]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    assert said("version", "--template", "{{.Version}}") == PROGRAMS["helm"].version
    assert said("list", "--output", "json").strip() == "[]"


def test_role_based_access(control_plane: ControlPlane, namespace: str) -> None:
    """A user may do nothing until a role is bound to it, and then just that; a wrong token is nobody's."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    operator = control_plane.http("operator")
    assert operator.get(path).status_code == httpx.codes.FORBIDDEN
    control_plane.kubectl("create", "role", "reader", "--verb=list", "--resource=configmaps", namespace=namespace)
    control_plane.kubectl("create", "rolebinding", "reader", "--role=reader", "--user=operator", namespace=namespace)
    wait_for(lambda: operator.get(path).is_success, "the binding in force")
    assert operator.post(path, json={"metadata": {"name": "new"}}).status_code == httpx.codes.FORBIDDEN
    wrong = operator.get(path, headers={"Authorization": "Bearer wrong"})
    assert wrong.status_code == httpx.codes.UNAUTHORIZED


def test_ways_to_log_in(control_plane: ControlPlane, namespace: str) -> None:
    """The server knows the bearer of a token, of a client certificate, and of a service account's token."""
    control_plane.kubectl("create", "serviceaccount", "robot", namespace=namespace)
    configs = {
        "viewer": control_plane.kubeconfig_of("viewer"),
        "jane": control_plane.certificate_kubeconfig("jane", "soc"),
        f"system:serviceaccount:{namespace}:robot": control_plane.service_account_kubeconfig(namespace, "robot"),
    }
    question = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    for name, config in configs.items():
        with client_of(config) as client:
            answer = client.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", json=question).json()
        assert answer["status"]["userInfo"]["username"] == name


def test_cluster_of_a_kubeconfig(control_plane: ControlPlane) -> None:
    """A cluster that a kubeconfig leads to is used like one started here, but for users that it does not have."""
    config = control_plane.certificate_kubeconfig("owner", "system:masters")
    borrowed = Cluster(config, control_plane.kubectl_program)
    borrowed.install(OUR_CRDS, RAY_CRDS)
    with borrowed.namespace("Borrowed: a name, too long for a label of Kubernetes, with signs in it") as namespace:
        assert "created" in borrowed.kubectl("create", "configmap", "made", namespace=namespace)
        assert borrowed.get(f"/api/v1/namespaces/{namespace}/configmaps/made")
    with pytest.raises(LookupError, match="no user 'operator'"):
        borrowed.kubectl("version", user="operator")
    borrowed.close()


def test_audit_log(control_plane: ControlPlane, namespace: str) -> None:
    """The audit log says of each request who made it, with which verb, on what, and what it got."""
    control_plane.http("stranger").get(f"/apis/socadapter.io/v1alpha1/namespaces/{namespace}/socadapters")
    event = wait_for(lambda: refusal_in(control_plane, namespace), "the request in the audit log")
    assert (event["verb"], event["objectRef"]["resource"]) == ("list", "socadapters")
    assert event["responseStatus"]["code"] == httpx.codes.FORBIDDEN


def refusal_in(plane: ControlPlane, namespace: str) -> Manifest | None:
    """The audit event of what the stranger asked of `namespace`."""
    events = (event for event in plane.audit_events("stranger") if event["objectRef"].get("namespace") == namespace)
    return next(events, None)


def test_pod_security(cluster: Cluster, namespace: str) -> None:
    """A test's namespace takes a restricted pod, and refuses a privileged one with the reason."""
    with pytest.raises(KubectlFailed, match=r"violates PodSecurity.*privileged"):
        cluster.kubectl("create", "-f", "-", namespace=namespace, stdin=PRIVILEGED)
    assert "created" in cluster.kubectl("create", "-f", "-", "--dry-run=server", namespace=namespace, stdin=POD)


def test_namespace_is_deleted_with_all_in_it(cluster: Cluster, samples: dict[str, Manifest]) -> None:
    """A namespace that is deleted goes, and every kind of resource in it, ours too."""
    with cluster.namespace("doomed") as doomed:
        for sample in samples.values():
            sample["metadata"]["namespace"] = doomed
            cluster.kubectl("apply", "--server-side", "-f", "-", stdin=sample)
        cluster.kubectl("create", "secret", "generic", "token", "--from-literal=a=b", namespace=doomed)
    root = f"/api/v1/namespaces/{doomed}"
    wait_for(lambda: cluster.get(root) is None, f"namespace {doomed} gone")
    ours = f"/apis/socadapter.io/v1alpha1/namespaces/{doomed}"
    kinds = (f"{ours}/socadapters", f"{ours}/socservingpools", f"{root}/secrets")
    assert [(cluster.get(kind) or {})["items"] for kind in kinds] == [[], [], []]


@pytest.mark.parametrize("policy", ["Background", "Foreground"])
def test_garbage_collection(cluster: Cluster, namespace: str, policy: str) -> None:
    """What a RayJob owns is deleted with it, after it or before it as the policy says."""
    jobs = f"/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
    secret = f"/api/v1/namespaces/{namespace}/secrets/owned"
    owner = cluster.apply(ray_job("owner"), f"{jobs}/owner")
    cluster.apply(owned_secret(owner), secret)
    cluster.http().request("DELETE", f"{jobs}/owner", json={"propagationPolicy": policy}).raise_for_status()
    wait_for(lambda: cluster.get(secret) is None, "the owned Secret gone")
    wait_for(lambda: cluster.get(f"{jobs}/owner") is None, "the RayJob gone")


def test_orphans_stay(cluster: Cluster, namespace: str) -> None:
    """With the policy Orphan the owner's reference is taken off, and what it owned stays."""
    jobs = f"/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
    secret = f"/api/v1/namespaces/{namespace}/secrets/owned"
    cluster.apply(owned_secret(cluster.apply(ray_job("owner"), f"{jobs}/owner")), secret)
    cluster.http().request("DELETE", f"{jobs}/owner", json={"propagationPolicy": "Orphan"}).raise_for_status()
    wait_for(lambda: cluster.get(f"{jobs}/owner") is None, "the RayJob gone")
    assert "ownerReferences" not in (cluster.get(secret) or {})["metadata"]


def test_ray_kinds(cluster: Cluster, namespace: str) -> None:
    """A RayJob gets KubeRay's defaults, loses what KubeRay does not know, and has a status of its own."""
    path = f"/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
    job = ray_job("job") | {"status": {"jobStatus": "SUCCEEDED"}}
    job["spec"]["unknown"] = "field"
    refused = cluster.http().post(path, params={"fieldValidation": "Strict"}, json=job)
    assert 'unknown field "spec.unknown"' in refused.json()["message"]
    stored = cluster.http().post(path, json=job).raise_for_status().json()
    assert stored["spec"]["submissionMode"] == "K8sJobMode"
    assert "unknown" not in stored["spec"]
    assert "jobStatus" not in stored.get("status", {})
    status = {key: job[key] for key in ("apiVersion", "kind", "metadata", "status")}
    told = cluster.apply(status, f"{path}/job/status", manager="kuberay-operator")
    assert told["status"]["jobStatus"] == "SUCCEEDED"
    assert told["metadata"]["generation"] == stored["metadata"]["generation"]
