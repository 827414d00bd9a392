"""The operator's process: informer, queues, controllers, leader election, probes, put together and taken down.

A standby does everything but write: its cache is warm and its workers wait for the lease. Whoever loses the lease ends
at once, since what it was about to write may no longer be its to write.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from socadapter_api import manifest
from socadapter_api.adapter import SocAdapter
from socadapter_operator.backends.protocol import BackendOf
from socadapter_operator.builders import labels
from socadapter_operator.domain import triggers
from socadapter_operator.domain.actions import Plan
from socadapter_operator.domain.timestamps import parse
from socadapter_operator.kube.attempts import Fence, Patience, WriteHook
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.credentials import Credentials
from socadapter_operator.kube.lease import LeaseElector, LeaseTimes
from socadapter_operator.kube.recorder import Recorder
from socadapter_operator.kube.resources import (
    ADAPTER,
    ADAPTER_VERSION,
    POOL,
    RAY_JOB,
    RAY_SERVICE,
    Kind,
    Object,
    ObjectKey,
    key_of,
    metadata,
    uid_of,
)
from socadapter_operator.observation import Observer
from socadapter_operator.shell import logs, resource_states, routing, tracing, watch
from socadapter_operator.shell.adapters import AdapterController
from socadapter_operator.shell.cache import Cache
from socadapter_operator.shell.claims import Claims
from socadapter_operator.shell.contracts import Contracts
from socadapter_operator.shell.health import HealthServer
from socadapter_operator.shell.listing import Lister, ListTimes, Watched
from socadapter_operator.shell.metrics import Metrics
from socadapter_operator.shell.pools import PoolController
from socadapter_operator.shell.queue import Backoff, Outcome, Workers, WorkQueue
from socadapter_operator.shell.resource_series import ResourceId
from socadapter_operator.shell.routing import Item
from socadapter_operator.shell.watch import JitteredBackoffs, Watch

log = logging.getLogger(__name__)

OURS = f"{labels.MANAGED_BY}={labels.OPERATOR}"
WATCHED = (
    Watched(ADAPTER),
    Watched(POOL),
    Watched(ADAPTER_VERSION),
    Watched(RAY_JOB, OURS, required=False),
    Watched(RAY_SERVICE, OURS, required=False),
)
LEASE = "socadapter-operator"
_STOP_S = 20.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How one operator runs. `namespaces` empty: all of them. `threads` reconcile adapters, and half as many pools."""

    cache_folder: Path
    identity: str
    namespaces: tuple[str, ...] = ()
    lease_namespace: str = "default"
    lease_times: LeaseTimes = field(default_factory=LeaseTimes)
    elect: bool = True
    threads: int = 4
    backoff: Backoff = field(default_factory=Backoff)
    list_times: ListTimes = field(default_factory=ListTimes)
    patience: Patience = field(default_factory=Patience)
    health_host: str = "127.0.0.1"
    health_port: int = 0


Backends = Callable[[Client], BackendOf]
"""Makes the backends over the operator's client."""


