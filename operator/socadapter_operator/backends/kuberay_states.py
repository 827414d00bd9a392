"""What KubeRay, Kueue and the kubelet say about a run and a service, in our words. Pure: tables over raw JSON.

A RayJob has no conditions and no observed generation: `jobDeploymentStatus` says whether KubeRay is done with it, and
only then `jobStatus` counts. `jobStatus` may stay at RUNNING for ever beside a deployment that failed, and STOPPED
beside one that is complete is no success. Words as in KubeRay v1.7, ``rayjob_types.go`` and ``rayservice_types.go``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from socadapter_operator.backends import ray_states
from socadapter_operator.domain.observed import ServingState
from socadapter_operator.domain.state import RUN_LOST, BackendRun, RunState

Raw = Mapping[str, Any]

BACKEND_REJECTED = "BackendRejected"
TERMINATING = "Terminating"
NO_WORKLOAD = "NoWorkload"
_MESSAGE_CHARACTERS = 1000
_BEGINNING = 200

_ACTIVE: dict[str, RunState] = {
    "": RunState.STARTING,
    "Initializing": RunState.STARTING,
    "Waiting": RunState.STARTING,
    "Retrying": RunState.STARTING,
    "Running": RunState.RUNNING,
    "Suspending": RunState.QUEUED,
    "Suspended": RunState.QUEUED,
}

_COMPLETE: dict[str, BackendRun] = {
    "SUCCEEDED": BackendRun(RunState.SUCCEEDED),
    "STOPPED": ray_states.INTERRUPTED,
}

_WHY_FAILED: dict[str, tuple[str, bool]] = {
    # What KubeRay says, our reason for it, and whether trying again can help.
    "SubmissionFailed": ("SubmissionFailed", True),
    "PreRunningDeadlineExceeded": ("PreRunningDeadlineExceeded", True),
    "DeadlineExceeded": ("DeadlineExceeded", False),
    "ValidationFailed": (BACKEND_REJECTED, False),
}

ENDS = frozenset(why for why, _ in _WHY_FAILED.values())
"""The reasons for which a run ends that KubeRay ended."""

_NOT_STARTED_YET = ("", "PENDING")
_INTERRUPTED_WORDS = re.compile(rf"\bexit code {ray_states.INTERRUPTED_EXIT_CODE}\b")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is seen around a RayJob or RayService: Kueue's Workload, the RayCluster, the pods."""

    workload: Raw | None = None
    cluster: Raw | None = None
    pods: Sequence[Raw] = ()


def run(rayjob: Raw | None, around: Surroundings = Surroundings()) -> BackendRun:
    """A RayJob as a run. Where it is not running, reason and message answer why, from what is nearest to the cause."""
    if rayjob is None:
        return BackendRun()
    if _part(rayjob, "metadata").get("deletionTimestamp"):
        return BackendRun(RunState.STARTING, TERMINATING, "the RayJob of the attempt before is being removed")
    status = _part(rayjob, "status")
    found = _of_status(
        str(status.get("jobDeploymentStatus") or ""),
        str(status.get("jobStatus") or ""),
        str(status.get("reason") or ""),
    )
    if found.state is RunState.STARTING and _part(rayjob, "spec").get("suspend"):
        found = replace(found, state=RunState.QUEUED)
    told = str(status.get("message") or "")
    if status.get("reason") == "AppFailed" and _INTERRUPTED_WORDS.search(told[:_BEGINNING]):
        return ray_states.INTERRUPTED
    said = _both_ends(told)
    if found.state is RunState.QUEUED:
        return _because(found, why_queued(around.workload), said)
    if found.state is RunState.STARTING:
        return _because(found, why_waiting(around), said)
    if found.state is RunState.FAILED and found.reason == "PreRunningDeadlineExceeded" and not found.message:
        reason, message = why_waiting(around) or ("", said)
        return replace(found, message=f"{reason}: {message}" if reason else message)
    return replace(found, message=said) if found.state is RunState.FAILED and not found.message else found


def _of_status(deployment: str, job: str, reason: str) -> BackendRun:
    """The table: `jobDeploymentStatus` x `jobStatus` x `reason`."""
    if deployment == "Complete":
        return _COMPLETE.get(job, BackendRun(RunState.FAILED, RUN_LOST))
    if deployment == "Failed":
        if job == "STOPPED":
            return ray_states.INTERRUPTED
        why, retryable = _WHY_FAILED.get(reason, (RUN_LOST, True))
        return BackendRun(RunState.FAILED, why, retryable=retryable)
    if deployment == "ValidationFailed":
        return BackendRun(RunState.FAILED, BACKEND_REJECTED, retryable=False)
    state = _ACTIVE.get(deployment)
    if state is None:
        return BackendRun(RunState.UNKNOWN, ray_states.UNKNOWN_STATUS, f"KubeRay reports the RayJob as {deployment!r}")
    return BackendRun(RunState.STARTING if state is RunState.RUNNING and job in _NOT_STARTED_YET else state)


