"""The REST API of a Ray cluster's dashboard: connections that are kept, the bearer token, and errors of our tree.

What is asked of it is left to `ray_runs` and `ray_serving`. Safe to share between threads.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx

from socadapter_api.errors import BackendUnavailable, RayTokenRefused, SpecError
from socadapter_operator.backends import tls
from socadapter_operator.kube.attempts import Fence
from socadapter_operator.kube.connections import Connections

_TIMEOUT_S = 30.0
"""Serve's first answer takes a dashboard that has just started many seconds."""

_CONNECT_TIMEOUT_S = 5.0
_SAID_CHARACTERS = 300
_REFUSED = (401, 403)
_MISSING = 404
_NOT_IMPLEMENTED = 501

ReadToken = Callable[[], str | None]
"""Gives the token as it is now, None where the cluster asks for none; raises `SecretNotFound`."""


class RayDashboard:
    """The dashboard at `address`, such as ``http://ray-head:8265``. A token that was refused is read again, once.

    Whatever is sent to change anything passes `fence`, each time.

    Raises:
        SpecError: `address` is no address of a dashboard.
    """

    def __init__(
        self, address: str, read_token: ReadToken, timeout_s: float = _TIMEOUT_S, fence: Fence = lambda: None
    ) -> None:
        try:
            self.url = httpx.URL(address.rstrip("/"))
        except httpx.InvalidURL as error:
            raise SpecError(f"ray.address {address!r} is no URL: {error}") from None
        if self.url.scheme not in ("http", "https") or not self.url.host:
            raise SpecError(
                f"ray.address {address!r} is not the address of a Ray dashboard: write it as http://HOST:8265"
            )
        self._read_token = read_token
        self._fence = fence
        self._token: str | None = None
        self._connections = Connections(
            partial(
                httpx.Client,
                verify=tls.public_authorities(),
                timeout=httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S),
                follow_redirects=False,
                trust_env=False,
            )
        )

    def get(self, path: str) -> Any | None:
        """The JSON value at `path`; None where there is nothing.

        Raises:
            RayTokenRefused, BackendUnavailable, SpecError: as `send`; `SpecError` also for any other refusal.
        """
        answer = self.send("GET", path)
        if answer.status_code == _MISSING:
            return None
        if answer.is_error:
            raise SpecError(f"Ray at {self.url} refused GET {path}: {said(answer)}")
        return self._json(answer)

    def send(self, method: str, path: str, body: object = None) -> httpx.Response:
        """The answer to a request, whose status may be any but 401, 403 and 5xx.

        Raises:
            LeadershipLost: it would change something, and another operator may lead by now.
            SecretNotFound: the token's Secret is missing.
            RayTokenRefused: the cluster does not accept the token, read again included.
            SpecError: that is no dashboard, or one without Serve.
            BackendUnavailable: it cannot be reached, or failed.
        """
        answer = self._once(method, path, body)
        if answer.status_code in _REFUSED:
            self._token = None
            answer = self._once(method, path, body)
        if answer.status_code in _REFUSED:
            had = "the token that it was given" if self._token else "a caller without a token"
            raise RayTokenRefused(
                f"Ray at {self.url} refuses {had} ({answer.status_code}): put the cluster's token into the Secret that "
                "ray.tokenSecretRef names"
            )
        if answer.is_redirect:
            where = answer.headers.get("location", "elsewhere")
            raise SpecError(f"ray.address {self.url} leads to {where}: name the dashboard's own address")
        if answer.status_code == _NOT_IMPLEMENTED:
            raise SpecError(f"Ray at {self.url} cannot do {method} {path}: {said(answer)}")
        if answer.is_server_error:
            raise BackendUnavailable(
                f"Ray at {self.url} failed at {method} {path} ({answer.status_code}): {said(answer)}"
            )
        return answer

    def lines(self, path: str, *, follow: bool = False) -> Iterator[str]:
        """The text at `path`, line by line; with `follow` for as long as it grows, by the token that was taken last.

        Raises:
            RayTokenRefused, BackendUnavailable, SpecError: as `get`.
        """
        if not follow:
            answer = self.send("GET", path)
            if answer.is_error:
                raise SpecError(f"Ray at {self.url} refused GET {path}: {said(answer)}")
            yield from answer.text.splitlines()
            return
        for_ever, headers = httpx.Timeout(_CONNECT_TIMEOUT_S, read=None), self.headers()
        try:
            with (
                self._connections.one() as client,
                client.stream("GET", f"{self.url}{path}", headers=headers, timeout=for_ever) as growing,
            ):
                if growing.is_error:
                    growing.read()
                    raise BackendUnavailable(f"Ray at {self.url} refused GET {path}: {said(growing)}")
                yield from growing.iter_lines()
        except httpx.HTTPError as error:
            raise BackendUnavailable(f"the log of Ray at {self.url} ended early: {error}") from error

    def headers(self) -> dict[str, str]:
        """What a request carries; the token is read the first time, and after it was refused."""
        if self._token is None:
            self._token = self._read_token()
        return {"authorization": f"Bearer {self._token}"} if self._token else {}

    def close(self) -> None:
        """Closes the connections."""
        self._connections.close()

    def _once(self, method: str, path: str, body: object) -> httpx.Response:
        # Not joined by httpx: a dashboard may live below a path.
        url = f"{self.url}{path}"
        headers = self.headers()
        if method != "GET":
            self._fence()
        try:
            with self._connections.one() as client:
                return client.request(method, url, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise BackendUnavailable(
                f"Ray at {self.url} cannot be reached ({type(error).__name__}: {error}): is ray.address right, and the "
                "dashboard running?"
            ) from error

    def _json(self, answer: httpx.Response) -> Any:
        try:
            return answer.json()
        except ValueError:
            raise SpecError(
                f"ray.address {self.url} answers, but not as a Ray dashboard does: is another service there?"
            ) from None


def said(answer: httpx.Response) -> str:
    """What an error's body says in its last line; Ray sends whole tracebacks."""
    lines = answer.text.strip().splitlines() or [answer.reason_phrase]
    return lines[-1].strip()[:_SAID_CHARACTERS]
