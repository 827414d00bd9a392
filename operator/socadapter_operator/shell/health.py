"""The operator's own HTTP server: ``/healthz`` and ``/readyz`` for the kubelet, ``/metrics`` for Prometheus.

As with other exporters, ``/metrics?name[]=...``, once for each, gives those metrics alone.

A check is a function that returns None while all is well, and else a sentence that says what is not. One that raises
has failed. Plain HTTP without a login, as both callers expect: it says nothing that a resource's status does not.
"""

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)

Check = Callable[[], str | None]

_SLOWEST_CALLER_S = 10.0
_TEXT = "text/plain; charset=utf-8"


class HealthServer:
    """Serves on `host` and `port` (0: any free one) from `start` to `stop`."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        live: Mapping[str, Check],
        ready: Mapping[str, Check],
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._registry = registry
        self._checks = {"/healthz": dict(live), "/readyz": dict(ready)}
        self._server = _server(host, port, self._answer)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="health", daemon=True
        )

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Answers from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the server and frees the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def _answer(self, path: str, query: str) -> tuple[HTTPStatus, str, bytes]:
        if path == "/metrics":
            names = parse_qs(query).get("name[]")
            asked = self._registry.restricted_registry(names) if names else self._registry
            # One metric at a time: the samples of all, of thousands of resources, would be the process's peak.
            told = b"".join(generate_latest(_Alone(metric)) for metric in asked.collect())
            return HTTPStatus.OK, CONTENT_TYPE_PLAIN_0_0_4, told
        if path not in self._checks:
            return HTTPStatus.NOT_FOUND, _TEXT, b"not found\n"
        results = {name: _asked(name, check) for name, check in self._checks[path].items()}
        lines = [f"[{'+' if told is None else '-'}]{name} {told or 'ok'}" for name, told in results.items()]
        well = not any(results.values())
        body = "\n".join([*lines, "ok" if well else "failed", ""])
        return (HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE), _TEXT, body.encode()


@dataclass(frozen=True, slots=True)
class _Alone(Collector):
    """A collector of one metric."""

    metric: Metric

    def collect(self) -> Iterable[Metric]:
        return (self.metric,)


def _asked(name: str, check: Check) -> str | None:
    try:
        return check()
    except Exception as error:
        log.exception("health_check_raised check=%s", name)
        return f"raised {type(error).__name__}"


def _server(host: str, port: int, answer: Callable[[str, str], tuple[HTTPStatus, str, bytes]]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout = _SLOWEST_CALLER_S

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            status, kind, body = answer(path, query)
            self.send_response_only(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """A probe every few seconds is not worth a line."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    return Server((host, port), Handler)
