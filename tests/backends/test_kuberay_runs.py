"""What a run's absence takes to be believed: a server that lags must not lead to a second run."""

from collections.abc import Iterator

import pytest
from tests.kube.api_server import Answer, ApiServer, Asked, Fault, status
from tests.kube.conftest import Fixed

from socadapter_operator.backends.kuberay_runs import KubeRayRuns
from socadapter_operator.builders import labels
from socadapter_operator.builders.installation import UNKNOWN
from socadapter_operator.domain.state import RunState
from socadapter_operator.kube.attempts import Patience
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import ADAPTER, RAY_JOB, uid_of

RUN = "cloud-0123456789"
NOTHING_YET = {"kind": "RayJobList", "metadata": {"resourceVersion": "1"}, "items": []}


@pytest.fixture
def server() -> Iterator[ApiServer]:
    running = ApiServer()
    running.served[RAY_JOB.root] = [RAY_JOB.plural]
    yield running
    running.close()


@pytest.fixture
def client(server: ApiServer) -> Iterator[Client]:
    made = Client(Fixed(server.url), patience=Patience(total_s=2.0), sleep=lambda _: None)
    yield made
    made.close()


def start(client: Client) -> None:
    owner = {"kind": ADAPTER.kind, "name": "cloud", "uid": "u", "controller": True}
    about = {"name": RUN, "namespace": "soc", "labels": {labels.RUN: RUN}, "ownerReferences": [owner]}
    client.create(RAY_JOB, {"metadata": about, "spec": {}})


def as_before(times: int) -> Fault:
    """The first `times` reads are answered as they were before the run was started."""
    left = times

    def answer(asked: Asked) -> Answer | None:
        nonlocal left
        if asked.method != "GET" or left == 0:
            return None
        left -= 1
        listed = asked.path == RAY_JOB.path("soc")
        return Answer(200, NOTHING_YET) if listed else status(404, "NotFound", "no such RayJob", RUN)

    return answer


@pytest.mark.parametrize("times", [pytest.param(1, id="an object"), pytest.param(3, id="an object and its list")])
def test_a_server_that_lags_does_not_make_a_run_absent(client: Client, server: ApiServer, times: int) -> None:
    """Neither "not found" nor a list from before the run was started is taken for its end."""
    runs = KubeRayRuns(client, ("soc",), UNKNOWN)
    start(client)
    server.faults.append(as_before(times))
    assert RunState.STARTING is runs.observe(RUN).state
    server.faults[:] = [as_before(times)]
    runs.forget(RUN)
    assert [RUN] == [item["metadata"]["name"] for item in client.list(RAY_JOB, "soc").items]


def test_a_server_that_lags_on_leaves_it_open(client: Client, server: ApiServer) -> None:
    """A run of which nothing new is told is unknown, and not absent."""
    runs = KubeRayRuns(client, ("soc",), UNKNOWN)
    start(client)
    server.faults.append(as_before(1000))
    assert (RunState.UNKNOWN, "ClusterUnavailable") == (runs.observe(RUN).state, runs.observe(RUN).reason)


def test_a_run_that_is_gone_is_absent(client: Client) -> None:
    """One that was deleted, and one that never was."""
    runs = KubeRayRuns(client, ("soc",), UNKNOWN)
    assert RunState.ABSENT is runs.observe(RUN).state
    start(client)
    client.delete(RAY_JOB, "soc", RUN, uid=uid_of(client.get(RAY_JOB, "soc", RUN)))
    assert RunState.ABSENT is runs.observe(RUN).state
