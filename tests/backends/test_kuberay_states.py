"""What KubeRay, Kueue and the kubelet say, mapped: the full product of their words, and one answer to why it waits."""

import itertools
from typing import Any

import pytest

from socadapter_operator.backends import kuberay_states as states
from socadapter_operator.backends.kuberay_states import Surroundings
from socadapter_operator.domain.observed import ServingState
from socadapter_operator.domain.state import RunState

DEPLOYMENTS = (
    "", "Initializing", "Waiting", "Running", "Suspending", "Suspended", "Retrying", "Complete", "Failed",
    "ValidationFailed", "Dreaming",
)  # fmt: skip
JOBS = ("", "PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED", "PAUSED")
REASONS = (
    "", "SubmissionFailed", "DeadlineExceeded", "PreRunningDeadlineExceeded", "AppFailed", "ValidationFailed",
    "JobDeploymentStatusTransitionGracePeriodExceeded", "JobStatusCheckTimeoutExceeded", "Bored",
)  # fmt: skip
SUSPENDED = (False, True)
EVERYTHING = list(itertools.product(DEPLOYMENTS, JOBS, REASONS, SUSPENDED))


def rayjob(deployment: str = "", job: str = "", reason: str = "", suspend: bool = False, **more: Any) -> dict[str, Any]:
    status = {"jobDeploymentStatus": deployment, "jobStatus": job, "reason": reason, "message": "KubeRay's words"}
    return {"metadata": {"name": "r", "uid": "u"}, "spec": {"suspend": suspend}, "status": status, **more}


def conditioned(**conditions: str | tuple[str, str, str]) -> dict[str, Any]:
    """An object with conditions: a status, or status, reason and message."""
    told = {kind: (held, "", "") if isinstance(held, str) else held for kind, held in conditions.items()}
    listed = [{"type": k, "status": s, "reason": r, "message": m} for k, (s, r, m) in told.items()]
    return {"status": {"conditions": listed}}


def pod(container: dict[str, Any] | None = None, scheduled: tuple[str, str, str] | None = None) -> dict[str, Any]:
    conditions = conditioned(**({"PodScheduled": scheduled} if scheduled else {}))["status"]
    return {
        "metadata": {"name": "head"},
        "status": conditions | {"containerStatuses": [{"state": container or {}}]},
    }


def expected(deployment: str, job: str, suspend: bool) -> RunState:
    """The state by the rules of the report: an end is only what KubeRay is done with."""
    if deployment in ("Failed", "ValidationFailed"):
        return RunState.FAILED
    if deployment == "Complete":
        return RunState.SUCCEEDED if job == "SUCCEEDED" else RunState.FAILED
    if deployment in ("Suspended", "Suspending"):
        return RunState.QUEUED
    if deployment == "Running" and job not in ("", "PENDING"):
        return RunState.RUNNING
    if deployment == "Dreaming":
        return RunState.UNKNOWN
    return RunState.QUEUED if suspend else RunState.STARTING


@pytest.mark.parametrize("workload", [None, conditioned(Admitted="True")], ids=["no Workload", "admitted"])
def test_every_rayjob_has_one_state(workload: dict[str, Any] | None) -> None:
    """Over the full product of deployment status, job status, reason and suspension, whatever Kueue says."""
    for deployment, job, reason, suspend in EVERYTHING:
        found = states.run(rayjob(deployment, job, reason, suspend), Surroundings(workload))
        assert expected(deployment, job, suspend) is found.state, (deployment, job, reason, suspend)
        assert bool(found.reason) >= (found.state in (RunState.FAILED, RunState.UNKNOWN))


