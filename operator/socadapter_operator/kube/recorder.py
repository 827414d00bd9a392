"""Events of events.k8s.io/v1: what people see below `kubectl describe`. Best effort, and never in the way of the work.

`record` only puts a note into a queue; one thread writes. Equal notes about one object become one Event with a series
that counts them, written again at most once a minute. Each object has a bucket of tokens, so that one which flaps does
not fill etcd. An Event is written by server-side apply: the same request makes it and lets it grow.
"""

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from socadapter_api.errors import LeadershipLost, SocAdapterError
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import EVENT, Object, key_of, uid_of

log = logging.getLogger(__name__)

CONTROLLER = "socadapter.io/operator"
MAX_NOTE_BYTES = 1024

_MAX_OBJECTS = 4096
_MAX_SERIES = 8192
_MAX_NAME = 200
_MAX_LABEL = 128


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is written: tokens per object and how fast they come back; how long a series lives and pauses."""

    burst: int = 25
    token_s: float = 60.0
    series_ends_s: float = 360.0
    series_pause_s: float = 60.0


@dataclass(frozen=True, slots=True)
class _Happening:
    """One thing that happened, as the series that it belongs to knows it."""

    regarding: tuple[tuple[str, str], ...]
    kind: str
    reason: str
    action: str
    note: str

    @property
    def uid(self) -> str:
        return dict(self.regarding).get("uid", "")


@dataclass(slots=True)
class _Series:
    """One Event: when it began, how often it was, and how much of that is written."""

    name: str
    first: datetime
    last: datetime
    count: int = 1
    written: int = 0
    last_seen_at: float = 0.0
    written_at: float = float("-inf")


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


@dataclass(frozen=True, slots=True)
class _Due:
    happening: _Happening
    series: _Series
    count: int = field(compare=False)


class Recorder:
    """Records events as `instance` of our controller. Safe for threads; nothing it does raises into the caller."""

    def __init__(
        self,
        client: Client,
        instance: str,
        *,
        limits: Limits = Limits(),
        on_dropped: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._instance = instance
        self._limits = limits
        self._on_dropped = on_dropped
        self._clock = clock
        self._now = now
        self._series: OrderedDict[_Happening, _Series] = OrderedDict()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._wake = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def record(
        self, regarding: Mapping[str, Any], reason: str, note: str, *, action: str = "Reconcile", warning: bool = False
    ) -> None:
        """Something happened to the object `regarding` (its JSON): `reason` in CamelCase, `note` for people."""
        happening = _Happening(
            _reference(regarding),
            "Warning" if warning else "Normal",
            reason[:_MAX_LABEL],
            action[:_MAX_LABEL],
            _shortened(note),
        )
        with self._wake:
            self._count(happening)
            self._wake.notify()

    def start(self) -> None:
        """Starts the thread that writes."""
        self._thread = threading.Thread(target=self._run, name="event-recorder", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Writes what is waiting, within `timeout_s`, and ends the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def write_due(self, *, all_of_it: bool = False) -> float | None:
        """Writes what is due now, with `all_of_it` also what still pauses; returns the seconds until more is due."""
        with self._wake:
            due = self._due(all_of_it)
        for one in due:
            self._write(one)
        with self._wake:
            self._end_series()
            waits = [self._pause_left(series) for series in self._series.values() if series.count > series.written]
        return min(waits, default=None)

    def _run(self) -> None:
        while True:
            wait = self.write_due()
            with self._wake:
                if not self._stopping and not self._due(False):
                    self._wake.wait(wait)
                if self._stopping:
                    break
        self.write_due(all_of_it=True)

    def _count(self, happening: _Happening) -> None:
        at, now = self._clock(), self._now()
        series = self._series.get(happening)
        if series is not None and at - series.last_seen_at <= self._limits.series_ends_s:
            series.count += 1
            series.last, series.last_seen_at = now, at
            return
        if len(self._series) >= _MAX_SERIES or not self._token(happening.uid, at):
            self._on_dropped()
            return
        self._series[happening] = _Series(_name(happening, now), now, now, last_seen_at=at)

    def _token(self, uid: str, at: float) -> bool:
        """Takes one of the object's tokens, if it has one left."""
        bucket = self._buckets.pop(uid, None) or _Bucket(float(self._limits.burst), at)
        refilled = bucket.tokens + (at - bucket.at) / self._limits.token_s
        bucket.tokens, bucket.at = min(float(self._limits.burst), refilled), at
        self._buckets[uid] = bucket
        if len(self._buckets) > _MAX_OBJECTS:
            self._buckets.popitem(last=False)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def _due(self, all_of_it: bool) -> list[_Due]:
        found = []
        for happening, series in self._series.items():
            if series.count > series.written and (all_of_it or self._pause_left(series) <= 0):
                found.append(_Due(happening, series, series.count))
        return found

    def _pause_left(self, series: _Series) -> float:
        return max(0.0, series.written_at + self._limits.series_pause_s - self._clock())

    def _end_series(self) -> None:
        at = self._clock()
        for happening, series in list(self._series.items()):
            if series.count == series.written and at - series.last_seen_at > self._limits.series_ends_s:
                del self._series[happening]

    def _write(self, due: _Due) -> None:
        series = due.series
        try:
            self._client.apply(EVENT, self._event(due))
        except LeadershipLost:
            log.debug("event_dropped reason=%s: this process does not lead", due.happening.reason)
            self._on_dropped()
        except SocAdapterError as error:
            log.warning("event_dropped reason=%s because=%s %s", due.happening.reason, error.reason, error)
            self._on_dropped()
        series.written, series.written_at = due.count, self._clock()

    def _event(self, due: _Due) -> Object:
        happening, series = due.happening, due.series
        regarding = dict(happening.regarding)
        event: Object = {
            "metadata": {"namespace": regarding.get("namespace") or "default", "name": series.name},
            "eventTime": _micro(series.first),
            "type": happening.kind,
            "reason": happening.reason,
            "action": happening.action,
            "note": happening.note,
            "regarding": regarding,
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance[:_MAX_LABEL],
        }
        if due.count > 1:
            event["series"] = {"count": due.count, "lastObservedTime": _micro(series.last)}
        return event


def _reference(item: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    key = key_of(item)
    named = {
        "apiVersion": str(item.get("apiVersion") or ""),
        "kind": str(item.get("kind") or ""),
        "namespace": key.namespace,
        "name": key.name,
        "uid": uid_of(item),
    }
    return tuple((name, value) for name, value in named.items() if value)


def _name(happening: _Happening, first: datetime) -> str:
    """A name that another series, or this one begun again, never has."""
    identity = f"{happening}{first.timestamp()}".encode()
    stem = dict(happening.regarding).get("name", "event")[:_MAX_NAME].rstrip("-.")
    return f"{stem}.{hashlib.sha256(identity).hexdigest()[:16]}"


def _shortened(note: str) -> str:
    held = note.encode()
    if len(held) <= MAX_NOTE_BYTES:
        return note
    return held[: MAX_NOTE_BYTES - 3].decode(errors="ignore") + "…"


def _micro(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
