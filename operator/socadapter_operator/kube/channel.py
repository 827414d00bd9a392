"""Connections to one API server, anew when its address or a certificate changes; the token goes with each request."""

import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import httpx

from socadapter_operator.kube.connection import Connection
from socadapter_operator.kube.connections import Connections
from socadapter_operator.kube.credentials import Credentials
from socadapter_operator.kube.resources import Object

_USER_AGENT = "socadapter-operator"


class Channel:
    """Sends requests with the credentials of the moment. Safe for threads."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._lock = threading.Lock()
        self._open: Connections | None = None
        self._open_for: tuple[str, ...] = ()
        """What `_open` was opened with: addresses and certificates."""

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
        if before is not None:
            before.close()

    def _client(self, connection: Connection) -> AbstractContextManager[httpx.Client]:
        """What to send with, for one request."""
        with self._lock:
            before = current = self._open
            if current is None or self._open_for != connection.channel:
                certificates = connection.ssl_context() if connection.server.startswith("https:") else False
                current = self._open = Connections(partial(_opened, connection, certificates))
                self._open_for = connection.channel
        if before is not None and before is not current:
            before.close()
        return current.one()


def _opened(connection: Connection, certificates: ssl.SSLContext | bool) -> httpx.Client:
    return httpx.Client(
        verify=certificates,
        proxy=connection.proxy or None,
        headers={"User-Agent": _USER_AGENT, "Accept": "application/json"},
        follow_redirects=False,
        trust_env=False,  # nothing is connected to that the configuration does not name
    )


def _bearer(connection: Connection) -> dict[str, str]:
    return {"Authorization": f"Bearer {connection.token}"} if connection.token else {}


def _server_name(connection: Connection) -> dict[str, str]:
    return {"sni_hostname": connection.server_name} if connection.server_name else {}
