"""Full lists beside the watch: what fills the cache at the start, and corrects it where the watch left it wrong.

A watch that begins anew tells nothing of what was deleted in between (kopf 1.45 has no word for it), so a list follows
each time that kopf lists. Everything is listed again every ten minutes, with jitter, and each resource is looked at
then, whether or not something changed. Kinds that may be missing (KubeRay's) are looked for until they are there.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Protocol

from socadapter_api.errors import KindNotInstalled, SocAdapterError
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import Kind, Object, ObjectKey
from socadapter_operator.shell.cache import Cache

log = logging.getLogger(__name__)

FOLLOW_UP = timedelta(seconds=5)
_JITTER = 0.2


@dataclass(frozen=True, slots=True)
class Watched:
    """A kind that is kept in the cache; `labels` selects which objects. What is not `required` may be missing."""

    kind: Kind
    labels: str = ""
    required: bool = True


class Listener(Protocol):
    """Told what may need work; called from several threads, and only to enqueue."""

    def changed(self, kind: Kind, item: Object, *, deleted: bool) -> None:
        """`item` is new, is another than before, or was deleted."""

    def listed(self, kind: Kind, keys: Sequence[ObjectKey]) -> None:
        """A full pass: every object of `kind` is to be looked at when there is time."""


@dataclass(frozen=True, slots=True)
class ListTimes:
    """How often everything is listed, a missing kind is looked for, and a failed list is repeated."""

    every: timedelta = timedelta(minutes=10)
    missing: timedelta = timedelta(seconds=30)
    failed: timedelta = timedelta(seconds=2)


@dataclass(slots=True)
class _State:
    """What is known of one kind, and when it is listed next: for a full pass, or only to correct the cache."""

    full_due: float
    check_due: float = float("inf")
    served: bool | None = None
    problem: str = "it was not listed yet"

    @property
    def due(self) -> float:
        return min(self.full_due, self.check_due)


class Lister:
    """One thread that lists. `on_served` is told when a kind appears or goes; `on_listed` of each list, for metrics."""

    def __init__(
        self,
        client: Client,
        cache: Cache,
        watched: Sequence[Watched],
        listener: Listener,
        *,
        namespaces: Sequence[str] = (),
        times: ListTimes = ListTimes(),
        on_served: Callable[[], None] = lambda: None,
        on_listed: Callable[[Kind, int, int], None] = lambda _kind, _objects, _corrected: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._cache = cache
        self._watched = tuple(watched)
        self._listener = listener
        self._namespaces = tuple(namespaces) or ("",)
        self._times = times
        self._on_served = on_served
        self._on_listed = on_listed
        self._clock = clock
        self._changed = threading.Condition()
        self._states = {one.kind: _State(clock()) for one in watched}
        self._as_of: dict[tuple[Kind, str], str] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lister", daemon=True)

    def start(self) -> None:
        """Lists everything now, and then as it is due."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ends the thread; says whether it ended within `timeout_s`."""
        with self._changed:
            self._stopping.set()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def request(self, kind: Kind, wait: timedelta = FOLLOW_UP) -> None:
        """Lists `kind` in `wait` at the latest, only to correct the cache."""
        with self._changed:
            state = self._states[kind]
            due = self._clock() + wait.total_seconds()
            if state.due > due:
                state.check_due = due
                self._changed.notify_all()

    def request_all(self, wait: timedelta = FOLLOW_UP) -> None:
        """`request` for every kind."""
        for one in self._watched:
            self.request(one.kind, wait)

    def served(self) -> tuple[Watched, ...]:
        """What the API server has, as far as was seen: what can be watched."""
        with self._changed:
            return tuple(one for one in self._watched if self._states[one.kind].served)

    def taken_as_of(self, kind: Kind, namespace: str) -> str:
        """The version that the last list of `kind` in `namespace` (or in all) tells of: where a watch goes on.

        Told once, and then empty until the next list: a watch that has to begin again found it too old.
        """
        with self._changed:
            return self._as_of.pop((kind, namespace), "")

    def wait_until_known(self, timeout_s: float) -> bool:
        """Waits until each kind was either listed or found missing; False after `timeout_s`, or when stopped."""

        def known() -> bool:
            return self._stopping.is_set() or all(state.served is not None for state in self._states.values())

        with self._changed:
            return self._changed.wait_for(known, timeout_s) and not self._stopping.is_set()

    def complete(self) -> str | None:
        """None where each required kind was listed; else what is missing."""
        with self._changed:
            for one in self._watched:
                state = self._states[one.kind]
                if state.served is None or (one.required and not state.served):
                    return f"{one.kind}: {state.problem}"
        return None

    def list_due(self) -> float:
        """Lists what is due now; returns the seconds until more is."""
        for one in self._watched:
            state = self._states[one.kind]
            if not self._stopping.is_set() and state.due <= self._clock():
                self._list(one, state)
        return max(0.0, min(state.due for state in self._states.values()) - self._clock())

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.list_due()
            with self._changed:
                wait = min(state.due for state in self._states.values()) - self._clock()
                if wait > 0 and not self._stopping.is_set():
                    self._changed.wait(wait)

    def _list(self, one: Watched, state: _State) -> None:
        with self._changed:
            full = state.full_due <= self._clock()
            # What is asked for from here on is not answered by the list that begins now.
            state.check_due = float("inf")
            state.full_due = float("inf") if full else state.full_due
        try:
            first = not self._cache.synced(one.kind)
            for namespace in self._namespaces:
                self._take(one, namespace, full=full, first=first)
        except KindNotInstalled as error:
            self._missing(one, state, error)
        except SocAdapterError as error:
            log.warning("list_failed kind=%s reason=%s %s", one.kind.kind, error.reason, error)
            self._next(state, self._times.failed, str(error), full=full)
        except Exception as error:
            log.exception("list_crashed kind=%s", one.kind.kind)
            self._next(state, self._times.failed, f"raised {type(error).__name__}", full=full)
        else:
            appeared = not state.served
            self._next(state, self._times.every if full else None, "", full=full, served=True)
            if appeared:
                log.info("kind_served kind=%s", one.kind.kind)
                self._on_served()

    def _take(self, one: Watched, namespace: str, *, full: bool, first: bool) -> None:
        # Packed page by page: as dictionaries, thousands of objects at once would take hundreds of megabytes.
        packed = partial(self._cache.pack, one.kind)
        listing = self._client.list_as(packed, one.kind, namespace, labels=one.labels)
        replaced = self._cache.replace(one.kind, listing.items, listing.resource_version, namespace=namespace)
        with self._changed:
            self._as_of[one.kind, namespace] = listing.resource_version
        corrected = len(replaced.pruned) + (0 if first else len(replaced.changed))
        if corrected:
            log.info("cache_corrected kind=%s objects=%d", one.kind.kind, corrected)
        for gone in replaced.pruned:
            self._listener.changed(one.kind, gone, deleted=True)
        for key in () if first and full else replaced.changed:
            if (item := self._cache.get(one.kind, key)) is not None:
                self._listener.changed(one.kind, item, deleted=False)
        if full:
            self._listener.listed(one.kind, self._cache.keys(one.kind, namespace))
        self._on_listed(one.kind, len(listing.items), corrected)

    def _missing(self, one: Watched, state: _State, error: KindNotInstalled) -> None:
        went = state.served
        if one.required or state.served is None or went:
            log.log(logging.WARNING if one.required else logging.INFO, "kind_missing kind=%s %s", one.kind.kind, error)
        for item in self._cache.forget(one.kind):
            self._listener.changed(one.kind, item, deleted=True)
        self._next(state, self._times.missing, str(error), full=True, served=False)
        if went:
            self._on_served()

    def _next(
        self, state: _State, wait: timedelta | None, problem: str, *, full: bool, served: bool | None = None
    ) -> None:
        """Plans the next list of the sort that was just tried; None: there is none to plan."""
        with self._changed:
            if wait is not None:
                due = self._clock() + wait.total_seconds() * random.uniform(1 - _JITTER, 1 + _JITTER)
                if full:
                    state.full_due = due
                else:
                    state.check_due = min(state.check_due, due)
            state.problem = problem
            state.served = state.served if served is None else served
            self._changed.notify_all()
