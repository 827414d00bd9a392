"""The watch: what kopf sees is told, whatever it stumbles over it goes on, and it never writes."""

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from tests.kube.conftest import Fixed
from tests.shell.conftest import DEADLINE_S, Told
from tests.shell.watch_server import WatchServer

from socadapter_operator.kube.attempts import Patience
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import ADAPTER, POOL, RAY_JOB, ObjectKey
from socadapter_operator.shell import listing
from socadapter_operator.shell.cache import Cache
from socadapter_operator.shell.listing import Lister, ListTimes, Watched
from socadapter_operator.shell.watch import JitteredBackoffs, Watch

SLOW = pytest.mark.slow  # they wait for a pause of kopf's
SOON = timedelta(milliseconds=50)
QUICK = ListTimes(every=timedelta(hours=1), missing=timedelta(milliseconds=200), failed=timedelta(milliseconds=50))


class Bench:
    """Lister and watch over one server."""

    def __init__(self, server: WatchServer, told: Told, stale_s: float = 70.0) -> None:
        self.server = server
        self.told = told
        self.credentials = Fixed(server.url)
        self.client = Client(self.credentials, patience=Patience(total_s=0))
        self.cache = Cache()
        self.restarts = 0
        watched = (Watched(ADAPTER), Watched(POOL, labels="of=us"), Watched(RAY_JOB, required=False))
        self.lister = Lister(self.client, self.cache, watched, told, times=QUICK, on_served=self.begin_anew)
        self.watch = Watch(
            self.credentials,
            self.cache,
            self.lister,
            told,
            on_restart=self.count,
            backoffs=JitteredBackoffs(first_s=0.02, cap_s=0.1),
            stale_s=stale_s,
        )

    def begin_anew(self) -> None:
        self.watch.begin_anew()

    def count(self) -> None:
        self.restarts += 1

    def start(self) -> "Bench":
        self.lister.start()
        self.watch.start()
        self.wait_for_streams()
        return self

    def stop(self) -> None:
        assert self.watch.stop(DEADLINE_S)
        assert self.lister.stop(DEADLINE_S)
        self.client.close()

    def wait_for_streams(self, already: int = 0) -> None:
        """Waits until adapters are watched once more than `already`."""
        self.told.wait_for(lambda: self.streams() > already)

    def streams(self) -> int:
        return sum(plural == "socadapters" for plural, _ in self.server.watches)

    def has(self, name: str, version: str | None = None) -> bool:
        held = self.cache.get(ADAPTER, ObjectKey("soc", name))
        return held is not None and version in (None, held["metadata"]["resourceVersion"])


@pytest.fixture
def server() -> Iterator[WatchServer]:
    running = WatchServer(ADAPTER, POOL)
    yield running
    running.close()


