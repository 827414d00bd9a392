"""One request to the API server, until it is answered or patience ends: repetitions, fence, hooks, stale answers.

Reads are quorum reads and are repeated when the network or the server fails, or tells what is older than what was seen
before. Writes are repeated only where the server certainly did not carry them out (no connection, 401, 429); anything
else is the caller's to look at and do again. Every attempt at a write passes the leader's fence, and the hooks:
whatever stops a process in a test. Called by `Client`.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import httpx

from socadapter_api.errors import ClusterUnavailable, SocAdapterError
from socadapter_operator.kube import answers
from socadapter_operator.kube.channel import Channel
from socadapter_operator.kube.freshness import Freshness
from socadapter_operator.kube.resources import EVENT, Kind, Object, key_of, version_of

_SHORTEST_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Write:
    """One attempt to change something: `verb` is the API's (create, update, patch, delete)."""

    verb: str
    kind: Kind
    namespace: str
    name: str
    subresource: str = ""

    def __str__(self) -> str:
        what = f"{self.kind.plural}/{self.subresource}" if self.subresource else self.kind.plural
        return f"{self.verb} {what} {self.namespace}/{self.name}"


class WriteHook(Protocol):
    """Sees every attempt at a write. What it raises goes to the caller; raised by `before`, nothing was sent."""

    def before(self, write: Write) -> None:
        """About to be sent."""

    def after(self, write: Write) -> None:
        """The server has answered that it carried it out."""


Fence = Callable[[], None]
"""Passes while this process may change anything, anywhere; raises `LeadershipLost` otherwise."""

Measure = Callable[[str, str, float], None]
"""Method, status (``<error>`` where there was no answer) and seconds of each attempt."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long things may take: one attempt's parts, and all attempts of one call together; seconds."""

    connect_s: float = 5.0
    read_s: float = 30.0
    write_s: float = 10.0
    total_s: float = 10.0
    """No further attempt begins after this."""


class Attempts:
    """Sends through `channel`. Each write passes `fence` first, and is shown to `hooks`."""

    def __init__(
        self,
        channel: Channel,
        *,
        fence: Fence,
        hooks: Sequence[WriteHook],
        patience: Patience,
        measure: Measure,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._channel = channel
        self._fence = fence
        self._hooks = tuple(hooks)
        self._patience = patience
        self._measure = measure
        self._clock = clock
        self._sleep = sleep
        self._freshness = Freshness(clock)

    def answer(
        self,
        method: str,
        path: str,
        *,
        kind: Kind | None = None,
        place: str = "",
        write: Write | None = None,
        body: Object | None = None,
        parameters: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Object:
        """One request with its repetitions, and the JSON object of the answer.

        An answer about `place` that is older than one before counts as none.

        Raises:
            ClusterError, ClusterUnavailable: see `answers.error_of`.
            whatever the fence or a hook does.
        """
        request = answers.Request(method, path)
        asked = {key: value for key, value in (parameters or {}).items() if value}
        timeout = self._timeout(write, timeout_s)
        deadline = self._clock() + (self._patience.total_s if timeout_s is None else timeout_s)
        pause, refused = _SHORTEST_PAUSE_S, False
        while True:
            floor = self._freshness.floor(place) if place else 0
            try:
                response = self._attempt(request, write, body, asked, headers, timeout)
            except ClusterUnavailable as error:
                if not (write is None or _never_sent(error)):
                    raise
                failure: ClusterUnavailable = error
            else:
                if response.status_code == httpx.codes.UNAUTHORIZED and not refused:
                    refused = True
                    self._channel.refused()
                    continue
                if response.is_success:
                    if write is not None:
                        self._after(write)
                    found = answers.json_of(request, response)
                    if not (place and self._freshness.is_old(place, floor, version_of(found))):
                        self._note(write.kind if write else kind, found)
                        return found
                    told: SocAdapterError = answers.outdated(request, version_of(found), floor)
                else:
                    told = answers.error_of(request, response)
                busy = response.status_code == httpx.codes.TOO_MANY_REQUESTS
                if not isinstance(told, ClusterUnavailable) or not (write is None or busy):
                    raise told
                failure = told
            wait = max(pause * random.uniform(0.5, 1.0), failure.retry_after_s or 0.0)
            if self._clock() + wait >= deadline:
                raise failure
            self._sleep(wait)
            pause *= 2

    def _attempt(
        self,
        request: answers.Request,
        write: Write | None,
        body: Object | None,
        parameters: Mapping[str, str],
        headers: Mapping[str, str] | None,
        timeout: httpx.Timeout,
    ) -> httpx.Response:
        if write is not None:
            self._fence()
            for hook in self._hooks:
                hook.before(write)
        started, status = self._clock(), "<error>"
        try:
            response = self._channel.request(
                request.method, request.path, parameters, body, headers=headers or {}, timeout=timeout
            )
            status = str(response.status_code)
            return response
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise answers.unreachable(request, error) from error
        finally:
            self._measure(request.method, status, self._clock() - started)

    def _note(self, kind: Kind | None, found: Object) -> None:
        """Raises the floor under what comes after. Events are never read back, and each has a name of its own."""
        namespace, name = key_of(found)
        if kind is not None and kind != EVENT:
            self._freshness.saw(kind.path(), version_of(found))
            if name:
                self._freshness.saw(kind.path(namespace, name), version_of(found))

    def _after(self, write: Write) -> None:
        for hook in self._hooks:
            hook.after(write)

    def _timeout(self, write: Write | None, timeout_s: float | None) -> httpx.Timeout:
        usual = self._patience.read_s if write is None else self._patience.write_s
        read = usual if timeout_s is None else min(usual, timeout_s)
        connect = self._patience.connect_s if timeout_s is None else min(self._patience.connect_s, timeout_s)
        return httpx.Timeout(read, connect=connect)


def _never_sent(error: ClusterUnavailable) -> bool:
    return isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
