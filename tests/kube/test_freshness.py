"""Answers that are older than what was seen before are refused, and asked for again."""

from typing import Any

import pytest
from tests.kube.api_server import Answer, ApiServer, Asked
from tests.kube.conftest import Fixed

from socadapter_api.errors import ClusterUnavailable
from socadapter_operator.kube.attempts import Patience
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.freshness import Freshness
from socadapter_operator.kube.resources import SECRET

PLACE = "/api/v1/secrets"


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_what_is_older_than_what_was_seen_is_old(clock: Clock) -> None:
    """By the floor of the time when the request began: what came after it may be newer than the answer."""
    found = Freshness(clock)
    found.saw(PLACE, "7")
    floor = found.floor(PLACE)
    found.saw(PLACE, "9")
    assert (False, False, True) == tuple(found.is_old(PLACE, floor, version) for version in ("7", "8", "6"))
    assert 9 == found.floor(PLACE)


def test_a_place_never_seen_has_no_floor(clock: Clock) -> None:
    """Whatever it is answered is news; so is what is no number."""
    found = Freshness(clock)
    found.saw(PLACE, "opaque")
    assert 0 == found.floor(PLACE)
    assert not found.is_old(PLACE, 9, "opaque")


def test_a_cluster_that_was_set_back_is_believed_after_a_minute(clock: Clock) -> None:
    """Its versions begin again where a backup ended; from then on the floor is there."""
    found = Freshness(clock)
    found.saw(PLACE, "900")
    assert found.is_old(PLACE, 900, "40")
    clock.at = 59.0
    assert found.is_old(PLACE, 900, "41")
    clock.at = 61.0
    assert not found.is_old(PLACE, 900, "42")
    assert 42 == found.floor(PLACE)


def test_one_new_answer_starts_the_minute_anew(clock: Clock) -> None:
    """A server that lags now and then is never taken for one that was set back."""
    found = Freshness(clock)
    found.saw(PLACE, "900")
    assert found.is_old(PLACE, 900, "40")
    clock.at = 50.0
    found.saw(PLACE, "901")
    clock.at = 70.0
    assert found.is_old(PLACE, 901, "40")


def test_only_so_many_objects_are_remembered(clock: Clock) -> None:
    """Those looked at longest ago are forgotten first."""
    found = Freshness(clock)
    for number in range(25_000):
        found.saw(f"/o/{number}", "5")
    assert (0, 5) == (found.floor("/o/0"), found.floor("/o/24999"))


class Lagging:
    """Answers the first reads after `begin` as the server was before a change."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.old: dict[str, Any] | None = None

    def __call__(self, asked: Asked) -> Answer | None:
        if asked.method != "GET" or self.old is None or self.times == 0:
            return None
        self.times -= 1
        return Answer(200, self.old)


@pytest.mark.parametrize("listed", [pytest.param(True, id="a list"), pytest.param(False, id="an object")])
def test_a_client_asks_again(server: ApiServer, listed: bool) -> None:
    """Until the answer is at least as new as its own last write; then it is told, or given up as unavailable."""
    client = Client(Fixed(server.url), patience=Patience(total_s=0.6))
    made = client.create(SECRET, {"metadata": {"name": "a", "namespace": "soc"}})

    def read() -> Any:
        return client.list(SECRET, "soc").items[0] if listed else client.get(SECRET, "soc", "a")

    lagging = Lagging(2)
    old = {**made, "kind": "Secret"}
    lagging.old = {"kind": "List", "metadata": {"resourceVersion": "1"}, "items": [old]} if listed else old
    changed = client.apply(SECRET, {"metadata": {"name": "a", "namespace": "soc"}, "data": {"k": "dg=="}})
    server.faults.append(lagging)
    assert changed["metadata"]["resourceVersion"] == read()["metadata"]["resourceVersion"]
    assert 0 == lagging.times
    lagging.times = 1000
    with pytest.raises(ClusterUnavailable, match="lags behind"):
        read()
    client.close()
