"""The planner's loop on one machine: observe, plan, act, write status, again and again.

The Kubernetes shell does the same with an API server in the place of the state folder. Whoever drives a state folder
holds its lock (`StateFolder.locked`); that is the caller's to take.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from socadapter_api.adapter import TRAIN_REQUESTED_AT, SocAdapter, SocAdapterVersion, VersionSpec, VersionStatus
from socadapter_api.conditions import Condition, ConditionStatus, merge
from socadapter_api.errors import SocAdapterError, SpecError
from socadapter_api.meta import ObjectMeta
from socadapter_api.pool import SocServingPool
from socadapter_operator.backends.local import LocalBackend
from socadapter_operator.domain import addresses, planner, pool_planner, problems, refusal, triggers
from socadapter_operator.domain.actions import (
    Action,
    ForgetRun,
    ForgetVersion,
    Note,
    Plan,
    PoolPlan,
    RecordVersion,
    StartRun,
    StopRun,
)
from socadapter_operator.domain.addresses import Address, Tenant
from socadapter_operator.domain.claim import Claim
from socadapter_operator.domain.observed import PoolObserved
from socadapter_operator.domain.state import RunState
from socadapter_operator.domain.timestamps import parse, stamp
from socadapter_operator.local import resource_files
from socadapter_operator.local.state_folder import StateFolder
from socadapter_operator.local.troubles import Troubles
from socadapter_operator.observation import Observer

log = logging.getLogger(__name__)

_AFTER_REFUSAL = timedelta(seconds=5)
Kind = TypeVar("Kind", SocServingPool, SocAdapter)
Notes = tuple[tuple[str, Note], ...]
"""What happened, each by the name of whom it concerns."""
Step = tuple[timedelta | None, Notes]
"""When to look at a resource again, and what happened to it."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass over all resources found and did.

    `unreadable`: what is wrong with files of the state folder. `untold`: a status could not be written, and says less
    than happened.
    """

    pools: tuple[SocServingPool, ...]
    adapters: tuple[SocAdapter, ...]
    requeue_after: timedelta | None
    notes: Notes = ()
    unreadable: tuple[SpecError, ...] = ()
    untold: bool = False

    @property
    def settled(self) -> bool:
        """Nothing is under way: every resource is ready, or only a person can change that it is not."""
        at_rest = all(refusal.holds(found, "Reconciling", ConditionStatus.FALSE) for found in self._conditions())
        return at_rest and not self.untold

    @property
    def ready(self) -> bool:
        """Every resource is ready."""
        complete = not self.unreadable and not self.untold
        return complete and all(refusal.holds(found, "Ready") for found in self._conditions())

    @property
    def refused(self) -> bool:
        """Something is wrong that no further pass mends by itself."""
        stalled = any(refusal.holds(found, "Stalled") for found in self._conditions())
        return bool(self.unreadable) or self.untold or stalled

    @property
    def fetching(self) -> bool:
        """A base is not here yet, and what needs it waits."""
        told = (condition for pool in self.pools for condition in pool.status.conditions)
        return any(condition.reason == problems.BASE_UNRESOLVED for condition in told)

    def _conditions(self) -> list[tuple[Condition, ...]]:
        pools = [pool.status.conditions for pool in self.pools]
        return [*pools, *(adapter.status.conditions for adapter in self.adapters)]


class Reconciler:
    """Drives the resources of a state folder through the local backend: all of them, or those of the files given.

    `serve` False trains only: pools are looked at and never started.
    """

    def __init__(
        self,
        state: StateFolder,
        backend: LocalBackend,
        cache: Path,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        serve: bool = True,
    ) -> None:
        self._serve = serve
        self._state = state
        self._backend = backend
        self._observer = Observer(lambda _pool: backend, cache)
        self._clock = clock
        self._files: tuple[Path, ...] = ()
        self._keys: frozenset[tuple[str, str, str]] | None = None
        self._troubles = Troubles()
        self._untold = False

    def apply(self, files: Sequence[Path]) -> None:
        """Takes the resources in `files`, which are read again before every pass; only they are driven from now on.

        Raises:
            SpecError: a file is wrong, or changes the base of a pool that has one, or the context of a trained adapter.
        """
        self._files = tuple(files)
        self._take()

    def pass_once(self) -> Pass:
        """Brings every resource one step nearer to its spec. What keeps one of them from it keeps no other."""
        self._troubles.begin_pass()
        self._untold = False
        notes = [*self._tried("files", self._reread), *self._tried("machine", self._backend.tend)]
        unreadable = self.unreadable()
        for error in unreadable:
            notes += self._troubles.notes("state folder", error)
        waits: list[timedelta | None] = []
        for wait, happened in self._steps():
            waits.append(wait)
            notes += happened
        for name, note in notes:
            log.log(logging.WARNING if note.warning else logging.INFO, "%s name=%s %s", note.reason, name, note.message)
        soonest = min((wait for wait in waits if wait is not None), default=None)
        return Pass(self.pools(), self.adapters(), soonest, tuple(notes), unreadable, self._untold)

    def plan_adapter(self, adapter: SocAdapter) -> Plan:
        """What the planner would do about `adapter`; changes nothing."""
        now = self._clock()
        asked = self._with_request(adapter)
        versions, _ = self._state.readable(SocAdapterVersion)
        claims = self._claims(asked.metadata.namespace)
        return planner.plan(asked, self._observer.observe(asked, self.pools(), claims, versions, now), now)

    def plan_pool(self, pool: SocServingPool) -> PoolPlan:
        """What the planner would do about `pool`; changes nothing."""
        adapters = [a for a in self.adapters() if a.metadata.namespace == pool.metadata.namespace]
        coming = any(a.status.observed_generation < 0 or a.status.run is not None for a in adapters)
        serving = self._backend.serving(pool)
        # Whose contexts they are is not known: while a file cannot be read, no route is taken away.
        kept = serving.table.routes if serving.table and self._state.readable(SocAdapter)[1] else ()
        observed = PoolObserved(
            serving, hold=coming, unreadable=frozenset(route.context for route in kept), rival=self._rival(pool)
        )
        return pool_planner.plan_pool(pool, map(Claim.of, adapters), observed, self._clock())

    def retry_failed(self) -> None:
        """Asks again for the run of every adapter whose last one failed."""
        for adapter in self.adapters():
            last = adapter.status.last_run
            failed = last is not None and last.state == RunState.FAILED and last.reason != triggers.SUPERSEDED
            if adapter.status.run is None and failed:
                self._state.request(adapter.metadata.namespace, adapter.metadata.name, self._clock())

    def mark_stopped(self) -> None:
        """Writes into every status that nothing serves, so that it does not promise what `down` ended."""
        now = self._clock()
        for pool in self._state.readable(SocServingPool)[0]:
            conditions = refusal.stopped(
                pool.status.conditions, ("Ready", "Reconciling"), pool.metadata.generation, now
            )
            ended = {"conditions": conditions, "endpoint": "", "replicas": ()}
            self._state.write(pool.model_copy(update={"status": pool.status.model_copy(update=ended)}))
        for adapter in self._state.readable(SocAdapter)[0]:
            conditions = refusal.stopped(
                adapter.status.conditions, ("Ready", "Reconciling", "Serving"), adapter.metadata.generation, now
            )
            status = adapter.status.model_copy(update={"conditions": conditions})
            self._state.write(adapter.model_copy(update={"status": status}))

    def pools(self) -> tuple[SocServingPool, ...]:
        """The pools that are driven, as they are now."""
        return tuple(pool for pool in self._state.readable(SocServingPool)[0] if self._driven(pool))

    def _claims(self, namespace: str) -> list[Claim]:
        return [Claim.of(adapter) for adapter in self.adapters() if adapter.metadata.namespace == namespace]

    def adapters(self) -> tuple[SocAdapter, ...]:
        """The adapters that are driven, as they are now."""
        return tuple(adapter for adapter in self._state.readable(SocAdapter)[0] if self._driven(adapter))

    def unreadable(self) -> tuple[SpecError, ...]:
        """What is wrong with files of the state folder that no pass can read."""
        _, pools = self._state.readable(SocServingPool)
        _, adapters = self._state.readable(SocAdapter)
        _, versions = self._state.readable(SocAdapterVersion)
        return *pools, *adapters, *versions

    def _take(self) -> None:
        pools, adapters = resource_files.load(self._files)
        taken: list[SocServingPool | SocAdapter] = [self._adopted_pool(pool) for pool in pools]
        taken += [self._adopted_adapter(adapter) for adapter in adapters]
        for resource in taken:
            self._state.write(resource)
        self._keys = frozenset(_key(resource) for resource in taken)

    def _reread(self) -> None:
        """Takes the files again; while one is wrong, what was read before goes on."""
        if not self._files:
            return
        try:
            self._take()
        except SpecError as error:
            raise SpecError(f"{error}; until that is mended, no edit of any file counts") from error

    def _adopted_pool(self, pool: SocServingPool) -> SocServingPool:
        before = self._state.read(SocServingPool, pool.metadata.namespace, pool.metadata.name)
        if before is None:
            return pool
        if before.spec.base != pool.spec.base and before.status.base_digest is not None:
            raise SpecError(
                f"SocServingPool {pool.metadata.name!r}: spec.base is immutable: it is {before.spec.base.uri!r}, and "
                f"the file says {pool.spec.base.uri!r}; give the pool with the new base another name"
            )
        generation = before.metadata.generation + (before.spec != pool.spec)
        metadata = pool.metadata.model_copy(update={"generation": generation})
        return pool.model_copy(update={"metadata": metadata, "status": before.status})

    def _adopted_adapter(self, adapter: SocAdapter) -> SocAdapter:
        before = self._state.read(SocAdapter, adapter.metadata.namespace, adapter.metadata.name)
        if before is None:
            return adapter
        if before.spec.context != adapter.spec.context and before.status.last_number:
            raise SpecError(
                f"SocAdapter {adapter.metadata.name!r}: spec.context is immutable: it is {before.spec.context!r}, and "
                f"the file says {adapter.spec.context!r}; give the adapter of the new context another name"
            )
        generation = before.metadata.generation + (before.spec != adapter.spec)
        metadata = adapter.metadata.model_copy(update={"generation": generation})
        return adapter.model_copy(update={"metadata": metadata, "status": before.status})

    def _driven(self, resource: SocServingPool | SocAdapter) -> bool:
        return self._keys is None or _key(resource) in self._keys

    def _with_request(self, adapter: SocAdapter) -> SocAdapter:
        """`adapter` with the request that `socadapter train NAME` left, where it is the newer one."""
        asked = self._state.requested(adapter.metadata.namespace, adapter.metadata.name)
        here, written = parse(asked), parse(adapter.metadata.annotations.get(TRAIN_REQUESTED_AT, ""))
        if here is None or (written is not None and here <= written):
            return adapter
        annotations = {**adapter.metadata.annotations, TRAIN_REQUESTED_AT: asked}
        return adapter.model_copy(update={"metadata": adapter.metadata.model_copy(update={"annotations": annotations})})

    def _rival(self, pool: SocServingPool) -> str:
        """The other pool of the state folder that keeps the address of `pool`; empty where none does."""
        tenants = (
            Tenant(_place(other), Address.of(other.spec) if self._driven(other) else None, self._backend.address(other))
            for other in self._state.readable(SocServingPool)[0]
        )
        kept_by = addresses.keeper(Address.of(pool.spec), tenants)
        return "" if kept_by == _place(pool) else kept_by

    def _steps(self) -> Iterator[Step]:
        """One step of each resource: pools first, since adapters look at their statuses."""
        for pool in self.pools():
            yield self._step(pool, self._step_of_pool)
        for adapter in self.adapters():
            yield self._step(adapter, self._step_of_adapter)

    def _step(self, resource: Kind, step: Callable[[Kind], Step]) -> Step:
        try:
            return step(resource)
        except Exception as error:  # noqa: BLE001  the rim of one resource: the others are driven on
            return _AFTER_REFUSAL, self._refused(resource, self._troubles.named(resource.metadata.name, error))

    def _tried(self, name: str, step: Callable[[], None]) -> Notes:
        """Takes a step that is no resource's; returns what went wrong."""
        try:
            step()
        except Exception as error:  # noqa: BLE001  the rim of the step: resources are driven on
            return self._troubles.notes(name, self._troubles.named(name, error))
        return ()

    def _step_of_adapter(self, adapter: SocAdapter) -> Step:
        plan = self.plan_adapter(adapter)
        moved = plan.status.versions != adapter.status.versions
        for action in plan.before_status:
            if (intent := plan.before(action)) is not None:
                adapter = adapter.model_copy(update={"status": intent})
                self._state.write(adapter)
            self._act(action, adapter)
        self._state.write(adapter.model_copy(update={"status": plan.status}))
        for action in plan.after_status:
            self._act(action, adapter)
        return timedelta(0) if moved else plan.requeue_after, _of(adapter, plan)

    def _step_of_pool(self, pool: SocServingPool) -> Step:
        plan = self.plan_pool(pool)
        for action in plan.actions if self._serve else ():
            self._backend.apply_table(pool, action.table)
        self._state.write(pool.model_copy(update={"status": plan.status}))
        return plan.requeue_after, _of(pool, plan)

    def _refused(self, resource: Kind, error: SocAdapterError) -> Notes:
        """Tells `error` in the conditions of `resource`; in a note where they cannot be written."""
        name, namespace = resource.metadata.name, resource.metadata.namespace
        log.warning("action_refused name=%s reason=%s %s", name, error.reason, error)
        try:
            # As it is by now: a run that was about to start is named there.
            there = self._state.read(type(resource), namespace, name) or resource
            held, generation = there.status, there.metadata.generation
            conditions = refusal.conditions(held.conditions, generation, error, self._clock())
            self._state.write(there.model_copy(update={"status": held.model_copy(update={"conditions": conditions})}))
        except (SocAdapterError, OSError):
            self._untold = True
            return self._troubles.notes(name, error)
        return ()

    def _act(self, action: Action, adapter: SocAdapter) -> None:
        if isinstance(action, StartRun):
            self._backend.start(action.spec, action.pool)
        elif isinstance(action, StopRun):
            self._backend.stop(action.run_id)
        elif isinstance(action, RecordVersion):
            made = _version(action.version, adapter, self._clock())
            # One that is there and cannot be read is not written over: it may have been revoked.
            if self._state.read(SocAdapterVersion, made.metadata.namespace, made.metadata.name) is None:
                self._state.write(made)
        elif isinstance(action, ForgetVersion):
            self._state.delete(SocAdapterVersion, adapter.metadata.namespace, action.name)
        elif isinstance(action, ForgetRun):
            self._backend.forget(action.run_id)


def _version(spec: VersionSpec, adapter: SocAdapter, now: datetime) -> SocAdapterVersion:
    namespace = adapter.metadata.namespace
    verified = Condition(
        type="Verified", status=ConditionStatus.TRUE, reason="Verified", message=f"signed by {spec.signed_by}"
    )
    return SocAdapterVersion(
        metadata=ObjectMeta(
            name=spec.version, namespace=namespace, uid=resource_files.uid("SocAdapterVersion", namespace, spec.version)
        ),
        spec=spec,
        status=VersionStatus(observed_generation=1, conditions=merge((), (verified,), stamp(now))),
    )


def _key(resource: SocServingPool | SocAdapter) -> tuple[str, str, str]:
    return resource.kind, resource.metadata.namespace, resource.metadata.name


def _place(pool: SocServingPool) -> str:
    return f"{pool.metadata.namespace}/{pool.metadata.name}"


def _of(resource: SocServingPool | SocAdapter, plan: Plan | PoolPlan) -> Notes:
    return tuple((resource.metadata.name, note) for note in plan.notes)
