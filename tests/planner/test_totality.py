"""Properties of the planner over everything that it may be shown."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from socadapter_api import digest
from socadapter_api.adapter import TRAIN_REQUESTED_AT, AdapterVersions, VersionRef
from socadapter_api.manifest import Outcome
from socadapter_operator.domain.actions import RecordVersion, StartRun, StopRun
from socadapter_operator.domain.observed import RecordedVersion
from socadapter_operator.domain.state import BackendRun, Evidence, Marker, RunState, Verification, settle

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
OTHER_BASE = digest.of_bytes(b"another base")
TIMES = st.sampled_from(["", "2026-03-02T11:00:00Z", "2026-03-03T02:00:00Z", "2019-01-01T00:00:00Z", "not a time"])
SPECS = st.fixed_dictionaries(
    {},
    optional={
        "suspend": st.booleans(),
        "lora": st.fixed_dictionaries({"rank": st.sampled_from([4, 8, 128])}),
        "schedule": st.fixed_dictionaries(
            {
                "cron": st.sampled_from(["0 2 * * *", "* * * * *", "0 2 30 2 *", "nonsense!"]),
                "timeZone": st.sampled_from(["UTC", "Europe/Vienna", "Nowhere/City"]),
                "concurrencyPolicy": st.sampled_from(["Forbid", "Replace"]),
                "startingDeadline": st.sampled_from(["2h", "1ms", "99999999999999999999h"]),
            }
        ),
        "rollout": st.fixed_dictionaries({"mode": st.sampled_from(["Automatic", "Manual", "GitOps"])}),
        "data": st.fixed_dictionaries({"feedback": st.fixed_dictionaries({"minVerdicts": st.integers(1, 50)})}),
        "servingPoolRef": st.fixed_dictionaries({"name": st.sampled_from(["base", "elsewhere", "missing"])}),
    },
)


@st.composite
def worlds(draw: Any, make: Any) -> Any:
    """An adapter in any state, with anything said about its runs."""
    world = make(now=NOW + timedelta(hours=draw(st.integers(-48, 48))))
    versions = [
        world.version(number, base=draw(st.sampled_from([digest.of_bytes(b"base"), OTHER_BASE]))) for number in (1, 2)
    ]
    world.versions = tuple(RecordedVersion(version, draw(st.booleans())) for version in versions if draw(st.booleans()))
    names = [version.spec.version for version in world.versions]
    world.loaded = tuple(name for name in names if draw(st.booleans()))
    world.refused = {name: "DigestMismatch" for name in names if name not in world.loaded and draw(st.booleans())}
    refs = [None, *(VersionRef(name=v.version, digest=v.digest, uri=v.uri) for v in versions)]
    run_ids = [world.spec_run, "an-older-run"]
    runs = [
        None,
        *(
            world.run(run_id, state=state, training_hash=h, attempt=attempt, finished_at=draw(TIMES))
            for run_id in run_ids
            for state in ("Running", "Failed", "Absent")
            for attempt in (0, 6)
            for h in (world.wanted, OTHER_BASE)
        ),
    ]
    world.status = {
        "run": draw(st.sampled_from(runs)),
        "last_run": draw(st.sampled_from(runs)),
        "versions": AdapterVersions(stable=draw(st.sampled_from(refs)), previous=draw(st.sampled_from(refs))),
        "last_number": draw(st.integers(0, 5)),
        "train_requested_at": draw(TIMES),
        "next_schedule_time": draw(TIMES),
        "last_schedule_time": draw(TIMES),
        "observed_schedule": draw(st.sampled_from(["", "0 2 * * * UTC", "* * * * * Europe/Vienna"])),
        "serving_pool": draw(st.sampled_from(["", "base", "elsewhere"])),
    }
    outcomes = [
        world.evidence(outcome, run_id=run_id, retryable=draw(st.booleans()))
        for outcome in Outcome
        for run_id in run_ids
    ]
    refused = [
        Evidence(Marker.SUCCESS, outcomes[0].result, outcomes[0].manifest, check)
        for check in (None, Verification(False, reason="UnsafeFormat"), Verification(False, retryable=True))
    ]
    evidence = st.sampled_from([Evidence(marker) for marker in Marker] + outcomes + refused)
    for run_id in run_ids:
        word = BackendRun(
            draw(st.sampled_from(RunState)),
            draw(st.sampled_from(["", "RunInterrupted", "DiskFull"])),
            "",
            draw(st.booleans()),
        )
        world.runs[run_id] = settle(word, draw(evidence))
    world.pools = {
        "base": world.pool(),
        "elsewhere": world.pool("elsewhere", base=draw(st.sampled_from([OTHER_BASE, None]))),
    }
    world.annotations = {TRAIN_REQUESTED_AT: draw(TIMES)}
    world.verdicts = draw(st.sampled_from([None, 0, 100]))
    world.spec = draw(SPECS)
    world.others = tuple(
        world.adapter(name, context=context)
        for name, context in draw(st.sampled_from([[], [("aaa", "cloud")], [("zzz", "cloud"), ("office", "office")]]))
    )
    return world


TYPES = ("Ready", "Reconciling", "Stalled", "Admitted", "Trained", "Evaluated", "Published", "Serving", "Degraded")


def by_type(plan: Any) -> dict[str, Any]:
    return {condition.type: condition for condition in plan.status.conditions}


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_the_planner_is_total_and_keeps_its_promises(data: st.DataObject, new_world: Any) -> None:
    """Whatever it is shown: it does not raise, it repeats itself, and these never break.

    * `Ready` is not False while the stable or the previous version that it keeps is loaded.
    * `Reconciling` and `Stalled` are not both true.
    * At most one run starts, never beside one that is stopped, and never while suspended.
    * The version number of a new run was never used.
    * What is recorded was verified.
    """
    world = data.draw(worlds(new_world))
    plan = world.plan()
    assert plan == world.plan()
    told = by_type(plan)
    assert set(TYPES) == set(told)
    assert not (told["Reconciling"].status == "True" and told["Stalled"].status == "True")
    kept = {ref.name for ref in (plan.status.versions.stable, plan.status.versions.previous) if ref}
    serves = world.pools.get(plan.status.serving_pool)
    if serves is not None and kept & set(world.loaded):
        assert told["Ready"].status == "True"
    starts = [action for action in plan.actions if isinstance(action, StartRun)]
    stops = [action for action in plan.actions if isinstance(action, StopRun)]
    assert len(starts) <= 1
    assert not (starts and stops)
    if starts:
        assert not world.adapter().spec.suspend
        assert plan.status.run.run_id == starts[0].spec.run_id
        known = [run.run_id for run in (world.status["run"], world.status["last_run"]) if run]
        if starts[0].spec.run_id not in known:
            used = [world.status["last_number"], *(version.spec.number for version in world.versions)]
            assert starts[0].spec.version_number > max(used)
    for action in plan.actions:
        if isinstance(action, RecordVersion):
            assert world.runs[action.version.run_id].evidence.verification.ok


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_an_adapter_settles_when_its_runs_publish(data: st.DataObject, new_world: Any) -> None:
    """From any state, with runs that publish and a spec that can be met, a version of the spec is stable in the end."""
    world = data.draw(worlds(new_world))
    world.spec, world.annotations, world.others = {}, {}, ()
    world.pools = None
    world.versions = tuple(v for v in world.versions if v.spec.base_digest != OTHER_BASE and not v.revoked)
    world.loaded, world.refused = (), {}
    named = {v.spec.version for v in world.versions}
    versions = world.status["versions"]
    roles = {"stable": versions.stable, "previous": versions.previous}
    world.status["versions"] = AdapterVersions(
        **{role: ref for role, ref in roles.items() if ref and ref.name in named}
    )
    for _ in range(20):
        plan = world.take(world.plan())
        for action in plan.actions:
            if isinstance(action, StartRun):
                number = action.spec.version_number
                done = world.evidence(Outcome.PUBLISHED, run_id=action.spec.run_id, number=number)
                world.runs[action.spec.run_id] = settle(BackendRun(RunState.SUCCEEDED), done)
            if isinstance(action, StopRun):
                world.runs[action.run_id] = settle(BackendRun(RunState.FAILED, "RunInterrupted"), Evidence())
            if isinstance(action, RecordVersion):
                world.versions = (*world.versions, RecordedVersion(action.version))
        for run_id, view in list(world.runs.items()):
            checked = view.evidence.verification
            unsure = checked is None or (not checked.ok and checked.retryable)
            if not view.state.is_terminal or (view.state is RunState.SUCCEEDED and unsure):
                world.runs[run_id] = settle(BackendRun(RunState.FAILED), Evidence())
        world.now += timedelta(minutes=6)
    last = world.status["last_run"]
    broken = last is not None and last.training_hash == world.wanted and last.reason not in ("Published", "Superseded")
    stable = world.status["versions"].stable
    assert world.status["run"] is None
    assert broken or stable is not None
