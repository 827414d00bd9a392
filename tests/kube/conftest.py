"""A small API server over real HTTP, and a client of it."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.kube.api_server import ApiServer

from socadapter_operator.kube.attempts import Patience
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.connection import Connection


@dataclass
class Fixed:
    """Credentials that are what they are; counts how often they were refused."""

    server: str
    token: str = "token-1"
    refusals: int = 0

    def connection(self) -> Connection:
        return Connection(self.server, token=self.token)

    def refused(self) -> None:
        self.refusals += 1


@pytest.fixture
def server() -> Iterator[ApiServer]:
    running = ApiServer()
    yield running
    running.close()


@pytest.fixture
def credentials(server: ApiServer) -> Fixed:
    return Fixed(server.url)


@pytest.fixture
def client(credentials: Fixed) -> Iterator[Client]:
    made = Client(credentials, patience=Patience(connect_s=2, read_s=5, write_s=5, total_s=2), sleep=lambda _: None)
    yield made
    made.close()
