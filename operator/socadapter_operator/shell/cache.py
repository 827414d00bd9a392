"""Objects as last seen, by kind and key: what planning may read, and never what a create or delete relies on.

Filled by watch events, by full lists and by the answers to our own writes, in whatever order these arrive: an older
version never replaces a newer one, and a uid that was deleted does not come back. `replace` takes a full list and drops
what it no longer holds, which is how objects go whose deletion no event told.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from socadapter_operator.kube.resources import (
    ADAPTER,
    ADAPTER_VERSION,
    RAY_JOB,
    RAY_SERVICE,
    Kind,
    Object,
    ObjectKey,
    key_of,
    metadata,
    uid_of,
)

_MAX_TOMBSTONES = 20_000

Index = Callable[[Object], Iterable[str]]
"""The values under which an object is found."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """What a full list changed: keys that are new or newer, and the objects that are no longer there."""

    changed: tuple[ObjectKey, ...]
    pruned: tuple[Object, ...]


@dataclass(slots=True)
class _Shelf:
    """All objects of one kind."""

    indexes: dict[str, Index] = field(default_factory=dict)
    objects: dict[ObjectKey, Object] = field(default_factory=dict)
    found: dict[str, dict[str, set[ObjectKey]]] = field(default_factory=dict)
    tombstones: OrderedDict[str, None] = field(default_factory=OrderedDict)
    synced: bool = False

    def put(self, key: ObjectKey, item: Object) -> None:
        self.drop(key)
        self.objects[key] = item
        for name, index in self.indexes.items():
            for value in index(item):
                self.found.setdefault(name, {}).setdefault(value, set()).add(key)

    def drop(self, key: ObjectKey) -> Object | None:
        item = self.objects.pop(key, None)
        if item is not None:
            for name, index in self.indexes.items():
                values = self.found.get(name, {})
                for value in index(item):
                    keys = values.get(value, set())
                    keys.discard(key)
                    if not keys:
                        values.pop(value, None)
        return item

    def bury(self, uid: str) -> None:
        if uid:
            self.tombstones[uid] = None
            self.tombstones.move_to_end(uid)
            if len(self.tombstones) > _MAX_TOMBSTONES:
                self.tombstones.popitem(last=False)


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


class Cache:
    """Safe for threads. Objects handed out are shared: nobody changes them."""

    def __init__(self, indexes: Mapping[Kind, Mapping[str, Index]] = INDEXES) -> None:
        self._lock = threading.RLock()
        self._shelves: dict[Kind, _Shelf] = {kind: _Shelf(dict(made)) for kind, made in indexes.items()}

    def upsert(self, kind: Kind, item: Object) -> bool:
        """Takes `item`; False where it is not news: as old as what is held, older, or of a uid that was deleted."""
        with self._lock:
            return self._upsert(self._shelf(kind), item)

    def remove(self, kind: Kind, item: Object) -> bool:
        """`item` was deleted; False where another object of that name, or none, is held."""
        with self._lock:
            shelf = self._shelf(kind)
            shelf.bury(uid_of(item))
            held = shelf.objects.get(key_of(item))
            if held is None or uid_of(held) != uid_of(item):
                return False
            shelf.drop(key_of(item))
            return True

    def replace(self, kind: Kind, items: Iterable[Object], resource_version: str, *, namespace: str = "") -> Replaced:
        """Takes a full list of `kind` (of `namespace`, or all) as of `resource_version`.

        What is held and not in the list is dropped, unless it is newer than the list itself.
        """
        with self._lock:
            shelf = self._shelf(kind)
            listed = list(items)
            keys = {key_of(item) for item in listed}
            gone = [
                held
                for key, held in shelf.objects.items()
                if key not in keys and namespace in ("", key.namespace) and not _newer(_version(held), resource_version)
            ]
            for item in gone:
                shelf.bury(uid_of(item))
                shelf.drop(key_of(item))
            changed = tuple(key_of(item) for item in listed if self._upsert(shelf, item))
            shelf.synced = True
            return Replaced(changed, tuple(gone))

    def get(self, kind: Kind, key: ObjectKey) -> Object | None:
        """The object of that name, as last seen."""
        with self._lock:
            return self._shelf(kind).objects.get(key)

    def list(self, kind: Kind, namespace: str = "") -> tuple[Object, ...]:
        """All objects of `kind`, of one namespace or all, by name."""
        with self._lock:
            held = self._shelf(kind).objects
            return tuple(held[key] for key in sorted(held) if namespace in ("", key.namespace))

    def find(self, kind: Kind, index: str, value: str) -> tuple[Object, ...]:
        """The objects of `kind` that `index` has under `value`, by name.

        Raises:
            KeyError: there is no such index.
        """
        with self._lock:
            shelf = self._shelf(kind)
            if index not in shelf.indexes:
                raise KeyError(f"{kind.kind} has no index {index!r}; it has {sorted(shelf.indexes)}")
            return tuple(shelf.objects[key] for key in sorted(shelf.found.get(index, {}).get(value, ())))

    def by_context(self, namespace: str, context: str) -> tuple[Object, ...]:
        """The adapters of `namespace` that claim `context`."""
        return self.find(ADAPTER, "context", f"{namespace}/{context}")

    def of_pool(self, namespace: str, pool: str) -> tuple[Object, ...]:
        """The adapters of `namespace` that name `pool`, or are served by it."""
        return self.find(ADAPTER, "pool", f"{namespace}/{pool}")

    def versions_of(self, namespace: str, context: str) -> tuple[Object, ...]:
        """The recorded versions of `context` in `namespace`."""
        return self.find(ADAPTER_VERSION, "context", f"{namespace}/{context}")

    def keys(self, kind: Kind) -> tuple[ObjectKey, ...]:
        """The keys of all objects of `kind`."""
        with self._lock:
            return tuple(sorted(self._shelf(kind).objects))

    def synced(self, kind: Kind) -> bool:
        """Whether a full list of `kind` was ever taken."""
        with self._lock:
            return self._shelf(kind).synced

    def forget(self, kind: Kind) -> tuple[Object, ...]:
        """Drops every object of `kind`, as when its definition was removed; returns what was held."""
        with self._lock:
            shelf = self._shelf(kind)
            gone = tuple(shelf.objects.values())
            for item in gone:
                shelf.drop(key_of(item))
            shelf.synced = False
            return gone

    def sizes(self) -> dict[Kind, int]:
        """How many objects of each kind are held."""
        with self._lock:
            return {kind: len(shelf.objects) for kind, shelf in self._shelves.items()}

    def _shelf(self, kind: Kind) -> _Shelf:
        return self._shelves.setdefault(kind, _Shelf())

    def _upsert(self, shelf: _Shelf, item: Object) -> bool:
        key, uid = key_of(item), uid_of(item)
        if uid and uid in shelf.tombstones:
            return False
        held = shelf.objects.get(key)
        if held is not None and not _newer(_version(item), _version(held)):
            return False
        if held is not None and uid_of(held) != uid:
            shelf.bury(uid_of(held))
        shelf.put(key, _slim(item))
        return True


def _version(item: Object) -> str:
    return str(metadata(item).get("resourceVersion") or "")


def _newer(one: str, other: str) -> bool:
    """Whether version `one` comes after `other`; what cannot be compared is taken for newer when it differs."""
    if one.isdecimal() and other.isdecimal():
        return int(one) > int(other)
    return one != other


def _slim(item: Object) -> Object:
    """Without what takes most of the room and nobody here reads."""
    about = metadata(item)
    if "managedFields" not in about:
        return item
    return {**item, "metadata": {key: value for key, value in about.items() if key != "managedFields"}}
