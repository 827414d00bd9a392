"""Answers of an API server: those that it gave, some of which are given again too late, and those to a fault."""

import json
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

from tests.faults.kinds import Fault

_KEPT = 8


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, content type and body."""

    code: int
    content_type: str
    body: bytes
    retry_after: str = ""


@dataclass(frozen=True, slots=True)
class _Refusal:
    code: int
    reason: str
    message: str


_REFUSALS = {
    Fault.CONFLICT: _Refusal(409, "Conflict", "the object has been modified; please apply your changes to the latest"),
    Fault.BUSY: _Refusal(429, "TooManyRequests", "the server has received too many requests, please try again later"),
    Fault.BROKEN: _Refusal(500, "InternalError", "Internal error occurred: etcdserver: request timed out"),
    Fault.GONE_PAGE: _Refusal(410, "Expired", "The provided continue parameter is too old"),
    Fault.GONE_WATCH: _Refusal(410, "Expired", "too old resource version"),
    Fault.GONE_EVENT: _Refusal(410, "Expired", "too old resource version"),
}
_RETRY_AFTER_S = 1


def status(fault: Fault) -> dict[str, Any]:
    """The `Status` by which an API server tells `fault`."""
    told = _REFUSALS[fault]
    details = {"retryAfterSeconds": _RETRY_AFTER_S} if fault is Fault.BUSY else {}
    return {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": told.code, "reason": told.reason, "message": f"{told.message} (injected)", "details": details,
    }  # fmt: skip


def refusal(fault: Fault) -> Answer:
    """The answer to a request that meets `fault`."""
    body = json.dumps(status(fault)).encode()
    retry_after = str(_RETRY_AFTER_S) if fault is Fault.BUSY else ""
    return Answer(_REFUSALS[fault].code, "application/json", body, retry_after)


class Memory:
    """The last different answers to each read."""

    def __init__(self) -> None:
        self._answers: dict[str, deque[Answer]] = {}
        self._lock = threading.Lock()

    def keep(self, read: str, answer: Answer) -> None:
        """`answer` is the newest to `read`, a path with its query."""
        with self._lock:
            kept = self._answers.setdefault(read, deque(maxlen=_KEPT))
            if not kept or kept[-1].body != answer.body:
                kept.append(answer)

    def older(self, read: str) -> tuple[Answer, ...]:
        """Those before the newest."""
        with self._lock:
            return tuple(self._answers.get(read, ()))[:-1]
