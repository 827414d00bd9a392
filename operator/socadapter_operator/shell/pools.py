"""One pass over one `SocServingPool`: observe its service, plan its table, send it, write status."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from socadapter_api.adapter import SocAdapter
from socadapter_api.errors import SocAdapterError
from socadapter_api.pool import SocServingPool
from socadapter_operator.backends.protocol import BackendOf
from socadapter_operator.domain import pool_planner
from socadapter_operator.domain.actions import PoolPlan
from socadapter_operator.domain.observed import PoolObserved
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.recorder import Recorder
from socadapter_operator.kube.resources import ADAPTER, POOL, Object, ObjectKey, uid_of, version_of
from socadapter_operator.shell import endings
from socadapter_operator.shell.cache import Cache
from socadapter_operator.shell.contracts import Contracts, being_deleted
from socadapter_operator.shell.refusals import Refusals
from socadapter_operator.shell.status_writer import StatusWriter

LOOKED_AT_EVERY = timedelta(seconds=30)
"""No event tells what becomes of a service on a Ray cluster that exists by itself."""


class PoolController:
    """Reconciles pools. Safe for threads, one key at a time."""

    def __init__(
        self,
        client: Client,
        cache: Cache,
        backend_of: BackendOf,
        recorder: Recorder,
        contracts: Contracts,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._cache = cache
        self._backend_of = backend_of
        self._recorder = recorder
        self._refusals = Refusals(client, recorder, clock)
        self._contracts = contracts
        self._clock = clock
        self._endings = endings.Endings(client, recorder, clock)
        self._statuses = StatusWriter(client)

    def reconcile(self, key: ObjectKey) -> timedelta | None:
        """Brings the pool one step nearer to its spec; returns when to look again without being called.

        Raises:
            SocAdapterError: something failed that may pass; status says so, and the queue tries again.
        """
        raw = self._cache.get(POOL, key)
        if raw is None:
            return None
        if being_deleted(raw):
            return self._end(key)
        try:
            return self._pass(key, raw)
        except SocAdapterError as error:
            return self._refusals.settle(POOL, key, error)

    def forget(self, uid: str) -> None:
        """Drops what is kept of a pool that is gone."""
        self._statuses.forget(uid)
        self._contracts.forget(SocServingPool, uid)

    def _pass(self, key: ObjectKey, raw: Object) -> timedelta | None:
        pool = self._contracts.read(SocServingPool, raw)
        plan = self._planned(pool, self._cache.list(ADAPTER, key.namespace))
        if not plan.actions and plan.status == pool.status:
            return _again(pool, plan)
        return self._change(key, uid_of(raw))

    def plan(self, key: ObjectKey) -> PoolPlan | None:
        """What `reconcile` would do, by live reads; changes nothing. None where there is no such pool."""
        raw = self._client.find(POOL, *key)
        if raw is None:
            return None
        adapters = self._client.list(ADAPTER, key.namespace).items
        return self._planned(self._contracts.read(SocServingPool, raw), adapters)

    def _change(self, key: ObjectKey, uid: str) -> timedelta | None:
        """Plans again on what is there now, and carries it out."""
        raw = self._client.find(POOL, *key)
        if raw is None or uid_of(raw) != uid or being_deleted(raw):
            return timedelta(0) if raw is not None else None
        pool = self._contracts.read(SocServingPool, raw)
        plan = self._planned(pool, self._client.list(ADAPTER, key.namespace).items)
        if plan.actions and endings.outlives(pool):
            raw = self._endings.guard(POOL, raw)
        for action in plan.actions:
            self._backend_of(pool).apply_table(pool, action.table)
        for note in plan.notes:
            self._recorder.record(raw, note.reason, note.message, warning=note.warning)
        self._statuses.write(pool, plan.status, version_of(raw))
        return _again(pool, plan)

    def _planned(self, pool: SocServingPool, adapters: tuple[Object, ...]) -> PoolPlan:
        view = self._backend_of(pool).serving(pool)
        around = self._contracts.read_all(SocAdapter, adapters)
        read = {adapter.metadata.uid for adapter in around}
        unreadable = frozenset(
            str((raw.get("spec") or {}).get("context") or "")
            for raw in adapters
            if uid_of(raw) not in read and not being_deleted(raw)
        )
        return pool_planner.plan_pool(pool, around, PoolObserved(view, unreadable=unreadable), self._clock())

    def _end(self, key: ObjectKey) -> timedelta | None:
        """Lets the pool go once its service is gone from where nobody else would end it."""
        raw = self._client.find(POOL, *key)
        if raw is None or not self._endings.guards(raw):
            return None

        def ended() -> bool:
            pool = self._contracts.read(SocServingPool, raw)
            self._backend_of(pool).delete(pool)
            return True

        return self._endings.let_go(POOL, raw, ended)


def _again(pool: SocServingPool, plan: PoolPlan) -> timedelta | None:
    if plan.requeue_after is None and endings.outlives(pool):
        return LOOKED_AT_EVERY
    return plan.requeue_after
