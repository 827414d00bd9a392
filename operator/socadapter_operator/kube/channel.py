"""Connections to one API server, anew when its address or a certificate changes; the token goes with each request."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx

from socadapter_operator.kube.connection import Connection
from socadapter_operator.kube.credentials import Credentials
from socadapter_operator.kube.resources import Object

_MAX_CONNECTIONS = 32
_USER_AGENT = "socadapter-operator"


class Channel:
    """Sends requests with the credentials of the moment. Safe for threads."""

    def __init__(self, credentials: Credentials, *, connect_s: float) -> None:
        self._credentials = credentials
        self._connect_s = connect_s
        self._lock = threading.Lock()
        self._open: tuple[tuple[str, ...], httpx.Client] | None = None
        self._retired: list[httpx.Client] = []

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
        return self._client(connection).request(
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
        with self._client(connection).stream(
            method,
            connection.server + path,
            params=parameters,
            headers=_bearer(connection),
            timeout=timeout,
            extensions=_server_name(connection),
        ) as response:
            yield response

    def refused(self) -> None:
        """The server did not take the credentials: they are read anew for the next request."""
        self._credentials.refused()

    def close(self) -> None:
        """Closes every connection, also those that a change of certificates left behind."""
        with self._lock:
            clients = [*self._retired, *([self._open[1]] if self._open else [])]
            self._retired, self._open = [], None
        for client in clients:
            client.close()

    def _client(self, connection: Connection) -> httpx.Client:
        with self._lock:
            if self._open is None or self._open[0] != connection.channel:
                if self._open is not None:
                    self._retired.append(self._open[1])  # other threads may be in the middle of an answer
                self._open = (connection.channel, _opened(connection))
            return self._open[1]


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
