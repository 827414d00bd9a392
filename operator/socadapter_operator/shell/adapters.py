"""One pass over one `SocAdapter`: observe, plan, act, write status.

What is read first comes from the cache, which may lag. Where that asks for any change, the adapter, its pool and its
versions are read again from the API server and planned for anew, so that nothing is made, deleted or promoted on a
memory. Decides nothing itself: that is `domain.planner`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from socadapter_api.adapter import SocAdapter, SocAdapterVersion
from socadapter_api.errors import ObjectNotFound, SocAdapterError
from socadapter_api.pool import SocServingPool
from socadapter_operator.backends.protocol import BackendOf
from socadapter_operator.builders import labels
from socadapter_operator.domain import planner, version_conditions
from socadapter_operator.domain.actions import Action, ForgetRun, Plan, StopRun
from socadapter_operator.domain.claim import Claim
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.recorder import Recorder
from socadapter_operator.kube.resources import ADAPTER, ADAPTER_VERSION, POOL, Object, ObjectKey, uid_of, version_of
from socadapter_operator.observation import Observer
from socadapter_operator.shell import endings
from socadapter_operator.shell.cache import Cache
from socadapter_operator.shell.carrying_out import Hands, owned_by
from socadapter_operator.shell.claims import Claims
from socadapter_operator.shell.contracts import Contracts, being_deleted
from socadapter_operator.shell.controller import Controller
from socadapter_operator.shell.packed import Packed
from socadapter_operator.shell.status_writer import is_progress

Told = Callable[[Object, SocAdapter, Plan], None]
"""The adapter as it was, and the plan that was carried out for it."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is around one adapter: pools of its namespace, claims (with its own), and its context's versions."""

    pools: tuple[SocServingPool, ...]
    claims: tuple[Claim, ...]
    versions: tuple[SocAdapterVersion, ...]


