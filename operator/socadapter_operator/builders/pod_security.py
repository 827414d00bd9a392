"""The restricted Pod Security Standard, Kubernetes 1.36: what a namespace that enforces it would refuse in a pod.

Written from ``k8s.io/pod-security-admission``. Its exceptions for Windows and for user namespaces are left out: the
pods here are Linux pods, and must pass wherever they run.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from socadapter_operator.builders.raw import Part, list_at, map_at, maps_at

_VOLUME_KINDS = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)
_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    }
)
_SELINUX_TYPES = frozenset({"container_t", "container_init_t", "container_kvm_t", "container_engine_t"})
_APPARMOR_ANNOTATION = "container.apparmor.security.beta.kubernetes.io/"
_PROFILES = ("RuntimeDefault", "Localhost")


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that must not be so: where it is, what is there (None: nothing), and what is asked for."""

    path: str
    value: object
    reason: str

    def __str__(self) -> str:
        return f"{self.path} is {self.value!r}: {self.reason}"


def violations(template: Part) -> tuple[Violation, ...]:
    """Where the PodTemplateSpec `template` breaks the restricted standard, by path; empty where it holds."""
    spec = map_at(template, "spec")
    found = [*_annotations(template), *_host(spec), *_volumes(spec), *_sysctls(spec), *_pod_context(spec)]
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for index, container in enumerate(maps_at(spec, field)):
            path = f"spec.{field}[{container.get('name', index)}]"
            found += [*_container(container, path), *_inherited(container, spec, path)]
    return tuple(found)


def _annotations(template: Part) -> Iterator[Violation]:
    for key, value in map_at(map_at(template, "metadata"), "annotations").items():
        allowed = value in ("", "runtime/default") or str(value).startswith("localhost/")
        if key.startswith(_APPARMOR_ANNOTATION) and not allowed:
            yield Violation(f"metadata.annotations[{key}]", value, "must be runtime/default or localhost/*")


def _host(spec: Part) -> Iterator[Violation]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield Violation(f"spec.{key}", spec[key], "must be false or unset")


def _volumes(spec: Part) -> Iterator[Violation]:
    for volume in maps_at(spec, "volumes"):
        kinds = [key for key, value in volume.items() if key != "name" and value is not None]
        if not kinds or not _VOLUME_KINDS.issuperset(kinds):
            shown = ", ".join(sorted(kinds)) or None
            yield Violation(
                f"spec.volumes[{volume.get('name')}]", shown, f"must be one of {', '.join(sorted(_VOLUME_KINDS))}"
            )


def _sysctls(spec: Part) -> Iterator[Violation]:
    for sysctl in maps_at(map_at(spec, "securityContext"), "sysctls"):
        name = sysctl.get("name")
        if not isinstance(name, str) or name not in _SYSCTLS:
            yield Violation("spec.securityContext.sysctls", name, "is not a safe sysctl")


def _pod_context(spec: Part) -> Iterator[Violation]:
    context = map_at(spec, "securityContext")
    yield from _either(context, "spec.securityContext")
    if context.get("runAsNonRoot") is False:
        yield Violation("spec.securityContext.runAsNonRoot", False, "must be true")


def _either(context: Part, path: str) -> Iterator[Violation]:
    """What holds for a pod's security context and for a container's alike."""
    if context.get("runAsUser") == 0:
        yield Violation(f"{path}.runAsUser", 0, "must not be root")
    if map_at(context, "windowsOptions").get("hostProcess"):
        yield Violation(f"{path}.windowsOptions.hostProcess", True, "must be false or unset")
    for kind in ("seccompProfile", "appArmorProfile"):
        profile = context.get(kind)
        if profile is not None and map_at(context, kind).get("type") not in _PROFILES:
            yield Violation(
                f"{path}.{kind}.type", map_at(context, kind).get("type"), f"must be {' or '.join(_PROFILES)}"
            )
    options = map_at(context, "seLinuxOptions")
    selinux = options.get("type")
    if selinux and (not isinstance(selinux, str) or selinux not in _SELINUX_TYPES):
        yield Violation(f"{path}.seLinuxOptions.type", selinux, "must be a container type")
    for key in ("user", "role"):
        if options.get(key):
            yield Violation(f"{path}.seLinuxOptions.{key}", options[key], "must be unset")


def _container(container: Part, path: str) -> Iterator[Violation]:
    """What holds for each container by itself."""
    context = map_at(container, "securityContext")
    where = f"{path}.securityContext"
    yield from _either(context, where)
    if context.get("privileged"):
        yield Violation(f"{where}.privileged", True, "must be false or unset")
    if context.get("allowPrivilegeEscalation") is not False:
        yield Violation(f"{where}.allowPrivilegeEscalation", context.get("allowPrivilegeEscalation"), "must be false")
    if context.get("procMount") not in (None, "", "Default"):
        yield Violation(f"{where}.procMount", context["procMount"], "must be Default or unset")
    capabilities = map_at(context, "capabilities")
    if "ALL" not in list_at(capabilities, "drop"):
        yield Violation(f"{where}.capabilities.drop", capabilities.get("drop"), "must contain ALL")
    for capability in list_at(capabilities, "add"):
        if capability != "NET_BIND_SERVICE":
            yield Violation(f"{where}.capabilities.add", capability, "must be nothing but NET_BIND_SERVICE")
    for port in maps_at(container, "ports"):
        if port.get("hostPort"):
            yield Violation(f"{path}.ports", port["hostPort"], "must ask for no hostPort")
    yield from _probes(container, path)


def _probes(container: Part, path: str) -> Iterator[Violation]:
    handlers = {key: map_at(container, key) for key in ("livenessProbe", "readinessProbe", "startupProbe")}
    lifecycle = map_at(container, "lifecycle")
    handlers |= {f"lifecycle.{key}": map_at(lifecycle, key) for key in ("postStart", "preStop")}
    for name, handler in handlers.items():
        for kind in ("httpGet", "tcpSocket"):
            if host := map_at(handler, kind).get("host"):
                yield Violation(f"{path}.{name}.{kind}.host", host, "must be unset: a probe stays in its pod")


def _inherited(container: Part, spec: Part, path: str) -> Iterator[Violation]:
    """What a container may take from its pod."""
    context, pod = map_at(container, "securityContext"), map_at(spec, "securityContext")
    alone = context.get("runAsNonRoot")
    if (alone if alone is not None else pod.get("runAsNonRoot")) is not True:
        yield Violation(f"{path}.securityContext.runAsNonRoot", alone, "must be true here or in the pod")
    if context.get("seccompProfile") is None and pod.get("seccompProfile") is None:
        yield Violation(f"{path}.securityContext.seccompProfile", None, "must be set here or in the pod")
