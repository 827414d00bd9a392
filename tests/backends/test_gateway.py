"""What a gateway tells the operator, also where the operator has not the right token for it."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from tests.loopback import Loopback

from socadapter_api.errors import BackendUnavailable, RayTokenRefused
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ReplicaReport
from socadapter_operator.backends.credentials import Credentials
from socadapter_operator.backends.gateway import Gateways, Sight
from socadapter_operator.domain.observed import ServingState

REPORTS = (ReplicaReport(replica="r0", generation=3),)


class Gateway:
    """A gateway with one replica and one token."""

    def __init__(self) -> None:
        self.token = "first"
        self.ready = True
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("authorization")
                if self.path == "/readyz":
                    self._answer(200 if gateway.ready else 503, {})
                elif asked != f"Bearer {gateway.token}":
                    self._answer(401, {})
                else:
                    self._answer(200, {"replicas": [report.model_dump(mode="json") for report in REPORTS]})

            def _answer(self, code: int, body: object) -> None:
                text = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None: ...

        self._loopback = Loopback(Handler)
        self.url = self._loopback.url

    def close(self) -> None:
        self._loopback.close()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    made = Gateway()
    yield made
    made.close()


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The folder of the callers' tokens."""
    made = tmp_path / "secrets" / "soar"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def gateways(secrets: Path) -> Iterator[Gateways]:
    made = Gateways(Credentials(secrets.parents[1]))
    yield made
    made.close()


def pool(endpoint: str, *keys: str) -> SocServingPool:
    """A pool with a caller for each of `keys`, which answered at `endpoint` when it was looked at last."""
    callers = [{"name": key, "tokenSecretRef": {"name": "soar", "key": key}} for key in keys]
    spec = {"base": {"uri": "builtin://tiny"}, "store": "/store", "callers": callers}
    made = SocServingPool.model_validate({"metadata": {"name": "base", "namespace": "soc"}, "spec": spec})
    return made.model_copy(
        update={"status": made.status.model_copy(update={"endpoint": endpoint, "replicas": REPORTS})}
    )


def test_any_caller_s_token_will_do(gateway: Gateway, gateways: Gateways, secrets: Path) -> None:
    """Where one is missing or old, the next is tried."""
    (secrets / "old").write_text("old")
    (secrets / "good").write_text("first")
    assert Sight(True, REPORTS) == gateways.look(pool(gateway.url, "missing", "old", "good"), gateway.url)


@pytest.mark.parametrize(
    ("token", "reason"),
    [pytest.param(None, "SecretNotFound", id="a missing token"), pytest.param("second", "Unauthorized", id="rotated")],
)
def test_a_service_goes_on_without_the_operator_s_token(
    gateway: Gateway, gateways: Gateways, secrets: Path, token: str | None, reason: str
) -> None:
    """An engine answers, which anybody is told; what the replicas hold is what they told last."""
    if token is not None:
        (secrets / "token").write_text(token)
    seen = gateways.look(pool(gateway.url, "token"), gateway.url)
    assert (True, REPORTS, reason) == (seen.answers, seen.reports, seen.reason)
    gateway.ready = False
    assert Sight() == gateways.look(pool(gateway.url, "token"), gateway.url)


def test_nobody_there_is_nobody_there(gateway: Gateway, gateways: Gateways) -> None:
    """Whatever was told last."""
    endpoint = gateway.url
    gateway.close()
    assert Sight() == gateways.look(pool(endpoint), endpoint)


@pytest.mark.parametrize(
    ("error", "hidden"),
    [
        pytest.param(BackendUnavailable("the dashboard is silent"), ServingState.UNKNOWN, id="a silent dashboard"),
        pytest.param(RayTokenRefused("the token is another"), ServingState.ABSENT, id="a refused token"),
    ],
)
def test_a_pool_out_of_sight_is_asked_where_it_answered(
    gateway: Gateway, gateways: Gateways, secrets: Path, error: Any, hidden: ServingState
) -> None:
    """It serves, and nothing more can be said; where it does not answer either, nobody knows."""
    (secrets / "token").write_text("first")
    view = gateways.unseen(pool(gateway.url, "token"), error)
    assert (ServingState.RUNNING, True, REPORTS, error.reason) == (view.state, view.unseen, view.reports, view.reason)
    view = gateways.unseen(pool("", "token"), error)
    assert (hidden, False, (), error.reason) == (view.state, view.unseen, view.reports, view.reason)