class Operator:
    """One operator. `start` returns at once; `stop` ends everything and gives the lease back."""

    def __init__(
        self,
        credentials: Credentials,
        settings: Settings,
        backends: Backends,
        *,
        hooks: Sequence[WriteHook] = (),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        on_lost: Callable[[], None] = lambda: os._exit(1),
    ) -> None:
        self.metrics = Metrics()
        self._settings = settings
        self._tracing = tracing.configured()
        self._stopping = threading.Event()
        measure = self.metrics.request_of(credentials.connection().server)
        self._plain = Client(credentials, patience=settings.patience, measure=measure)
        self.elector = LeaseElector(
            self._plain,
            settings.lease_namespace,
            LEASE,
            settings.identity,
            times=settings.lease_times,
            on_won=self._lead,
            on_lost=on_lost,
        )
        fence: Fence = self.elector.fence if settings.elect else lambda: None
        self.client = Client(credentials, fence=fence, hooks=hooks, patience=settings.patience, measure=measure)
        self.cache = Cache()
        self._recorder = Recorder(self.client, settings.identity, on_dropped=self.metrics.events_dropped.inc)
        backend_of = backends(self.client)
        self._observer = observer = Observer(backend_of, settings.cache_folder)
        shared = (self._recorder, Contracts(), Claims(), clock)
        self.adapters = AdapterController(self.client, self.cache, backend_of, observer, *shared, self._carried_out)
        self.pools = PoolController(self.client, self.cache, backend_of, *shared)
        self._queues: dict[Kind, WorkQueue[Item]] = {}
        self._workers: list[Workers[Item]] = []
        self._begun = False
        for kind, threads in ((ADAPTER, settings.threads), (POOL, max(settings.threads // 2, 1))):
            self._add_controller(kind, threads)
        self.lister = Lister(
            self._plain,
            self.cache,
            WATCHED,
            self,
            namespaces=settings.namespaces,
            times=settings.list_times,
            on_served=lambda: self.watch.begin_anew(),
            on_listed=lambda kind, objects, corrected: self.metrics.listed(kind.kind, objects, corrected, time.time()),
        )
        self.watch = Watch(
            credentials,
            self.cache,
            self.lister,
            self,
            namespaces=settings.namespaces,
            on_restart=self.metrics.watch_restarts.inc,
            backoffs=JitteredBackoffs(cap_s=min(watch.CAP_S, settings.backoff.cap_s)),
        )
        self._elector_thread = threading.Thread(target=self._elect, name="elector", daemon=True)
        self.health = HealthServer(
            self.metrics.registry,
            live={"threads": self._threads_alive},
            ready={"lists": self.lister.complete, "watch": self.watch.running},
            host=settings.health_host,
            port=settings.health_port,
        )

    def start(self) -> None:
        """Lists, watches, answers probes, and works as soon as it leads."""
        self.health.start()
        self._recorder.start()
        self.lister.start()
        self.watch.start()
        if self._settings.elect:
            self._elector_thread.start()
        else:
            self._lead()

    def stop(self, grace_s: float = _STOP_S) -> None:
        """Ends the workers after what they are at, writes what events wait, and gives the lease back."""
        if self._stopping.is_set():
            return
        for workers in self._workers:
            workers.stop(grace_s)
        self._recorder.stop()
        self._stopping.set()
        if self._elector_thread.is_alive():
            self._elector_thread.join(grace_s)
        self.watch.stop(grace_s)
        self.lister.stop(grace_s)
        self.health.stop()
        self._tracing.stop()
        self.client.close()
        self._plain.close()

    def idle(self) -> bool:
        """Everything known was looked at, and nothing waits to be; later items may be due."""
        return self.lister.complete() is None and all(queue.idle() for queue in self._queues.values())

    def changed(self, kind: Kind, item: Object, *, deleted: bool) -> None:
        """An object is new, is another than before, or was deleted."""
        for found in routing.items(self.cache, kind, item):
            self._queues[found.kind].add(found)
        if deleted:
            self._forget(kind, item)

    def listed(self, kind: Kind, keys: Sequence[ObjectKey]) -> None:
        """A full pass over the kinds that are reconciled."""
        if (queue := self._queues.get(kind)) is not None:
            for key in keys:
                queue.add(Item(kind, key), low=True)

    def _add_controller(self, kind: Kind, threads: int) -> None:
        name = kind.kind.lower()
        meter = self.metrics.controller(name, threads, lambda: self._queues[kind].running_s())
        queue: WorkQueue[Item] = WorkQueue(backoff=self._settings.backoff, meter=meter)
        handle = partial(self._handle, name)
        told = partial(self._told, name)
        self._queues[kind] = queue
        # On half of what is there, thousands of plans would ask for changes, and be made anew on live reads.
        ready = self._listed_within
        self._workers.append(Workers(queue, handle, threads=threads, name=name, ready=ready, on_outcome=told))

    def _listed_within(self, seconds: float) -> bool:
        """Whether every kind was listed, or found missing; waits for it."""
        return self.lister.wait_until_known(seconds)

    def _handle(self, controller: str, item: Item) -> timedelta | None:
        raw = self.cache.get(item.kind, item.key)
        held = metadata(raw or {})
        with ExitStack() as around:
            identity = (str(held.get("uid") or ""), int(held.get("generation") or 0))
            around.enter_context(logs.reconcile(controller, *item.key, *identity))
            around.enter_context(self._tracing.span(f"reconcile {controller}", resource=str(item.key)))
            reconcile = self.adapters.reconcile if item.kind == ADAPTER else self.pools.reconcile
            return reconcile(item.key)

    def _told(self, controller: str, item: Item, outcome: Outcome, error: BaseException | None, seconds: float) -> None:
        self.metrics.reconciled(controller, outcome, error, seconds)
        resource = ResourceId(item.kind.kind, *item.key)
        if (raw := self.cache.get(item.kind, item.key)) is not None:
            self.metrics.resources.tell(resource, resource_states.state_of(item.kind, raw))
        # Deleted since it was read, it was forgotten before it was told of here.
        if self.cache.get(item.kind, item.key) is None:
            self.metrics.resources.forget(resource)

    def _carried_out(self, raw: Object, adapter: SocAdapter, plan: Plan) -> None:
        missed = sum(note.reason == triggers.MISSED for note in plan.notes)
        if missed:
            self.metrics.resources.missed_ticks(resource_states.id_of(ADAPTER, raw), missed)
        last = plan.status.last_run
        if last is not None and last != adapter.status.last_run:
            started, finished = parse(last.started_at), parse(last.finished_at)
            seconds = (finished - started).total_seconds() if started and finished else None
            result = last.reason if last.reason in set(manifest.Outcome) else manifest.Outcome.FAILED.value
            self.metrics.run_ended(result, last.reason, seconds)

    def _forget(self, kind: Kind, item: Object) -> None:
        if kind in self._queues:
            self._queues[kind].forget(Item(kind, key_of(item)))
            self.metrics.resources.forget(resource_states.id_of(kind, item))
        (self.pools if kind == POOL else self.adapters).forget(uid_of(item))
        if kind == ADAPTER:
            self._observer.forget(uid_of(item))

    def _lead(self) -> None:
        """Workers begin; called once."""
        self.metrics.leads(LEASE, True)
        for workers in self._workers:
            workers.start()
        self._begun = True

    def _elect(self) -> None:
        self.elector.run(self._stopping)
        self.metrics.leads(LEASE, False)

    def _threads_alive(self) -> str | None:
        if not self.lister.alive:
            return "the lister's thread has ended"
        if not self.watch.alive:
            return "the watch's thread has ended"
        if not self._recorder.alive:
            return "the event recorder's thread has ended"
        if self._settings.elect and not self._elector_thread.is_alive():
            return "the elector's thread has ended"
        if self._begun and not all(workers.alive for workers in self._workers):
            return "a worker's thread has ended"
        return None
