"""The claims of all adapters, each made once for each version of its adapter.

Pools and adapters are planned for with the claims of their whole namespace: read from the objects each time, these
would be most of the work of an operator at rest.
"""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from socadapter_api.adapter import SocAdapter
from socadapter_api.errors import SpecError
from socadapter_operator.domain.claim import Claim
from socadapter_operator.kube.resources import Object
from socadapter_operator.shell.contracts import being_deleted, model_of
from socadapter_operator.shell.packed import Packed


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An adapter that does not fit the contract, with the context that it names."""

    context: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """What the adapters of a namespace claim, and the contexts of those that cannot be read."""

    claims: tuple[Claim, ...]
    unreadable: frozenset[str]


class Claims:
    """Reads claims. Safe for threads: two that read the same adapter make equal claims."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, Claim | Unreadable | None]] = {}
        """By uid: the version of the adapter, and its claim. An adapter that is being deleted has none."""
        self._lock = threading.Lock()

    def read(self, adapters: Iterable[Packed]) -> Claimed:
        """The claims of `adapters`."""
        found = list(self._each(adapters))
        return Claimed(
            tuple(one for one in found if isinstance(one, Claim)),
            frozenset(one.context for one in found if isinstance(one, Unreadable)),
        )

    def forget(self, uid: str) -> None:
        """Drops the claim of an adapter that is gone."""
        with self._lock:
            self._known.pop(uid, None)

    def _each(self, adapters: Iterable[Packed]) -> Iterator[Claim | Unreadable | None]:
        for item in adapters:
            with self._lock:
                version, known = self._known.get(item.uid, ("", None))
            if not version or version != item.version:
                known = _made(item.unpack())
                with self._lock:
                    self._known[item.uid] = (item.version, known)
            yield known


def _made(raw: Object) -> Claim | Unreadable | None:
    if being_deleted(raw):
        return None
    try:
        return Claim.of(model_of(SocAdapter, raw))
    except SpecError:
        return Unreadable(str((raw.get("spec") or {}).get("context") or ""))
