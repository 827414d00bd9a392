"""Which resources have to be looked at when an object changed, and the indexes by which they are found."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from socadapter_operator.builders import labels
from socadapter_operator.kube.resources import ADAPTER, ADAPTER_VERSION, POOL, Kind, Object, ObjectKey, key_of, metadata
from socadapter_operator.shell.cache import Cache

BY_CONTEXT, BY_POOL = "context", "pool"


class Item(NamedTuple):
    """One thing to reconcile: its kind is `ADAPTER` or `POOL`."""

    kind: Kind
    key: ObjectKey

    def __str__(self) -> str:
        return f"{self.kind.kind} {self.key}"


def cache() -> Cache:
    """An empty cache with the indexes that the controllers use."""
    return Cache({ADAPTER: {BY_CONTEXT: _context, BY_POOL: _pools}, ADAPTER_VERSION: {BY_CONTEXT: _context}})


def in_namespace(namespace: str, value: str) -> str:
    """What the indexes know `value` by in `namespace`."""
    return f"{namespace}/{value}"


def items(known: Cache, kind: Kind, item: Object) -> tuple[Item, ...]:
    """What has to be looked at because `item`, of `kind`, was made, changed or deleted."""
    namespace, name = key_of(item)
    if kind == ADAPTER:
        rivals = (key_of(raw) for value in _context(item) for raw in known.find(ADAPTER, BY_CONTEXT, value))
        # Not only those that it names now: the pool that it has left still has its route.
        pools = (key_of(raw) for raw in known.list(POOL, namespace))
        return _unique([Item(ADAPTER, key_of(item)), *_all(ADAPTER, rivals), *_all(POOL, pools)])
    if kind == POOL:
        served = (key_of(raw) for raw in known.find(ADAPTER, BY_POOL, in_namespace(namespace, name)))
        return _unique([Item(POOL, key_of(item)), *_all(ADAPTER, served)])
    if kind == ADAPTER_VERSION:
        owners = (key_of(raw) for value in _context(item) for raw in known.find(ADAPTER, BY_CONTEXT, value))
        return _unique(_all(ADAPTER, owners))
    held: Mapping[str, str] = metadata(item).get("labels") or {}
    found = [(ADAPTER, held.get(labels.ADAPTER)), (POOL, held.get(labels.POOL))]
    return tuple(Item(owner, ObjectKey(namespace, value)) for owner, value in found if value)


def _all(kind: Kind, keys: Iterable[ObjectKey]) -> list[Item]:
    return [Item(kind, key) for key in keys]


def _unique(found: Iterable[Item]) -> tuple[Item, ...]:
    return tuple(dict.fromkeys(found))


def _context(item: Object) -> Iterable[str]:
    context = (item.get("spec") or {}).get("context")
    return (in_namespace(key_of(item).namespace, context),) if isinstance(context, str) else ()


def _pools(item: Object) -> Iterable[str]:
    """The pool that the adapter names, and the one that serves it."""
    named = ((item.get("spec") or {}).get("servingPoolRef") or {}).get("name")
    serving = (item.get("status") or {}).get("servingPool")
    return [in_namespace(key_of(item).namespace, pool) for pool in dict.fromkeys((named, serving)) if pool]
