"""Objects as last seen, by kind and key: what planning may read, and never what a create or delete relies on.

Filled by watch events, by full lists and by the answers to our own writes, in whatever order these arrive: an older
version never replaces a newer one, and a uid that was deleted does not come back. `replace` takes a full list and drops
what it no longer holds, which is how objects go whose deletion no event told.

Thousands of objects are held, and few are read at a time: they are kept packed, and unpacked for who asks. The lock is
held for moments only: a thread that packs under it and loses its turn would have all others wait.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from socadapter_operator.kube.resources import (
    ADAPTER,
    ADAPTER_VERSION,
    Kind,
    Object,
    ObjectKey,
    key_of,
    uid_of,
    version_of,
)
from socadapter_operator.shell.indexes import INDEXES, Index
from socadapter_operator.shell.packed import Packed, pack

Place = TypeVar("Place", str, tuple[str, str])

_MAX_TOMBSTONES = 20_000
_MAX_UNPACKED = 128
"""Of each kind: one pass asks for the same few objects several times."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """What a full list changed: keys that are new or newer, and the objects that are no longer there."""

    changed: tuple[ObjectKey, ...]
    pruned: tuple[Object, ...]


@dataclass(slots=True)
class _Shelf:
    """All objects of one kind."""

    indexes: dict[str, Index] = field(default_factory=dict)
    objects: dict[ObjectKey, Packed] = field(default_factory=dict)
    by_namespace: dict[str, set[ObjectKey]] = field(default_factory=dict)
    found: dict[tuple[str, str], set[ObjectKey]] = field(default_factory=dict)
    """By index and value."""
    unpacked: OrderedDict[ObjectKey, Object] = field(default_factory=OrderedDict)
    tombstones: OrderedDict[str, None] = field(default_factory=OrderedDict)
    synced: bool = False

    def put(self, item: Packed) -> None:
        self.drop(item.key)
        self.objects[item.key] = item
        self.by_namespace.setdefault(item.key.namespace, set()).add(item.key)
        for place in item.found:
            self.found.setdefault(place, set()).add(item.key)

    def drop(self, key: ObjectKey) -> None:
        self.unpacked.pop(key, None)
        item = self.objects.pop(key, None)
        if item is None:
            return
        _discard(self.by_namespace, key.namespace, key)
        for place in item.found:
            _discard(self.found, place, key)

    def keep(self, item: Packed, made: Object) -> None:
        """Keeps what `item` unpacks to for who asks next, unless it was replaced meanwhile."""
        if self.objects.get(item.key) is item:
            self.unpacked[item.key] = made
            self.unpacked.move_to_end(item.key)
            if len(self.unpacked) > _MAX_UNPACKED:
                self.unpacked.popitem(last=False)

    def bury(self, uid: str) -> None:
        if uid:
            self.tombstones[uid] = None
            self.tombstones.move_to_end(uid)
            if len(self.tombstones) > _MAX_TOMBSTONES:
                self.tombstones.popitem(last=False)

    def keys(self, namespace: str) -> list[ObjectKey]:
        return sorted(self.by_namespace.get(namespace, ()) if namespace else self.objects)


class Cache:
    """Safe for threads. Objects handed out are shared: nobody changes them."""

    def __init__(self, indexes: Mapping[Kind, Mapping[str, Index]] = INDEXES) -> None:
        self._lock = threading.RLock()
        self._indexes = indexes
        self._shelves: dict[Kind, _Shelf] = {kind: _Shelf(dict(made)) for kind, made in indexes.items()}

    def pack(self, kind: Kind, item: Object) -> Packed:
        """`item` as it would be held: what a long list is made into as it is read. What is held is not made anew."""
        with self._lock:
            held = self._shelf(kind).objects.get(key_of(item))
        if held is not None and held.version and (held.uid, held.version) == (uid_of(item), version_of(item)):
            return held
        return pack(item, self._indexes.get(kind, {}))

    def upsert(self, kind: Kind, item: Object) -> bool:
        """Takes `item`; False where it is not news: as old as what is held, older, or of a uid that was deleted."""
        with self._lock:
            if not self._is_news(self._shelf(kind), item):
                return False
        made = pack(item, self._indexes.get(kind, {}))
        with self._lock:
            return self._upsert(self._shelf(kind), made)

    def remove(self, kind: Kind, item: Object) -> bool:
        """`item` was deleted; False where another object of that name, or none, is held."""
        with self._lock:
            shelf = self._shelf(kind)
            shelf.bury(uid_of(item))
            held = shelf.objects.get(key_of(item))
            if held is None or held.uid != uid_of(item):
                return False
            shelf.drop(key_of(item))
            return True

    def replace(
        self, kind: Kind, items: Iterable[Object | Packed], resource_version: str, *, namespace: str = ""
    ) -> Replaced:
        """Takes a full list of `kind` (of `namespace`, or all) as of `resource_version`.

        What is held and not in the list is dropped, unless it is newer than the list itself.
        """
        packed = (item if isinstance(item, Packed) else self.pack(kind, item) for item in items)
        listed = {item.key: item for item in packed}
        with self._lock:
            shelf = self._shelf(kind)
            gone = [
                held
                for key in shelf.keys(namespace)
                if key not in listed and not _newer((held := shelf.objects[key]).version, resource_version)
            ]
            for item in gone:
                shelf.bury(item.uid)
                shelf.drop(item.key)
            changed = tuple(key for key, item in listed.items() if self._upsert(shelf, item))
            shelf.synced = True
        return Replaced(changed, tuple(item.unpack() for item in gone))

    def get(self, kind: Kind, key: ObjectKey) -> Object | None:
        """The object of that name, as last seen."""
        return next(iter(self._unpacked(kind, (key,))), None)

    def list(self, kind: Kind, namespace: str = "") -> tuple[Object, ...]:
        """All objects of `kind`, of one namespace or all, by name."""
        return self._unpacked(kind, self.keys(kind, namespace))

    def packed(self, kind: Kind, namespace: str) -> tuple[Packed, ...]:
        """All objects of `kind` in `namespace`, by name, as they are held: for those who need few of them."""
        with self._lock:
            shelf = self._shelf(kind)
            return tuple(shelf.objects[key] for key in shelf.keys(namespace))

    def packed_by_context(self, namespace: str, context: str) -> tuple[Packed, ...]:
        """The adapters of `namespace` that claim `context`, by name, as they are held."""
        with self._lock:
            keys = self.find_keys(ADAPTER, "context", f"{namespace}/{context}")
            return tuple(self._shelf(ADAPTER).objects[key] for key in keys)

    def find(self, kind: Kind, index: str, value: str) -> tuple[Object, ...]:
        """The objects of `kind` that `index` has under `value`, by name.

        Raises:
            KeyError: there is no such index.
        """
        return self._unpacked(kind, self.find_keys(kind, index, value))

    def find_keys(self, kind: Kind, index: str, value: str) -> tuple[ObjectKey, ...]:
        """The keys of what `find` finds, without a look at the objects; raises as `find`."""
        with self._lock:
            shelf = self._shelf(kind)
            if index not in shelf.indexes:
                raise KeyError(f"{kind.kind} has no index {index!r}; it has {sorted(shelf.indexes)}")
            return tuple(sorted(shelf.found.get((index, value), ())))

    def of_pool(self, namespace: str, pool: str) -> tuple[ObjectKey, ...]:
        """The keys of the adapters of `namespace` that name `pool`, or are served by it."""
        return self.find_keys(ADAPTER, "pool", f"{namespace}/{pool}")

    def versions_of(self, namespace: str, context: str) -> tuple[Object, ...]:
        """The recorded versions of `context` in `namespace`."""
        return self.find(ADAPTER_VERSION, "context", f"{namespace}/{context}")

    def keys(self, kind: Kind, namespace: str = "") -> tuple[ObjectKey, ...]:
        """The keys of all objects of `kind`, of one namespace or all."""
        with self._lock:
            return tuple(self._shelf(kind).keys(namespace))

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
                shelf.drop(item.key)
            shelf.synced = False
        return tuple(item.unpack() for item in gone)

    def sizes(self) -> dict[Kind, int]:
        """How many objects of each kind are held."""
        with self._lock:
            return {kind: len(shelf.objects) for kind, shelf in self._shelves.items()}

    def _shelf(self, kind: Kind) -> _Shelf:
        return self._shelves.setdefault(kind, _Shelf())

    def _unpacked(self, kind: Kind, keys: Iterable[ObjectKey]) -> tuple[Object, ...]:
        """The objects of `keys` that are there. Unpacked without the lock, for which every thread waits."""
        with self._lock:
            shelf = self._shelf(kind)
            found = [(item, shelf.unpacked.get(key)) for key in keys if (item := shelf.objects.get(key)) is not None]
        made = [(item, held if held is not None else item.unpack()) for item, held in found]
        with self._lock:
            for item, held in made:
                shelf.keep(item, held)
        return tuple(held for _, held in made)

    def _is_news(self, shelf: _Shelf, item: Object | Packed) -> bool:
        uid = _uid(item)
        if uid and uid in shelf.tombstones:
            return False
        held = shelf.objects.get(_key(item))
        return held is None or _newer(_version(item), held.version)

    def _upsert(self, shelf: _Shelf, item: Packed) -> bool:
        if not self._is_news(shelf, item):
            return False
        held = shelf.objects.get(item.key)
        if held is not None and held.uid != item.uid:
            shelf.bury(held.uid)
        shelf.put(item)
        return True


def _discard(places: dict[Place, set[ObjectKey]], place: Place, key: ObjectKey) -> None:
    """Takes `key` out of its place, and the place away with its last."""
    held = places.get(place, set())
    held.discard(key)
    if not held:
        places.pop(place, None)


def _key(item: Object | Packed) -> ObjectKey:
    return item.key if isinstance(item, Packed) else key_of(item)


def _uid(item: Object | Packed) -> str:
    return item.uid if isinstance(item, Packed) else uid_of(item)


def _version(item: Object | Packed) -> str:
    return item.version if isinstance(item, Packed) else version_of(item)


def _newer(one: str, other: str) -> bool:
    """Whether version `one` comes after `other`; what cannot be compared is taken for newer when it differs."""
    if one.isdecimal() and other.isdecimal():
        return int(one) > int(other)
    return one != other
