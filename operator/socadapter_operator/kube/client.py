"""A client of the Kubernetes API: synchronous, safe for threads, over one pool of connections.

Reads are quorum reads and are repeated when the network or the server fails, or tells what is older than what was seen
before. Writes are repeated only where the server certainly did not carry them out (no connection, 401, 429); anything
else is the caller's to look at and do again.
Every attempt at a write passes the leader's fence, and the hooks: whatever stops a process in a test. What goes wrong
becomes an error of the tree (`answers.error_of`). Watching is kopf's (`shell.watch`).
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import httpx

from socadapter_api.errors import (
    ClusterUnavailable,
    Conflict,
    Expired,
    KindNotInstalled,
    ObjectNotFound,
    SocAdapterError,
)
from socadapter_operator.kube import answers
from socadapter_operator.kube.channel import Channel
from socadapter_operator.kube.credentials import Credentials
from socadapter_operator.kube.freshness import Freshness
from socadapter_operator.kube.resources import EVENT, POD, Kind, Object, key_of, uid_of, version_of

MANAGER = "socadapter-operator"
STATUS_MANAGER = "socadapter-operator-status"
PAGE_SIZE = 500

Propagation = Literal["Background", "Foreground", "Orphan"]

_APPLY = {"Content-Type": "application/apply-patch+yaml"}
_MERGE = {"Content-Type": "application/merge-patch+json"}
_RESTARTS = 2
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


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A consistent list: all of it as of `resource_version`."""

    items: tuple[T, ...]
    resource_version: str


