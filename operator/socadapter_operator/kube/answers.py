"""What the API server answered, as errors of the tree: status and reason decide the class, the message is quoted."""

from dataclasses import dataclass
from typing import Any

import httpx

from socadapter_api.errors import (
    AlreadyExists,
    ClusterError,
    ClusterUnavailable,
    Conflict,
    Expired,
    Forbidden,
    KindNotInstalled,
    LoginRefused,
    ObjectInvalid,
    ObjectNotFound,
    SocAdapterError,
)
from socadapter_operator.kube.resources import Object

_BY_STATUS: dict[int, type[SocAdapterError]] = {
    400: ObjectInvalid,
    401: LoginRefused,
    403: Forbidden,
    410: Expired,
    413: ObjectInvalid,
    415: ObjectInvalid,
    422: ObjectInvalid,
}
_ADVICE: dict[type[SocAdapterError], str] = {
    LoginRefused: "look at the token or certificate, and whether it is for this cluster",
    Forbidden: "grant it, raise the quota, or change what the admission rule looks at",
    KindNotInstalled: "install its CustomResourceDefinition",
    ObjectInvalid: "mend the field that the message names",
    Conflict: "read it again and decide anew",
}
_UNTYPED = "failed to create typed patch object"
_LONGEST_QUOTE = 1000


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked: it names the place in an error's text."""

    method: str
    path: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def error_of(request: Request, response: httpx.Response) -> SocAdapterError:
    """The error that `response` stands for; its text names `request` and quotes the server."""
    status = _status(response)
    told = str(status.get("message") or response.text).strip()[:_LONGEST_QUOTE]
    kind = _class_of(response.status_code, status)
    advice = f"; {_ADVICE[kind]}" if kind in _ADVICE else ""
    error = kind(f"{request} was answered {response.status_code}: {told or 'without a message'}{advice}")
    if isinstance(error, ClusterUnavailable):
        error.retry_after_s = _retry_after_s(response, status)
    return error


def unreachable(request: Request, error: Exception) -> ClusterUnavailable:
    """The error of a request that got no answer."""
    told = str(error) or type(error).__name__
    return ClusterUnavailable(f"{request} got no answer: {told}; the next pass looks what became of it")


def outdated(request: Request, version: str, floor: int) -> ClusterUnavailable:
    """The error of an answer that is older than another that was seen before."""
    return ClusterUnavailable(
        f"{request} was answered as of resourceVersion {version}, and {floor} was seen before: the server lags behind"
    )


def json_of(request: Request, response: httpx.Response) -> Object:
    """The object in a good answer.

    Raises:
        ClusterUnavailable: it is no JSON object, as from a proxy in between.
    """
    try:
        held: Any = response.json()
    except ValueError as error:
        raise ClusterUnavailable(f"{request} was answered with something that is no JSON; is this a proxy?") from error
    if not isinstance(held, dict):
        raise ClusterUnavailable(f"{request} was answered with {type(held).__name__} where an object was due")
    return held


def _class_of(code: int, status: Object) -> type[SocAdapterError]:
    reason = status.get("reason")
    if code == httpx.codes.NOT_FOUND:
        return ObjectNotFound if _names_an_object(status) else KindNotInstalled
    if code == httpx.codes.METHOD_NOT_ALLOWED:
        # A definition that is being deleted takes no new objects, and answers so.
        return KindNotInstalled if "terminating" in str(status.get("message")) else ClusterError
    if code == httpx.codes.CONFLICT:
        return AlreadyExists if reason == "AlreadyExists" else Conflict
    if any(cause.get("field") == "metadata.uid" for cause in (status.get("details") or {}).get("causes") or ()):
        return Conflict  # an apply that names the uid of another object
    if _UNTYPED in str(status.get("message")):
        return ObjectInvalid  # an applied field that the schema does not have comes as a 500
    if code == httpx.codes.TOO_MANY_REQUESTS or code >= httpx.codes.INTERNAL_SERVER_ERROR:
        return ClusterUnavailable
    return _BY_STATUS.get(code, ClusterError)


def _names_an_object(status: Object) -> bool:
    """A path that the server does not serve is answered by plain text, or by a Status that names nothing."""
    details = status.get("details")
    return isinstance(details, dict) and bool(details.get("name"))


def _status(response: httpx.Response) -> Object:
    try:
        held = response.json()
    except ValueError:
        return {}
    return held if isinstance(held, dict) and held.get("kind") == "Status" else {}


def _retry_after_s(response: httpx.Response, status: Object) -> float | None:
    details = status.get("details")
    told = response.headers.get("Retry-After") or (details or {}).get("retryAfterSeconds")
    try:
        return max(float(told), 0.0) if told is not None else None
    except (TypeError, ValueError):
        return None
