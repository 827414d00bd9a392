"""How an error of ours looks over HTTP: one form for every endpoint, which the OpenAI clients read as theirs."""

from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from socadapter_api.errors import (
    AlertTooLarge,
    CallerForbidden,
    DataError,
    EngineUnavailable,
    SocAdapterError,
    SpecError,
    TransientError,
    Unauthorized,
    UnknownVersion,
)

_STATUS: tuple[tuple[type[SocAdapterError], int, str], ...] = (
    (Unauthorized, 401, "authentication_error"),
    (CallerForbidden, 403, "permission_error"),
    (UnknownVersion, 404, "invalid_request_error"),
    (AlertTooLarge, 413, "invalid_request_error"),
    (DataError, 400, "invalid_request_error"),
    (SpecError, 400, "invalid_request_error"),
    (EngineUnavailable, 503, "server_error"),
    (TransientError, 503, "server_error"),
    (SocAdapterError, 500, "server_error"),
)
RETRY_AFTER_S = 1


class Busy(EngineUnavailable):
    """More requests are in work than the configuration allows."""

    reason = "TooManyRequests"


class TimedOut(EngineUnavailable):
    """No answer within the request's time limit."""

    reason = "RequestTimeout"


def status_of(error: SocAdapterError) -> int:
    """The HTTP status that `error` is answered with."""
    return _kind(error)[0]


def response(error: SocAdapterError, code: str = "") -> Response:
    """`error` as an HTTP answer."""
    status, kind = _kind(error)
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="socadapter"'
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    body: dict[str, Any] = {
        "message": str(error),
        "type": kind,
        "param": None,
        "code": code or error.reason,
        "reason": error.reason,
    }
    return JSONResponse({"error": body}, status, headers)


def malformed(error: ValidationError, what: str) -> SpecError:
    """What is wrong with a request, field by field, in one line."""
    problems = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in error.errors()[:5])
    return SpecError(f"{what} is not what this endpoint takes: {problems}")


def _kind(error: SocAdapterError) -> tuple[int, str]:
    if isinstance(error, TimedOut):
        return 504, "server_error"
    return next((status, kind) for known, status, kind in _STATUS if isinstance(error, known))
