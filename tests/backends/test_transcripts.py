"""What a real KubeRay wrote, step by step, and what becomes of it in our words. `record_kuberay.py` recorded it."""

from collections.abc import Iterator
from typing import Any

from tests.backends import transcript
from tests.planner.conftest import World

from socadapter_operator.backends import kuberay_states as states
from socadapter_operator.backends.kuberay_states import Surroundings
from socadapter_operator.domain.state import BackendRun, Evidence, settle

RUN = "cloud-0123456789"
APP = "socadapter"
Objects = dict[tuple[str, str], dict[str, Any]]


def seen(there: Objects, name: str = RUN) -> BackendRun:
    """The run as the operator sees it, with the objects that are `there`."""
    rayjob = there.get(("RayJob", name))
    cluster = (rayjob or {}).get("status", {}).get("rayClusterName", "")
    pods = [item for (kind, _), item in there.items() if kind == "Pod"]
    return states.run(rayjob, Surroundings(None, there.get(("RayCluster", cluster)), pods))


def told(scene: str, name: str = RUN) -> Iterator[tuple[str, BackendRun]]:
    """What was done last, and the run, whenever its state or reason is another."""
    said, before = "", None
    for step, there in transcript.read(scene).states():
        if step["kind"] == "Scene":
            said = step["object"]["said"]
            continue
        run = seen(there, name)
        if (run.state, run.reason) != before:
            before = (run.state, run.reason)
            yield said, run


def words(scene: str, name: str = RUN) -> list[str]:
    """The states of a run in their order, with their reasons."""
    return [f"{run.state.value} {run.reason}".strip() for _, run in told(scene, name)]


def trained(scene: str) -> list[str]:
    """What the adapter's condition Trained says about the run, in order; the message is left out."""
    world, found = World(), list[str]()
    world.take(world.plan())
    for _, run in told(scene):
        world.runs = {world.spec_run: settle(run, Evidence())}
        plan = world.take(world.plan())
        condition = next(one for one in plan.status.conditions if one.type == "Trained")
        line = f"{condition.status.value} {condition.reason}"
        found += [] if found[-1:] == [line] else [line]
    return found
