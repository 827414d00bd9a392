"""Connections that are kept between requests, each of them one request's alone while that is under way.

A client of httpx that threads share may close a connection which it has just handed to one of them: it counts as idle
until that thread takes it up (encode/httpcore, issue 1110). The system gives the number of a closed connection to the
next file or connection, and what is said under that number then lands there. So no two threads share a client here.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx

_KEPT = 32
"""So many wait for the next request; those beyond are closed."""


class Connections:
    """Clients that `opened` makes, lent to one request at a time. Safe for threads."""

    def __init__(self, opened: Callable[[], httpx.Client]) -> None:
        self._opened = opened
        self._lock = threading.Lock()
        self._idle: list[httpx.Client] = []
        self._closed = False

    @contextmanager
    def one(self) -> Iterator[httpx.Client]:
        """The client that was used last of those that nobody uses, or a new one, for as long as the context lasts."""
        with self._lock:
            client = self._idle.pop() if self._idle else None
        client = client or self._opened()
        try:
            yield client
        finally:
            self._take_back(client)

    def close(self) -> None:
        """Closes every connection: those of requests that still wait for an answer as soon as they have it."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for client in idle:
            client.close()

    def _take_back(self, client: httpx.Client) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < _KEPT:
                self._idle.append(client)
                return
        client.close()
