"""A proxy before a real API server: it passes lists on, and cuts, poisons or silences the watch streams."""

import json
import queue
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx
from tests.loopback import Loopback

from socadapter_operator.kube.connection import Connection

Json = dict[str, Any]


class _Stream:
    """One open watch: what the server sends, and what a test puts in between."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.lines: queue.Queue[bytes | None] = queue.Queue()


class WatchProxy:
    """Listens on loopback for requests without a login, and passes them on with that of `connection`."""

    def __init__(self, connection: Connection) -> None:
        self._client = httpx.Client(
            base_url=connection.server,
            verify=connection.ssl_context(),
            headers={"Authorization": f"Bearer {connection.token}"} if connection.token else {},
            timeout=httpx.Timeout(30, read=None),
            trust_env=False,
        )
        self.silent = threading.Event()
        self.opened = 0
        self._streams: list[_Stream] = []
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if "watch=true" in self.path:
                    proxy._watch(self)
                else:
                    proxy._pass(self)

            def log_message(self, *_: object) -> None:
                pass

        self._loopback = Loopback(Handler)

    @property
    def url(self) -> str:
        return self._loopback.url

    def cut(self) -> None:
        """Ends every open stream."""
        with self._lock:
            for stream in self._streams:
                stream.lines.put(None)

    def error(self, code: int) -> None:
        """An ERROR frame in every open stream, which ends then, as an API server's does."""
        status = {"kind": "Status", "apiVersion": "v1", "code": code, "reason": "Test", "message": "told by a test"}
        with self._lock:
            for stream in self._streams:
                stream.lines.put(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
        self.cut()

    def close(self) -> None:
        self.cut()
        self._loopback.close()
        self._client.close()

    def _pass(self, http: BaseHTTPRequestHandler) -> None:
        answer = self._client.get(http.path)
        http.send_response(answer.status_code)
        http.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        http.send_header("Content-Length", str(len(answer.content)))
        http.end_headers()
        http.wfile.write(answer.content)

    def _watch(self, http: BaseHTTPRequestHandler) -> None:
        stream = _Stream(http.path)
        reader = threading.Thread(target=self._read, args=(stream,), daemon=True)
        with self._lock:
            self._streams.append(stream)
            self.opened += 1
        reader.start()
        http.send_response(200)
        http.send_header("Content-Type", "application/json")
        http.send_header("Connection", "close")
        http.end_headers()
        http.close_connection = True
        try:
            while (line := stream.lines.get()) is not None:
                http.wfile.write(line)
                http.wfile.flush()
        except OSError:
            pass  # the watcher went away
        finally:
            with self._lock:
                self._streams.remove(stream)

    def _read(self, stream: _Stream) -> None:
        """Copies what the server sends, while the proxy is not silent; what comes meanwhile is lost."""
        try:
            with self._client.stream("GET", stream.path) as answer:
                for line in answer.iter_lines():
                    if not self.silent.is_set():
                        stream.lines.put(line.encode() + b"\n")
        except (httpx.HTTPError, RuntimeError):
            pass
        stream.lines.put(None)
