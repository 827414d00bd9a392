"""The REST client against a real HTTP server: tokens that rotate, every kind of refusal, nothing there at all."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from socadapter_api.errors import BackendUnavailable, RayTokenRefused, SecretNotFound, SocAdapterError, SpecError
from socadapter_operator.backends.ray_dashboard import RayDashboard
from socadapter_operator.backends.ray_runs import RayRuns
from socadapter_operator.domain.state import RunState


@dataclass
class Dashboard:
    """A server that answers as `answer` says and wants `token`."""

    token: str = "right"
    answer: tuple[int, str] = (200, "{}")
    shown: list[str | None] = field(default_factory=list)
    location: str = ""

    def __post_init__(self) -> None:
        dashboard = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                dashboard.shown.append(self.headers.get("authorization"))
                status, text = dashboard.answer
                if self.headers.get("authorization") != f"Bearer {dashboard.token}":
                    status, text = (403, "Forbidden") if self.headers.get("authorization") else (401, "Unauthorized")
                self.send_response(status)
                if dashboard.location:
                    self.send_header("location", dashboard.location)
                self.send_header("content-length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            do_POST = do_PUT = do_GET  # noqa: N815  names of the base class

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def end(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    made = Dashboard()
    yield made
    made.end()


@pytest.fixture
def client_of(dashboard: Dashboard) -> Iterator[Callable[..., RayDashboard]]:
    made: list[RayDashboard] = []

    def make(read: Callable[[], str | None] = lambda: "right") -> RayDashboard:
        made.append(RayDashboard(f"{dashboard.url}/", read))
        return made[-1]

    yield make
    for client in made:
        client.close()


def test_a_rotated_token_is_read_again_once(dashboard: Dashboard, client_of: Callable[..., RayDashboard]) -> None:
    """The Secret is asked at the first request and after a refusal, and the request goes out again."""
    tokens = ["right"]
    reads = []

    def read() -> str:
        reads.append(tokens[0])
        return tokens[0]

    client = client_of(read)
    for _ in range(3):
        assert {} == client.get("/api/jobs/a")
    assert ["right"] == reads
    dashboard.token = tokens[0] = "rotated"
    assert {} == client.get("/api/jobs/a")
    assert (["right", "rotated"], "Bearer rotated") == (reads, dashboard.shown[-1])


@pytest.mark.parametrize(
    ("token", "said"), [pytest.param("wrong", "403", id="wrong"), pytest.param(None, "401", id="none")]
)
def test_a_refused_token_has_its_own_reason(
    client_of: Callable[..., RayDashboard], dashboard: Dashboard, token: str | None, said: str
) -> None:
    """Two requests, then an error that names the field to mend and not the token."""
    with pytest.raises(RayTokenRefused, match=r"ray\.tokenSecretRef") as error:
        client_of(lambda: token).get("/api/jobs/a")
    assert said in str(error.value)
    assert "wrong" not in str(error.value)
    assert 2 == len(dashboard.shown)


def test_a_missing_secret_is_told(client_of: Callable[..., RayDashboard]) -> None:
    """As what it is: the error of whoever reads Secrets."""

    def missing() -> str:
        raise SecretNotFound("secret 'ray' has no key 'token'")

    with pytest.raises(SecretNotFound):
        client_of(missing).get("/api/jobs/a")


@pytest.mark.parametrize(
    ("answer", "location", "kind", "words"),
    [
        pytest.param((500, "Traceback\nRuntimeError: GCS is down"), "", BackendUnavailable, "GCS is down", id="500"),
        pytest.param((503, ""), "", BackendUnavailable, "503", id="503"),
        pytest.param((501, "pip install ray[serve]"), "", SpecError, "serve", id="501"),
        pytest.param((302, ""), "/login", SpecError, "/login", id="redirect"),
        pytest.param((400, "bad id"), "", SpecError, "bad id", id="400"),
        pytest.param((200, "<html>Grafana</html>"), "", SpecError, "not as a Ray dashboard", id="another service"),
    ],
)
def test_every_refusal_is_one_of_ours(
    dashboard: Dashboard,
    client_of: Callable[..., RayDashboard],
    answer: tuple[int, str],
    location: str,
    kind: type[SocAdapterError],
    words: str,
) -> None:
    """With the last line of what Ray said; only what may pass is retryable."""
    dashboard.answer, dashboard.location = answer, location
    with pytest.raises(kind, match=words.replace("[", r"\[")) as error:
        client_of().get("/api/serve/applications/")
    assert kind is type(error.value)


def test_a_log_is_read_by_lines(dashboard: Dashboard, client_of: Callable[..., RayDashboard]) -> None:
    """Whole, or for as long as it grows, with the token; a refusal is one of ours either way."""
    dashboard.answer = (200, "first\nsecond\n")
    client = client_of()
    for follow in (False, True):
        assert ["first", "second"] == list(client.lines("/api/v0/logs/file", follow=follow))
    assert ["Bearer right"] * 2 == dashboard.shown
    dashboard.answer = (500, "no such actor")
    for follow in (False, True):
        with pytest.raises(BackendUnavailable, match="no such actor"):
            list(client.lines("/api/v0/logs/file", follow=follow))


def test_nothing_there_is_none(dashboard: Dashboard, client_of: Callable[..., RayDashboard]) -> None:
    """404, as for every job of a cluster that was started anew: the run is absent, and can start again."""
    dashboard.answer = (404, "Job a does not exist")
    assert client_of().get("/api/jobs/a") is None
    assert RunState.ABSENT is RayRuns(client_of()).observe("a").state


def test_a_silent_cluster_makes_runs_unknown(dashboard: Dashboard, client_of: Callable[..., RayDashboard]) -> None:
    """Unreachable, failing or refusing: never an end of the run, and the reason is told."""
    dashboard.answer = (500, "down")
    assert (RunState.UNKNOWN, "BackendUnavailable") == _seen(RayRuns(client_of()))
    assert (RunState.UNKNOWN, "RayTokenRefused") == _seen(RayRuns(client_of(lambda: "wrong")))
    nowhere = RayDashboard("http://127.0.0.1:9", lambda: None)
    assert (RunState.UNKNOWN, "BackendUnavailable") == _seen(RayRuns(nowhere))
    nowhere.close()


def _seen(runs: RayRuns) -> tuple[RunState, str]:
    found = runs.observe("a")
    return found.state, found.reason


@pytest.mark.parametrize("address", ["auto", "ray://head:10001", "head:8265", "http://", "http://[::1"])
def test_an_address_that_is_no_dashboards_is_refused(address: str) -> None:
    """With an example of one."""
    with pytest.raises(SpecError, match=r"ray\.address"):
        RayDashboard(address, lambda: None)
