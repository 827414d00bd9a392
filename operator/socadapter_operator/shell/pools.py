"""One pass over one `SocServingPool`: observe its service, plan its table, send it, write status."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from socadapter_api.adapter import SocAdapter
from socadapter_api.errors import SocAdapterError, SpecError
from socadapter_api.pool import SocServingPool
from socadapter_operator.backends.protocol import BackendOf
from socadapter_operator.domain import pool_planner, refusal
from socadapter_operator.domain.actions import PoolPlan
from socadapter_operator.domain.observed import PoolObserved
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.recorder import Recorder
from socadapter_operator.kube.resources import ADAPTER, POOL, Object, ObjectKey, uid_of
from socadapter_operator.shell import endings
from socadapter_operator.shell.adapters import AFTER_REFUSAL
from socadapter_operator.shell.cache import Cache
from socadapter_operator.shell.contracts import Contracts, being_deleted
from socadapter_operator.shell.status_writer import StatusWriter

log = logging.getLogger(__name__)


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
        self._contracts = contracts
        self._clock = clock
        self._endings = endings.Endings(client, recorder, clock)
        self._statuses = StatusWriter(client)

    def reconcile(self, key: ObjectKey) -> timedelta | None:
        """Brings the pool one step nearer to its spec; returns when to look again without being called.

        Raises:
            SocAdapterError: the table could not be sent; status says so, and the queue tries again.
        """
        raw = self._cache.get(POOL, key)
        if raw is None:
            return None
        if being_deleted(raw):
            return self._end(key)
        try:
            pool = self._contracts.read(SocServingPool, raw)
        except SpecError as error:
            log.warning("contract_broken kind=SocServingPool reason=%s %s", error.reason, error)
            return None
        plan = self._planned(pool, self._cache.list(ADAPTER, key.namespace))
        if not plan.actions and plan.status == pool.status:
            return plan.requeue_after
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
            self._endings.guard(POOL, raw)
        try:
            for action in plan.actions:
                self._backend_of(pool).apply_table(pool, action.table)
        except SocAdapterError as error:
            self._refused(raw, pool, error)
            if error.retryable:
                raise
            return AFTER_REFUSAL
        for note in plan.notes:
            self._recorder.record(raw, note.reason, note.message, warning=note.warning)
        self._statuses.write(pool, plan.status)
        return plan.requeue_after

    def _planned(self, pool: SocServingPool, adapters: tuple[Object, ...]) -> PoolPlan:
        view = self._backend_of(pool).serving(pool)
        around = self._contracts.read_all(SocAdapter, adapters)
        return pool_planner.plan_pool(pool, around, PoolObserved(view), self._clock())

    def _refused(self, raw: Object, pool: SocServingPool, error: SocAdapterError) -> None:
        log.warning("action_refused reason=%s %s", error.reason, error)
        self._recorder.record(raw, error.reason, str(error), warning=True)
        now, generation = self._clock(), pool.metadata.generation
        conditions = refusal.conditions(pool.status.conditions, generation, error, now)
        status = pool.status.model_copy(update={"conditions": conditions, "observed_generation": generation})
        self._statuses.write(pool, status)

    def _end(self, key: ObjectKey) -> timedelta | None:
        """Lets the pool go once its service is gone from where nobody else would end it."""
        raw = self._client.find(POOL, *key)
        if raw is None or not self._endings.guards(raw):
            return None
        pool = self._contracts.read(SocServingPool, raw)

        def ended() -> bool:
            self._backend_of(pool).delete(pool)
            return True

        return self._endings.let_go(POOL, raw, ended)
