"""The keyed work queue between what is noticed and what is done about it, and the threads that work it off.

A key is worked on by one thread at a time. Added while it waits, it is still one item; added while it is worked on, it
is worked on once more afterwards, so that no change goes unseen. What failed comes back after a pause that doubles, up
to a cap, with jitter; what is added meanwhile does not wait for that. `low` items (a full pass) go behind all others.

A handler says when it wants the key again: that wish holds until the next time the key is worked on, when the handler
says anew. A time asked for from outside (`add_after`) always comes.
"""

import heapq
import logging
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from socadapter_api.errors import SocAdapterError

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

_MAX_EXPONENT = 32
_READY_S = 0.5


class Outcome(StrEnum):
    """How working on a key ended; the values are those of controller-runtime's metric."""

    SUCCESS = "success"
    ERROR = "error"
    REQUEUE_AFTER = "requeue_after"


@dataclass(frozen=True, slots=True)
class Backoff:
    """The pause after the n-th failure in a row: ``first_s * 2 ** (n - 1)``, capped; of that, half to all."""

    first_s: float = 0.25
    cap_s: float = 60.0

    def pause_s(self, failures: int) -> float:
        """Seconds until the next try after `failures` (at least 1) in a row."""
        longest = min(self.cap_s, self.first_s * 2.0 ** min(failures - 1, _MAX_EXPONENT))
        return longest * random.uniform(0.5, 1.0)


class QueueMeter(Protocol):
    """What is measured about a queue; called under its lock, so only to count."""

    def added(self) -> None:
        """An item was added that did not wait already."""

    def depth(self, waiting: int) -> None:
        """So many items wait to be worked on at once."""

    def taken(self, waited_s: float) -> None:
        """An item that was due for `waited_s` is worked on."""

    def finished(self, worked_s: float) -> None:
        """Working on an item ended."""

    def retried(self) -> None:
        """An item failed and comes back."""


class NoMeter:
    """Measures nothing."""

    def added(self) -> None: ...

    def depth(self, waiting: int) -> None: ...

    def taken(self, waited_s: float) -> None: ...

    def finished(self, worked_s: float) -> None: ...

    def retried(self) -> None: ...


