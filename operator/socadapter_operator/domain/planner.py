"""The plan for one `SocAdapter`: what its resource and what is seen ask for.

Pure and total: the same arguments give the same plan, and no argument makes it raise. Reading (`Observed`) and doing
(the actions) are for the loops that call it: `local.reconciler` here, the Kubernetes shell in a cluster, and
``socadapter plan``, which only prints.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from socadapter_api.adapter import AdapterStatus, AdapterVersions, RunStatus, SocAdapter
from socadapter_api.conditions import merge
from socadapter_operator.domain import (
    adapter_conditions,
    course,
    history,
    problems,
    rollout,
    run_spec,
    serving,
    triggers,
)
from socadapter_operator.domain.actions import Action, ForgetRun, ForgetVersion, Note, Plan, StartRun
from socadapter_operator.domain.course import Course, Setting
from socadapter_operator.domain.observed import Observed, RecordedVersion
from socadapter_operator.domain.problems import Problem
from socadapter_operator.domain.state import RunState, RunView
from socadapter_operator.domain.timestamps import parse, stamp
from socadapter_operator.domain.triggers import Calendar, Cause, Trigger

_AFTER_PROBLEM = timedelta(minutes=1)
"""Who mends a spec, or makes what it names, is seen doing it; this is for the time when no watch saw it."""


@dataclass(frozen=True, slots=True)
class _Draft:
    """A plan in the making."""

    run: RunStatus | None
    last_run: RunStatus | None
    dates: Calendar
    train_requested_at: str
    last_number: int
    recorded: tuple[RecordedVersion, ...]
    actions: tuple[Action, ...] = ()
    notes: tuple[Note, ...] = ()
    requeue_after: timedelta | None = None


def plan(resource: SocAdapter, observed: Observed, now: datetime) -> Plan:
    """What to do about `resource` at `now`, and the status it then has."""
    problem = problems.find(resource, observed)
    wanted = triggers.wanted_hash(resource, observed)
    draft = _Draft(
        run=resource.status.run,
        last_run=resource.status.last_run,
        dates=triggers.calendar(resource, now),
        train_requested_at=resource.status.train_requested_at,
        last_number=resource.status.last_number,
        recorded=observed.versions,
    )
    draft = replace(draft, notes=draft.dates.notes)
    if draft.run is not None:
        draft = _step(draft, resource, observed, problem, wanted, now)
    if draft.run is None and problem is None and wanted is not None and not resource.spec.suspend:
        draft = _begin(draft, resource, observed, wanted, now)
    return _written(draft, resource, observed, problem, wanted, now)


def _step(
    draft: _Draft, resource: SocAdapter, observed: Observed, problem: Problem | None, wanted: str | None, now: datetime
) -> _Draft:
    run = draft.run
    if run is None:
        return draft
    blocked = problem.reason if problem else course.SUSPENDED if resource.spec.suspend else ""
    setting = Setting(
        adapter=resource,
        observed=observed,
        pool=observed.pools.get(resource.spec.serving_pool_ref.name),
        now=now,
        obsolete="" if blocked else _obsolete(run, resource, observed, draft.dates, wanted),
        blocked=blocked,
    )
    return _taken(draft, course.advance(run, observed.runs.get(run.run_id, RunView()), setting))


def _taken(draft: _Draft, step: Course) -> _Draft:
    recorded = draft.recorded
    if step.recorded and all(v.spec.version != step.recorded.version for v in recorded):
        recorded = (*recorded, RecordedVersion(step.recorded))
    return replace(
        draft,
        run=step.run,
        last_run=step.finished or draft.last_run,
        recorded=recorded,
        last_number=max(draft.last_number, step.recorded.number if step.recorded else 0),
        actions=(*draft.actions, *step.actions),
        notes=(*draft.notes, *step.notes),
        requeue_after=step.requeue_after,
    )


def _obsolete(run: RunStatus, resource: SocAdapter, observed: Observed, dates: Calendar, wanted: str | None) -> str:
    """Why `run` is no longer wanted; empty if it is. A tick replaces it that would itself start a run."""
    if wanted is not None and run.training_hash != wanted:
        return "the training spec changed"
    schedule, feedback = resource.spec.schedule, resource.spec.data.feedback
    if feedback is not None and (observed.verdicts is None or observed.verdicts < feedback.min_verdicts):
        return ""
    if schedule is not None and schedule.concurrency_policy == "Replace" and dates.due is not None:
        started = parse(run.started_at)
        if started is not None and started < dates.due:
            return f"the tick of {stamp(dates.due)} replaces it"
    return ""


def _begin(draft: _Draft, resource: SocAdapter, observed: Observed, wanted: str, now: datetime) -> _Draft:
    """Starts the run that is due, or takes over one that the store or the backend already knows."""
    trigger = triggers.due(resource, replace(observed, versions=draft.recorded), wanted, draft.last_run, draft.dates)
    if trigger is None:
        return draft
    feedback = resource.spec.data.feedback
    if trigger.cause is Cause.TICK and feedback is not None:
        if observed.verdicts is None:
            return replace(draft, requeue_after=course.POLL)  # until they can be counted, or the deadline is over
        if observed.verdicts < feedback.min_verdicts:
            few = f"{observed.verdicts} verdicts in the last {feedback.window}, minVerdicts is {feedback.min_verdicts}"
            dates = triggers.taken(resource, draft.dates, now)
            return replace(draft, dates=dates, notes=(*draft.notes, Note("Skipped", few)))
    view = observed.runs.get(trigger.run_id, RunView())
    run = _new_run(trigger, view, resource, draft, observed, wanted)
    if view.state is not RunState.SUCCEEDED and (view.state is not RunState.FAILED or view.retryable):
        draft = _consumed(draft, resource, run.number, now)
    elif trigger.cause is not Cause.SPEC:
        draft = _consumed(draft, resource, draft.last_number, now)
    return _step(replace(draft, run=run), resource, observed, None, wanted, now)


def _consumed(draft: _Draft, resource: SocAdapter, number: int, now: datetime) -> _Draft:
    """`draft` with the pending request and the due tick taken up by a run that starts."""
    asked = triggers.requested(resource)
    return replace(
        draft,
        dates=triggers.taken(resource, draft.dates, now),
        train_requested_at=stamp(asked) if asked else draft.train_requested_at,
        last_number=max(draft.last_number, number),
    )


def _new_run(
    trigger: Trigger, view: RunView, resource: SocAdapter, draft: _Draft, observed: Observed, wanted: str
) -> RunStatus:
    manifest = view.evidence.manifest
    number = manifest.number if manifest else trigger.number
    if number is None:
        seen = resource.model_copy(
            update={"status": resource.status.model_copy(update={"last_number": draft.last_number})}
        )
        number = run_spec.next_number(seen, replace(observed, versions=draft.recorded))
    return RunStatus(
        run_id=trigger.run_id,
        state=RunState.ABSENT.value,
        training_hash=wanted,
        number=number,
        serving_pool=resource.spec.serving_pool_ref.name,
    )


def _written(
    draft: _Draft, resource: SocAdapter, observed: Observed, problem: Problem | None, wanted: str | None, now: datetime
) -> Plan:
    status = resource.status
    choosable = wanted if problem is None else None
    decision = rollout.decide(resource.spec.rollout, choosable, draft.recorded, status.versions)
    pool_name = status.serving_pool if problem and status.serving_pool else resource.spec.serving_pool_ref.name
    pool = observed.pools.get(pool_name)
    scene = adapter_conditions.Scene(
        generation=resource.metadata.generation,
        problem=problem,
        run=draft.run,
        last_run=draft.last_run,
        decision=decision,
        stable=serving.held(pool, decision.versions.stable),
        previous=serving.held(pool, decision.versions.previous),
        unmet=all(v.spec.training_hash != wanted for v in draft.recorded),
        suspended=resource.spec.suspend,
    )
    stable = decision.versions.stable
    metrics = next((v.spec.metrics for v in draft.recorded if stable and v.spec.version == stable.name), status.metrics)
    written = AdapterStatus(
        observed_generation=resource.metadata.generation,
        conditions=merge(status.conditions, adapter_conditions.build(scene), stamp(now)),
        run=draft.run,
        last_run=draft.last_run,
        versions=decision.versions,
        metrics=metrics,
        last_number=draft.last_number,
        train_requested_at=draft.train_requested_at,
        last_schedule_time=draft.dates.last,
        next_schedule_time=draft.dates.next,
        observed_schedule=draft.dates.observed,
        serving_pool=pool_name if pool is not None else status.serving_pool,
    )
    actions = (*draft.actions, *_forgotten(draft, resource, observed, decision.versions, wanted))
    intent = _intent(written, actions, status)
    return Plan(actions, written, _soonest(draft, scene, problem, now), draft.notes, intent)


def _intent(written: AdapterStatus, actions: tuple[Action, ...], known: AdapterStatus) -> AdapterStatus | None:
    """`known` with the run that is about to start, and what it takes up; None where no run starts, or it is named."""
    run = written.run
    if run is None or not any(isinstance(action, StartRun) for action in actions):
        return None
    if known.run is not None and known.run.run_id == run.run_id:
        return None
    declared = run.model_copy(update={"state": RunState.ABSENT.value, "started_at": ""})
    # Conditions tell what is, not what is meant: they wait until the start was not refused.
    return written.model_copy(
        update={"run": declared, "conditions": known.conditions, "observed_generation": known.observed_generation}
    )


def _forgotten(
    draft: _Draft, resource: SocAdapter, observed: Observed, versions: AdapterVersions, wanted: str | None
) -> tuple[Action, ...]:
    """What `spec.history` lets go. What was recorded just now is not looked at before it is there."""
    current = [run.run_id for run in (draft.run, draft.last_run) if run]
    return (
        *(ForgetVersion(name) for name in history.surplus_versions(resource, observed.versions, versions, wanted)),
        *(ForgetRun(name) for name in history.surplus_runs(resource, observed.ended, observed.versions, current)),
    )


def _soonest(
    draft: _Draft, scene: adapter_conditions.Scene, problem: Problem | None, now: datetime
) -> timedelta | None:
    """When to look again although nothing else asks for it."""
    waits = [draft.requeue_after] if draft.requeue_after is not None else []
    if problem is not None:
        waits.append(course.POLL if problem.waiting else _AFTER_PROBLEM)
    if scene.versions.stable and not scene.stable.enough:
        waits.append(course.POLL)
    tick = parse(draft.dates.next)
    if tick is not None and draft.dates.due is None:
        waits.append(max(tick - now, timedelta(0)))
    return min(waits, default=None)
