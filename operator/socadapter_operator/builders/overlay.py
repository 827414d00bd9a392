"""The user's pod template merged over a generated one, and refused where it breaks what the pods must keep to.

Two things are kept: the restricted Pod Security Standard (`pod_security`) with what is asked beyond it (`hardening`),
and what the operator itself relies on. The latter is found by comparing: whatever the generated template says about our
container's command, variables and mounts, about our labels and about the files that we hand over must still be there,
unchanged, afterwards.
"""

import posixpath
from collections.abc import Iterable, Iterator
from typing import Any

from socadapter_api.errors import OverlayRefused
from socadapter_operator.builders import hardening, pod_security, strategic_merge
from socadapter_operator.builders.pod_security import Violation
from socadapter_operator.builders.raw import Part, map_at, maps_at

RAY_CONTAINER = "ray"
"""The name of Ray's own container in every pod, head or worker, so that one overlay reaches all of them."""

_OF_RAY_PODS = frozenset(
    {
        "containers",
        "initContainers",
        "ephemeralContainers",
        "volumes",
        "resources",
        "resourceClaims",
        # A Job's pod is started once.
        "restartPolicy",
    }
)
"""Fields of a PodSpec that say what runs in a pod of Ray's; the others are about any pod."""

OWN_VARIABLE_PREFIX = "SOCADAPTER_"
OWN_VARIABLES = frozenset(
    {
        "FQ_RAY_IP",
        "HOME",
        "KUBERAY_GEN_RAY_START_CMD",
        "PYTHONSAFEPATH",
        "RAY_ADDRESS",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
        "RAY_CLUSTER_NAME",
        "RAY_CLUSTER_NAMESPACE",
        "RAY_IP",
        "RAY_JOB_STOP_WAIT_TIME_S",
        "RAY_PORT",
        "RAY_USAGE_STATS_ENABLED",
    }
)
"""Variables that the operator or KubeRay sets."""

CODE_VARIABLE_PREFIXES = ("BASH_", "LD_")
CODE_VARIABLES = frozenset(
    {
        "ENV",
        "PATH",
        "PYTHONEXECUTABLE",
        "PYTHONHOME",
        "PYTHONINSPECT",
        "PYTHONPATH",
        "PYTHONPLATLIBDIR",
        "PYTHONSTARTUP",
        "PYTHONUSERBASE",
    }
)
"""Variables of the shell, the linker and Python that put other code into the process."""

OWN_LABEL_PREFIXES = ("socadapter.io/", "ray.io/", "kueue.x-k8s.io/")
OWN_LABELS = frozenset(
    {
        # KubeRay's head Services select by these two, and by KubeRay's own values.
        "app.kubernetes.io/created-by",
        "app.kubernetes.io/name",
        "app.kubernetes.io/component",
        "app.kubernetes.io/instance",
        "app.kubernetes.io/managed-by",
    }
)
OWN_ANNOTATION_PREFIXES = ("socadapter.io/", "ray.io/")
OWN_FILES = "/etc/socadapter"
"""Everything that the operator hands to a pod as files lies below; nothing of anybody else's may."""

_UNCHANGED = ("command", "args")
_UNTOLD = "another value"
"""In place of a variable's value, which may be a token."""


def of_pod(patch: Part) -> dict[str, Any]:
    """The part of `patch` that is about a whole pod, whatever runs in it: for a pod beside Ray's."""
    spec = {key: value for key, value in map_at(patch, "spec").items() if key not in _OF_RAY_PODS}
    return {**patch, "spec": spec}


def apply(template: Part, patches: Iterable[Part], where: str) -> dict[str, Any]:
    """The PodTemplateSpec `template` with each of `patches` merged over it in turn; our container comes first, as
    KubeRay expects.

    `where` names the field that the patches are from, for the error's text.

    Raises:
        OverlayRefused: the result must not run; the text tells each place, its value and the reason.
    """
    merged = dict(template)
    for patch in patches:
        merged = strategic_merge.merge(merged, patch, where)
    refuse(template, merged, where)
    merged["spec"]["containers"].sort(key=lambda container: container["name"] != _own(template)["name"])
    return merged


def refuse(template: Part, merged: Part, where: str) -> None:
    """Refuses `merged`, made from our `template`; see `apply`."""
    found = [*_malformed(merged)]
    if not found:
        found = [
            *pod_security.violations(merged),
            *hardening.violations(merged),
            *_metadata(template, merged),
            *_pod(template, merged),
            *_own_container(template, merged),
        ]
    if found:
        raise OverlayRefused(f"{where}: {'; '.join(map(str, found))}")


