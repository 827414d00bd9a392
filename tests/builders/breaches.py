"""What breaks the restricted Pod Security Standard, one thing at a time: for the check, and for a real API server."""

import copy
from typing import Any

import pytest


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
BREACHES = [
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
]
"""Path, value, and what the check says about it."""
