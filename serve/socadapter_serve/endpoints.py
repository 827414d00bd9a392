"""The HTTP API as a Starlette application around one `Gateway`. Knows nothing of Ray.

Who calls is settled first, then whether there is room, then how much is read: a body is never taken in whole before
its size is known to be allowed.
"""

import asyncio
import json
import math
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from socadapter_api import digest
from socadapter_api.errors import AlertTooLarge, CallerForbidden, EngineUnavailable, SocAdapterError, SpecError
from socadapter_api.feedback import Feedback
from socadapter_api.pool import is_loopback
from socadapter_serve import faults, openai_api
from socadapter_serve.auth import Callers, Identity
from socadapter_serve.config import BASE_MODEL_ALIAS, Limits
from socadapter_serve.gateway import Gateway
from socadapter_serve.messages import TriageRequest
from socadapter_serve.metrics import CONTENT_TYPE
from socadapter_serve.records import call_record, named_probabilities
from socadapter_serve.routing import Candidate

VERSION_HEADER = "x-socadapter-version"
DIGEST_HEADER = "x-socadapter-digest"
_DRAIN_BYTES = 64 * 2**20

Body = TypeVar("Body", bound=BaseModel)
Handler = Callable[[Request, Identity], Awaitable[Response]]


class Endpoints:
    """The handlers, and what stands before them."""

    def __init__(self, gateway: Gateway, callers: Callers, limits: Limits) -> None:
        self._gateway = gateway
        self._callers = callers
        self._limits = limits
        self._in_work = 0

    def application(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                self._route("/healthz", "GET", self._healthz, known=False),
                self._route("/readyz", "GET", self._readyz, known=False),
                self._route("/metrics", "GET", self._metrics),
                self._route("/v1/models", "GET", self._models),
                self._route("/v1/models/{model:path}", "GET", self._model),
                self._route("/v1/chat/completions", "POST", self._chat, heavy=True),
                self._route("/v1/triage", "POST", self._triage, heavy=True),
                self._route("/v1/feedback", "POST", self._feedback),
                self._route("/v1/feedback", "GET", self._feedback_records),
                self._route("/v1/trajectories/{id}", "GET", self._trajectory),
                self._route("/v1/replicas", "GET", self._replicas),
            ]
        )

    def _route(self, path: str, method: str, handler: Handler, *, known: bool = True, heavy: bool = False) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                identity = self._identify(request) if known else Identity("")
                answer = await (self._limited(request, identity, handler) if heavy else handler(request, identity))
            except SocAdapterError as error:
                model_missing = faults.status_of(error) == 404 and path.startswith(("/v1/chat", "/v1/models"))
                answer = faults.response(error, "model_not_found" if model_missing else "")
            self._gateway.metrics.answered(path, answer.status_code)
            return answer

        return Route(path, endpoint, methods=[method])

    def _identify(self, request: Request) -> Identity:
        if not self._callers.required:
            host = request.url.hostname or ""
            if not is_loopback(host):
                raise CallerForbidden(
                    f"host {host!r} is not loopback and the pool names no callers: "
                    "no web page may speak for its visitor"
                )
        return self._callers.identify(request.headers.get("authorization"))

    async def _limited(self, request: Request, identity: Identity, handler: Handler) -> Response:
        async with self._place():
            try:
                async with asyncio.timeout(self._limits.request_timeout_s):
                    return await handler(request, identity)
            except TimeoutError:
                raise faults.TimedOut(
                    f"no answer in {self._limits.request_timeout_s:g} s: ask again; where that repeats, a tool is slow"
                ) from None

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if self._in_work >= self._limits.max_concurrent:
            raise faults.Busy(f"{self._in_work} requests are in work, the most allowed: try again shortly")
        self._in_work += 1
        self._gateway.metrics.in_flight.set(self._in_work)
        try:
            yield
        finally:
            self._in_work -= 1
            self._gateway.metrics.in_flight.set(self._in_work)

    async def _healthz(self, request: Request, identity: Identity) -> Response:
        return PlainTextResponse("ok\n")

    async def _readyz(self, request: Request, identity: Identity) -> Response:
        """Ready when an engine replica answers: the base can then, whatever the adapters' state."""
        try:
            reports = await self._gateway.reports()
        except SocAdapterError as error:
            return PlainTextResponse(f"{error.reason}\n", 503)
        return PlainTextResponse("ok\n" if reports else "no engine replica\n", 200 if reports else 503)

    async def _metrics(self, request: Request, identity: Identity) -> Response:
        return Response(self._gateway.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def _models(self, request: Request, identity: Identity) -> Response:
        models = [self._describe(*found) for found in self._gateway.models(identity)]
        return JSONResponse({"object": "list", "data": models})

    async def _model(self, request: Request, identity: Identity) -> Response:
        name = request.path_params["model"]
        found = self._gateway.resolve_model(identity, name, "").in_turn[0]
        context = next((context for known, context in self._gateway.models(identity) if known.name == found.name), "")
        return JSONResponse(self._describe(found, context))

    def _describe(self, candidate: Candidate, context: str) -> dict[str, Any]:
        base = self._gateway.base_name
        about = {"id": candidate.name or base, "object": "model", "created": 0, "owned_by": "socadapter"}
        if candidate.version is None:
            return {**about, "aliases": [BASE_MODEL_ALIAS]}
        role, adapter_digest = candidate.role.value, candidate.version.digest
        return {**about, "parent": base, "context": context, "role": role, "digest": adapter_digest}

    async def _chat(self, request: Request, identity: Identity) -> Response:
        body = await self._body(request, openai_api.ChatRequest)
        body.refuse_unsupported()
        said = [message.flat() for message in body.messages]
        if (size := sum(len(message["content"]) for message in said)) > self._limits.max_chat_characters:
            raise AlertTooLarge(f"the messages have {size} characters, more than {self._limits.max_chat_characters}")
        incident_id = str((body.model_extra or {}).get("user") or digest.of_json(said))
        model = self._gateway.resolve_model(identity, body.model, incident_id)
        answerer, outcome = await self._gateway.chat(model, lambda candidate: body.job(candidate.version))
        headers = _headers(answerer.version, answerer.digest)
        answered = (body, outcome, answerer, f"chatcmpl-{uuid.uuid4().hex}")
        created = int(time.time())
        if body.stream:
            events = openai_api.chunks(*answered, created)
            return StreamingResponse(events, headers=headers, media_type="text/event-stream")
        return JSONResponse(openai_api.completion(*answered, created), headers=headers)

    async def _triage(self, request: Request, identity: Identity) -> Response:
        body = await self._body(request, TriageRequest)
        answer = await self._gateway.triage(identity, body)
        return JSONResponse(answer.model_dump(mode="json"), headers=_headers(answer.version, answer.digest))

    async def _feedback(self, request: Request, identity: Identity) -> Response:
        body = await self._body(request, Feedback)
        await self._gateway.feedback(identity, body)
        return JSONResponse({"trajectory_id": body.trajectory_id, "accepted": True}, 201)

    async def _feedback_records(self, request: Request, identity: Identity) -> Response:
        since = _seconds(request, "since", 0.0)
        until = _seconds(request, "until", None)
        records = await self._gateway.feedback_records(identity, since or 0.0, until)
        return Response("".join(f"{r.model_dump_json()}\n" for r in records), media_type="application/jsonl")

    async def _trajectory(self, request: Request, identity: Identity) -> Response:
        kept = await self._gateway.trajectory(identity, request.path_params["id"])
        verdicts = await self._gateway.verdicts(kept.id)
        trajectory = kept.trajectory.model_dump(mode="json", by_alias=False, exclude={"calls", "probabilities"})
        shown = {name: getattr(kept, name) for name in kept.__slots__ if name != "trajectory"}
        shown["trajectory"] = {
            **trajectory,
            "probabilities": named_probabilities(kept.trajectory),
            "calls": [call_record(call).model_dump(mode="json") for call in kept.trajectory.calls],
        }
        shown["feedback"] = [verdict.model_dump(mode="json", by_alias=False) for verdict in verdicts]
        return JSONResponse(shown)

    async def _replicas(self, request: Request, identity: Identity) -> Response:
        reports = await self._gateway.reports()
        desired = self._gateway.desired
        return JSONResponse(
            {
                "generation": desired.table.generation,
                "replicas": [report.model_dump(mode="json", by_alias=False) for report in reports],
                "match_problems": desired.matcher.problems,
            }
        )

    async def _body(self, request: Request, kind: type[Body]) -> Body:
        """The request's JSON as `kind`.

        Raises:
            AlertTooLarge: more bytes than allowed.
            SpecError: no JSON, or not of that form.
        """
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise SpecError(f"content type {media_type!r} is not taken here: send application/json")
        data = await self._read(request)
        try:
            found = json.loads(data, parse_constant=_refuse_constant, parse_float=_finite)
            return kind.model_validate(_encodable(found))
        except ValidationError as error:
            raise faults.malformed(error, "the body") from None
        except (ValueError, RecursionError) as error:
            raise SpecError(f"the body is not JSON: {error}") from None

    async def _read(self, request: Request) -> bytes:
        limit = self._limits.max_body_bytes
        parts: list[bytes] = []
        size = 0
        try:
            async for part in request.stream():
                size += len(part)
                if size <= limit:
                    parts.append(part)
                elif size > _DRAIN_BYTES:
                    break
        except ClientDisconnect:
            raise EngineUnavailable("the client left before its request was read") from None
        if size > limit:
            raise AlertTooLarge(f"the body has more than the {limit} bytes allowed: shorten the alert at its source")
        return b"".join(parts)


def _headers(version: str, digest: str) -> dict[str, str]:
    plain = version.encode("ascii", "backslashreplace").decode()  # a base may be named after any folder
    return {VERSION_HEADER: plain, DIGEST_HEADER: digest}


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is larger than any number that is read here")
    return number


def _encodable(value: Any) -> Any:
    """`value` with question marks for half surrogates, which JSON can carry and no encoding can: an emoji that a log
    cut in half must keep no alert from being read, digested or stored."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return value


def _seconds(request: Request, name: str, default: float | None) -> float | None:
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        return float(text)
    except ValueError:
        raise SpecError(f"query parameter {name}={text!r} is not a number of seconds since the epoch") from None
