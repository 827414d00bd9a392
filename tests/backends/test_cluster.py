"""Which backend a pool of a cluster has, and how long it is kept."""

import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from tests.loopback import Loopback

from socadapter_api.pool import SocServingPool
from socadapter_operator.backends.cluster import UNUSED_S, ClusterBackends
from socadapter_operator.backends.rayjobs import RayJobsBackend
from socadapter_operator.builders.installation import UNKNOWN
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.connection import Connection


class Nowhere:
    """Credentials of an API server that is not there."""

    def connection(self) -> Connection:
        return Connection("http://127.0.0.1:9")

    def refused(self) -> None: ...


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backends(clock: Clock) -> Iterator[ClusterBackends]:
    client = Client(Nowhere())
    made = ClusterBackends(client, UNKNOWN, clock=clock)
    yield made
    made.close()
    client.close()


def pool(name: str = "base", namespace: str = "soc", address: str | None = None) -> SocServingPool:
    spec = {"base": {"uri": "builtin://tiny"}, "store": "/nowhere", "ray": {"address": address} if address else {}}
    return SocServingPool.model_validate({"metadata": {"name": name, "namespace": namespace}, "spec": spec})


def ask(backend: object) -> None:
    """Asks its Ray cluster for a run."""
    assert isinstance(backend, RayJobsBackend)
    backend.runs.active("run")


def test_a_backend_is_kept_while_it_is_asked_for(backends: ClusterBackends, clock: Clock) -> None:
    """By namespace with KubeRay, by pool and address on a Ray cluster; others come and go meanwhile."""
    ray, kuberay = backends(pool(address="http://127.0.0.1:9")), backends(pool())
    assert kuberay is backends(pool("other"))
    for hour in range(3):
        clock.now_s += 0.9 * UNUSED_S
        assert (ray, kuberay) == (backends(pool(address="http://127.0.0.1:9")), backends(pool()))
        backends(pool(f"another-{hour}", address="http://127.0.0.1:9"))


def test_connections_to_a_cluster_that_no_pool_names_are_closed(backends: ClusterBackends, clock: Clock) -> None:
    """Some time after its pool was asked for last, when another is needed; asked for again, it is made anew."""
    left = threading.Event()

    class Dashboard(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def finish(self) -> None:
            super().finish()
            left.set()

        def log_message(self, *_: Any) -> None: ...

    with closing(Loopback(Dashboard)) as ray:
        gone = backends(pool(address=ray.url))
        ask(gone)
        assert not left.is_set()
        clock.now_s = UNUSED_S + 1
        backends(pool("next", address="http://127.0.0.1:9"))
        assert left.wait(10)
        assert gone is not backends(pool(address=ray.url))