def why_queued(workload: Raw | None) -> tuple[str, str] | None:
    """Kueue's reason and words for not admitting a job; None where it has admitted it."""
    if workload is None:
        return NO_WORKLOAD, "Kueue has made no Workload of it: is Kueue running, and is there such a LocalQueue?"
    conditions = _conditions(workload)
    if _holds(conditions, "Admitted"):
        return None
    reserved, evicted = conditions.get("QuotaReserved", {}), conditions.get("Evicted", {})
    if reserved.get("status") == "False":
        return str(reserved.get("reason") or "WaitingForQuota"), str(reserved.get("message") or "")
    if evicted.get("status") == "True":
        return str(evicted.get("reason") or "Evicted"), str(evicted.get("message") or "")
    if reserved.get("status") == "True":
        return "AdmissionChecks", "quota is reserved; admission checks are not through yet"
    return "WaitingForQuota", "Kueue has not looked at it yet"


_HARMLESS = frozenset({"", "ContainerCreating", "PodInitializing"})


def why_waiting(around: Surroundings) -> tuple[str, str] | None:
    """Why pods that should run do not: refused by quota, not scheduled, or stuck at their image or configuration."""
    return _refused_pods(around.cluster) or _first(_why_pod_waits(pod) for pod in around.pods)


def _refused_pods(cluster: Raw | None) -> tuple[str, str] | None:
    failure = _conditions(cluster or {}).get("ReplicaFailure", {})
    if failure.get("status") != "True":
        return None
    message = str(failure.get("message") or "")
    return "QuotaExceeded" if "exceeded quota" in message else str(failure.get("reason") or "FailedCreate"), message


def _why_pod_waits(pod: Raw) -> tuple[str, str] | None:
    status, name = _part(pod, "status"), _part(pod, "metadata").get("name", "")
    scheduled = _conditions(pod).get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return str(scheduled.get("reason") or "Unschedulable"), f"pod {name}: {scheduled.get('message') or ''}"
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        for phase in ("waiting", "terminated"):
            held = _part(_part(container, "state"), phase) or _part(_part(container, "lastState"), phase)
            if held.get("reason", "") not in _HARMLESS | {"Completed"}:
                return str(held["reason"]), f"pod {name}: {held.get('message') or held['reason']}"
    return None


@dataclass(frozen=True, slots=True)
class Served:
    """A RayService as serving: where it is, and why it is not further. `terminal`: only a new RayService helps."""

    state: ServingState
    reason: str = ""
    message: str = ""
    terminal: bool = False


def served(rayservice: Raw | None, app: str, answers: bool, around: Surroundings = Surroundings()) -> Served:
    """A RayService as serving. `answers`: the gateway told what its replicas hold; KubeRay's `Ready` can lie."""
    if rayservice is None or _part(rayservice, "metadata").get("deletionTimestamp"):
        return Served(ServingState.ABSENT)
    conditions = _conditions(rayservice)
    if _holds(conditions, "Suspended") or _holds(conditions, "Suspending"):
        why = why_queued(around.workload) if around.workload is not None else None
        return Served(ServingState.STARTING, *(why or ("Suspended", "the RayService is suspended")))
    status = _part(rayservice, "status")
    active, pending = (_application(status, which, app) for which in ("activeServiceStatus", "pendingServiceStatus"))
    told = active or pending
    # While another cluster comes up, KubeRay tells nothing of the applications of the one that serves.
    unknown = ServingState.RUNNING if answers else ServingState.STARTING
    state = ray_states.serving(str(told["status"]), answers) if told.get("status") else unknown
    ready = conditions.get("Ready", {})
    if ready.get("reason") == "ValidationFailed":
        running = state is ServingState.RUNNING
        return Served(ServingState.RUNNING if running else ServingState.FAILED, BACKEND_REJECTED, str(ready["message"]))
    if state is not ServingState.RUNNING and ready.get("reason") == "InitializingTimeout":
        message = str(ready.get("message") or "")
        return Served(ServingState.FAILED, "InitializingTimeout", message, terminal=True)
    if state is ServingState.RUNNING:
        broken = next((found for found in (active, pending) if ray_states.is_broken(found.get("status"))), {})
        return Served(state, ray_states.trouble(broken.get("status"), answers), _end_of(broken))
    if state is ServingState.STARTING:
        return Served(state, *(why_waiting(around) or ("", str(told.get("message") or ""))))
    return Served(state, message=_end_of(told))


def _end_of(application: Raw) -> str:
    return str(application.get("message") or "")[-_MESSAGE_CHARACTERS:]


def _application(status: Raw, which: str, app: str) -> Raw:
    return _part(_part(_part(status, which), "applicationStatuses"), app)


def _because(found: BackendRun, why: tuple[str, str] | None, said: str) -> BackendRun:
    reason, message = why or (found.reason, said)
    return replace(found, reason=reason, message=message[:_MESSAGE_CHARACTERS])


def _both_ends(told: str) -> str:
    """`told`, or its beginning and its end: Ray puts the last of a run's log behind how it ended."""
    if len(told) <= _MESSAGE_CHARACTERS:
        return told
    return f"{told[:_BEGINNING]} ... {told[-(_MESSAGE_CHARACTERS - _BEGINNING - 5) :]}"


def _part(held: Raw, name: str) -> Raw:
    found = held.get(name)
    return found if isinstance(found, Mapping) else {}


def _conditions(held: Raw) -> dict[str, Raw]:
    listed = _part(held, "status").get("conditions") or ()
    return {str(condition.get("type")): condition for condition in listed if isinstance(condition, Mapping)}


def _holds(conditions: Mapping[str, Raw], kind: str) -> bool:
    return conditions.get(kind, {}).get("status") == "True"


def _first(found: Iterable[tuple[str, str] | None]) -> tuple[str, str] | None:
    return next((one for one in found if one is not None), None)
