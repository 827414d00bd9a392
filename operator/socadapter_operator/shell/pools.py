"""One pass over one `SocServingPool`: observe its service, plan its table, send it, write status."""

from datetime import timedelta
from functools import partial

from socadapter_api.pool import SocServingPool
from socadapter_operator.domain import pool_planner
from socadapter_operator.domain.actions import PoolPlan
from socadapter_operator.domain.observed import PoolObserved
from socadapter_operator.kube.resources import ADAPTER, POOL, Object, ObjectKey, uid_of, version_of
from socadapter_operator.shell import endings
from socadapter_operator.shell.claims import Claimed
from socadapter_operator.shell.controller import Controller
from socadapter_operator.shell.packed import pack

LOOKED_AT_EVERY = timedelta(seconds=30)
"""No event tells what becomes of a service on a Ray cluster that exists by itself."""


class PoolController(Controller):
    """Reconciles pools."""

    kind = POOL

    def forget(self, uid: str) -> None:
        """Drops what is kept of a pool that is gone."""
        super().forget(uid)
        self._contracts.forget(SocServingPool, uid)

    def _pass(self, key: ObjectKey, raw: Object) -> timedelta | None:
        pool = self._contracts.read(SocServingPool, raw)
        plan = self._planned(pool, self._claims.read(self._cache.packed(ADAPTER, key.namespace)))
        if not plan.actions and plan.status == pool.status:
            return _again(pool, plan)
        return self._change(key, uid_of(raw))

    def plan(self, key: ObjectKey) -> PoolPlan | None:
        """What `reconcile` would do, by live reads; changes nothing. None where there is no such pool."""
        raw = self._client.find(POOL, *key)
        if raw is None:
            return None
        return self._planned(self._contracts.read(SocServingPool, raw), self._live_claims(key.namespace))

    def _changed(self, raw: Object) -> timedelta | None:
        pool = self._contracts.read(SocServingPool, raw)
        plan = self._planned(pool, self._live_claims(pool.metadata.namespace))
        if plan.actions and endings.outlives(pool):
            raw = self._endings.guard(POOL, raw)
        for action in plan.actions:
            self._backend_of(pool).apply_table(pool, action.table)
        for note in plan.notes:
            self._recorder.record(raw, note.reason, note.message, warning=note.warning)
        self._statuses.write(pool, plan.status, version_of(raw))
        return _again(pool, plan)

    def _live_claims(self, namespace: str) -> Claimed:
        return self._claims.read(self._client.list_as(partial(pack, indexes={}), ADAPTER, namespace).items)

    def _planned(self, pool: SocServingPool, around: Claimed) -> PoolPlan:
        observed = PoolObserved(self._backend_of(pool).serving(pool), unreadable=around.unreadable)
        return pool_planner.plan_pool(pool, around.claims, observed, self._clock())

    def _ended(self, raw: Object) -> bool:
        pool = self._contracts.read(SocServingPool, raw)
        backend = self._backend_of(pool)
        # Without the pool nobody knows any more where its adapters' runs are.
        runs = self._runs_of(pool)
        for run_id in runs:
            backend.stop(run_id)
        backend.delete(pool)
        return not any(backend.observe(run_id).state.is_active for run_id in runs)

    def _runs_of(self, pool: SocServingPool) -> tuple[str, ...]:
        """The runs in progress that were started for `pool`, those of adapters that are being deleted included."""
        found = self._client.list(ADAPTER, pool.metadata.namespace).items
        held = ((raw.get("spec") or {}, raw.get("status") or {}) for raw in found)
        return tuple(
            str(run["runId"])
            for spec, status in held
            if (run := status.get("run") or {}).get("runId")
            if pool.metadata.name == (run.get("servingPool") or (spec.get("servingPoolRef") or {}).get("name"))
        )


def _again(pool: SocServingPool, plan: PoolPlan) -> timedelta | None:
    if plan.requeue_after is None and endings.outlives(pool):
        return LOOKED_AT_EVERY
    return plan.requeue_after