class Client:
    """Talks to the API server that `credentials` name. Who writes elsewhere on its owner's behalf asks `fence`, too."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        fence: Fence = lambda: None,
        hooks: Sequence[WriteHook] = (),
        patience: Patience = Patience(),
        measure: Measure = lambda _method, _status, _seconds: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._channel = Channel(credentials, connect_s=patience.connect_s)
        self.fence = fence
        self._hooks = tuple(hooks)
        self._patience = patience
        self._measure = measure
        self._clock = clock
        self._sleep = sleep
        self._freshness = Freshness(clock)

    def get(self, kind: Kind, namespace: str, name: str, *, timeout_s: float | None = None) -> Object:
        """One object as it is now.

        Raises:
            ObjectNotFound: there is none.
            KindNotInstalled: the server does not serve the kind.
            ClusterError, ClusterUnavailable: see `answers.error_of`.
        """
        path = kind.path(namespace, name)
        return self._call("GET", path, kind=kind, place=path, timeout_s=timeout_s)

    def find(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """`get`, and None where there is no such object. A kind that is not installed is still an error."""
        try:
            return self.get(kind, namespace, name)
        except ObjectNotFound:
            return None

    def list(
        self, kind: Kind, namespace: str = "", *, labels: str = "", fields: str = "", page_size: int = PAGE_SIZE
    ) -> Listing[Object]:
        """Every object of `kind`, in `namespace` or everywhere, that the selectors let through.

        Read in pages; begun anew when the server forgets where it was, at last in one go.

        Raises:
            as `get`.
        """
        return self.list_as(lambda item: item, kind, namespace, labels=labels, fields=fields, page_size=page_size)

    def list_as(
        self,
        made: Callable[[Object], T],
        kind: Kind,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        page_size: int = PAGE_SIZE,
    ) -> Listing[T]:
        """`list`, with what `made` makes of each object in its place; no more than a page of objects is held at once.

        Raises:
            as `get`.
        """
        for restart in range(_RESTARTS + 1):
            limit = page_size if restart < _RESTARTS else 0
            try:
                return self._pages(made, kind, namespace, labels, fields, limit)
            except Expired:
                if not limit:
                    raise
        raise AssertionError("the last round returns or raises")

    def installed(self, kind: Kind) -> bool:
        """Whether the server serves `kind`.

        Raises:
            ClusterError, ClusterUnavailable: it cannot be told.
        """
        try:
            served = self._call("GET", kind.root).get("resources", ())
        except (KindNotInstalled, ObjectNotFound):
            return False
        return any(entry.get("name") == kind.plural for entry in served)

    def create(self, kind: Kind, item: Object, *, timeout_s: float | None = None) -> Object:
        """Makes `item` and returns it as stored.

        Raises:
            AlreadyExists: an object of that name is there; whose it is, the caller has to look.
            ObjectNotFound: the namespace is missing.
            as `get`.
        """
        namespace, name = key_of(item)
        write = Write("create", kind, namespace, name)
        body = {"apiVersion": kind.api_version, "kind": kind.kind, **item}
        return self._call("POST", kind.path(namespace), write=write, body=body, timeout_s=timeout_s)

    def replace(self, kind: Kind, item: Object, *, timeout_s: float | None = None) -> Object:
        """Puts `item` in the place of the one whose `resourceVersion` it carries.

        Raises:
            Conflict: it changed since it was read.
            as `get`.
        """
        namespace, name = key_of(item)
        write = Write("update", kind, namespace, name)
        body = {"apiVersion": kind.api_version, "kind": kind.kind, **item}
        return self._call("PUT", kind.path(namespace, name), write=write, body=body, timeout_s=timeout_s)

    def apply(
        self, kind: Kind, item: Object, *, manager: str = MANAGER, force: bool = True, subresource: str = ""
    ) -> Object:
        """Server-side apply: makes the fields of `item` so, drops those that `manager` set before and no longer names.

        An object that is missing is created. With `metadata.uid` or `metadata.resourceVersion` in `item` it is changed
        only if it is that very one, and never created.

        Raises:
            Conflict: another manager owns a field and `force` is False, or the uid or version is another.
            as `get`.
        """
        namespace, name = key_of(item)
        write = Write("patch", kind, namespace, name, subresource)
        body = {"apiVersion": kind.api_version, "kind": kind.kind, **item}
        parameters = {"fieldManager": manager, "force": str(force).lower()}
        path = kind.path(namespace, name, subresource)
        return self._call("PATCH", path, write=write, body=body, parameters=parameters, headers=_APPLY)

    def merge(self, kind: Kind, namespace: str, name: str, fields: Object, *, manager: str) -> Object:
        """Changes `fields` of an object that is there, and nothing else, as ``kubectl patch --type=merge`` does.

        `manager` is noted beside whoever else sets fields; unlike with `apply`, it gives up nothing that it set before.

        Raises:
            ObjectNotFound: there is none.
            as `get`.
        """
        write = Write("patch", kind, namespace, name)
        path, parameters = kind.path(namespace, name), {"fieldManager": manager}
        return self._call("PATCH", path, write=write, body=fields, parameters=parameters, headers=_MERGE)

    def apply_status(self, kind: Kind, item: Object, *, manager: str = STATUS_MANAGER) -> Object:
        """Server-side apply of `item`'s status alone.

        For a status the API server holds to `metadata.resourceVersion` where `item` has one, and takes no notice of
        `metadata.uid`: that of the answer is looked at, so that a status which went to a namesake is at least known.

        Raises:
            ObjectNotFound: the object is gone.
            Conflict: it changed since that version, or is another of the same name, whose status is to be made anew.
            as `apply`.
        """
        stored = self.apply(kind, item, manager=manager, subresource="status")
        if uid_of(item) not in ("", uid_of(stored)):
            raise Conflict(
                f"the status of {kind.kind} {key_of(item)} with uid {uid_of(item)} went to its successor "
                f"{uid_of(stored)}; the next pass writes that one's own"
            )
        return stored

    def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        *,
        uid: str,
        resource_version: str | None = None,
        propagation: Propagation = "Background",
    ) -> None:
        """Deletes the object of that name, if it is the one with `uid` (and unchanged since `resource_version`).

        Raises:
            ObjectNotFound: there is none.
            Conflict: it is another, or it changed.
            as `get`.
        """
        conditions = {"uid": uid} | ({"resourceVersion": resource_version} if resource_version else {})
        body = {
            "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": conditions, "propagationPolicy": propagation,
        }  # fmt: skip
        self._call("DELETE", kind.path(namespace, name), write=Write("delete", kind, namespace, name), body=body)

    def log_lines(
        self, namespace: str, pod: str, *, container: str = "", follow: bool = False, tail: int | None = None
    ) -> Iterator[str]:
        """The log of a pod's container, line by line; with `follow` until it ends.

        Raises:
            ObjectNotFound: no such pod.
            ObjectInvalid: the container has not started yet, or has another name.
            ClusterUnavailable: the connection was lost.
        """
        parameters = {"container": container, "follow": str(follow).lower()}
        if tail is not None:
            parameters["tailLines"] = str(tail)
        path = POD.path(namespace, pod, "log")
        timeout = httpx.Timeout(self._patience.read_s, read=None if follow else self._patience.read_s)
        request = answers.Request("GET", path)
        try:
            with self._channel.stream("GET", path, {k: v for k, v in parameters.items() if v}, timeout) as response:
                if response.is_error:
                    response.read()
                    raise answers.error_of(request, response)
                yield from response.iter_lines()
        except httpx.TransportError as error:
            raise answers.unreachable(request, error) from error

    def close(self) -> None:
        """Closes the connections."""
        self._channel.close()

    def _pages(
        self, made: Callable[[Object], T], kind: Kind, namespace: str, labels: str, fields: str, limit: int
    ) -> Listing[T]:
        parameters = {"labelSelector": labels, "fieldSelector": fields, "limit": str(limit) if limit else ""}
        items: list[T] = []
        while True:
            place = "" if parameters.get("continue") else kind.path()
            page = self._call("GET", kind.path(namespace), kind=kind, place=place, parameters=parameters)
            for item in page.get("items") or ():
                items.append(made({"apiVersion": kind.api_version, "kind": kind.kind, **item}))
            about = page.get("metadata") or {}
            parameters["continue"] = str(about.get("continue") or "")
            if not parameters["continue"]:
                return Listing(tuple(items), str(about.get("resourceVersion") or ""))

    def _call(
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
            self.fence()
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
