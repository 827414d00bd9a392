"""A proxy between the operator and a real API server, in a thread of its own, where everything can go wrong.

What a client asks is passed on with its token; lists come in small pages, so that there is something to continue. A
client that gave up is noticed: what waits for it ends, and a request that was held back for it is never passed on.
"""

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import yaml
from aiohttp import web
from tests.faults.answers import Answer, Memory, refusal
from tests.faults.kinds import Fault, Faults
from tests.faults.streams import relay
from yarl import URL

from socadapter_operator.kube.connection import Connection

PAGE_SIZE = 3
_LINE_BYTES = 2**22
_STOP_S = 10.0
_OF_THE_WAY = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "accept-encoding", "content-encoding")
)

T = TypeVar("T")


class FaultProxy:
    """Listens on loopback from the start to `close`. `hold_s`: how long an answer that never comes keeps one waiting.

    `written` counts the requests that reached the API server and were not reads, events apart.
    """

    def __init__(self, connection: Connection, faults: Faults, *, hold_s: float) -> None:
        self.faults = faults
        self.written = 0
        self._connection = connection
        self._hold_s = hold_s
        self._memory = Memory()
        self._loop = asyncio.new_event_loop()
        self._calm = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()
        self.url = self._run(self._start())

    def kubeconfig(self, path: Path) -> Path:
        """A kubeconfig that leads here as the same user, written to `path`."""
        user = {"token": self._connection.token} if self._connection.token else {}
        context = {"cluster": "proxy", "user": "operator", "namespace": self._connection.namespace}
        document = {
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": self.url}}],
            "users": [{"name": "operator", "user": user}],
            "contexts": [{"name": "proxy", "context": context}],
        }  # fmt: skip
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(document), "utf-8")
        return path

    def end_faults(self) -> float:
        """Nothing goes wrong any more, and what was held back is let go; returns when, on the monotonic clock."""
        self.faults.end()
        self._loop.call_soon_threadsafe(self._calm.set)
        return self.faults.ended_at

    def close(self) -> None:
        """Ends every connection and the thread."""
        self.end_faults()
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, job: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(job, self._loop).result()

    async def _start(self) -> str:
        tls = self._connection.ssl_context() if self._connection.server.startswith("https:") else False
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=_LINE_BYTES,
            auto_decompress=False,
        )
        self._runner = web.ServerRunner(
            web.Server(self._handle, handler_cancellation=True, access_log=None), shutdown_timeout=1.0
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0]
        return f"http://{host}:{port}"

    async def _stop(self) -> None:
        await self._session.close()  # first, so that the streams end by themselves
        await asyncio.wait_for(self._runner.cleanup(), _STOP_S)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            if "watch" in request.query:
                return await self._watch(request)
            return await self._plain(request)
        except aiohttp.ClientError:
            return _hang_up(request)  # as the API server has, or the proxy is being closed

    async def _plain(self, request: web.BaseRequest) -> web.StreamResponse:
        reads, continued = request.method == "GET", "continue" in request.query
        refusals = [Fault.BUSY, Fault.BROKEN, *([Fault.GONE_PAGE] if continued else [])]
        possible = [*([Fault.STALE] if reads else [Fault.CONFLICT]), *refusals, Fault.LATE, Fault.LOST, Fault.HUNG_UP]
        fault = self.faults.draw(*possible)
        if fault in (Fault.CONFLICT, *refusals):
            self.faults.count(fault)
            return _response(refusal(fault))
        if fault is Fault.LATE:
            return await self._never(request, fault)
        if fault is Fault.STALE and (older := self._memory.older(request.raw_path)):
            self.faults.count(fault)
            return _response(older[self.faults.chosen(len(older))])
        answer = await self._answer(request)
        if fault is Fault.LOST:
            return await self._never(request, fault)
        if fault is Fault.HUNG_UP:
            self.faults.count(fault)
            return _hang_up(request)
        return _response(answer)

    async def _never(self, request: web.BaseRequest, fault: Fault) -> web.StreamResponse:
        """Keeps the client waiting until it gives up, then hangs up."""
        self.faults.count(fault)
        await self._held(self._hold_s)
        return _hang_up(request)

    async def _held(self, most_s: float) -> None:
        try:
            await asyncio.wait_for(self._calm.wait(), most_s)
        except TimeoutError:
            return

    async def _answer(self, request: web.BaseRequest) -> Answer:
        body = await request.read()
        async with self._session.request(
            request.method, self._target(request), data=body or None, headers=self._headers(request)
        ) as upstream:
            answer = Answer(upstream.status, upstream.content_type, await upstream.read())
        if request.method != "GET":
            self.written += "/events" not in request.path
        elif answer.code in (200, 404) and "continue" not in request.query:
            self._memory.keep(request.raw_path, answer)
        return answer

    async def _watch(self, request: web.BaseRequest) -> web.StreamResponse:
        fault = self.faults.draw(Fault.GONE_WATCH, Fault.BUSY, Fault.BROKEN)
        if fault is not None:
            self.faults.count(fault)
            return _response(refusal(fault))
        async with self._session.get(self._target(request), headers=self._headers(request)) as upstream:
            if upstream.status != 200:
                return _response(Answer(upstream.status, upstream.content_type, await upstream.read()))
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            if await relay(upstream.content, response, self.faults, self._held):
                await response.write_eof()
            else:
                _hang_up(request)
            return response

    def _target(self, request: web.BaseRequest) -> URL:
        url = URL(self._connection.server + request.raw_path, encoded=True)
        return url.update_query(limit=str(PAGE_SIZE)) if url.query.get("limit", "0") != "0" else url

    def _headers(self, request: web.BaseRequest) -> dict[str, str]:
        passed = {name: value for name, value in request.headers.items() if name.lower() not in _OF_THE_WAY}
        return {**passed, "Accept-Encoding": "identity"}


def _response(answer: Answer) -> web.Response:
    headers = {"Retry-After": answer.retry_after} if answer.retry_after else {}
    return web.Response(status=answer.code, body=answer.body, content_type=answer.content_type, headers=headers)


def _hang_up(request: web.BaseRequest) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
