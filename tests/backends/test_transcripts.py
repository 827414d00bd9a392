"""What a real KubeRay wrote, step by step, and what becomes of it in our words. `record_kuberay.py` recorded it."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from tests.backends import transcript
from tests.backends.kuberay import run_scenes, service_scenes
from tests.planner.conftest import World

from socadapter_operator.backends import kuberay_states as states
from socadapter_operator.backends.kuberay_states import Surroundings
from socadapter_operator.builders.rayservice import APP_NAME
from socadapter_operator.domain.state import BackendRun, Evidence, settle

RUN = "cloud-0123456789"
SERVICE = "base"
LONG = f"cloud-{'0' * 50}"
Objects = dict[tuple[str, str], dict[str, Any]]

STARTED = ("Absent", "Starting", "Running")

RUNS: dict[tuple[str, str], tuple[str, ...]] = {
    ("succeeds", RUN): (*STARTED, "Succeeded"),
    ("entrypoint_fails", RUN): (*STARTED, "Failed RunLost"),
    ("interrupted", RUN): (*STARTED, "Failed RunInterrupted"),
    ("stopped", RUN): (*STARTED, "Failed RunInterrupted"),
    # KubeRay goes on saying Running while there is no head; the job begins anew on the next one.
    ("head_dies", RUN): (*STARTED, "Succeeded"),
    ("no_image", RUN): (
        "Absent", "Starting", "Starting ErrImagePull", "Starting ImagePullBackOff", "Failed PreRunningDeadlineExceeded",
    ),
    ("unschedulable", RUN): ("Absent", "Starting", "Starting Unschedulable", "Failed PreRunningDeadlineExceeded"),
    ("over_quota", RUN): ("Absent", "Starting", "Starting QuotaExceeded", "Failed PreRunningDeadlineExceeded"),
    ("suspended", RUN): (
        "Absent", "Queued NoWorkload", "Starting", "Running", "Queued NoWorkload", "Starting", "Running", "Succeeded",
    ),
    ("deleted", RUN): (*STARTED, "Starting Terminating", "Absent"),
    ("adapter_deleted", RUN): (*STARTED, "Starting Terminating", "Absent"),
    # It cannot stop the job without the token, and keeps the RayJob until there is one again.
    ("token_lost", "copy"): (*STARTED, "Starting Terminating", "Absent"),
    ("deadline", RUN): (*STARTED, "Failed DeadlineExceeded"),
    # The deadline before running is over once the cluster is up: who waits for the submitter waits for the active one.
    ("submitter_waits", RUN): ("Absent", "Starting", "Starting Unschedulable", "Failed DeadlineExceeded"),
    ("submitter_fails", RUN): ("Absent", "Starting", "Starting Error", "Failed SubmissionFailed"),
    ("dashboard_silent", RUN): (*STARTED, "Failed RunLost"),
    ("name_too_long", LONG): ("Absent", "Starting", "Failed BackendRejected", "Absent"),
    # Mended, a RayJob that was refused stays so.
    ("spec_refused", "copy"): ("Absent", "Starting", "Failed BackendRejected"),
    ("forgotten", RUN): (*STARTED, "Failed DeadlineExceeded", "Starting Terminating", "Absent"),
    ("resumed", RUN): (*STARTED, "Failed RunLost", "Starting Terminating", *STARTED, "Succeeded"),
}  # fmt: skip
"""By scene and RayJob: the states and reasons of the run, in their order."""

SERVICES: dict[str, tuple[str, ...]] = {
    # While another cluster comes up KubeRay says nothing of the one that serves: the gateway's word counts then.
    "serves": ("Absent", "Starting", "Running", "Starting", "Running", "Absent"),
    "deploy_fails": ("Absent", "Starting", "Failed", "Running"),
    "update_fails": ("Absent", "Starting", "Running", "Failed", "Running"),
    "service_suspended": ("Absent", "Starting", "Running", "Starting Suspended", "Starting", "Running"),
    "service_head_dies": ("Absent", "Starting", "Running", "Starting", "Running"),
    "service_no_image": (
        "Absent", "Starting", "Starting ErrImagePull", "Starting ImagePullBackOff", "Failed InitializingTimeout",
        "Absent", "Starting", "Running",
    ),
    "service_refused": ("Absent", "Starting", "Running", "Running BackendRejected", "Running"),
}  # fmt: skip
"""By scene: what is made of the RayService as long as no gateway answers."""


def told(found: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """States with their reasons, each once where it stays."""
    words = [f"{state} {reason}".strip() for state, reason in found]
    return tuple(word for at, word in enumerate(words) if words[at - 1 : at] != [word])


def runs(scene: str, name: str) -> Iterator[BackendRun]:
    """The run as the operator sees it, after every step."""
    for _, there in transcript.read(scene).states():
        rayjob = there.get(("RayJob", name))
        cluster = (rayjob or {}).get("status", {}).get("rayClusterName", "")
        pods = [item for (kind, _), item in there.items() if kind == "Pod"]
        yield states.run(rayjob, Surroundings(None, there.get(("RayCluster", cluster)), pods))


def services(scene: str, answers: bool) -> Iterator[states.Served]:
    """The service as the operator sees it, after every step. `answers`: as if its gateway always did."""
    for _, there in transcript.read(scene).states():
        pods = [item for (kind, _), item in there.items() if kind == "Pod"]
        yield states.served(there.get(("RayService", SERVICE)), APP_NAME, answers, Surroundings(pods=pods))


def test_every_scene_is_there() -> None:
    """And nothing that no scene recorded."""
    scenes = {scene.__name__ for scene in (*run_scenes.SCENES, *service_scenes.SCENES)}
    assert scenes == {path.stem for path in transcript.FOLDER.glob("*.json")}
    assert scenes == {scene for scene, _ in RUNS} | set(SERVICES)


@pytest.mark.parametrize(("scene", "name"), RUNS, ids=[scene for scene, _ in RUNS])
def test_a_run_goes_through_these_states(scene: str, name: str) -> None:
    """In this order, and through no other."""
    assert RUNS[scene, name] == told([(run.state.value, run.reason) for run in runs(scene, name)])


@pytest.mark.parametrize(
    ("scene", "expected"),
    [
        pytest.param("no_image", ("ErrImagePull", "ImagePullBackOff", "PreRunningDeadlineExceeded"), id="no image"),
        pytest.param("unschedulable", ("Unschedulable", "PreRunningDeadlineExceeded"), id="no node"),
        pytest.param("over_quota", ("QuotaExceeded", "PreRunningDeadlineExceeded"), id="quota"),
        pytest.param("suspended", ("NoWorkload", "Starting", "Running") * 2, id="queue"),
        pytest.param("submitter_waits", ("Unschedulable", "DeadlineExceeded"), id="no node for the submitter"),
    ],
)  # fmt: skip
def test_the_adapter_says_why_it_does_not_run(scene: str, expected: tuple[str, ...]) -> None:
    """Its conditions `Admitted` and `Trained` follow, with the same reason while the run has not ended."""
    world, found = World(), list[tuple[str, str]]()
    world.take(world.plan())
    for run in runs(scene, RUN):
        world.runs = {world.spec_run: settle(run, Evidence())}
        conditions = {one.type: one.reason for one in world.take(world.plan()).status.conditions}
        found.append((conditions["Admitted"], conditions["Trained"]))
    shown = tuple(reason for reason in told([(trained, "") for _, trained in found]) if reason != "ArtifactMissing")
    assert ("Starting", *expected) == shown
    assert all(admitted in (trained, "NoRun") for admitted, trained in found)


@pytest.mark.parametrize("scene", SERVICES)
def test_a_service_goes_through_these_states(scene: str) -> None:
    """While no gateway answers; one that does keeps it Running as long as there is a RayService that is not going."""
    silent = list(services(scene, answers=False))
    assert SERVICES[scene] == told([(served.state.value, served.reason) for served in silent])
    for quiet, heard in zip(silent, services(scene, answers=True), strict=True):
        there = quiet.state.value != "Absent" and quiet.reason != "Suspended"
        assert there == (heard.state.value == "Running"), (quiet, heard)


def test_only_one_that_was_given_up_needs_a_new_service() -> None:
    """KubeRay tries everything else again by itself."""
    terminal = {scene for scene in SERVICES if any(served.terminal for served in services(scene, answers=False))}
    assert {"service_no_image"} == terminal


@pytest.mark.parametrize("scene", sorted({scene for scene, _ in RUNS} | set(SERVICES)))
def test_ray_is_never_asked_without_a_token(scene: str) -> None:
    """Of the dashboard KubeRay asks what it has to, and shows the cluster's token each time."""
    asked = [step["object"] for step in transcript.read(scene).steps if step["kind"] == "Ray"]
    assert all(one["with_token"] for one in asked), asked


def test_a_run_s_token_is_kuberay_s_own_and_goes_with_its_cluster() -> None:
    """A Secret that the RayCluster owns, with one key."""
    made = [
        step["object"]
        for step in transcript.read("succeeds").steps
        if (step["kind"], step["change"]) == ("Secret", "ADDED") and step["object"]["owners"] == ["RayCluster"]
    ]
    assert [["auth_token"]] == [secret["keys"] for secret in made]
