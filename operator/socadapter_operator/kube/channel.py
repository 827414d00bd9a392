"""Connections to one API server, anew when its address or a certificate changes; the token goes with each request."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from socadapter_operator.kube.connection import Connection
from socadapter_operator.kube.credentials import Credentials
from socadapter_operator.kube.resources import Object

_MAX_CONNECTIONS = 32
_USER_AGENT = "socadapter-operator"


@dataclass(slots=True)
class _Connections:
    """Those that one set of certificates opened, and how many requests are at work on them."""

    of: tuple[str, ...]
    client: httpx.Client
    used: int = 0


class Channel:
    """Sends requests with the credentials of the moment. Safe for threads."""

    def __init__(self, credentials: Credentials, *, connect_s: float) -> None:
        self._credentials = credentials
        self._connect_s = connect_s
        self._lock = threading.Lock()
        self._open: _Connections | None = None

    def request(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str],
        body: Object | None,
        *,
        headers: Mapping[str, str],
        timeout: httpx.Timeout,
    ) -> httpx.Response:
        """One request, one answer, whatever its status.

        Raises:
            ClusterNotConfigured: there are no credentials.
            httpx.TransportError: no answer.
        """
        connection = self._credentials.connection()
        with self._client(connection) as client:
            return client.request(
                method,
                connection.server + path,
                params=parameters,
                json=body,
                headers={**_bearer(connection), **headers},
                timeout=timeout,
                extensions=_server_name(connection),
            )

    @contextmanager
    def stream(
        self, method: str, path: str, parameters: Mapping[str, str], timeout: httpx.Timeout
    ) -> Iterator[httpx.Response]:
        """As `request`, with the answer's body left to be read."""
        connection = self._credentials.connection()
        with (
            self._client(connection) as client,
            client.stream(
                method,
                connection.server + path,
                params=parameters,
                headers=_bearer(connection),
                timeout=timeout,
                extensions=_server_name(connection),
            ) as response,
        ):
            yield response

    def refused(self) -> None:
        """The server did not take the credentials: they are read anew for the next request."""
        self._credentials.refused()

    def close(self) -> None:
        """Closes every connection: those of requests that still wait for an answer as soon as they have it."""
        with self._lock:
            before, self._open = self._open, None
        self._close_unused(before)

    @contextmanager
    def _client(self, connection: Connection) -> Iterator[httpx.Client]:
        """What to send with. It is never closed under a request, whose number the system gives to the next connection:
        the two would read one another's answers."""
        with self._lock:
            before = used = self._open
            if used is None or used.of != connection.channel:
                used = self._open = _Connections(connection.channel, _opened(connection))
            used.used += 1
        try:
            self._close_unused(before)
            yield used.client
        finally:
            with self._lock:
                used.used -= 1
            self._close_unused(used)

    def _close_unused(self, connections: _Connections | None) -> None:
        """Closes connections that were given up, unless a request is at work on them, which does it at its end."""
        with self._lock:
            if connections is None or connections is self._open or connections.used:
                return
        connections.client.close()


def _opened(connection: Connection) -> httpx.Client:
    return httpx.Client(
        verify=connection.ssl_context() if connection.server.startswith("https:") else False,
        proxy=connection.proxy or None,
        limits=httpx.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_MAX_CONNECTIONS),
        headers={"User-Agent": _USER_AGENT, "Accept": "application/json"},
        follow_redirects=False,
        trust_env=False,  # nothing is connected to that the configuration does not name
    )


def _bearer(connection: Connection) -> dict[str, str]:
    return {"Authorization": f"Bearer {connection.token}"} if connection.token else {}


def _server_name(connection: Connection) -> dict[str, str]:
    return {"sni_hostname": connection.server_name} if connection.server_name else {}
