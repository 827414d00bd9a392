"""Refuses answers that are older than what was seen before: a server that lags must not be believed.

A read asks for the latest state, and versions of one kind grow over all of its objects and namespaces (comparable since
Kubernetes 1.35, and always so with etcd behind). Every answer raises the floor under the next ones. Called by `Client`.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

_OBJECTS = 20_000
"""Objects whose version is remembered; of more, those looked at longest ago are forgotten."""

_INSISTS_S = 60.0
"""After so long an older version is the truth: the cluster's own store was set back, to a backup for instance."""


@dataclass(slots=True)
class _Floor:
    version: int
    since: float | None = None
    """When an older answer was first refused, with no newer one since."""


class Freshness:
    """The floors under a client's answers, by object and by kind. Safe for threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._floors: OrderedDict[str, _Floor] = OrderedDict()
        self._lock = threading.Lock()

    def floor(self, place: str) -> int:
        """The version that an answer about `place` must have at least, from a request that starts now."""
        with self._lock:
            found = self._floors.get(place)
            return found.version if found else 0

    def saw(self, place: str, version: str) -> None:
        """An answer about `place` had that version."""
        if not version.isdecimal():
            return
        with self._lock:
            found = self._floors.setdefault(place, _Floor(0))
            self._floors.move_to_end(place)
            if int(version) >= found.version:
                found.version, found.since = int(version), None
            while len(self._floors) > _OBJECTS:
                self._floors.popitem(last=False)

    def is_old(self, place: str, floor: int, version: str) -> bool:
        """Whether an answer with that version, to a request begun at `floor`, is to be refused."""
        if not version.isdecimal() or int(version) >= floor:
            return False
        with self._lock:
            found = self._floors.setdefault(place, _Floor(floor))
            if found.since is None:
                found.since = self._clock()
            if self._clock() - found.since < _INSISTS_S:
                return True
            found.version, found.since = int(version), None
            return False