class WorkQueue(Generic[K]):
    """Keys that wait, are worked on, or are due later. Safe for threads; `clock` counts seconds and never goes back.

    Of times that a later wish made void, no more than `superseded`, and as many as there are others, are kept.
    """

    def __init__(
        self,
        *,
        backoff: Backoff = Backoff(),
        meter: QueueMeter | None = None,
        clock: Callable[[], float] = time.monotonic,
        superseded: int = 1024,
    ) -> None:
        self._backoff = backoff
        self._meter = meter or NoMeter()
        self._clock = clock
        self._changed = threading.Condition()
        self._ready: OrderedDict[K, float] = OrderedDict()
        self._low: OrderedDict[K, float] = OrderedDict()
        self._running: dict[K, float] = {}
        self._again: dict[K, bool] = {}
        """Added while being worked on; whether only at low priority."""
        self._wished: dict[K, float] = {}
        """When the last handler, or the backoff, wants the key again."""
        self._timers: dict[K, list[float]] = {}
        """When somebody outside wants it."""
        self._heap: list[tuple[float, int, K]] = []
        self._superseded = self._full_at = superseded
        self._order = 0
        self._failures: dict[K, int] = {}
        self._closed = False

    def add(self, key: K, *, low: bool = False) -> None:
        """Work on `key` as soon as possible; with `low`, behind all that is not."""
        with self._changed:
            self._add(key, low)

    def add_after(self, key: K, delay: timedelta) -> None:
        """Work on `key` in `delay`, whatever happens until then."""
        with self._changed:
            if self._closed:
                return
            due = self._clock() + max(delay.total_seconds(), 0.0)
            self._timers.setdefault(key, []).append(due)
            self._push(due, key)

    def take(self, timeout_s: float | None = None) -> K | None:
        """The next key, now being worked on by the caller, who calls `done`; None after `timeout_s` or once closed."""
        deadline = None if timeout_s is None else self._clock() + timeout_s
        with self._changed:
            while not self._closed:
                key = self._take()
                if key is not None:
                    return key
                waits = [self._heap[0][0] - self._clock()] if self._heap else []
                waits += [] if deadline is None else [deadline - self._clock()]
                if deadline is not None and self._clock() >= deadline:
                    return None
                self._changed.wait(max(0.0, min(waits)) if waits else None)
        return None

    def done(self, key: K, *, requeue_after: timedelta | None = None) -> None:
        """Working on `key` succeeded; it comes back after `requeue_after`, or when something is added."""
        with self._changed:
            self._failures.pop(key, None)
            self._finish(key, None if requeue_after is None else max(requeue_after.total_seconds(), 0.0))

    def failed(self, key: K, *, retry: bool = True, not_before_s: float = 0.0) -> float | None:
        """Working on `key` failed; returns the seconds until it comes back, None where `retry` is False."""
        with self._changed:
            self._failures[key] = self._failures.get(key, 0) + 1
            pause = max(self._backoff.pause_s(self._failures[key]), not_before_s) if retry else None
            if pause is not None:
                self._meter.retried()
            self._finish(key, pause)
            return pause

    def forget(self, key: K) -> None:
        """`key` is gone: no failure of it counts any more, and no wish for another look. What waits still comes."""
        with self._changed:
            self._failures.pop(key, None)
            self._wished.pop(key, None)
            self._timers.pop(key, None)

    def close(self) -> None:
        """Nothing is handed out any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def failures(self, key: K) -> int:
        """How often in a row working on `key` failed."""
        with self._changed:
            return self._failures.get(key, 0)

    def running_s(self) -> tuple[float, ...]:
        """How long each key that is being worked on has been."""
        with self._changed:
            return tuple(self._clock() - since for since in self._running.values())

    def idle(self) -> bool:
        """Nothing waits and nothing is being worked on; later items may be due."""
        with self._changed:
            self._collect()
            return not (self._ready or self._low or self._running)

    def __len__(self) -> int:
        """How many keys wait to be worked on at once."""
        with self._changed:
            self._collect()
            return len(self._ready) + len(self._low)

    def _add(self, key: K, low: bool) -> None:
        if self._closed:
            return
        if key in self._running:
            if key not in self._again:
                self._meter.added()
            self._again[key] = low and self._again.get(key, True)
            return
        if key in self._ready or (low and key in self._low):
            return
        since = self._low.pop(key, None)
        if since is None:
            self._meter.added()
        (self._low if low else self._ready)[key] = self._clock() if since is None else since
        self._meter.depth(len(self._ready) + len(self._low))
        self._changed.notify()

    def _take(self) -> K | None:
        self._collect()
        lane = self._ready or self._low
        if not lane:
            return None
        key, since = lane.popitem(last=False)
        now = self._clock()
        self._wished.pop(key, None)
        self._running[key] = now
        self._meter.depth(len(self._ready) + len(self._low))
        self._meter.taken(now - since)
        return key

    def _finish(self, key: K, again_in_s: float | None) -> None:
        started = self._running.pop(key)
        self._meter.finished(self._clock() - started)
        if again_in_s is not None and not self._closed:
            self._wished[key] = self._clock() + again_in_s
            self._push(self._wished[key], key)
        if key in self._again:
            self._add(key, self._again.pop(key))
        self._changed.notify_all()

    def _push(self, due: float, key: K) -> None:
        self._order += 1
        heapq.heappush(self._heap, (due, self._order, key))
        if len(self._heap) > self._full_at:
            self._drop_superseded()
        self._changed.notify()

    def _drop_superseded(self) -> None:
        """Keeps the times that count; done again when there are more than twice as many."""
        timers = ((due, key) for key, times in self._timers.items() for due in times)
        wished = ((due, key) for key, due in self._wished.items())
        self._heap = [(due, order, key) for order, (due, key) in enumerate((*timers, *wished))]
        self._order = len(self._heap)
        self._full_at = 2 * len(self._heap) + self._superseded
        heapq.heapify(self._heap)

    def _collect(self) -> None:
        """Moves what is due by now to the keys that wait. Superseded times are thrown away as they come up."""
        now = self._clock()
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            timers = self._timers.get(key, [])
            if due in timers:
                timers.remove(due)
                if not timers:
                    del self._timers[key]
                self._add(key, low=False)
            elif self._wished.get(key) == due:
                del self._wished[key]
                self._add(key, low=False)


class Workers(Generic[K]):
    """Threads that take keys and give them to `handle`, which returns when it wants the key again, or None.

    This is the rim of a queue item: whatever `handle` raises is told to `failed`, and the key comes back later, unless
    the error says that trying again cannot help. Nothing is taken before `ready`, which waits for as many seconds.
    """

    def __init__(
        self,
        queue: WorkQueue[K],
        handle: Callable[[K], timedelta | None],
        *,
        threads: int,
        name: str,
        ready: Callable[[float], bool] = lambda _seconds: True,
        on_outcome: Callable[[K, Outcome, BaseException | None, float], None] = lambda *_: None,
    ) -> None:
        self._queue = queue
        self._handle = handle
        self._ready = ready
        self._on_outcome = on_outcome
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(threads)
        ]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, grace_s: float) -> bool:
        """Closes the queue and waits for what is being worked on; says whether all ended within `grace_s`."""
        self._queue.close()
        deadline = time.monotonic() + grace_s
        for thread in (thread for thread in self._threads if thread.is_alive()):  # a standby never began
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def alive(self) -> bool:
        """Whether every thread runs."""
        return all(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while not self._queue.closed and not self._ready(_READY_S):
            pass
        while (key := self._queue.take()) is not None:
            self._work_on(key)

    def _work_on(self, key: K) -> None:
        started = time.monotonic()
        outcome, error = self._outcome(key)
        try:  # whoever is told of it has no part in it
            self._on_outcome(key, outcome, error, time.monotonic() - started)
        except Exception:
            log.exception("outcome_not_told key=%s outcome=%s", key, outcome.value)

    def _outcome(self, key: K) -> tuple[Outcome, BaseException | None]:
        """Has `key` worked on, and tells the queue when it comes back."""
        try:
            wish = self._handle(key)
        except SocAdapterError as error:
            wait = getattr(error, "retry_after_s", None) or 0.0
            pause = self._queue.failed(key, retry=error.retryable, not_before_s=wait)
            log.warning("reconcile_failed key=%s reason=%s retry_in_s=%s %s", key, error.reason, _rounded(pause), error)
            return Outcome.ERROR, error
        except Exception as error:
            pause = self._queue.failed(key)
            log.exception("reconcile_crashed key=%s retry_in_s=%s", key, _rounded(pause))
            return Outcome.ERROR, error
        self._queue.done(key, requeue_after=wish)
        return (Outcome.SUCCESS if wish is None else Outcome.REQUEUE_AFTER), None


def _rounded(pause: float | None) -> float | None:
    return None if pause is None else round(pause, 3)
