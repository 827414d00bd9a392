"""Every pod that is asked for passes the restricted Pod Security Standard, and the check finds what breaks it."""

import copy
from typing import Any

import pytest
from hypothesis import given
from tests.builders.resources import ADAPTERS, POOLS, make_adapter, make_pool, pool_objects, run_objects, templates

from socadapter_api.adapter import SocAdapter
from socadapter_api.pool import SocServingPool
from socadapter_operator.builders import pod_security


def with_init_container(template: dict[str, Any]) -> dict[str, Any]:
    """The template with the init container that KubeRay adds to a worker: a copy of Ray's security context."""
    ray = template["spec"]["containers"][0]
    waits = {"name": "wait-gcs-ready", "securityContext": copy.deepcopy(ray["securityContext"])}
    return {**template, "spec": {**template["spec"], "initContainers": [waits]}}


def refuse(template: dict[str, Any]) -> list[str]:
    return [str(violation) for violation in pod_security.violations(with_init_container(template))]


@given(adapter=ADAPTERS)
def test_training_pods_are_restricted(adapter: SocAdapter) -> None:
    """Head, workers and submitter of a run pass, whatever its owner may ask for."""
    found = list(templates(run_objects(adapter, make_pool()).job))
    assert len(found) == (3 if adapter.spec.compute.placement.value == "Spread" else 2)
    assert [refuse(template) for template in found] == [[]] * len(found)


@given(pool=POOLS)
def test_serving_pods_are_restricted(pool: SocServingPool) -> None:
    """Head and engine pods of a pool pass, whatever its owner may ask for."""
    found = list(templates(pool_objects(pool).service))
    assert [refuse(template) for template in found] == [[], []]


@given(adapter=ADAPTERS)
def test_every_pod_is_hardened_beyond(adapter: SocAdapter) -> None:
    """No pod has an API token or a writable root; each container says what it needs and what it gets at most."""
    for template in templates(run_objects(adapter, make_pool()).job):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False
        ours = [item for item in spec["containers"] if item["name"] in ("ray", "ray-job-submitter")]
        for container in ours:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            for kind in ("requests", "limits"):
                assert container["resources"][kind].keys() >= {"cpu", "memory"}
            writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
            assert writable >= {"/tmp", "/home/socadapter"}


def broken(template: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of `template` with `value` at `path`; ``0`` in a path is the first item of a list."""
    whole = copy.deepcopy(template)
    node: Any = whole
    *parents, last = path.split(".")
    for key in parents:
        node = node[0] if key == "0" else node.setdefault(key, {})
    node[last] = value
    return whole


CONTEXT = "spec.containers.0.securityContext"


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        pytest.param("spec.hostNetwork", True, "spec.hostNetwork is True", id="host network"),
        pytest.param("spec.hostPID", True, "spec.hostPID", id="host processes"),
        pytest.param("spec.hostIPC", True, "spec.hostIPC", id="host ipc"),
        pytest.param("spec.volumes", [{"name": "v", "hostPath": {"path": "/"}}], "'hostPath'", id="host path"),
        pytest.param("spec.volumes", [{"name": "v", "nfs": {"server": "s", "path": "/"}}], "'nfs'", id="nfs"),
        pytest.param("spec.volumes", [{"name": "v"}], "spec.volumes[v] is None", id="volume of no kind"),
        pytest.param("spec.securityContext.runAsUser", 0, "must not be root", id="root"),
        pytest.param("spec.securityContext.runAsNonRoot", False, "must be true", id="may be root"),
        pytest.param("spec.securityContext.runAsNonRoot", None, "here or in the pod", id="says nothing of root"),
        pytest.param("spec.securityContext.seccompProfile", None, "must be set here or in the pod", id="no seccomp"),
        pytest.param("spec.securityContext.seccompProfile.type", "Unconfined", "RuntimeDefault", id="unconfined"),
        pytest.param("spec.securityContext.sysctls", [{"name": "kernel.msgmax"}], "safe sysctl", id="sysctl"),
        pytest.param("spec.securityContext.seLinuxOptions", {"type": "spc_t"}, "container type", id="selinux type"),
        pytest.param("spec.securityContext.seLinuxOptions", {"user": "u"}, "must be unset", id="selinux user"),
        pytest.param("spec.securityContext.appArmorProfile", {"type": "Unconfined"}, "RuntimeDefault", id="apparmor"),
        pytest.param("spec.securityContext.windowsOptions", {"hostProcess": True}, "hostProcess", id="windows"),
        pytest.param(f"{CONTEXT}.privileged", True, "privileged is True", id="privileged"),
        pytest.param(f"{CONTEXT}.allowPrivilegeEscalation", True, "must be false", id="escalation"),
        pytest.param(f"{CONTEXT}.allowPrivilegeEscalation", None, "must be false", id="escalation unsaid"),
        pytest.param(f"{CONTEXT}.capabilities", {"drop": ["NET_RAW"]}, "must contain ALL", id="keeps capabilities"),
        pytest.param(f"{CONTEXT}.capabilities.add", ["SYS_ADMIN"], "NET_BIND_SERVICE", id="adds a capability"),
        pytest.param(f"{CONTEXT}.procMount", "Unmasked", "must be Default", id="proc"),
        pytest.param(f"{CONTEXT}.runAsUser", 0, "must not be root", id="root in a container"),
        pytest.param(f"{CONTEXT}.seccompProfile", {"type": "Unconfined"}, "RuntimeDefault", id="container unconfined"),
        pytest.param("spec.containers.0.ports", [{"containerPort": 1, "hostPort": 80}], "no hostPort", id="host port"),
        pytest.param(
            "spec.containers.0.livenessProbe",
            {"httpGet": {"host": "10.0.0.1"}},
            "stays in its pod",
            id="probe elsewhere",
        ),
        pytest.param(
            "metadata.annotations",
            {"container.apparmor.security.beta.kubernetes.io/ray": "unconfined"},
            "runtime/default",
            id="apparmor annotation",
        ),
    ],
)
def test_check_finds(path: str, value: Any, complaint: str) -> None:
    """Each rule of the standard is checked: a pod that breaks it is told where, with what and why."""
    (template, *_) = templates(run_objects(make_adapter(), make_pool()).job["spec"]["rayClusterSpec"])
    assert list(pod_security.violations(template)) == []
    told = "; ".join(map(str, pod_security.violations(broken(template, path, value))))
    assert complaint in told


def test_init_and_ephemeral_containers_count() -> None:
    """Containers are checked wherever they stand."""
    (template, *_) = templates(run_objects(make_adapter(), make_pool()).job["spec"]["rayClusterSpec"])
    for field in ("initContainers", "ephemeralContainers"):
        (found,) = {
            v.path.partition("]")[0]
            for v in pod_security.violations(broken(template, f"spec.{field}", [{"name": "x"}]))
        }
        assert found == f"spec.{field}[x"
