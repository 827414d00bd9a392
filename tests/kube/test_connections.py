"""Connections are kept, and no request ever shares one."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx
import pytest
from tests.loopback import Loopback

from socadapter_operator.kube.connections import Connections


class Remembering(BaseHTTPRequestHandler):
    """Answers with the port that it was asked from, which is the same for as long as the connection is."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = str(self.client_address[1]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def url() -> Iterator[str]:
    server = Loopback(Remembering)
    yield server.url
    server.close()


@pytest.fixture
def connections() -> Iterator[Connections]:
    made = Connections(lambda: httpx.Client(trust_env=False))
    yield made
    made.close()


def test_next_request_takes_the_connection_that_was_used_last(connections: Connections, url: str) -> None:
    ports = []
    for _ in range(3):
        with connections.one() as client:
            ports.append(client.get(url).text)
    assert 1 == len(set(ports))


def test_request_under_way_has_its_connection_alone(connections: Connections, url: str) -> None:
    with connections.one() as first, first.stream("GET", url) as answer, connections.one() as second:
        other = second.get(url).text
        assert other != answer.read().decode()


def test_failed_request_gives_its_client_back(connections: Connections, url: str) -> None:
    with pytest.raises(httpx.ConnectError), connections.one() as failed:
        failed.get("http://127.0.0.1:1")
    with connections.one() as client:
        assert failed is client
        assert client.get(url).is_success


def test_close_leaves_a_request_that_is_under_way_its_connection(connections: Connections, url: str) -> None:
    with connections.one() as idle:
        idle.get(url)
    with connections.one() as used, connections.one() as idle:
        idle.get(url)
        connections.close()
        assert used.get(url).is_success
    assert [True, True] == [used.is_closed, idle.is_closed]


def test_no_more_wait_than_are_kept(connections: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socadapter_operator.kube.connections._KEPT", 1)
    with connections.one() as first, connections.one() as second:
        pass
    assert [True, False] == [first.is_closed, second.is_closed]
