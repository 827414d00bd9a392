"""Ray clusters that are not there, as far as KubeRay asks them: their jobs, their Serve applications, their proxies.

It is an HTTP proxy, so that names of Services and addresses of pods lead here without DNS or a network: whoever is to
ask it has it as HTTP_PROXY. A cluster whose head pod does not run closes the connection.
"""

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from tests.loopback import Loopback

Json = dict[str, Any]
Told = tuple[str, str, bool]
"""What was asked for: method, path, and whether with the cluster's token."""

_HEAD_SERVICE = "-head-svc"


@dataclass
class RayCluster:
    """One Ray cluster. Its jobs and applications go with its head pod, whose uid is `head`."""

    head: str
    token: str
    addresses: set[str] = field(default_factory=set)
    jobs: dict[str, Json] = field(default_factory=dict)
    applications: dict[str, Json] = field(default_factory=dict)
    config: Json = field(default_factory=dict)
    silent: bool = False

    def submit(self, job: str) -> None:
        """What `ray job submit` does; a second time it does nothing."""
        self.jobs.setdefault(job, {"submission_id": job, "type": "SUBMISSION", "status": "PENDING", "message": ""})

    def say(self, job: str, status: str, message: str = "", **more: Any) -> None:
        """The job's state from now on."""
        now = int(time.time() * 1000)
        held = self.jobs[job]
        held |= {"status": status, "message": message, "start_time": held.get("start_time", now), **more}
        if status in ("SUCCEEDED", "FAILED", "STOPPED"):
            held["end_time"] = now

    def deploy(self, config: Json) -> None:
        """What PUT does: every application that is named is deployed, every other one goes."""
        self.config = config
        self.applications = {
            app["name"]: {
                "name": app["name"],
                "route_prefix": app.get("route_prefix"),
                "status": "DEPLOYING",
                "message": "",
                "deployments": {d["name"]: {"name": d["name"], "status": "UPDATING"} for d in app["deployments"]},
            }
            for app in config["applications"]
        }

    @property
    def table(self) -> int:
        """The generation of the table that was deployed last; 0 before."""
        return int(self.config["applications"][0]["deployments"][0]["user_config"]["generation"]) if self.config else 0

    def serve(self, status: str, message: str = "") -> None:
        """The state of every application that was deployed."""
        deployment = "HEALTHY" if status == "RUNNING" else "UNHEALTHY"
        for app in self.applications.values():
            app |= {"status": status, "message": message}
            for held in app["deployments"].values():
                held["status"] = deployment


class PlayedRay:
    """The proxy, and the clusters behind it by namespace and name."""

    def __init__(self, port: int = 0) -> None:
        self.clusters: dict[tuple[str, str], RayCluster] = {}
        self.asked: dict[str, list[Told]] = {}
        self.news = threading.Lock()
        ray = self

        class Handler(_Handler):
            played = ray

        self._loopback = Loopback(Handler, port)

    @property
    def url(self) -> str:
        """What KubeRay needs as its HTTP_PROXY."""
        return self._loopback.url

    def close(self) -> None:
        """Stops answering."""
        self._loopback.close()

    def behind(self, host: str) -> tuple[str, RayCluster] | None:
        """Namespace and cluster behind the name of a head Service, or the address of a pod."""
        service, _, rest = host.partition(".")
        if service.endswith(_HEAD_SERVICE):
            namespace = rest.partition(".")[0]
            found = self.clusters.get((namespace, service.removesuffix(_HEAD_SERVICE)))
            return (namespace, found) if found else None
        for (namespace, _), cluster in list(self.clusters.items()):
            if host in cluster.addresses:
                return namespace, cluster
        return None

    def answer(self, method: str, host: str, path: str, token: str, body: bytes) -> tuple[int, Any] | None:
        """Status and body; None where nobody listens."""
        with self.news:
            behind = self.behind(host)
            if behind is None or behind[1].silent:
                return None
            namespace, cluster = behind
            if path == "/-/healthz":
                running = any(app["status"] == "RUNNING" for app in cluster.applications.values())
                return (200, "success") if running else (503, "starting")
            told = (method, path, token == f"Bearer {cluster.token}")
            if told not in self.asked.setdefault(namespace, []):
                self.asked[namespace].append(told)
            return _of_dashboard(cluster, method, path, body) if told[2] else (401, "Unauthorized")


def _of_dashboard(cluster: RayCluster, method: str, path: str, body: bytes) -> tuple[int, Any]:
    if path == "/api/serve/applications/":
        if method == "PUT":
            cluster.deploy(json.loads(body))
            return 200, {}
        return 200, {"applications": cluster.applications}
    job, _, verb = path.removeprefix("/api/jobs/").partition("/")
    if not path.startswith("/api/jobs/") or job not in cluster.jobs:
        return 404, f"Job {job} does not exist"
    if verb == "stop":
        cluster.say(job, "STOPPED", "Job was intentionally stopped.")
        return 200, {"stopped": True}
    return 200, cluster.jobs[job]


class _Handler(BaseHTTPRequestHandler):
    played: PlayedRay
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        url = urlsplit(self.path)
        host = url.hostname or (self.headers.get("Host") or "").partition(":")[0]
        token = self.headers.get("x-ray-authorization") or self.headers.get("authorization") or ""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = self.played.answer(self.command, host, url.path, token, body)
        if found is None:
            self.close_connection = True
            return
        content = (found[1] if isinstance(found[1], str) else json.dumps(found[1])).encode()
        self.send_response(found[0])
        self.send_header("Content-Type", "text/plain" if isinstance(found[1], str) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815  the names that http.server calls

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name that http.server gives it
        """Nothing: what was asked stands in `PlayedRay.asked`."""
