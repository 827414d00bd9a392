"""What the conditions of a `SocAdapter` say.

`Ready` judges serving alone: a failed night never takes it away from a version that answers. `Reconciling` and
`Stalled` follow kstatus and are never true together.
"""

from dataclasses import dataclass

from socadapter_api.adapter import AdapterVersions, RunStatus
from socadapter_api.conditions import Condition, ConditionStatus
from socadapter_api.manifest import Outcome, Progress
from socadapter_operator.domain.problems import PROGRESSING, SETTLED, Problem
from socadapter_operator.domain.rollout import Decision
from socadapter_operator.domain.serving import Held
from socadapter_operator.domain.state import RunState
from socadapter_operator.domain.triggers import SUPERSEDED

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN


@dataclass(frozen=True, slots=True)
class Scene:
    """What the conditions are made from. `unmet`: no version of the spec as it stands exists."""

    generation: int
    problem: Problem | None
    run: RunStatus | None
    last_run: RunStatus | None
    decision: Decision
    stable: Held
    previous: Held
    unmet: bool
    suspended: bool

    @property
    def versions(self) -> AdapterVersions:
        return self.decision.versions

    @property
    def waits_suspended(self) -> bool:
        """The run in progress neither runs nor may start."""
        return self.suspended and self.run is not None and self.run.state in (RunState.ABSENT, RunState.FAILED)

    @property
    def failure(self) -> RunStatus | None:
        """The last run, if it gave no version although it was meant to."""
        last = self.last_run
        good = (Outcome.PUBLISHED.value, Outcome.SKIPPED.value, SUPERSEDED)
        return last if last is not None and last.reason not in good else None


def build(scene: Scene) -> tuple[Condition, ...]:
    """Every condition of the adapter."""
    return (
        _ready(scene),
        _reconciling(scene),
        _stalled(scene),
        _admitted(scene),
        _trained(scene),
        _evaluated(scene),
        _published(scene),
        _serving(scene),
        _degraded(scene),
    )


def _ready(scene: Scene) -> Condition:
    stable, previous = scene.versions.stable, scene.versions.previous
    if stable and scene.stable.enough:
        return _made(scene, "Ready", TRUE, "Serving", f"{stable.name} answers")
    if previous and scene.previous.enough:
        return _made(
            scene, "Ready", TRUE, "ServingPrevious", f"{previous.name} answers while {_name(stable)} is not loaded"
        )
    if stable:
        reason = scene.stable.reason or "Loading"
        return _made(scene, "Ready", FALSE, reason, scene.stable.message or f"{stable.name} is not loaded yet")
    if scene.problem:
        return _made(scene, "Ready", FALSE, scene.problem.reason, scene.problem.message)
    if scene.run:
        return _made(scene, "Ready", FALSE, "Training", _told(scene.run))
    if scene.failure:
        return _made(scene, "Ready", FALSE, scene.failure.reason, scene.failure.message)
    if scene.versions.candidate:
        return _made(
            scene, "Ready", FALSE, "AwaitingApproval", f"{scene.versions.candidate.name} waits for rollout.pin"
        )
    if scene.suspended:
        return _made(scene, "Ready", FALSE, "Suspended", "no version exists, and spec.suspend stops new runs")
    return _made(scene, "Ready", FALSE, "NoVersion", "no version was published yet")


def _reconciling(scene: Scene) -> Condition:
    if _stall(scene) is not None:
        return _made(scene, "Reconciling", FALSE, "Stalled")
    if scene.problem:
        return _made(scene, "Reconciling", TRUE, scene.problem.reason, scene.problem.message)
    if scene.run and not scene.waits_suspended:
        return _made(scene, "Reconciling", TRUE, "Training", _told(scene.run))
    if scene.versions.stable and not scene.stable.enough:
        return _made(scene, "Reconciling", TRUE, "Loading", f"{scene.versions.stable.name} is being loaded")
    return _made(scene, "Reconciling", FALSE, SETTLED)


def _stalled(scene: Scene) -> Condition:
    stall = _stall(scene)
    if stall is None:
        return _made(scene, "Stalled", FALSE, SETTLED if scene.run is None else PROGRESSING)
    return _made(scene, "Stalled", TRUE, *stall)


def _stall(scene: Scene) -> tuple[str, str] | None:
    """Reason and message of what only a person can mend."""
    if scene.problem and not scene.problem.waiting:
        return scene.problem.reason, scene.problem.message
    if scene.decision.reason:
        return scene.decision.reason, scene.decision.message
    if scene.run is None and scene.failure and scene.unmet:
        return scene.failure.reason, scene.failure.message
    if scene.run is None and scene.stable.reason and not scene.stable.enough:
        return scene.stable.reason, scene.stable.message
    return None


