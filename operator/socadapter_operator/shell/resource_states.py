"""What the metrics tell of a resource, read from its status."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from socadapter_operator.domain.timestamps import parse
from socadapter_operator.kube.resources import Kind, Object, key_of, metadata
from socadapter_operator.shell.resource_series import ResourceId, ResourceState


def id_of(kind: Kind, raw: Object) -> ResourceId:
    """Which resource a series is about."""
    return ResourceId(kind.kind, *key_of(raw))


def state_of(kind: Kind, raw: Object) -> ResourceState:
    """What its series tell now."""
    status: Mapping[str, Any] = raw.get("status") or {}
    conditions = {str(c.get("type")): c for c in status.get("conditions") or ()}
    ready, stalled = conditions.get("Ready", {}), conditions.get("Stalled", {})
    return ResourceState(
        conditions={name: str(condition.get("status")) for name, condition in conditions.items()},
        info=_info(raw, status),
        born_at=_unix(metadata(raw).get("creationTimestamp")),
        ready_at=_unix(ready.get("lastTransitionTime")) if ready.get("status") == "True" else None,
        stuck_since=_unix(stalled.get("lastTransitionTime")) if stalled.get("status") == "True" else None,
        next_run_at=_unix(status.get("nextScheduleTime")),
    )


def _info(raw: Object, status: Mapping[str, Any]) -> dict[str, str]:
    spec: Mapping[str, Any] = raw.get("spec") or {}
    versions: Mapping[str, Any] = status.get("versions") or {}
    named = {
        "context": spec.get("context"),
        "pool": (spec.get("servingPoolRef") or {}).get("name"),
        "stable": (versions.get("stable") or {}).get("name"),
        "canary": (versions.get("canary") or {}).get("name"),
    }
    return {label: str(value) for label, value in named.items() if value}


def _unix(text: object) -> float | None:
    moment: datetime | None = parse(str(text)) if text else None
    return None if moment is None else moment.timestamp()
