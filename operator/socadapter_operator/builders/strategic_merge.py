"""Strategic merge of a partial pod template over a whole one, by the API server's own rules.

Maps merge, null deletes, lists replace each other but for those that Kubernetes tells apart by a key. The directives
``$patch`` (``replace``, ``delete``), ``$retainKeys`` and ``$deleteFromPrimitiveList`` are followed;
``$setElementOrder``, which only clients write, is refused. Even the order of merged lists is the API server's: new
items come before those that the patch does not name. Follows ``k8s.io/apimachinery/pkg/util/strategicpatch`` 0.36 and
the patch keys of ``k8s.io/api/core/v1``.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from socadapter_api.errors import OverlayRefused

DIRECTIVE = "$patch"
RETAIN_KEYS = "$retainKeys"
DELETE_FROM_LIST = "$deleteFromPrimitiveList/"

_OF_CONTAINERS = {
    f"spec.{containers}.{field}": key
    for containers in ("containers", "initContainers", "ephemeralContainers")
    for field, key in (
        ("ports", "containerPort"),
        ("env", "name"),
        ("volumeMounts", "mountPath"),
        ("volumeDevices", "devicePath"),
    )
}
_MERGE_KEYS = _OF_CONTAINERS | {
    "spec.containers": "name",
    "spec.initContainers": "name",
    "spec.ephemeralContainers": "name",
    "spec.volumes": "name",
    "spec.imagePullSecrets": "name",
    "spec.hostAliases": "ip",
    "spec.topologySpreadConstraints": "topologyKey",
    "spec.schedulingGates": "name",
    "spec.resourceClaims": "name",
}
_SHOWN_CHARACTERS = 80

Json = Any


def merge(template: Mapping[str, Any], patch: Mapping[str, Any], where: str = "podTemplate") -> dict[str, Any]:
    """A copy of the PodTemplateSpec `template` with the part `patch` merged over it; neither argument is changed.

    Raises:
        OverlayRefused: a directive or a keyed list of `patch`, which is from the field `where`, is malformed.
    """
    try:
        return _merged_map(copy.deepcopy(dict(template)), copy.deepcopy(dict(patch)), "")
    except OverlayRefused as error:
        raise OverlayRefused(f"{where}: {error}") from None


def _merged_map(base: dict[str, Json], patch: dict[str, Json], path: str) -> dict[str, Json]:
    if DIRECTIVE in patch:
        return _directed(patch, path)
    _retain(base, patch, path)
    for key, value in patch.items():
        here = f"{path}.{key}" if path else key
        if key.startswith(DELETE_FROM_LIST):
            if not isinstance(value, list):
                raise OverlayRefused(_told(here, value, "must be a list of the values to delete"))
            name = key.removeprefix(DELETE_FROM_LIST)
            if isinstance(base.get(name), list):
                base[name] = [item for item in base[name] if item not in value]
        elif key.startswith("$"):
            raise OverlayRefused(_told(here, value, "is no directive that an overlay may hold"))
        elif value is None:
            base.pop(key, None)
        elif isinstance(value, dict) and isinstance(base.get(key), dict):
            base[key] = _merged_map(base[key], value, here)
        elif isinstance(value, list) and isinstance(base.get(key), list) and here in _MERGE_KEYS:
            base[key] = _merged_list(base[key], value, here)
        elif isinstance(value, list) and isinstance(base.get(key), list):
            base[key] = value
        else:
            kept = _without_directives(_without_nulls(value))
            if kept is _DROPPED:
                base.pop(key, None)
            else:
                base[key] = kept
    return base


def _directed(patch: dict[str, Json], path: str) -> dict[str, Json]:
    """What a map becomes whose patch says to be more than merged."""
    directive = patch.pop(DIRECTIVE)
    if directive == "replace":
        return patch
    if directive == "delete":
        return {}
    raise OverlayRefused(_told(f"{path}.{DIRECTIVE}", directive, "must be 'replace' or 'delete'"))


def _retain(base: dict[str, Json], patch: dict[str, Json], path: str) -> None:
    """Drops what ``$retainKeys`` does not name, so that one kind of volume can take the place of another."""
    if RETAIN_KEYS not in patch:
        return
    keys = patch.pop(RETAIN_KEYS)
    if not isinstance(keys, list):
        raise OverlayRefused(_told(f"{path}.{RETAIN_KEYS}", keys, "must be a list of the keys to keep"))
    left_out = [
        key for key, value in patch.items() if value is not None and not key.startswith("$") and key not in keys
    ]
    if left_out:
        raise OverlayRefused(_told(f"{path}.{RETAIN_KEYS}", keys, f"must be a list that names {left_out} too"))
    for key in [key for key in base if key not in keys]:
        del base[key]


def _merged_list(base: list[Json], patch: list[Json], path: str) -> list[Json]:
    key = _MERGE_KEYS[path]
    # An item that is new may be named twice: its own lists, not looked at before, are then merged over.
    for item in (*base, *patch):
        keyed = isinstance(item, dict) and (isinstance(item.get(key), str | int) or item.get(DIRECTIVE) == "replace")
        if not keyed:
            raise OverlayRefused(_told(f"{path}[]", item, f"is merged by its {key!r}, and has none"))
    if any(item.get(DIRECTIVE) == "replace" for item in patch):
        return [item for item in patch if DIRECTIVE not in item]
    gone = [item[key] for item in patch if item.get(DIRECTIVE) == "delete"]
    wrong = next((item for item in patch if item.get(DIRECTIVE, "delete") != "delete"), None)
    if wrong is not None:
        raise OverlayRefused(_told(f"{path}[].{DIRECTIVE}", wrong[DIRECTIVE], "must be 'replace' or 'delete'"))
    live = [item for item in base if item.get(key) not in gone]
    named = [item for item in patch if DIRECTIVE not in item]
    merged = {item[key]: item for item in live}
    for item in named:
        before = merged.get(item[key])
        whole = _without_directives(_without_nulls(item)) if before is None else _merged_map(before, item, path)
        merged[item[key]] = whole
    return _ordered([item[key] for item in live], [item[key] for item in named], merged)


def _ordered(live: Sequence[Json], named: Sequence[Json], merged: Mapping[Json, Json]) -> list[Json]:
    """The merged items: those that the patch names in its order, the others among them where the live list had them."""
    place = {name: index for index, name in enumerate(live)}
    left = [name for name in live if name not in named]
    right = list(dict.fromkeys(named))
    order: list[Json] = []
    while left and right:
        first = right[0] in place and place[left[0]] < place[right[0]]
        order.append((left if first else right).pop(0))
    return [merged[name] for name in (*order, *left, *right)]


_DROPPED = object()


def _without_directives(value: Json) -> Json:
    """`value` as it enters a place that was empty: a map with a directive means nothing there."""
    if isinstance(value, dict):
        if DIRECTIVE in value:
            return _DROPPED
        kept = {key: _without_directives(inner) for key, inner in value.items()}
        return {key: inner for key, inner in kept.items() if inner is not _DROPPED}
    if isinstance(value, list):
        return [kept for item in value if (kept := _without_directives(item)) is not _DROPPED]
    return value


def _without_nulls(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _told(path: str, value: object, reason: str) -> str:
    shown = repr(value)
    return f"{path} is {shown[:_SHOWN_CHARACTERS]}: {reason}"
