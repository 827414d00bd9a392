"""Which resources have to be looked at when an object changed."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from socadapter_operator.builders import labels
from socadapter_operator.kube.resources import ADAPTER, ADAPTER_VERSION, POOL, Kind, Object, ObjectKey, key_of, metadata
from socadapter_operator.shell.cache import Cache
from socadapter_operator.shell.indexes import context


class Item(NamedTuple):
    """One thing to reconcile: its kind is `ADAPTER` or `POOL`."""

    kind: Kind
    key: ObjectKey

    def __str__(self) -> str:
        return f"{self.kind.kind} {self.key}"


def items(known: Cache, kind: Kind, item: Object) -> tuple[Item, ...]:
    """What has to be looked at because `item`, of `kind`, was made, changed or deleted."""
    namespace, name = key_of(item)
    if kind == ADAPTER:
        # Not only those that it names now: the pool that it has left still has its route.
        pools = known.keys(POOL, namespace)
        return _unique([Item(ADAPTER, key_of(item)), *_claiming(known, item), *_all(POOL, pools)])
    if kind == POOL:
        return _unique([Item(POOL, key_of(item)), *_all(ADAPTER, known.of_pool(namespace, name))])
    if kind == ADAPTER_VERSION:
        return _unique(_claiming(known, item))
    held: Mapping[str, str] = metadata(item).get("labels") or {}
    found = [(ADAPTER, held.get(labels.ADAPTER)), (POOL, held.get(labels.POOL))]
    return tuple(Item(owner, ObjectKey(namespace, value)) for owner, value in found if value)


def _claiming(known: Cache, item: Object) -> list[Item]:
    """The adapters that claim the context which `item` names."""
    return _all(ADAPTER, (key for value in context(item) for key in known.find_keys(ADAPTER, "context", value)))


def _all(kind: Kind, keys: Iterable[ObjectKey]) -> list[Item]:
    return [Item(kind, key) for key in keys]


def _unique(found: Iterable[Item]) -> tuple[Item, ...]:
    return tuple(dict.fromkeys(found))
