"""The plan for one `SocServingPool`: its serving table, and what its replicas say about it.

Pure and total, like `planner`. The table follows the adapters' statuses; replicas follow the table.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from socadapter_api import errors
from socadapter_api.conditions import Condition, ConditionStatus, merge
from socadapter_api.pool import PoolStatus, SocServingPool
from socadapter_api.serving_table import ServingTable
from socadapter_operator.domain import problems, serving, table
from socadapter_operator.domain.actions import ApplyTable, Note, PoolPlan
from socadapter_operator.domain.claim import Claim
from socadapter_operator.domain.course import POLL, pause_before
from socadapter_operator.domain.observed import PoolObserved, ServingState, ServingView
from socadapter_operator.domain.problems import Problem
from socadapter_operator.domain.timestamps import stamp

TRUE, FALSE = ConditionStatus.TRUE, ConditionStatus.FALSE
STALLED_AFTER = 5
"""Failed starts in a row after which a person should look. Starting goes on all the same."""


def plan_pool(pool: SocServingPool, claims: Iterable[Claim], observed: PoolObserved, now: datetime) -> PoolPlan:
    """What to do about `pool` at `now`, and the status it then has. `claims`: all of its namespace."""
    view = observed.serving
    known = pool.model_copy(
        update={"status": pool.status.model_copy(update={"base_digest": view.base_digest or pool.status.base_digest})}
    )
    wanted = table.build(known, claims, view.table, observed.unreadable)
    if view.unseen:
        wanted = wanted.model_copy(update={"generation": pool.status.table_generation})
    idle = view.state is ServingState.ABSENT and not view.reason
    held_back = observed.hold and idle and not wanted.versions()
    problem = problems.of_pool(pool, observed.rival)
    actions, requeue_after = ((), POLL) if problem else _actions(wanted, view, held_back, now)
    status = PoolStatus(
        observed_generation=pool.metadata.generation,
        conditions=merge(pool.status.conditions, _conditions(pool, wanted, view, held_back, problem), stamp(now)),
        endpoint=view.endpoint or (pool.status.endpoint if _is_hidden(view) else ""),
        base_digest=known.status.base_digest,
        table_generation=wanted.generation if actions or view.table else pool.status.table_generation,
        replicas=view.reports if view.state is ServingState.RUNNING else (),
    )
    notes = (Note("TableApplied", f"generation {wanted.generation}"),) if actions else ()
    return PoolPlan(actions, status, requeue_after, notes)


def _actions(
    wanted: ServingTable, view: ServingView, held_back: bool, now: datetime
) -> tuple[tuple[ApplyTable, ...], timedelta | None]:
    if held_back or view.unseen or _is_hidden(view):
        return (), POLL
    if view.state is ServingState.FAILED and view.failed_at is not None:
        left = min(view.failed_at + pause_before(max(view.failures, 1)) - now, pause_before(max(view.failures, 1)))
        if left > timedelta(0):
            return (), left
    down = view.state in (ServingState.ABSENT, ServingState.FAILED)
    if down or view.outdated or view.table != wanted:
        return (ApplyTable(wanted),), POLL
    settled = view.state is ServingState.RUNNING and all(r.generation >= wanted.generation for r in view.reports)
    return (), None if settled and not _loading(wanted, view) else POLL


def _is_hidden(view: ServingView) -> bool:
    """Nobody can say whether it serves."""
    return view.state is ServingState.UNKNOWN or _refused_to_start(view)


def _refused_to_start(view: ServingView) -> bool:
    return view.state is ServingState.ABSENT and bool(view.reason)


def _loading(wanted: ServingTable, view: ServingView) -> bool:
    names = set(wanted.versions())
    return any(names - {load.name for load in report.loaded if load.ready or load.refused} for report in view.reports)


def _conditions(
    pool: SocServingPool, wanted: ServingTable, view: ServingView, held_back: bool, problem: Problem | None
) -> tuple[Condition, ...]:
    current = sum(report.generation >= wanted.generation for report in view.reports)
    needed = serving.majority(pool.spec.replicas)
    told = f"{current} of {pool.spec.replicas} replicas hold table {wanted.generation}"
    up = view.state is ServingState.RUNNING and bool(view.endpoint)
    broken = view.state is ServingState.FAILED or _refused_to_start(view) or view.unseen
    stall = (problem.reason, problem.message) if problem else None
    if pool.spec.replicas == 0:
        ready, reason, message = FALSE, "ScaledToZero", "spec.replicas is 0"
    elif up and len(view.reports) >= needed:
        ready, reason, message = TRUE, "Serving", f"{view.endpoint}; {told}"
    elif problem:
        ready, reason, message = FALSE, problem.reason, problem.message
    elif held_back:
        ready, reason, message = FALSE, "WaitingForVersion", "starts when the first version is published"
    else:
        ready, reason, message = FALSE, view.reason or _WHY[view.state], view.message or told
    if stall is None and broken and (view.failures >= STALLED_AFTER or not view.retryable):
        stall = (view.reason, view.message) if view.unseen else (reason, message)
    moving = not stall and not held_back and (ready is FALSE or current < needed) and pool.spec.replicas > 0
    refused = _refused(view)
    return (
        _made(pool, "Ready", ready, reason, message),
        _made(
            pool,
            "Reconciling",
            TRUE if moving else FALSE,
            "RollingOut" if moving else "Settled",
            told if moving else "",
        ),
        _made(
            pool,
            "Stalled",
            TRUE if stall else FALSE,
            stall[0] if stall else "Settled",
            stall[1] if stall else "",
        ),
        _made(
            pool,
            "Degraded",
            TRUE if refused else FALSE,
            refused[0] if refused else "Healthy",
            refused[1] if refused else "",
        ),
    )


_WHY = {
    ServingState.ABSENT: "NotStarted",
    ServingState.STARTING: "Starting",
    ServingState.RUNNING: "NoReplicas",
    ServingState.FAILED: errors.EngineUnavailable.reason,
    ServingState.UNKNOWN: errors.BackendUnavailable.reason,
}


def _refused(view: ServingView) -> tuple[str, str] | None:
    """What is wrong although it serves: an update that did not take, a version that a replica refuses or serves
    otherwise than it was judged.
    """
    if view.state is ServingState.RUNNING and view.reason:
        return view.reason, view.message
    for report in view.reports:
        for load in report.loaded:
            if load.refused:
                return load.reason, f"replica {report.replica} does not serve {load.name}: {load.message}"
    differing = (load for report in view.reports for load in report.loaded if load.ready and load.reason)
    return next(((load.reason, load.message) for load in differing), None)


def _made(pool: SocServingPool, kind: str, status: ConditionStatus, reason: str, message: str = "") -> Condition:
    return Condition(
        type=kind, status=status, reason=reason, message=message, observed_generation=pool.metadata.generation
    )
