"""What users get wrong, and what goes away under the operator: each is told with a reason, and nothing is lost."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from tests.loopback import Loopback

from socadapter_api import digest
from socadapter_operator.backends.cluster import ClusterBackends
from socadapter_operator.builders.installation import Installation
from socadapter_operator.kube.resources import ADAPTER, POOL, SECRET, Object
from socadapter_operator.shell import endings

pytestmark = pytest.mark.slow

TOKEN = "the-clusters-own-token"


def delete(site: Any, kind: Any, name: str) -> None:
    """As a user would."""
    site.client.delete(kind, site.namespace, name, uid=site.get(name, kind)["metadata"]["uid"])


def test_a_newcomer_takes_no_context_from_one_that_trains(site: Any) -> None:
    """Its name sorts first, and it waits all the same; when the first is deleted it takes over by itself."""
    site.play("hang")
    site.operate()
    site.pool()
    site.adapter("zeta", context="cloud")
    site.until(lambda: ((site.get("zeta").get("status") or {}).get("run") or {}).get("state") == "Running", "it trains")
    site.adapter("alpha", context="cloud")
    site.until(lambda: site.condition("Stalled", "alpha") == ("True", "ContextConflict"), "the newcomer is told")
    run_id = site.get("zeta")["status"]["run"]["runId"]
    site.until(lambda: "hanging" in list(site.backend.logs(run_id)), "it can be interrupted")
    site.play("publish")
    site.backend.stop(run_id)
    site.until_ready("zeta")
    assert (("True", "ContextConflict"), ("False", "ContextConflict")) == (
        site.condition("Stalled", "alpha"),
        site.condition("Ready", "alpha"),
    )
    delete(site, ADAPTER, "zeta")
    site.until_ready("alpha")


def test_an_adapter_waits_for_a_pool_that_comes_later(site: Any) -> None:
    """It says that there is none, and trains when there is, with nothing done to it."""
    site.operate()
    site.adapter()
    site.until(lambda: site.condition("Stalled") == ("True", "PoolNotFound"), "the missing pool is told")
    assert ("False", "PoolNotFound") == site.condition("Ready")
    site.pool()
    site.until_ready()


def test_a_pool_of_another_namespace_is_no_pool(site: Any) -> None:
    """Its store and keys are not the adapter's to use; the message names the namespace that was looked in."""
    with site.cluster.namespace("elsewhere") as elsewhere:
        site.operate(namespaces=(site.namespace, elsewhere))
        body = {"base": {"uri": "builtin://tiny"}, "store": str(site.root / "store")}
        site.client.apply(POOL, {"metadata": {"name": "base", "namespace": elsewhere}, "spec": body}, manager="kubectl")
        site.adapter()
        site.until(lambda: site.condition("Stalled") == ("True", "PoolNotFound"), "the missing pool is told")
        (told,) = [c["message"] for c in site.get()["status"]["conditions"] if c["type"] == "Stalled"]
        assert site.namespace in told
        raw = site.client.get(POOL, elsewhere, "base")
        site.client.delete(POOL, elsewhere, "base", uid=raw["metadata"]["uid"])


def test_an_adapter_pointed_at_another_base_serves_where_it_was(site: Any) -> None:
    """`BaseMismatch` until it is pointed back; nothing trains, and the version never stops answering."""
    site.operate()
    site.pool()
    site.pool("bigger", base={"uri": "builtin://tiny", "digest": digest.of_bytes(b"another base")}, port=8124)
    site.adapter()
    site.until_ready()
    served = site.get()["status"]["versions"]["stable"]
    site.adapter(servingPoolRef={"name": "bigger"})
    site.until(lambda: site.condition("Stalled") == ("True", "BaseMismatch"), "the other base is told")
    status = site.get()["status"]
    assert (("True", "Serving"), "base", served) == (
        site.condition("Ready"),
        status["servingPool"],
        status["versions"]["stable"],
    )
    site.adapter()
    site.until(lambda: site.condition("Stalled")[0] == "False", "it is mended")
    assert (1, served) == (len(site.versions()), site.get()["status"]["versions"]["stable"])


def test_a_store_that_cannot_be_reached_loses_no_run(site: Any) -> None:
    """A run that ended meanwhile is neither failed nor forgotten; with the store back it goes on, once."""
    site.play("hang", "publish")
    site.operate()
    site.pool()
    site.adapter()
    site.until(lambda: ((site.get().get("status") or {}).get("run") or {}).get("state") == "Running", "it trains")
    run_id = site.get()["status"]["run"]["runId"]
    site.until(lambda: "hanging" in list(site.backend.logs(run_id)), "it can be interrupted")
    store = site.root / "store"
    store.rename(site.root / "away")
    store.write_text("a file where a folder should be")
    site.backend.stop(run_id)
    told = (("Trained", "Unknown"), ("Reconciling", "True"))
    site.until(
        lambda: any(site.condition(kind) == (status, "StoreUnavailable") for kind, status in told), "the store is told"
    )
    assert run_id == site.get()["status"]["run"]["runId"]
    store.unlink()
    (site.root / "away").rename(store)
    site.until_ready()
    assert (run_id, 1) == (site.get()["status"]["lastRun"]["runId"], len(site.versions()))


