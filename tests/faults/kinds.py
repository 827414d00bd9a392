"""The faults that an API server, or what is between it and its clients, can have; and whose turn it is."""

import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from enum import Enum


class Fault(Enum):
    """What can go wrong with one request, or with one event of a stream; the value is how it is printed."""

    CONFLICT = "409"
    BUSY = "429"
    BROKEN = "500"
    GONE_PAGE = "410 to a continued list"
    GONE_WATCH = "410 to a watch"
    GONE_EVENT = "410 as an event"
    LATE = "time-out before"
    LOST = "time-out after"
    HUNG_UP = "hung up after"
    STALE = "stale read"
    CUT = "stream cut in mid-line"
    DROPPED = "event dropped"
    DUPLICATED = "event duplicated"
    HELD_BACK = "event held back"


RATES: Mapping[Fault, float] = {
    Fault.CONFLICT: 0.04,
    Fault.BUSY: 0.03,
    Fault.BROKEN: 0.03,
    Fault.GONE_PAGE: 0.05,
    Fault.GONE_WATCH: 0.05,
    Fault.GONE_EVENT: 0.01,
    Fault.LATE: 0.01,
    Fault.LOST: 0.02,
    Fault.HUNG_UP: 0.02,
    Fault.STALE: 0.05,
    Fault.CUT: 0.02,
    Fault.DROPPED: 0.08,
    Fault.DUPLICATED: 0.08,
    Fault.HELD_BACK: 0.04,
}
"""The share of the requests, or events, that could have the fault and do."""

_FIRST = 5.0
"""So much likelier is a fault that was not there yet, so that a short test has each."""


class Faults:
    """Draws faults by `seed` until `end`, and counts those that were injected. Safe for threads."""

    def __init__(self, seed: int, rates: Mapping[Fault, float] = RATES) -> None:
        self.injected: Counter[Fault] = Counter()
        self.ended_at = float("inf")
        """On the monotonic clock; no fault is injected after it."""
        self._random = random.Random(seed)
        self._rates = dict(rates)
        self._lock = threading.Lock()

    def draw(self, *among: Fault) -> Fault | None:
        """The fault whose turn it is, of those that are possible here; mostly none. It counts once `count` says so."""
        with self._lock:
            if time.monotonic() >= self.ended_at:
                return None
            left = self._random.random()
            for fault in among:
                left -= self._rates.get(fault, 0.0) * (1.0 if self.injected[fault] else _FIRST)
                if left < 0:
                    return fault
            return None

    def count(self, fault: Fault) -> None:
        """`fault` was injected."""
        with self._lock:
            self.injected[fault] += 1

    def between(self, least: float, most: float) -> float:
        """A number from `least` to `most`."""
        with self._lock:
            return self._random.uniform(least, most)

    def chosen(self, count: int) -> int:
        """A number from 0 to `count` - 1."""
        with self._lock:
            return self._random.randrange(count)

    def end(self) -> None:
        """From now on nothing goes wrong."""
        with self._lock:
            self.ended_at = time.monotonic()

    def told(self) -> str:
        """How often each fault was injected."""
        return ", ".join(f"{fault.value} {self.injected[fault]}" for fault in self._rates)
