"""Who no longer leads changes nothing on a Ray cluster either."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from tests.kube.conftest import Fixed
from tests.loopback import Loopback

from socadapter_api.errors import LeadershipLost
from socadapter_api.pool import SocServingPool
from socadapter_operator.backends.cluster import ClusterBackends
from socadapter_operator.backends.ray_dashboard import RayDashboard
from socadapter_operator.builders.installation import Installation
from socadapter_operator.kube.client import Client


class Ray:
    """A dashboard that knows one job, which runs, and takes one token."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.token = "right"
        ray = self

        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                ray.asked.append(self.command)
                known = self.headers.get("authorization") in (None, f"Bearer {ray.token}")
                text = json.dumps({"status": "RUNNING"}).encode()
                self.send_response(200 if known else 401)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = do_DELETE = _any  # noqa: N815  names of the base class

            def log_message(self, *_: Any) -> None:
                pass

        self._loopback = Loopback(Handler)
        self.url, self.close = self._loopback.url, self._loopback.close


class Leader:
    """Leads for as long as `left` times."""

    def __init__(self, left: int = 0) -> None:
        self.left = left

    def fence(self) -> None:
        if self.left == 0:
            raise LeadershipLost("another operator may lead by now")
        self.left -= 1


@pytest.fixture
def ray() -> Iterator[Ray]:
    made = Ray()
    yield made
    made.close()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_change_passes_the_fence(ray: Ray, method: str) -> None:
    """A deposed leader's does not leave it; what it reads does."""
    dashboard = RayDashboard(ray.url, lambda: None, fence=Leader(left=1).fence)
    assert dashboard.send(method, "/api/anything").is_success
    with pytest.raises(LeadershipLost):
        dashboard.send(method, "/api/anything")
    assert dashboard.send("GET", "/api/anything").is_success
    assert [method, "GET"] == ray.asked
    dashboard.close()


def test_every_attempt_passes_the_fence(ray: Ray) -> None:
    """Leadership that is lost while a token is read again is lost for the second attempt."""
    tokens = iter(["old", "right"])
    dashboard = RayDashboard(ray.url, lambda: next(tokens), fence=Leader(left=1).fence)
    with pytest.raises(LeadershipLost):
        dashboard.send("PUT", "/api/serve/applications/")
    assert ["PUT"] == ray.asked
    dashboard.close()


def test_backends_have_the_fence_of_their_client(ray: Ray) -> None:
    """The operator that lost its Lease stops no run on a cluster that a pool names."""
    client = Client(Fixed("http://127.0.0.1:9"), fence=Leader().fence)
    backends = ClusterBackends(client, Installation("example.test/train:1", "example.test/serve:1"))
    spec = {"base": {"uri": "builtin://tiny"}, "store": "s3://adapters", "ray": {"address": ray.url}}
    pool = SocServingPool.model_validate({"metadata": {"name": "base", "namespace": "soc"}, "spec": spec})
    with pytest.raises(LeadershipLost):
        backends(pool).stop("cloud-1")
    assert {"GET"} == set(ray.asked)
    backends.close()
    client.close()
