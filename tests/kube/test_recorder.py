"""Events: what people read below `kubectl describe`, few enough to be read, and never in the way."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from tests.kube.api_server import ApiServer, Dropped, Json, status

from socadapter_operator.kube.client import Client
from socadapter_operator.kube.recorder import MAX_NOTE_BYTES, Limits, Recorder
from socadapter_operator.kube.resources import Object

LIMITS = Limits(burst=3, token_s=60, series_ends_s=360, series_pause_s=60)
ADAPTER: Object = {
    "apiVersion": "socadapter.io/v1alpha1",
    "kind": "SocAdapter",
    "metadata": {"namespace": "soc", "name": "cloud", "uid": "u-1"},
}


class Clock:
    """Moves when told to."""

    def __init__(self) -> None:
        self.passed = 0.0

    def __call__(self) -> float:
        return self.passed

    def now(self) -> datetime:
        return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=self.passed)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def dropped() -> list[None]:
    return []


@pytest.fixture
def recorder(server: ApiServer, client: Client, clock: Clock, dropped: list[None]) -> Iterator[Recorder]:
    server.served["/apis/events.k8s.io/v1"] = ["events"]
    made = Recorder(client, "pod-1", limits=LIMITS, on_dropped=lambda: dropped.append(None), clock=clock, now=clock.now)
    yield made
    made.stop()


def written(server: ApiServer) -> list[Json]:
    return [asked.body for asked in server.asked]


def test_event_says_what_happened_to_whom(recorder: Recorder, server: ApiServer) -> None:
    """An event names its object by uid, the reason, the action, and who tells."""
    recorder.record(ADAPTER, "AdapterPromoted", "cloud-v3 serves", action="Promote")
    recorder.write_due()
    (event,) = written(server)
    assert ("AdapterPromoted", "Promote", "cloud-v3 serves", "Normal") == (
        event["reason"],
        event["action"],
        event["note"],
        event["type"],
    )
    about = ADAPTER["metadata"]
    assert {"apiVersion": ADAPTER["apiVersion"], "kind": "SocAdapter", **about} == event["regarding"]
    assert ("socadapter.io/operator", "pod-1") == (event["reportingController"], event["reportingInstance"])
    assert "2026-03-01T00:00:00.000000Z" == event["eventTime"]
    assert "series" not in event


def test_repetitions_become_one_series(recorder: Recorder, server: ApiServer, clock: Clock) -> None:
    """The same thing again is counted in the same Event, which is written once a minute at most."""
    for _ in range(100):
        recorder.record(ADAPTER, "RunFailed", "no GPU", warning=True)
        recorder.write_due()
        clock.passed += 1
    first, second = written(server)
    assert first["metadata"]["name"] == second["metadata"]["name"]
    assert {"count": 61, "lastObservedTime": "2026-03-01T00:01:00.000000Z"} == second["series"]
    recorder.write_due(all_of_it=True)
    assert 100 == written(server)[-1]["series"]["count"]


def test_series_ends_when_nothing_is_added(recorder: Recorder, server: ApiServer, clock: Clock) -> None:
    """The same thing after a long pause is a new Event."""
    for _ in range(2):
        recorder.record(ADAPTER, "RunFailed", "no GPU")
        recorder.write_due()
        clock.passed += 361
    first, second = written(server)
    assert first["metadata"]["name"] != second["metadata"]["name"]


def test_flapping_object_is_cut_short(recorder: Recorder, dropped: list[None], clock: Clock, server: ApiServer) -> None:
    """An object has so many tokens; more is dropped and counted, others are not affected, and tokens come back."""
    for number in range(5):
        recorder.record(ADAPTER, "Flapped", f"note {number}")
    recorder.record({**ADAPTER, "metadata": {**ADAPTER["metadata"], "uid": "u-2"}}, "Flapped", "of another")
    recorder.write_due()
    assert (4, 2) == (len(written(server)), len(dropped))
    clock.passed += 60
    recorder.record(ADAPTER, "Flapped", "later")
    recorder.write_due()
    assert 5 == len(written(server))


@pytest.mark.parametrize("note", ["x" * 5000, "ü" * 700, "short"])
def test_note_is_short_enough(recorder: Recorder, server: ApiServer, note: str) -> None:
    """A note fits the API's bound in bytes, cut between characters."""
    recorder.record(ADAPTER, "Told", note)
    recorder.write_due()
    (event,) = written(server)
    assert len(event["note"].encode()) <= MAX_NOTE_BYTES
    assert note.startswith(event["note"].removesuffix("…"))


@pytest.mark.parametrize("fault", ["refused", "failed", "dropped"])
def test_server_that_takes_no_events_stops_nobody(
    recorder: Recorder, server: ApiServer, dropped: list[None], fault: str
) -> None:
    """Whatever becomes of an event, it is dropped and counted, and the next one is tried."""

    def answer(_: object) -> object:
        if fault == "dropped":
            raise Dropped
        return status(403, "Forbidden", "no") if fault == "refused" else status(500, "InternalError", "no")

    server.faults.append(answer)  # type: ignore[arg-type]
    recorder.record(ADAPTER, "Told", "one")
    recorder.write_due()
    server.faults.clear()
    recorder.record(ADAPTER, "Told", "two")
    recorder.write_due()
    assert 1 == len(dropped)
    assert "two" == written(server)[-1]["note"]


def test_thread_writes_and_ends_with_nothing_left(server: ApiServer, client: Client) -> None:
    """The thread writes as events come; a stop writes what is still waiting."""
    server.served["/apis/events.k8s.io/v1"] = ["events"]
    arrived = threading.Event()
    server.after = lambda _: arrived.set()
    recorder = Recorder(client, "pod-1")
    recorder.start()
    recorder.record(ADAPTER, "Told", "one")
    assert arrived.wait(20)
    recorder.record(ADAPTER, "Told", "one")
    recorder.record(ADAPTER, "Told", "two")
    recorder.stop()
    last = {event["note"]: event.get("series", {}).get("count", 1) for event in written(server)}
    assert {"one": 2, "two": 1} == last


def test_event_of_a_cluster_wide_object_has_a_namespace(recorder: Recorder, server: ApiServer) -> None:
    """Events about what has no namespace go to `default`, as kubectl looks for them."""
    recorder.record({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n"}}, "Told", "x")
    recorder.write_due()
    assert "/namespaces/default/" in server.asked[0].path
