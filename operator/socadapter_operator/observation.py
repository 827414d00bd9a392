"""Makes what the planner is shown from resources, a backend and the store; for local mode and the cluster alike."""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from socadapter_api.adapter import SocAdapter, SocAdapterVersion
from socadapter_api.manifest import Outcome
from socadapter_api.pool import SocServingPool
from socadapter_operator import evidence
from socadapter_operator.backends.protocol import BackendOf
from socadapter_operator.domain import problems, triggers, version_conditions
from socadapter_operator.domain.claim import Claim
from socadapter_operator.domain.observed import EndedRun, Observed, RecordedVersion
from socadapter_operator.domain.state import BackendRun, Evidence, Marker, RunState, RunView, settle
from socadapter_store import layout

_MAX_KEPT = 1024


class Observer:
    """Makes `Observed`. Safe for threads.

    What a finished run left never changes, so it is read and checked once, and again only after `kept` other runs.
    """

    def __init__(self, backend_of: BackendOf, cache: Path, kept: int = _MAX_KEPT) -> None:
        self._backend_of = backend_of
        self._cache = cache
        self._kept = kept
        self._finished: OrderedDict[tuple[object, ...], Evidence] = OrderedDict()
        """Begins with the adapter's uid."""
        self._lock = threading.Lock()

    def observe(
        self,
        adapter: SocAdapter,
        pools: Iterable[SocServingPool],
        claims: Iterable[Claim],
        versions: Iterable[SocAdapterVersion],
        now: datetime,
    ) -> Observed:
        """What is seen around `adapter`. `claims` are of its namespace, `pools` and `versions` may be of more."""
        namespace = adapter.metadata.namespace
        around = Observed(
            pools={p.metadata.name: p for p in pools if p.metadata.namespace == namespace},
            claims=tuple(claims),
            versions=tuple(
                RecordedVersion(v.spec, version_conditions.is_revoked(v))
                for v in versions
                if v.metadata.namespace == namespace and v.spec.context == adapter.spec.context
            ),
        )
        run_ids = triggers.run_ids(adapter, around, now)
        runs = {run_id: self._view(run_id, adapter, around) for run_id in run_ids}
        ended = self._ended(adapter, around) if run_ids else ()
        return replace(around, runs=runs, verdicts=self._verdicts(adapter, around, now), ended=ended)

    def forget(self, uid: str) -> None:
        """Drops what is kept of an adapter that is gone."""
        with self._lock:
            for key in [key for key in self._finished if key[0] == uid]:
                del self._finished[key]

    def _ended(self, adapter: SocAdapter, around: Observed) -> tuple[EndedRun, ...]:
        backend = self._backend_of(around.pools.get(adapter.spec.serving_pool_ref.name))
        return backend.ended(adapter.metadata.namespace, adapter.metadata.name)

    def _verdicts(self, adapter: SocAdapter, around: Observed, now: datetime) -> int | None:
        """Counted only when a tick is due that needs to know: a run that nothing replaces has to end first."""
        wanted, schedule = adapter.spec.data.feedback, adapter.spec.schedule
        pool = around.pools.get(adapter.spec.serving_pool_ref.name)
        if wanted is None or pool is None or schedule is None or triggers.calendar(adapter, now).due is None:
            return None
        if adapter.status.run is not None and schedule.concurrency_policy != "Replace":
            return None
        return self._backend_of(pool).verdicts(pool, adapter.spec.context, wanted.window)

    def _view(self, run_id: str, adapter: SocAdapter, around: Observed) -> RunView:
        current = adapter.status.run is not None and adapter.status.run.run_id == run_id
        recorded = any(version.spec.run_id == run_id for version in around.versions)
        found = Evidence()
        for pool in _nearest_first(adapter, around):
            found = self._read(run_id, adapter, pool, check=current or not recorded)
            if found.marker is not Marker.NONE or found.progress is not None:
                break
        return settle(self._process(run_id, adapter, around), found)

    def _process(self, run_id: str, adapter: SocAdapter, around: Observed) -> BackendRun:
        """The word of the backend that knows the run; a reference may have moved to another one while it trained."""
        backends = dict.fromkeys(self._backend_of(pool) for pool in (_nearest_first(adapter, around) or (None,)))
        words = (backend.observe(run_id) for backend in backends)
        return next((word for word in words if word.state is not RunState.ABSENT), BackendRun())

    def _read(self, run_id: str, adapter: SocAdapter, pool: SocServingPool, *, check: bool) -> Evidence:
        uri = layout.run_uri(pool.spec.store, adapter.metadata.namespace, adapter.spec.context, run_id)
        limits = (problems.base_digest(pool), pool.spec.max_lora_rank)
        key = (adapter.metadata.uid, uri, pool.spec.trust, pool.spec.signing, limits, check)
        with self._lock:
            if (known := self._finished.get(key)) is not None:
                self._finished.move_to_end(key)
                return known

        def checks() -> evidence.Checks:
            return evidence.Checks(self._backend_of(pool).trusted_keys(pool), self._cache, *limits)

        found = evidence.read(uri, checks if check else None)
        if _is_final(found):
            with self._lock:
                self._finished[key] = found
                if len(self._finished) > self._kept:
                    self._finished.popitem(last=False)
        return found


def _is_final(found: Evidence) -> bool:
    if found.marker is not Marker.SUCCESS:
        return False
    published = found.result is not None and found.result.outcome is Outcome.PUBLISHED
    return not published or found.verification is None or not found.verification.retryable


def _nearest_first(adapter: SocAdapter, around: Observed) -> list[SocServingPool]:
    """The pools in whose stores a run of `adapter` may lie: a reference may have moved while it trained."""
    order = (adapter.spec.serving_pool_ref.name, adapter.status.serving_pool)
    return sorted(
        around.pools.values(), key=lambda pool: (*(pool.metadata.name != name for name in order), pool.metadata.name)
    )