class Dashboard:
    """As much of a Ray dashboard as an operator asks before anything is there: no job, and applications."""

    def __init__(self) -> None:
        self.applications: list[Object] = []
        self.jobs: dict[str, str] = {}
        dashboard = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/api/jobs/"):
                    name = self.path.removeprefix("/api/jobs/")
                    self._answer(200 if name in dashboard.jobs else 404, {"status": dashboard.jobs.get(name)})
                    return
                found = {app["name"]: {"status": "DEPLOYING", "deployed_app_config": app, "deployments": {}}
                         for app in dashboard.applications}  # fmt: skip
                self._answer(200, {"applications": found})

            def do_PUT(self) -> None:
                dashboard.applications = self._body()["applications"]
                self._answer(200, {})

            def do_POST(self) -> None:
                body = self._body()
                if self.path.endswith("/stop"):
                    dashboard.jobs[self.path.split("/")[-2]] = "STOPPED"
                else:
                    dashboard.jobs[body["submission_id"]] = "RUNNING"
                self._answer(200, {})

            def _body(self) -> Any:
                return json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")

            def _answer(self, code: int, value: object) -> None:
                known = self.headers.get("authorization") == f"Bearer {TOKEN}"
                text = json.dumps(value if known else {"error": "Unauthorized"}).encode()
                self.send_response(code if known else 401)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None: ...

        self._loopback = Loopback(Handler)
        self.url = self._loopback.url
        self.close = self._loopback.close


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    running = Dashboard()
    yield running
    running.close()


def external(site: Any, dashboard: Dashboard, **changes: Any) -> None:
    """A pool on the Ray cluster that exists, and an operator that knows such clusters."""
    installation = Installation("example.test/train:1", "example.test/serve:1")
    site.operate(backends=lambda client: ClusterBackends(client, installation))
    ray = {"address": dashboard.url, "tokenSecretRef": {"name": "ray", "key": "token"}}
    site.pool(base={"uri": "builtin://tiny", "digest": digest.of_bytes(b"base")}, ray=ray, **changes)


def secret(site: Any, token: str) -> None:
    body = {"metadata": {"name": "ray", "namespace": site.namespace}, "stringData": {"token": token}}
    site.client.apply(SECRET, body, manager="kubectl")


def test_a_ray_cluster_is_used_once_its_token_is_right(site: Any, dashboard: Dashboard) -> None:
    """No Secret, then a wrong token, then the cluster's own: each is told, and nothing but the Secret has to change."""
    external(site, dashboard)
    site.until(lambda: site.condition("Stalled", "base", POOL) == ("True", "SecretNotFound"), "the missing Secret")
    assert ("False", "SecretNotFound") == site.condition("Ready", "base", POOL)
    secret(site, "another")
    site.until(lambda: site.condition("Stalled", "base", POOL) == ("True", "RayTokenRefused"), "the wrong token")
    assert not dashboard.applications
    secret(site, TOKEN)
    site.until(lambda: dashboard.applications, "the application is deployed")
    site.until(lambda: site.condition("Stalled", "base", POOL)[0] == "False", "nothing is wrong any more")


def test_a_pool_that_is_deleted_first_ends_its_adapters_runs(site: Any, dashboard: Dashboard) -> None:
    """On a Ray cluster that exists by itself they would go on for ever: the pool stays until they have ended."""
    secret(site, TOKEN)
    external(site, dashboard)
    site.adapter()
    site.until(lambda: "RUNNING" in dashboard.jobs.values(), "the run is submitted")
    site.until(lambda: (site.get()["status"].get("run") or {}).get("state") == "Running", "it is seen")
    assert [endings.FINALIZER] == site.get("base", POOL)["metadata"]["finalizers"]
    delete(site, POOL, "base")
    site.until(lambda: not site.get("base", POOL), "the pool is gone")
    assert (["STOPPED"], []) == (list(dashboard.jobs.values()), dashboard.applications)
    site.until(lambda: site.condition("Stalled") == ("True", "PoolNotFound"), "the adapter misses it")
    delete(site, ADAPTER, "cloud")
    site.until(lambda: not site.get(), "the adapter is gone")