class AdapterController(Controller):
    """Reconciles adapters."""

    kind = ADAPTER

    def __init__(
        self,
        client: Client,
        cache: Cache,
        backend_of: BackendOf,
        observer: Observer,
        recorder: Recorder,
        contracts: Contracts,
        claims: Claims,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        told: Told = lambda _raw, _adapter, _plan: None,
    ) -> None:
        super().__init__(client, cache, backend_of, recorder, contracts, claims, clock)
        self._observer = observer
        self._told = told
        self._hands = Hands(client, backend_of)

    def forget(self, uid: str) -> None:
        """Drops what is kept of an adapter, or of a version, that is gone."""
        super().forget(uid)
        self._contracts.forget(SocAdapter, uid)
        self._claims.forget(uid)
        self._contracts.forget(SocAdapterVersion, uid)

    def _pass(self, key: ObjectKey, raw: Object) -> timedelta | None:
        adapter = self._contracts.read(SocAdapter, raw)
        around = self._around(adapter)
        plan = self._planned(adapter, around)
        if not plan.actions and (plan.status == adapter.status or is_progress(adapter.status, plan.status)):
            return self._settle(raw, adapter, plan, around.versions)
        return self._change(key, uid_of(raw))

    def plan(self, key: ObjectKey) -> Plan | None:
        """What `reconcile` would do, by live reads; changes nothing. None where there is no such adapter."""
        raw = self._client.find(ADAPTER, *key)
        if raw is None:
            return None
        adapter = self._contracts.read(SocAdapter, raw)
        return self._planned(adapter, self._live(adapter))

    def _changed(self, raw: Object) -> timedelta | None:
        adapter = self._contracts.read(SocAdapter, raw)
        around = self._live(adapter)
        plan = self._planned(adapter, around)
        pools = {pool.metadata.name: pool for pool in around.pools}
        pool = pools.get(adapter.spec.serving_pool_ref.name)
        if plan.actions and pool is not None and endings.outlives(pool):
            self._keep(pool)
            raw = self._endings.guard(ADAPTER, raw)
        said, undone = adapter, None
        for action in plan.before_status:
            if (intent := plan.before(action)) is not None:
                raw = self._statuses.declare(said, intent, version_of(raw))
                said = adapter.model_copy(update={"status": intent})
            try:
                self._hands.carry_out(action, adapter, self._backend_of(_where(action, adapter, pools)))
            except SocAdapterError as error:
                if not isinstance(action, ForgetRun) or _is_of_the_run(action, adapter):
                    raise
                undone = error  # an old run's remains are let go some other time
        for note in plan.notes:
            self._recorder.record(raw, note.reason, note.message, warning=note.warning)
        wait = self._settle(raw, said, plan, self._cached_versions(adapter))
        self._told(raw, adapter, plan)
        for action in plan.after_status:
            self._hands.carry_out(action, adapter, self._backend_of(pool))
        if undone is not None:
            raise undone
        return timedelta(0) if plan.status.versions != adapter.status.versions else wait

    def _keep(self, pool: SocServingPool) -> None:
        """Sees to it that the pool stays while runs do that can be reached through it alone."""
        held = self._client.get(POOL, pool.metadata.namespace, pool.metadata.name)
        if being_deleted(held):
            raise ObjectNotFound(f"SocServingPool {pool.metadata.namespace}/{pool.metadata.name} is being deleted")
        self._endings.guard(POOL, held)

    def _settle(
        self, raw: Object, adapter: SocAdapter, plan: Plan, versions: Iterable[SocAdapterVersion]
    ) -> timedelta | None:
        """Writes the statuses of the adapter and of its `versions`; when to come back."""
        held_back = self._statuses.write(adapter, plan.status, version_of(raw))
        for version in versions:
            told = version_conditions.status(version, plan.status, self._clock())
            if told != version.status:
                self._statuses.write_over(version, told)
        return min((wait for wait in (plan.requeue_after, held_back) if wait is not None), default=None)

    def _planned(self, adapter: SocAdapter, around: Surroundings) -> Plan:
        now = self._clock()
        seen = self._observer.observe(adapter, around.pools, around.claims, around.versions, now)
        return planner.plan(adapter, seen, now)

    def _around(self, adapter: SocAdapter) -> Surroundings:
        """As the cache knows it. Of claims only those to the same context: the others matter to a run that begins."""
        pools = self._contracts.read_all(SocServingPool, self._cache.list(POOL, adapter.metadata.namespace))
        rivals = self._cache.packed_by_context(adapter.metadata.namespace, adapter.spec.context)
        return Surroundings(pools, self._with_others(adapter, rivals), self._cached_versions(adapter))

    def _live(self, adapter: SocAdapter) -> Surroundings:
        """Pools and versions as they are now."""
        namespace = adapter.metadata.namespace
        pools = self._contracts.read_all(SocServingPool, self._client.list(POOL, namespace).items)
        mine = f"{labels.ADAPTER}={adapter.metadata.name}"
        versions = self._own_versions(adapter, self._client.list(ADAPTER_VERSION, namespace, labels=mine).items)
        return Surroundings(pools, self._with_others(adapter, self._cache.packed(ADAPTER, namespace)), versions)

    def _with_others(self, adapter: SocAdapter, around: Iterable[Packed]) -> tuple[Claim, ...]:
        """The adapter's claim as it is planned for, and those of the others `around` it as the cache knows them."""
        others = (item for item in around if item.uid != adapter.metadata.uid)
        return Claim.of(adapter), *self._claims.read(others).claims

    def _cached_versions(self, adapter: SocAdapter) -> tuple[SocAdapterVersion, ...]:
        found = self._cache.versions_of(adapter.metadata.namespace, adapter.spec.context)
        return self._own_versions(adapter, found)

    def _own_versions(self, adapter: SocAdapter, found: Iterable[Object]) -> tuple[SocAdapterVersion, ...]:
        """Those that `adapter` owns: one that merely claims the same context has none."""
        own = (raw for raw in found if owned_by(raw, adapter.metadata.uid))
        return self._contracts.read_all(SocAdapterVersion, own)

    def _ended(self, raw: Object) -> bool:
        adapter = self._contracts.read(SocAdapter, raw)
        if (run := adapter.status.run) is None:
            return True
        held = self._cache.get(POOL, ObjectKey(adapter.metadata.namespace, _trains_for(adapter)))
        if held is None:
            return True  # a pool ends the runs on its Ray cluster before it goes
        backend = self._backend_of(self._contracts.read(SocServingPool, held))
        backend.stop(run.run_id)
        return not backend.observe(run.run_id).state.is_active


def _where(action: Action, adapter: SocAdapter, pools: Mapping[str, SocServingPool]) -> SocServingPool | None:
    """The pool whose backend `action` is for: of the run in progress the one that it was started for."""
    mine = _is_of_the_run(action, adapter)
    return pools.get(_trains_for(adapter) if mine else adapter.spec.serving_pool_ref.name)


def _is_of_the_run(action: Action, adapter: SocAdapter) -> bool:
    run = adapter.status.run
    return run is not None and isinstance(action, StopRun | ForgetRun) and action.run_id == run.run_id


def _trains_for(adapter: SocAdapter) -> str:
    """The pool that the run in progress was started for; the reference may name another one by now."""
    run = adapter.status.run
    return (run.serving_pool if run else "") or adapter.spec.serving_pool_ref.name
