"""An API server as kopf sees it: discovery, lists, and watch streams that a test feeds, breaks or leaves silent."""

import json
import queue
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.loopback import Loopback

from socadapter_operator.kube.resources import Kind

Json = dict[str, Any]
END = None
"""Put into a stream, it ends the connection."""


class WatchServer:
    """Serves `kinds`; each open watch has a queue of frames. Field selectors are taken to select nothing."""

    def __init__(self, *kinds: Kind) -> None:
        self.kinds = {kind.plural: kind for kind in kinds}
        self.items: dict[str, dict[str, Json]] = {kind.plural: {} for kind in kinds}
        self.version = 100
        self.lists: list[tuple[str, dict[str, str]]] = []
        self.watches: list[tuple[str, dict[str, str]]] = []
        self.tokens: list[str] = []
        self.starts = 0
        self.writes: list[str] = []
        self.history: dict[str, list[tuple[int, Json]]] = {kind.plural: [] for kind in kinds}
        self.refuse: Callable[[str], int | None] = lambda _path: None
        """The status that a path is answered with in place of what it should be."""
        self._streams: dict[str, list[queue.Queue[Json | None]]] = {plural: [] for plural in self.kinds}
        self._lock = threading.RLock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server._get(self)

            def _write(self) -> None:
                server.writes.append(f"{self.command} {self.path}")
                server._send(self, 500, {})

            do_POST = do_PUT = do_PATCH = do_DELETE = _write  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._loopback = Loopback(Handler)

    @property
    def url(self) -> str:
        return self._loopback.url

    def close(self) -> None:
        self.cut()
        self._loopback.close()

    def put(self, kind: Kind, name: str, *, silent: bool = False) -> Json:
        """Stores an object and tells the streams, unless `silent`."""
        with self._lock:
            self.version += 1
            new = name not in self.items[kind.plural]
            about = {"namespace": "soc", "name": name, "uid": f"uid-{name}", "resourceVersion": str(self.version)}
            item = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": about}
            self.items[kind.plural][name] = item
            self._tell(kind, {"type": "ADDED" if new else "MODIFIED", "object": item}, silent)
            return item

    def drop(self, kind: Kind, name: str, *, silent: bool = False) -> None:
        """Deletes an object and tells the streams, unless `silent`."""
        with self._lock:
            self.version += 1
            item = self.items[kind.plural].pop(name)
            about = {**item["metadata"], "resourceVersion": str(self.version)}
            self._tell(kind, {"type": "DELETED", "object": {**item, "metadata": about}}, silent)

    def send(self, kind: Kind, frame: Json | None) -> None:
        """Puts one frame into every open stream of `kind`."""
        with self._lock:
            for stream in self._streams[kind.plural]:
                stream.put(frame)

    def error(self, kind: Kind, code: int, reason: str) -> None:
        """An ERROR frame, as when etcd compacts (410) or changes its leader (500)."""
        about = {"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason, "message": "told by a test"}
        self.send(kind, {"type": "ERROR", "object": about})

    def cut(self) -> None:
        """Ends every open stream."""
        for kind in self.kinds.values():
            self.send(kind, END)

    def add(self, kind: Kind) -> None:
        """Serves `kind` from now on."""
        with self._lock:
            self.items[kind.plural], self.history[kind.plural], self._streams[kind.plural] = {}, [], []
            self.kinds[kind.plural] = kind

    def _tell(self, kind: Kind, frame: Json, silent: bool) -> None:
        """What is told silently is seen only by a watch that begins from before."""
        self.history[kind.plural].append((self.version, frame))
        if not silent:
            self.send(kind, frame)

    def _get(self, http: BaseHTTPRequestHandler) -> None:
        address = urlsplit(http.path)
        parameters = {key: values[0] for key, values in parse_qs(address.query).items()}
        self.tokens.append(http.headers.get("Authorization", ""))
        if (code := self.refuse(http.path)) is not None:
            self._send(http, code, {"kind": "Status", "code": code, "message": "told by a test"})
            return
        plural = address.path.rsplit("/", 1)[-1]
        if plural not in self.kinds:
            self._discovery(http, address.path)
        elif parameters.get("watch"):
            self._watch(http, plural, parameters)
        else:
            with self._lock:
                self.lists.append((plural, parameters))
                about = {"resourceVersion": str(self.version)}
                items = [] if parameters.get("fieldSelector") else list(self.items[plural].values())
            self._send(http, 200, {"kind": "List", "apiVersion": "v1", "metadata": about, "items": items})

    def _discovery(self, http: BaseHTTPRequestHandler, path: str) -> None:
        groups = {kind.group: kind.version for kind in self.kinds.values()}
        if path == "/api":
            self._send(http, 200, {"versions": ["v1"]})
        elif path == "/apis":
            self.starts += 1
            named = [
                {"name": group, "versions": [{"version": version}], "preferredVersion": {"version": version}}
                for group, version in groups.items()
            ]
            self._send(http, 200, {"groups": named})
        else:
            here = [kind for kind in self.kinds.values() if kind.root == path]
            listed = [
                {
                    "name": kind.plural,
                    "kind": kind.kind,
                    "singularName": kind.kind.lower(),
                    "namespaced": True,
                    "verbs": ["list", "watch", "patch"],
                }
                for kind in here
            ]
            core = [("namespaces", "Namespace", False), ("events", "Event", True)]
            if path == "/api/v1":
                listed = [
                    {"name": name, "kind": kind, "singularName": kind.lower(), "namespaced": scoped, "verbs": ["list"]}
                    for name, kind, scoped in core
                ]
            self._send(http, 200 if listed else 404, {"resources": listed})

    def _watch(self, http: BaseHTTPRequestHandler, plural: str, parameters: dict[str, str]) -> None:
        frames: queue.Queue[Json | None] = queue.Queue()
        with self._lock:
            since = int(parameters.get("resourceVersion") or 0)
            for version, told in self.history[plural]:
                if version > since:
                    frames.put(told)
            self._streams[plural].append(frames)
            self.watches.append((plural, parameters))
        http.send_response(200)
        http.send_header("Content-Type", "application/json")
        http.send_header("Connection", "close")
        http.end_headers()
        http.close_connection = True
        try:
            while (frame := frames.get()) is not END:
                http.wfile.write(json.dumps(frame).encode() + b"\n")
                http.wfile.flush()
        except OSError:
            pass  # the watcher went away
        finally:
            with self._lock:
                self._streams[plural].remove(frames)

    def _send(self, http: BaseHTTPRequestHandler, code: int, body: Json) -> None:
        text = json.dumps(body).encode()
        http.send_response(code)
        http.send_header("Content-Type", "application/json")
        http.send_header("Content-Length", str(len(text)))
        http.end_headers()
        http.wfile.write(text)
