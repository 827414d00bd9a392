"""Serving on a Ray cluster, against a server that keeps applications as Ray's REST API does: PUT replaces them all."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from socadapter_api.errors import InsecureBind, SecretNotFound, SpecError
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ServingTable
from socadapter_operator.backends.credentials import Credentials
from socadapter_operator.backends.rayjobs import RayJobsBackend
from socadapter_operator.domain.observed import ServingState

THEIRS = {"name": "chat", "import_path": "chat:app", "route_prefix": "/chat"}


class Serve:
    """The part of the dashboard that knows applications."""

    def __init__(self) -> None:
        self.status = "DEPLOYING"
        self.http_options: dict[str, Any] | None = None
        self.applications: dict[str, dict[str, Any]] = {"chat": THEIRS}
        self.replicas: dict[str, list[dict[str, Any]]] = {}
        serve = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/api/v0/logs/"):
                    self._answer(f"log of {self.path.rpartition('=')[2]}")
                    return
                deployments = {name: {"replicas": replicas} for name, replicas in serve.replicas.items()}
                details = {
                    name: {"status": serve.status, "message": "no module", "deployed_app_config": config,
                           "last_deployed_time_s": 1_700_000_000.0, "deployments": deployments}
                    for name, config in serve.applications.items()
                }  # fmt: skip
                self._answer({"applications": details, "http_options": serve.http_options})

            def do_PUT(self) -> None:
                told = json.loads(self.rfile.read(int(self.headers["content-length"])))
                serve.applications = {config["name"]: config for config in told["applications"]}
                serve.http_options = serve.http_options or told["http_options"]
                self._answer({})

            def _answer(self, value: object) -> None:
                text = (value if isinstance(value, str) else json.dumps(value)).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def ours(self) -> dict[str, Any]:
        return self.applications["socadapter.soc.base"]

    def end(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def serve() -> Iterator[Serve]:
    made = Serve()
    yield made
    made.end()


@pytest.fixture
def backend_at(tmp_path: Path) -> Iterator[Callable[[str], RayJobsBackend]]:
    made: list[RayJobsBackend] = []

    def make(address: str) -> RayJobsBackend:
        made.append(RayJobsBackend(address, lambda: None, Credentials(tmp_path)))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def backend(serve: Serve, backend_at: Callable[[str], RayJobsBackend]) -> RayJobsBackend:
    return backend_at(f"http://127.0.0.1:{serve.server.server_port}")


def pool(**spec: Any) -> SocServingPool:
    body = {"base": {"uri": "builtin://tiny"}, "store": "/store", "port": 9} | spec
    return SocServingPool.model_validate({"metadata": {"name": "base", "namespace": "soc", "uid": "u"}, "spec": body})


def test_a_table_is_all_that_changes(serve: Serve, backend: RayJobsBackend) -> None:
    """Both deployments get it; code, arguments and environment stay, so that Ray replaces no replica. Others stay."""
    backend.apply_table(pool(), ServingTable(generation=1))
    first = serve.ours()
    backend.apply_table(pool(), ServingTable(generation=2))
    second = serve.ours()
    assert [2, 2] == [deployment["user_config"]["generation"] for deployment in second["deployments"]]
    assert first | {"deployments": second["deployments"]} == second
    assert THEIRS == serve.applications["chat"]
    assert ("/soc/base", {"host": "127.0.0.1", "port": 9}) == (second["route_prefix"], serve.http_options)


def test_what_serves_is_told(serve: Serve, backend: RayJobsBackend) -> None:
    """The table last applied, and whether the pool has changed since; nothing answers behind the gateway's port."""
    backend.apply_table(pool(), ServingTable(generation=3))
    view = backend.serving(pool())
    assert (ServingState.STARTING, 3, False) == (view.state, view.table and view.table.generation, view.outdated)
    assert backend.serving(pool(maxLoras=3)).outdated
    serve.status = "RUNNING"
    assert "http://127.0.0.1:9/soc/base" == backend.serving(pool()).endpoint


def test_a_failed_start_is_counted_and_made_anew(serve: Serve, backend: RayJobsBackend) -> None:
    """Ray would not try the same again: the next start differs, and tells how many there were."""
    backend.apply_table(pool(), ServingTable())
    serve.status = "DEPLOY_FAILED"
    view = backend.serving(pool())
    assert (ServingState.FAILED, 1) == (view.state, view.failures)
    assert view.failed_at is not None
    assert "no module" in view.message
    before = serve.ours()["runtime_env"]
    backend.apply_table(pool(), ServingTable())
    assert before != serve.ours()["runtime_env"]
    assert 2 == backend.serving(pool()).failures


def test_a_rotated_token_is_another_configuration(serve: Serve, backend: RayJobsBackend, tmp_path: Path) -> None:
    """The callers' secrets are part of it; with one that is missing nothing is applied, which says what is missing."""
    secret = tmp_path / "secrets" / "soar" / "token"
    secret.parent.mkdir(parents=True)
    secret.write_text("first")
    asked = pool(callers=[{"name": "soar", "tokenSecretRef": {"name": "soar", "key": "token"}}])
    backend.apply_table(asked, ServingTable())
    secret.write_text("second")
    assert backend.serving(asked).outdated
    before = serve.ours()
    secret.unlink()
    assert backend.serving(asked).outdated
    with pytest.raises(SecretNotFound):
        backend.apply_table(asked, ServingTable())
    assert before == serve.ours()


def test_a_gateway_that_nobody_could_reach_is_refused(backend_at: Callable[[str], RayJobsBackend]) -> None:
    """Loopback of a Ray head elsewhere, before anything is asked of it."""
    with pytest.raises(SpecError, match=r"0\.0\.0\.0"):
        backend_at("http://ray-head.example:8265").apply_table(pool(), ServingTable())


def test_a_gateway_that_everybody_could_reach_is_refused(serve: Serve, backend: RayJobsBackend) -> None:
    """Serve listens to the network already, and the pool names no callers: its own host does not help."""
    serve.http_options = {"host": "0.0.0.0", "port": 8000}
    with pytest.raises(InsecureBind):
        backend.apply_table(pool(), ServingTable())
    assert {"chat"} == set(serve.applications)


def test_a_pool_without_replicas_is_taken_away(serve: Serve, backend: RayJobsBackend) -> None:
    """As a deleted one: the others stay."""
    backend.apply_table(pool(), ServingTable())
    backend.apply_table(pool(replicas=0), ServingTable())
    assert {"chat"} == set(serve.applications)
    backend.apply_table(pool(), ServingTable())
    backend.delete(pool())
    assert ({"chat"}, ServingState.ABSENT) == (set(serve.applications), backend.serving(pool()).state)


@pytest.mark.parametrize("follow", [False, True])
def test_the_log_is_that_of_the_replicas(serve: Serve, backend: RayJobsBackend, follow: bool) -> None:
    """Of those that have a process; what Ray says about an application that it gave up stands before it."""
    assert [] == list(backend.pool_logs(pool(), follow=follow))
    backend.apply_table(pool(), ServingTable())
    serve.replicas = {
        "EngineReplica": [{"replica_id": "e1", "actor_id": "11"}, {"replica_id": "e2", "actor_id": None}],
        "Gateway": [{"replica_id": "g1", "actor_id": "22"}],
    }
    told = ["EngineReplica e1 | log of 11", "Gateway g1 | log of 22"]
    assert told == sorted(backend.pool_logs(pool(), follow=follow))
    serve.status, serve.replicas = "DEPLOY_FAILED", {}
    assert ["no module"] == list(backend.pool_logs(pool(), follow=follow))
