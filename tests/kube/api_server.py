"""A small API server over real HTTP: objects with versions, pages, conditions on writes, and faults on demand.

It knows what the client's protocol needs and nothing of schemas or field managers; the tests against the real control
plane answer for those.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.loopback import Loopback

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    parameters: dict[str, str]
    headers: dict[str, str]
    body: Json


@dataclass(slots=True)
class Answer:
    """What is sent back; `body` as JSON, or as text where it is a string."""

    code: int = 200
    body: Json | str = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


Fault = Callable[[Asked], Answer | None]
"""An answer in place of the server's own; None lets the request through; `Dropped` closes the connection."""


class Dropped(Exception):
    """Raised by a fault: the connection is closed without an answer."""


def status(code: int, reason: str, message: str, name: str = "", **details: Any) -> Answer:
    """A Status object, as the API server sends for what it refuses."""
    about = {"name": name, **details} if name else details
    body = {"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason, "message": message, "details": about}
    return Answer(code, body)


class ApiServer:
    """Serves on loopback until `close`."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self.served = {"/api/v1": ["secrets", "pods"], "/apis/coordination.k8s.io/v1": ["leases"]}
        self.after: Fault | None = None
        self._version = 100
        self._lock = threading.RLock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                server._handle(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._loopback = Loopback(Handler)

    @property
    def url(self) -> str:
        return self._loopback.url

    def close(self) -> None:
        self._loopback.close()

    def put(self, path: str, item: Json) -> Json:
        """Stores `item` at `path` as a new version."""
        with self._lock:
            self._version += 1
            about = {**item.get("metadata", {}), "resourceVersion": str(self._version)}
            about.setdefault("uid", f"uid-{self._version}")
            self.objects[path] = {**item, "metadata": about}
            return self.objects[path]

    def _handle(self, http: BaseHTTPRequestHandler) -> None:
        address = urlsplit(http.path)
        raw = http.rfile.read(int(http.headers.get("Content-Length") or 0))
        asked = Asked(
            http.command,
            address.path,
            {key: values[0] for key, values in parse_qs(address.query, keep_blank_values=True).items()},
            {key.lower(): value for key, value in http.headers.items()},
            json.loads(raw) if raw else {},
        )
        try:
            answer = self._answer(asked)
        except Dropped:
            http.close_connection = True
            return
        text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
        kind = "text/plain" if isinstance(answer.body, str) else "application/json"
        http.send_response(answer.code)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(text.encode())), **answer.headers}.items():
            http.send_header(name, value)
        http.end_headers()
        http.wfile.write(text.encode())

    def _answer(self, asked: Asked) -> Answer:
        with self._lock:
            self.asked.append(asked)
            for fault in list(self.faults):
                if (answer := fault(asked)) is not None:
                    return answer
            answer = self._own(asked)
            if self.after is not None and (instead := self.after(asked)) is not None:
                return instead
            return answer

    def _own(self, asked: Asked) -> Answer:
        if asked.path in self.served:
            return Answer(body={"resources": [{"name": name} for name in self.served[asked.path]]})
        root = next((root for root in self.served if asked.path.startswith(f"{root}/")), None)
        if root is None:
            return Answer(404, "404 page not found\n")
        parts = asked.path.removeprefix(f"{root}/").split("/")
        if parts[0] == "namespaces":
            parts = parts[2:]
        if parts[0] not in self.served[root]:
            return Answer(404, "404 page not found\n")
        if len(parts) == 1:
            return self._create(asked) if asked.method == "POST" else self._list(asked)
        return self._one(asked, parts[1])

    def _create(self, asked: Asked) -> Answer:
        path = f"{asked.path}/{asked.body['metadata']['name']}"
        if path in self.objects:
            return status(409, "AlreadyExists", "it is there", asked.body["metadata"]["name"])
        return Answer(201, self.put(path, asked.body))

    def _list(self, asked: Asked) -> Answer:
        plural = asked.path.rsplit("/", 1)[-1]
        everywhere = "/namespaces/" not in asked.path
        items = [
            {key: value for key, value in item.items() if key not in ("kind", "apiVersion")}
            for path, item in sorted(self.objects.items())
            if (f"/{plural}/" in path if everywhere else path.startswith(f"{asked.path}/"))
        ]
        start = int(asked.parameters.get("continue") or 0)
        end = start + int(asked.parameters.get("limit") or len(items) or 1)
        about = {"resourceVersion": str(self._version)} | ({"continue": str(end)} if end < len(items) else {})
        return Answer(body={"kind": "List", "metadata": about, "items": items[start:end]})

    def _one(self, asked: Asked, name: str) -> Answer:
        path = asked.path.removesuffix("/status")
        found = self.objects.get(path)
        if found is None and asked.method != "PATCH":
            return status(404, "NotFound", f"{name} not found", name)
        if asked.method == "GET":
            assert found is not None
            return Answer(body=found)
        held = (found or {"metadata": {}})["metadata"]
        conditions = asked.body.get("preconditions") or asked.body.get("metadata", {})
        for key in ("uid", "resourceVersion"):
            if conditions.get(key) not in (None, held.get(key)):
                return status(409, "Conflict", f"{key} is {held.get(key)}", name)
        if asked.method == "DELETE":
            del self.objects[path]
            return status(200, "", "deleted", name)
        return Answer(body=self.put(path, {**(found or {}), **asked.body, "metadata": {**held, **conditions}}))