def test_every_failure_has_one_reason() -> None:
    """What was stopped was interrupted; a rejected spec, or a run beyond its deadline, is not tried again."""
    final = {"DeadlineExceeded": "DeadlineExceeded", "ValidationFailed": "BackendRejected"}
    passing = {name: name for name in ("SubmissionFailed", "PreRunningDeadlineExceeded")}
    for deployment, job, reason, suspend in EVERYTHING:
        found = states.run(rayjob(deployment, job, reason, suspend))
        if found.state is not RunState.FAILED:
            continue
        if deployment == "ValidationFailed":
            why, retryable = "BackendRejected", False
        elif job == "STOPPED":
            why, retryable = "RunInterrupted", True
        elif deployment == "Complete":
            why, retryable = "RunLost", True
        else:
            why, retryable = (final | passing).get(reason, "RunLost"), reason not in final
        assert (why, retryable) == (found.reason, found.retryable), (deployment, job, reason)
        assert found.message


def test_what_is_not_there_is_absent_and_what_goes_is_waited_for() -> None:
    """A RayJob that is being removed, by us or by hand, holds its name until it is gone."""
    assert RunState.ABSENT is states.run(None).state
    for deployment in DEPLOYMENTS:
        leaving = rayjob(deployment, metadata={"name": "r", "deletionTimestamp": "2026-03-01T12:00:00Z"})
        assert (RunState.STARTING, "Terminating") == (states.run(leaving).state, states.run(leaving).reason)


QUOTA = ("False", "Pending", "couldn't assign flavors to pod set head: insufficient quota for cpu")
PREEMPTED = ("True", "Preempted", "preempted to accommodate a workload")
RESERVED = ("True", "QuotaReserved", "quota reserved")


def test_kueue_answers_why_a_run_is_queued() -> None:
    """Over its conditions: admission ends the waiting; quota speaks before an eviction that led to it."""
    answers = {}
    for admitted, reserved, evicted in itertools.product(
        (None, "False", "True"), (None, QUOTA, RESERVED), (None, PREEMPTED)
    ):
        held = {"Admitted": admitted, "QuotaReserved": reserved, "Evicted": evicted}
        workload = conditioned(**{kind: value for kind, value in held.items() if value is not None})
        found = states.run(rayjob("Suspended", suspend=True), Surroundings(workload))
        answers[admitted, reserved and reserved[0], evicted and evicted[1]] = found.reason
        assert RunState.QUEUED is found.state
    for (admitted, reserved_status, evicted_reason), reason in answers.items():
        if admitted == "True":
            assert "" == reason
        elif reserved_status == "False":
            assert "Pending" == reason
        elif evicted_reason:
            assert "Preempted" == reason
        else:
            assert reason == ("AdmissionChecks" if reserved_status == "True" else "WaitingForQuota")


def test_a_queue_that_does_not_exist_is_told() -> None:
    """Suspended, and Kueue has not even made a Workload."""
    found = states.run(rayjob("Suspended", suspend=True))
    assert ("NoWorkload", True) == (found.reason, "LocalQueue" in found.message)


UNSCHEDULABLE = ("False", "Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu")
QUOTA_HIT = ("True", "FailedCreate", 'pods "r-head" is forbidden: exceeded quota: team, requested: cpu=8')
PULL = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "ray:nope"'}}


@pytest.mark.parametrize(
    ("around", "reason", "words"),
    [
        pytest.param(
            Surroundings(pods=[pod(scheduled=UNSCHEDULABLE)]), "Unschedulable", "nvidia.com/gpu", id="no room"
        ),
        pytest.param(Surroundings(pods=[pod(), pod(PULL)]), "ImagePullBackOff", "ray:nope", id="image"),
        pytest.param(
            Surroundings(pods=[pod({"waiting": {"reason": "CreateContainerConfigError", "message": "secret x"}})]),
            "CreateContainerConfigError",
            "secret x",
            id="secret",
        ),
        pytest.param(
            Surroundings(pods=[pod({"terminated": {"reason": "OOMKilled"}})]), "OOMKilled", "OOMKilled", id="memory"
        ),
        pytest.param(
            Surroundings(cluster=conditioned(ReplicaFailure=QUOTA_HIT), pods=[pod(PULL)]),
            "QuotaExceeded",
            "exceeded quota",
            id="quota before pods",
        ),
        pytest.param(Surroundings(pods=[pod({"waiting": {"reason": "ContainerCreating"}})]), "", "KubeRay", id="none"),
    ],
)
def test_pods_answer_why_a_run_does_not_start(around: Surroundings, reason: str, words: str) -> None:
    """The nearest cause; where there is none, KubeRay's own words."""
    found = states.run(rayjob("Initializing"), around)
    assert (RunState.STARTING, reason) == (found.state, found.reason)
    assert words in found.message