@pytest.fixture
def bench(server: WatchServer, told: Told, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(listing.Lister.request, "__defaults__", (SOON,))
    logging.getLogger("kopf").setLevel(logging.CRITICAL)
    made = Bench(server, told).start()
    yield made
    made.stop()


def test_events_are_told_and_kept(bench: Bench, server: WatchServer, told: Told) -> None:
    """An object that comes, changes and goes is told each time, and the cache follows."""
    server.put(ADAPTER, "a")
    told.wait_for(lambda: bench.has("a"))
    version = server.put(ADAPTER, "a")["metadata"]["resourceVersion"]
    told.wait_for(lambda: bench.has("a", version))
    server.drop(ADAPTER, "a")
    told.wait_for(lambda: ("SocAdapter", "a", True) in told.changes)
    assert not bench.has("a")
    assert bench.watch.running() is None


def test_kopf_writes_nothing(bench: Bench, server: WatchServer, told: Told) -> None:
    """No annotation, finalizer, patch or event leaves kopf, nor a list of definitions or namespaces."""
    server.put(ADAPTER, "a")
    told.wait_for(lambda: bench.has("a"))
    assert [] == server.writes
    assert {"socadapters", "socservingpools"} == {plural for plural, _ in server.lists}


def test_start_is_one_start(bench: Bench, server: WatchServer) -> None:
    """kopf waits until it is known what is served, and is not ended and begun anew over what it watches already."""
    bench.watch.begin_anew()
    assert (1, 0) == (server.starts, bench.restarts)


def test_labels_are_the_servers_to_apply(bench: Bench, server: WatchServer, told: Told) -> None:
    """Lists and watches of a kind with a selector carry it, others none."""
    told.wait_for(lambda: any(plural == "socservingpools" for plural, _ in server.watches))
    asked = [*server.lists, *server.watches]
    assert {"of=us"} == {found.get("labelSelector") for plural, found in asked if plural == "socservingpools"}
    assert {None} == {found.get("labelSelector") for plural, found in asked if plural == "socadapters"}


@pytest.mark.parametrize(
    "break_it",
    [
        pytest.param(lambda server: server.cut(), id="cut"),
        pytest.param(lambda server: server.error(ADAPTER, 410, "Expired"), id="410"),
        pytest.param(lambda server: server.error(ADAPTER, 500, "InternalError"), id="500", marks=SLOW),
        pytest.param(lambda server: server.error(ADAPTER, 429, "TooManyRequests"), id="429", marks=SLOW),
        pytest.param(lambda server: server.send(ADAPTER, {"type": "?", "object": {}}), id="unknown frame"),
    ],
)
def test_broken_stream_loses_nothing(
    bench: Bench, server: WatchServer, told: Told, break_it: Callable[[WatchServer], None]
) -> None:
    """Whatever a stream ends with, what came, changed or went meanwhile is told in the end."""
    server.put(ADAPTER, "a")
    server.put(ADAPTER, "b")
    told.wait_for(lambda: bench.has("a") and bench.has("b"))
    server.drop(ADAPTER, "a", silent=True)
    version = server.put(ADAPTER, "b", silent=True)["metadata"]["resourceVersion"]
    break_it(server)
    server.cut()
    told.wait_for(lambda: bench.has("b", version))
    told.wait_for(lambda: ("SocAdapter", "a", True) in told.changes)
    told.wait_for(lambda: bench.watch.running() is None)


@pytest.mark.parametrize("code", [410, pytest.param(500, marks=SLOW)])
def test_deletion_in_a_gap_is_noticed_without_asking(bench: Bench, server: WatchServer, told: Told, code: int) -> None:
    """After a stream that had to begin anew, a list finds by itself what was deleted while nobody watched."""
    server.put(ADAPTER, "a")
    server.put(ADAPTER, "stays")
    told.wait_for(lambda: bench.has("a") and bench.has("stays"))
    server.drop(ADAPTER, "a", silent=True)
    server.error(ADAPTER, code, "told by a test")
    told.wait_for(lambda: ("SocAdapter", "a", True) in told.changes)


@SLOW
def test_death_of_kopf_is_counted_and_survived(bench: Bench, server: WatchServer, told: Told) -> None:
    """An ERROR frame that ends kopf as a whole is one restart, after which events are told as before."""
    before = bench.streams()
    server.error(ADAPTER, 500, "InternalError")
    bench.wait_for_streams(before)
    assert 1 == bench.restarts
    server.put(ADAPTER, "later")
    told.wait_for(lambda: bench.has("later"))


@SLOW
def test_kind_whose_definition_goes_does_not_end_the_watch(bench: Bench, server: WatchServer, told: Told) -> None:
    """A list that is answered 404 ends kopf; it is started again until the kind is back."""
    server.put(ADAPTER, "a")
    told.wait_for(lambda: bench.has("a"))
    server.refuse = lambda path: 404 if "socadapters" in path else None
    server.error(ADAPTER, 410, "Expired")
    told.wait_for(lambda: bench.restarts > 0)
    server.refuse = lambda _: None
    server.put(ADAPTER, "b", silent=True)
    told.wait_for(lambda: bench.has("b"))


def test_list_that_fails_for_long_does_not_end_the_watch(bench: Bench, server: WatchServer, told: Told) -> None:
    """However often kopf's list is answered with a failure, it is tried again, without a restart."""
    failed: list[str] = []

    def refuse(path: str) -> int | None:
        if "socadapters" not in path or "watch=" in path or len(failed) >= 12:
            return None
        failed.append(path)
        return 500 if len(failed) % 2 else 429

    server.refuse = refuse
    server.error(ADAPTER, 410, "Expired")
    server.put(ADAPTER, "a", silent=True)
    told.wait_for(lambda: len(failed) >= 12 and bench.has("a"))
    assert 0 == bench.restarts


def test_kind_that_is_installed_later_is_watched(bench: Bench, server: WatchServer, told: Told) -> None:
    """KubeRay may come after the operator: its kinds are watched once they are served."""
    server.add(RAY_JOB)
    told.wait_for(lambda: any(plural == "rayjobs" for plural, _ in server.watches))
    server.put(RAY_JOB, "run")
    told.wait_for(lambda: ("RayJob", "run", False) in told.changes)
    assert 0 == bench.restarts


def test_rotated_token_is_followed(bench: Bench, server: WatchServer, told: Told) -> None:
    """A stream that is refused because the token was rotated goes on with the new one."""
    bench.credentials.token = "token-2"
    server.refuse = lambda _: None if server.tokens[-1] == "Bearer token-2" else 401
    server.cut()
    server.put(ADAPTER, "a", silent=True)
    told.wait_for(lambda: bench.has("a"))


def test_silent_stream_is_not_trusted(server: WatchServer, told: Told) -> None:
    """A connection that brings nothing, not even bookmarks, is opened anew."""
    bench = Bench(server, told, stale_s=0.2).start()
    bench.wait_for_streams(2)
    server.put(ADAPTER, "a")
    told.wait_for(lambda: bench.has("a"))
    bench.stop()


def test_not_running_says_why(server: WatchServer, told: Told) -> None:
    """Before it runs and after it was stopped, the check for readiness fails with a reason."""
    bench = Bench(server, told)
    assert "not started" in (bench.watch.running() or "")
    bench.start()
    bench.stop()
    assert "not running" in (bench.watch.running() or "")
