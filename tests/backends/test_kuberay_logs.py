"""The log of a pool that KubeRay serves, over a small API server: no pod runs on the real one of the tests."""

from collections.abc import Iterator

import pytest
from tests.kube.api_server import Answer, ApiServer, Asked, Json, status
from tests.kube.conftest import Fixed

from socadapter_api.pool import SocServingPool
from socadapter_operator.backends.kuberay import KubeRayBackend
from socadapter_operator.builders.installation import Installation
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import POD

BODY = {"base": {"uri": "builtin://tiny"}, "store": "s3://adapters"}
POOL = SocServingPool.model_validate({"metadata": {"name": "base", "namespace": "soc", "uid": "u"}, "spec": BODY})


@pytest.fixture
def server() -> Iterator[ApiServer]:
    running = ApiServer()
    yield running
    running.close()


@pytest.fixture
def backend(server: ApiServer) -> Iterator[KubeRayBackend]:
    client = Client(Fixed(server.url))
    made = KubeRayBackend(client, "soc", Installation("", ""))
    yield made
    made.close()
    client.close()


def kubelet(asked: Asked) -> Answer | None:
    """Logs of containers that have started."""
    if not asked.path.endswith("/log"):
        return None
    pod, container = asked.path.split("/")[-2], asked.parameters["container"]
    if "waiting" in container:
        return status(400, "BadRequest", f"container {container} is waiting to start")
    return Answer(body=f"{pod} began\n{pod} serves\n")


@pytest.mark.parametrize("follow", [False, True])
def test_every_container_that_started_is_read(server: ApiServer, backend: KubeRayBackend, follow: bool) -> None:
    """Head and workers by name; one that waits has no log yet, and is no error."""
    assert [] == list(backend.pool_logs(POOL, follow=follow))
    server.faults.append(kubelet)
    states: dict[str, Json] = {
        "base-head": {"running": {}},
        "base-old": {"terminated": {}},
        "base-waiting": {"waiting": {}},
    }
    for name, state in states.items():
        told = {"containerStatuses": [{"name": f"ray-{name}", "state": state}]}
        server.put(POD.path("soc", name), {"metadata": {"name": name, "namespace": "soc"}, "status": told})
    read = list(backend.pool_logs(POOL, follow=follow))
    expected = [f"{pod} ray-{pod} | {pod} {did}" for pod in ("base-head", "base-old") for did in ("began", "serves")]
    assert expected == (sorted(read) if follow else read)
    (asked, *_) = [asked for asked in server.asked if asked.path == POD.path("soc")]
    assert "socadapter.io/pool=base" == asked.parameters["labelSelector"]
