"""When a status is written: what is news at once, how far a run is no more than twice a minute."""

from datetime import timedelta

import pytest
from tests.kube.api_server import ApiServer
from tests.shell.conftest import Clock

from socadapter_api import digest
from socadapter_api.adapter import AdapterStatus, SocAdapter
from socadapter_api.conditions import Condition, ConditionStatus
from socadapter_api.manifest import Progress, Stage
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import ADAPTER, Object
from socadapter_operator.shell.status_writer import PROGRESS_EVERY, StatusWriter

PATH = ADAPTER.path("soc", "cloud")
EVERY_S = PROGRESS_EVERY.total_seconds()


class Training:
    """An adapter that trains, and what is written of it."""

    def __init__(self, server: ApiServer, client: Client, clock: Clock) -> None:
        server.served["/apis/socadapter.io/v1alpha1"] = ["socadapters"]
        spec = {"context": "cloud", "servingPoolRef": {"name": "base"}, "data": {"alerts": [{"uri": "a.jsonl"}]}}
        body = {"apiVersion": ADAPTER.api_version, "kind": ADAPTER.kind, "spec": spec}
        server.put(PATH, {**body, "metadata": {"name": "cloud", "namespace": "soc"}})
        self.server = server
        self.clock = clock
        self.writer = StatusWriter(client, clock)

    def write(self, step: int, state: str = "Running") -> timedelta | None:
        """Plans a status on what is stored, and gives it to the writer."""
        held = self.server.objects[PATH]
        adapter = SocAdapter.model_validate({key: value for key, value in held.items() if key != "apiVersion"})
        return self.writer.write(adapter, status(step, state))

    @property
    def written(self) -> tuple[str, int]:
        """The state and the step that everybody sees."""
        run: Object = self.server.objects[PATH]["status"]["run"]
        return str(run["state"]), int(run["progress"]["step"])

    @property
    def writes(self) -> int:
        return sum(asked.method == "PATCH" for asked in self.server.asked)


def status(step: int, state: str) -> AdapterStatus:
    """A run in `state` that has done `step` steps, as conditions tell it, too."""
    told = Condition(type="Reconciling", status=ConditionStatus.TRUE, reason="Training", message=f"step {step} of 90")
    run = {
        "runId": "cloud-1",
        "state": state,
        "trainingHash": digest.of_bytes(b"wanted"),
        "number": 1,
        "progress": Progress(stage=Stage.SFT, step=step, steps=90, at=1000.0 + step),
    }
    return AdapterStatus.model_validate({"conditions": (told,), "run": run})


@pytest.fixture
def training(server: ApiServer, client: Client, clock: Clock) -> Training:
    made = Training(server, client, clock)
    assert made.write(0) is None
    return made


def test_progress_waits_and_is_written_when_its_time_has_come(training: Training) -> None:
    """A look each second writes nothing and says how long is left; then what is the latest by now is written, once."""
    for second in range(1, int(EVERY_S)):
        training.clock.at += 1
        assert timedelta(seconds=EVERY_S - second) == training.write(second)
    assert (("Running", 0), 1) == (training.written, training.writes)
    training.clock.at += 1
    assert training.write(30) is None
    assert (("Running", 30), 2) == (training.written, training.writes)
    assert PROGRESS_EVERY == training.write(31)


def test_news_does_not_wait(training: Training) -> None:
    """Another state is written at once, with the progress of the moment, and the pause begins anew from there."""
    training.clock.at += 1
    assert training.write(1) is not None
    assert training.write(1, "Interrupted") is None
    assert (("Interrupted", 1), 2) == (training.written, training.writes)
    training.clock.at += EVERY_S - 1
    assert timedelta(seconds=1) == training.write(2, "Interrupted")


def test_what_is_the_same_is_not_written(training: Training) -> None:
    """However much later."""
    training.clock.at += 10 * EVERY_S
    assert training.write(0) is None
    assert 1 == training.writes


def test_another_process_may_write_once(training: Training, client: Client) -> None:
    """A successor knows of no earlier write: it may write progress at once, and not again."""
    training.clock.at += 1
    training.writer = StatusWriter(client, training.clock)
    assert training.write(1) is None
    training.clock.at += 1
    assert timedelta(seconds=EVERY_S - 1) == training.write(2)
