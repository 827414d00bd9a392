"""Under what an object of the cache is found besides its name."""

from collections.abc import Callable, Iterable, Mapping

from socadapter_operator.kube.resources import (
    ADAPTER,
    ADAPTER_VERSION,
    RAY_JOB,
    RAY_SERVICE,
    Kind,
    Object,
    key_of,
    metadata,
)

Index = Callable[[Object], Iterable[str]]
"""The values under which an object is found."""


def owner_uids(item: Object) -> Iterable[str]:
    """The uids of those that own `item`: an index."""
    return [str(owner.get("uid")) for owner in metadata(item).get("ownerReferences") or ()]


def context(item: Object) -> Iterable[str]:
    """``<namespace>/<spec.context>``: an index."""
    spec = item.get("spec")
    held = spec.get("context") if isinstance(spec, Mapping) else None
    return (f"{key_of(item).namespace}/{held}",) if isinstance(held, str) else ()


def pools(item: Object) -> Iterable[str]:
    """``<namespace>/<pool>`` of the pool that an adapter names and of the one that serves it: an index."""
    named = ((item.get("spec") or {}).get("servingPoolRef") or {}).get("name")
    serving = (item.get("status") or {}).get("servingPool")
    return [f"{key_of(item).namespace}/{pool}" for pool in dict.fromkeys((named, serving)) if pool]


INDEXES: Mapping[Kind, Mapping[str, Index]] = {
    ADAPTER: {"context": context, "pool": pools},
    ADAPTER_VERSION: {"context": context, "owner": owner_uids},
    RAY_JOB: {"owner": owner_uids},
    RAY_SERVICE: {"owner": owner_uids},
}
