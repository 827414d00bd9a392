"""A listener that keeps what it is told, a clock that moves when told to, and a small API server with a client."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from tests.kube.api_server import ApiServer
from tests.kube.conftest import Fixed

from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import Kind, Object, ObjectKey, key_of

DEADLINE_S = 120.0


@dataclass
class Told:
    """What a listener was told: kind, name and whether it was deleted; full passes apart."""

    changes: list[tuple[str, str, bool]] = field(default_factory=list)
    passes: list[tuple[str, list[str]]] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)

    def changed(self, kind: Kind, item: Object, *, deleted: bool) -> None:
        with self.news:
            self.changes.append((kind.kind, key_of(item).name, deleted))
            self.news.notify_all()

    def listed(self, kind: Kind, keys: Sequence[ObjectKey]) -> None:
        with self.news:
            self.passes.append((kind.kind, [key.name for key in keys]))
            self.news.notify_all()

    def wait_for(self, holds: Callable[[], object]) -> None:
        """Waits until `holds`, looked at whenever something is told and now and then besides."""
        with self.news:
            for _ in range(int(DEADLINE_S / 0.05)):
                if holds():
                    return
                self.news.wait(0.05)
        raise AssertionError(f"not within {DEADLINE_S} s; told: {self.changes} {self.passes}")


@pytest.fixture
def told() -> Told:
    return Told()


class Clock:
    """Moves when told to."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> Iterator[ApiServer]:
    running = ApiServer()
    yield running
    running.close()


@pytest.fixture
def client(server: ApiServer) -> Iterator[Client]:
    made = Client(Fixed(server.url))
    yield made
    made.close()
