"""A client of the Kubernetes API: synchronous, safe for threads, over one pool of connections.

What each of its verbs asks for, `attempts` sees through. What goes wrong becomes an error of the tree
(`answers.error_of`). Watching is kopf's (`shell.watch`).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import httpx

from socadapter_api.errors import Conflict, Expired, KindNotInstalled, ObjectNotFound
from socadapter_operator.kube import answers
from socadapter_operator.kube.attempts import Attempts, Fence, Measure, Patience, Write, WriteHook
from socadapter_operator.kube.channel import Channel
from socadapter_operator.kube.credentials import Credentials
from socadapter_operator.kube.resources import POD, Kind, Object, key_of, uid_of

MANAGER = "socadapter-operator"
STATUS_MANAGER = "socadapter-operator-status"
PAGE_SIZE = 500

Propagation = Literal["Background", "Foreground", "Orphan"]

_APPLY = {"Content-Type": "application/apply-patch+yaml"}
_MERGE = {"Content-Type": "application/merge-patch+json"}
_RESTARTS = 2


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
        self.fence = fence
        self._patience = patience
        self._channel = Channel(credentials)
        self._attempts = Attempts(
            self._channel, fence=fence, hooks=hooks, patience=patience, measure=measure, clock=clock, sleep=sleep
        )

    def get(self, kind: Kind, namespace: str, name: str, *, timeout_s: float | None = None) -> Object:
        """One object as it is now.

        Raises:
            ObjectNotFound: there is none.
            KindNotInstalled: the server does not serve the kind.
            ClusterError, ClusterUnavailable: see `answers.error_of`.
        """
        path = kind.path(namespace, name)
        return self._attempts.answer("GET", path, kind=kind, place=path, timeout_s=timeout_s)

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
            served = self._attempts.answer("GET", kind.root).get("resources", ())
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
        return self._attempts.answer("POST", kind.path(namespace), write=write, body=body, timeout_s=timeout_s)

    def replace(self, kind: Kind, item: Object, *, timeout_s: float | None = None) -> Object:
        """Puts `item` in the place of the one whose `resourceVersion` it carries.

        Raises:
            Conflict: it changed since it was read.
            as `get`.
        """
        namespace, name = key_of(item)
        write = Write("update", kind, namespace, name)
        body = {"apiVersion": kind.api_version, "kind": kind.kind, **item}
        return self._attempts.answer("PUT", kind.path(namespace, name), write=write, body=body, timeout_s=timeout_s)

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
        return self._attempts.answer("PATCH", path, write=write, body=body, parameters=parameters, headers=_APPLY)

    def merge(self, kind: Kind, namespace: str, name: str, fields: Object, *, manager: str) -> Object:
        """Changes `fields` of an object that is there, and nothing else, as ``kubectl patch --type=merge`` does.

        `manager` is noted beside whoever else sets fields; unlike with `apply`, it gives up nothing that it set before.

        Raises:
            ObjectNotFound: there is none.
            as `get`.
        """
        write = Write("patch", kind, namespace, name)
        path, parameters = kind.path(namespace, name), {"fieldManager": manager}
        return self._attempts.answer("PATCH", path, write=write, body=fields, parameters=parameters, headers=_MERGE)

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
        self._attempts.answer(
            "DELETE", kind.path(namespace, name), write=Write("delete", kind, namespace, name), body=body
        )

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
            page = self._attempts.answer("GET", kind.path(namespace), kind=kind, place=place, parameters=parameters)
            for item in page.get("items") or ():
                items.append(made({"apiVersion": kind.api_version, "kind": kind.kind, **item}))
            about = page.get("metadata") or {}
            parameters["continue"] = str(about.get("continue") or "")
            if not parameters["continue"]:
                return Listing(tuple(items), str(about.get("resourceVersion") or ""))
