"""Everything that becomes of a namespace's objects, as the API server tells it to a client that no fault touches."""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from tests.controlplane.cluster import client_of

from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import (
    ADAPTER,
    ADAPTER_VERSION,
    POOL,
    RAY_JOB,
    RAY_SERVICE,
    Kind,
    Object,
    uid_of,
)

KINDS = (ADAPTER, POOL, ADAPTER_VERSION, RAY_JOB, RAY_SERVICE)
_SILENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Event:
    """One change: `version` orders all of them. `item` is the object after it, or as it was when it was deleted."""

    version: int
    kind: Kind
    item: Object
    deleted: bool = False


@dataclass
class Record:
    """Watches each of `KINDS` in `namespace` from its start to `close`, and keeps every event."""

    kubeconfig: Path
    namespace: str
    client: Client
    events: list[Event] = field(default_factory=list)
    problem: str = ""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._watch, args=(kind,), daemon=True) for kind in KINDS]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ends the watches; what was told by then is kept."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def ordered(self) -> Sequence[Event]:
        """What was told so far, in the order in which it happened.

        Raises:
            AssertionError: a watch broke, so that something may be missing.
        """
        assert not self.problem, self.problem
        with self._lock:
            return sorted(self.events, key=lambda event: event.version)

    def keep(self, path: Path) -> None:
        """Writes what was told, an event a line, for whoever looks into a test that failed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        told = (
            {"version": event.version, "kind": event.kind.kind, "deleted": event.deleted, "object": event.item}
            for event in self.ordered()
        )
        path.write_text("".join(f"{json.dumps(one)}\n" for one in told), "utf-8")

    def _watch(self, kind: Kind) -> None:
        listing = self.client.list(kind, self.namespace)
        since = listing.resource_version
        for item in listing.items:
            self._keep(Event(int(item["metadata"]["resourceVersion"]), kind, item))
        with client_of(self.kubeconfig) as http:
            http.timeout = httpx.Timeout(30.0, read=_SILENCE_S)
            while not self._ended.is_set() and not self.problem:
                since = self._stream(http, kind, since)

    def _stream(self, http: httpx.Client, kind: Kind, since: str) -> str:
        """Keeps what a stream tells until it is silent for a while; returns where the next one goes on."""
        asked = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": since}
        try:
            with http.stream("GET", kind.path(self.namespace), params=asked) as answer:
                for line in answer.iter_lines():
                    told = json.loads(line)
                    if told["type"] == "ERROR":
                        self.problem = f"the watch of {kind} ended: {told['object']}"
                        return since
                    since = str(told["object"]["metadata"]["resourceVersion"])
                    if told["type"] != "BOOKMARK":
                        self._keep(Event(int(since), kind, told["object"], told["type"] == "DELETED"))
                    if self._ended.is_set():
                        return since
        except (httpx.ReadTimeout, httpx.RemoteProtocolError):
            pass
        return since

    def _keep(self, event: Event) -> None:
        with self._lock:
            self.events.append(event)


def owner_of(item: Object) -> str:
    """The uid of the object that controls `item`; empty where nobody does."""
    owners = item["metadata"].get("ownerReferences") or ()
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")


def latest(events: Sequence[Event], kind: Kind) -> dict[str, Object]:
    """The objects of `kind` that are there after `events`, by uid."""
    found: dict[str, Object] = {}
    for event in events:
        if event.kind == kind:
            found[uid_of(event.item)] = event.item
            if event.deleted:
                del found[uid_of(event.item)]
    return found