def _malformed(merged: Part) -> Iterator[Violation]:
    """What would make no sense to look into further."""
    for key in merged.keys() - {"metadata", "spec"}:
        yield Violation(key, merged[key], "is no part of a pod template: use metadata and spec")
    metadata, spec = merged.get("metadata"), merged.get("spec")
    if not isinstance(metadata, dict) or not isinstance(spec, dict):
        yield Violation("spec", spec, "must be a map, and metadata too")
        return
    for field in ("containers", "initContainers", "ephemeralContainers", "volumes"):
        items = spec.get(field)
        if items is None and field != "containers":
            continue
        if not isinstance(items, list) or not all(_is_named(item) for item in items):
            yield Violation(f"spec.{field}", items, "must be a list of named items")
            continue
        for item in items:
            yield from _malformed_lists(item, f"spec.{field}[{item['name']}]")


def _is_named(item: object) -> bool:
    return isinstance(item, dict) and isinstance(item.get("name"), str)


def _malformed_lists(container: Part, path: str) -> Iterator[Violation]:
    for key in ("env", "ports", "volumeMounts"):
        items = container.get(key) or []
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            yield Violation(f"{path}.{key}", items, "must be a list of maps")


def _metadata(template: Part, merged: Part) -> Iterator[Violation]:
    for key in merged["metadata"].keys() - {"labels", "annotations"}:
        yield Violation(f"metadata.{key}", merged["metadata"][key], "is the operator's: use labels and annotations")
    ours, labels = (map_at(part["metadata"], "labels") for part in (template, merged))
    for key in sorted(ours.keys() | {key for key in labels if _is_own_label(key)}):
        if labels.get(key) != ours.get(key):
            yield Violation(f"metadata.labels[{key}]", labels.get(key), "is the operator's or KubeRay's")
    before, annotations = (map_at(part["metadata"], "annotations") for part in (template, merged))
    for key in sorted(annotations):
        if key.startswith(OWN_ANNOTATION_PREFIXES) and annotations[key] != before.get(key):
            yield Violation(f"metadata.annotations[{key}]", annotations[key], "is the operator's or KubeRay's")


def _is_own_label(key: str) -> bool:
    return key in OWN_LABELS or key.startswith(OWN_LABEL_PREFIXES)


def _pod(template: Part, merged: Part) -> Iterator[Violation]:
    mounted = {mount["name"] for mount in _own(template)["volumeMounts"] if _below(mount["mountPath"], OWN_FILES)}
    ours, volumes = (_by(part["spec"], "volumes", "name") for part in (template, merged))
    for name in sorted(ours):
        if name not in volumes or (name in mounted and volumes[name] != ours[name]):
            yield Violation(f"spec.volumes[{name}]", volumes.get(name), "is the operator's and must stay as it is")


def _own_container(template: Part, merged: Part) -> Iterator[Violation]:
    ours = _own(template)
    path = f"spec.containers[{ours['name']}]"
    found = next((item for item in merged["spec"]["containers"] if item["name"] == ours["name"]), None)
    if found is None:
        yield Violation(path, None, "must stay: it is the operator's")
        return
    for key in _UNCHANGED:
        if found.get(key) != ours.get(key):
            yield Violation(f"{path}.{key}", found.get(key), "is made by the operator and KubeRay")
    yield from _variables(ours, found, path)
    yield from _mounts(ours, found, path)


def _variables(ours: Part, found: Part, path: str) -> Iterator[Violation]:
    before, after = (_by(part, "env", "name") for part in (ours, found))
    own = {name for name in after if name in OWN_VARIABLES or name.startswith(OWN_VARIABLE_PREFIX)}
    for name in sorted(before.keys() | own):
        if after.get(name) != before.get(name):
            shown = _UNTOLD if name in after else None
            yield Violation(f"{path}.env[{name}]", shown, "is set by the operator or KubeRay")
    for name in sorted(after.keys() - before.keys()):
        if name in CODE_VARIABLES or name.startswith(CODE_VARIABLE_PREFIXES):
            yield Violation(f"{path}.env[{name}]", _UNTOLD, "changes which code runs: set it in the image")
    if (found.get("envFrom") or []) != (ours.get("envFrom") or []):
        reason = "is the operator's, for it may name any variable: name each of yours in env, with valueFrom"
        yield Violation(f"{path}.envFrom", found.get("envFrom"), reason)


def _mounts(ours: Part, found: Part, path: str) -> Iterator[Violation]:
    before, after = (_by(part, "volumeMounts", "mountPath") for part in (ours, found))
    for place in sorted(before.keys() | {place for place in after if _below(place, OWN_FILES)}):
        if after.get(place) != before.get(place):
            yield Violation(f"{path}.volumeMounts[{place}]", map_at(after, place).get("name"), "is the operator's")


def _by(part: Part, field: str, key: str) -> dict[str, Part]:
    return {str(item.get(key)): item for item in maps_at(part, field)}


def _below(path: str, folder: str) -> bool:
    """Whether a mount at `path` would show in `folder`, or hide it."""
    # What runs a container takes ".", ".." and a relative path for what they mean.
    inner, outer = posixpath.normpath("/" + path.lstrip("/")).rstrip("/") + "/", folder + "/"
    return inner.startswith(outer) or outer.startswith(inner)


def _own(template: Part) -> Part:
    """Our container, the only one in a generated template."""
    own: Part
    (own,) = template["spec"]["containers"]
    return own
