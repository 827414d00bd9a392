"""Ray clusters that a benchmark's pools name: their dashboards' Serve API, and their gateways' word on replicas.

One server stands in for all of them; each has a path of its own. What is deployed is kept and told back as Ray does;
every replica holds what the table names at once.
"""

import json
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.benchmarks import settled
from tests.loopback import Loopback

from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ReplicaReport, ServingTable
from socadapter_operator.builders.rayservice import ENGINE, GATEWAY, IMPORT_PATH

Json = dict[str, Any]

_DASHBOARD = "/api/serve/applications/"
_REPLICAS = "/v1/replicas"


class RayStandIn:
    """The clusters by path, ``/<namespace>/<pool>``."""

    def __init__(self) -> None:
        self._applications: dict[str, list[Json]] = {}
        self._told: dict[str, tuple[bytes, bytes]] = {}
        """What the dashboard and the gateway answer, made once for each change."""
        self.puts = 0
        stand_in = self

        class Handler(_Handler):
            clusters = stand_in

        self._server = Loopback(Handler)

    def address(self, namespace: str, name: str) -> str:
        """Of the dashboard, for ``ray.address``; and of the gateway, since both are below one path."""
        return f"{self._server.url}/{namespace}/{name}"

    def serve(self, pool: SocServingPool, table: ServingTable) -> None:
        """The cluster of `pool` serves `table`; with which configuration the operator finds out, and tells anew."""
        path = f"/{pool.metadata.namespace}/{pool.metadata.name}"
        config = table.model_dump(mode="json")
        application = {
            "name": f"socadapter.{pool.metadata.namespace}.{pool.metadata.name}",
            "route_prefix": path,
            "import_path": IMPORT_PATH,
            "args": {"digest": ""},
            "runtime_env": {},
            "deployments": [{"name": name, "user_config": config} for name in (ENGINE, GATEWAY)],
        }
        self._deploy(path, [application])

    def close(self) -> None:
        """Stops answering."""
        self._server.close()

    def answer(self, path: str) -> bytes | None:
        """The JSON at `path`; None where there is nothing."""
        for suffix, which in ((_DASHBOARD, 0), (_REPLICAS, 1)):
            if path.endswith(suffix):
                told = self._told.get(path.removesuffix(suffix))
                return None if told is None else told[which]
        return None

    def put(self, path: str, document: Json) -> None:
        """What Ray's PUT does."""
        self.puts += 1
        self._deploy(path.removesuffix(_DASHBOARD), document["applications"])

    def _deploy(self, path: str, applications: list[Json]) -> None:
        self._applications[path] = applications
        port = int(self._server.url.rpartition(":")[2])
        details = {
            "http_options": {"host": "127.0.0.1", "port": port},
            "applications": {
                app["name"]: {"status": "RUNNING", "message": "", "deployed_app_config": app, "last_deployed_time_s": 1}
                for app in applications
            },
        }
        replicas = [report for app in applications for report in _reports(app)]
        told = {"replicas": [report.model_dump(mode="json") for report in replicas]}
        self._told[path] = (json.dumps(details).encode(), json.dumps(told).encode())


def _reports(application: Json) -> tuple[ReplicaReport, ...]:
    table = ServingTable.model_validate(application["deployments"][0]["user_config"])
    return settled.reports(table.versions().values(), table.generation)


class _Handler(BaseHTTPRequestHandler):
    clusters: RayStandIn
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        found = self.clusters.answer(self.path)
        self._send(404 if found is None else 200, found or b"{}")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.clusters.put(self.path, json.loads(body))
        self._send(200, b"{}")

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """What the operator asks is counted elsewhere."""