def _admitted(scene: Scene) -> Condition:
    """Whether the run in progress runs, and why it does not: queue, quota, node, image, or a fault in the spec."""
    run = scene.run
    if run is None or run.state in (RunState.ABSENT, RunState.FAILED):
        if scene.problem:
            return _made(scene, "Admitted", FALSE, scene.problem.reason, scene.problem.message)
        if scene.suspended:
            return _made(scene, "Admitted", FALSE, "Suspended", "spec.suspend stops new runs")
    if run is None:
        return _made(scene, "Admitted", UNKNOWN, "NoRun")
    if run.state == RunState.RUNNING:
        return _made(scene, "Admitted", TRUE, "Running", f"run {run.run_id} is running")
    held = UNKNOWN if run.state in (RunState.UNKNOWN, RunState.SUCCEEDED) else FALSE
    return _made(scene, "Admitted", held, run.reason or run.state, run.message)


def _trained(scene: Scene) -> Condition:
    last = scene.last_run
    if scene.run and (last is None or last.training_hash != scene.run.training_hash):
        return _made(scene, "Trained", UNKNOWN, scene.run.reason or scene.run.state, _told(scene.run))
    if last is None:
        reason = scene.problem.reason if scene.problem else "Pending"
        return _made(scene, "Trained", UNKNOWN, reason, scene.problem.message if scene.problem else "")
    if last.reason == SUPERSEDED:
        return _made(scene, "Trained", UNKNOWN, last.reason, last.message)
    trained = last.reason in (Outcome.PUBLISHED.value, Outcome.SKIPPED.value)
    return _made(scene, "Trained", TRUE if trained else FALSE, last.reason, last.message)


def _evaluated(scene: Scene) -> Condition:
    last = scene.last_run
    if last is not None and last.reason == Outcome.PUBLISHED.value:
        return _made(scene, "Evaluated", TRUE, "GatesPassed", _gates(last))
    if last is not None and last.reason == Outcome.GATE_FAILED.value:
        return _made(scene, "Evaluated", FALSE, last.reason, _gates(last) or last.message)
    return _made(scene, "Evaluated", UNKNOWN, "NotEvaluated")


def _published(scene: Scene) -> Condition:
    last = scene.last_run
    if last is not None and last.reason == Outcome.PUBLISHED.value:
        return _made(scene, "Published", TRUE, "Verified", last.message)
    if scene.versions.stable:
        return _made(scene, "Published", TRUE, "Verified", f"{scene.versions.stable.name} is the last good version")
    if scene.failure:
        return _made(scene, "Published", FALSE, scene.failure.reason, scene.failure.message)
    return _made(scene, "Published", UNKNOWN, "NoVersion")


def _serving(scene: Scene) -> Condition:
    stable = scene.versions.stable
    if stable is None:
        return _made(scene, "Serving", FALSE, "NoVersion")
    told = f"{stable.name} is held by {scene.stable.ready} replicas of the {scene.stable.needed} needed"
    if scene.stable.enough:
        return _made(scene, "Serving", TRUE, "Loaded", told)
    return _made(scene, "Serving", FALSE, scene.stable.reason or "Loading", scene.stable.message or told)


def _degraded(scene: Scene) -> Condition:
    if scene.failure:
        return _made(scene, "Degraded", TRUE, scene.failure.reason, scene.failure.message)
    if scene.problem and not scene.problem.waiting:
        return _made(scene, "Degraded", TRUE, scene.problem.reason, scene.problem.message)
    if scene.stable.reason and not scene.stable.enough:
        return _made(scene, "Degraded", TRUE, scene.stable.reason, scene.stable.message)
    return _made(scene, "Degraded", FALSE, "Healthy")


def _made(scene: Scene, kind: str, status: ConditionStatus, reason: str, message: str = "") -> Condition:
    return Condition(
        type=kind, status=status, reason=reason or "Unknown", message=message, observed_generation=scene.generation
    )


def _name(version: object) -> str:
    return getattr(version, "name", "") or "no stable version"


def _gates(run: RunStatus) -> str:
    return "; ".join(
        f"{gate.metric} {'-' if gate.value is None else format(gate.value, '.3f')} ({gate.rule}): "
        f"{'passed' if gate.passed else 'failed'}"
        for gate in run.gates
    )


def _told(run: RunStatus) -> str:
    where = _progress(run.progress) if run.progress and run.state == RunState.RUNNING else run.message
    why = f" ({run.reason})" if run.reason else ""
    return f"run {run.run_id} is {run.state}{why}{f': {where}' if where else ''}"


def _progress(progress: Progress) -> str:
    figures = [f"step {progress.step} of {progress.steps}"] if progress.steps else []
    figures += [f"reward {progress.reward:.2f}"] if progress.reward is not None else []
    figures += [f"about {progress.eta_s:.0f} s left"] if progress.eta_s is not None else []
    return ", ".join([progress.stage.value, *figures])