def test_a_deadline_before_running_tells_what_it_waited_for() -> None:
    """The pods' reason stands in the message of the failure."""
    stuck = rayjob("Failed", "", "PreRunningDeadlineExceeded")
    found = states.run(stuck, Surroundings(pods=[pod(scheduled=UNSCHEDULABLE)]))
    assert ("PreRunningDeadlineExceeded", True) == (found.reason, found.message.startswith("Unschedulable: "))


APPS = (None, "NOT_STARTED", "DEPLOYING", "DEPLOY_FAILED", "RUNNING", "UNHEALTHY", "DELETING", "MIGRATING")


def rayservice(active: str | None, pending: str | None, **conditions: Any) -> dict[str, Any]:
    def told(status: str | None) -> dict[str, Any]:
        return {"applicationStatuses": {"app": {"status": status, "message": "Serve's words"}}} if status else {}

    made = conditioned(**conditions)
    made["status"] |= {"activeServiceStatus": told(active), "pendingServiceStatus": told(pending)}
    return made


def test_every_rayservice_has_one_state() -> None:
    """Over active and pending application, answers and KubeRay's own Ready, which counts for nothing."""
    silent = {None: "Starting", "NOT_STARTED": "Starting", "DEPLOYING": "Starting", "DEPLOY_FAILED": "Failed",
              "RUNNING": "Running", "UNHEALTHY": "Failed", "DELETING": "Absent", "MIGRATING": "Unknown"}  # fmt: skip
    answering = silent | dict.fromkeys((None, "DEPLOYING", "DEPLOY_FAILED", "UNHEALTHY"), "Running")
    for active, pending, answers, ready in itertools.product(APPS, APPS, (False, True), ("True", "False", "Unknown")):
        found = states.served(rayservice(active, pending, Ready=ready), "app", answers)
        told = (answering if answers else silent)[active or pending]
        assert (told, False) == (found.state.value, found.terminal), (active, pending, answers)
        troubled = answers and told == "Running" and {active, pending} & {"DEPLOY_FAILED", "UNHEALTHY"}
        assert bool(troubled) == (found.reason in ("UpdateFailed", "Unhealthy")), (active, pending, answers)


def test_a_service_that_timed_out_needs_a_new_one() -> None:
    """KubeRay gives it up for good; one that answers is left alone."""
    timed_out = ("False", "InitializingTimeout", "not ready in 600 s")
    assert states.served(rayservice(None, "DEPLOYING", Ready=timed_out), "app", False).terminal
    assert ServingState.RUNNING is states.served(rayservice("RUNNING", None, Ready=timed_out), "app", True).state


def test_a_service_says_why_it_is_not_there() -> None:
    """Absent, going, queued, or waiting for its pods."""
    assert ServingState.ABSENT is states.served(None, "app", False).state
    leaving = rayservice("RUNNING", None) | {"metadata": {"deletionTimestamp": "2026-03-01T12:00:00Z"}}
    assert ServingState.ABSENT is states.served(leaving, "app", True).state
    queued = states.served(
        rayservice(None, None, Suspended="True"), "app", False, Surroundings(conditioned(QuotaReserved=QUOTA))
    )
    assert (ServingState.STARTING, "Pending") == (queued.state, queued.reason)
    stuck = states.served(rayservice(None, None), "app", False, Surroundings(pods=[pod(PULL)]))
    assert (ServingState.STARTING, "ImagePullBackOff") == (stuck.state, stuck.reason)
