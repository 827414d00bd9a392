"""Full lists: they fill the cache, correct it, and go on whatever the server says."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from tests.kube.api_server import ApiServer, Asked, Json, status
from tests.kube.conftest import Fixed
from tests.shell.conftest import Told

from socadapter_operator.kube.attempts import Patience
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import ADAPTER, RAY_JOB, ObjectKey
from socadapter_operator.shell.cache import Cache
from socadapter_operator.shell.listing import Lister, Watched

ADAPTERS = "/apis/socadapter.io/v1alpha1"
JOBS = "/apis/ray.io/v1"


class Clock:
    """Moves when told to."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


class Bench:
    """A lister over a small API server, on a clock that a test turns."""

    def __init__(self, server: ApiServer, told: Told) -> None:
        self.server = server
        self.told = told
        self.clock = Clock()
        self.cache = Cache()
        self.served = 0
        self.client = Client(Fixed(server.url), patience=Patience(total_s=0))
        watched = (Watched(ADAPTER), Watched(RAY_JOB, labels="of=us", required=False))
        self.lister = Lister(self.client, self.cache, watched, told, clock=self.clock, on_served=self.count)

    def count(self) -> None:
        self.served += 1

    def pass_in(self, seconds: float) -> None:
        self.clock.at += seconds
        self.lister.list_due()

    def put(self, name: str, uid: str = "") -> Json:
        about = {"namespace": "soc", "name": name} | ({"uid": uid} if uid else {})
        return self.server.put(f"{ADAPTERS}/namespaces/soc/socadapters/{name}", {"metadata": about})

    def drop(self, name: str) -> None:
        del self.server.objects[f"{ADAPTERS}/namespaces/soc/socadapters/{name}"]


@pytest.fixture
def bench(told: Told) -> Iterator[Bench]:
    server = ApiServer()
    server.served[ADAPTERS] = ["socadapters"]
    made = Bench(server, told)
    yield made
    made.client.close()
    server.close()


def test_first_list_is_a_full_pass(bench: Bench, told: Told) -> None:
    """At the start everything is told once, as a pass to work off, and the cache is complete without KubeRay."""
    bench.put("a")
    bench.put("b")
    assert bench.lister.complete() is not None
    bench.lister.list_due()
    assert ([("SocAdapter", ["a", "b"])], []) == (told.passes, told.changes)
    assert bench.lister.complete() is None
    assert [ADAPTER] == [one.kind for one in bench.lister.served()]


def test_follow_up_tells_only_what_was_wrong(bench: Bench, told: Told) -> None:
    """A list that was asked for corrects the cache: what vanished and what changed is told, the rest is not."""
    for name in ("a", "b", "c"):
        bench.put(name)
    bench.lister.list_due()
    bench.drop("a")
    bench.put("b", uid=bench.server.objects[f"{ADAPTERS}/namespaces/soc/socadapters/b"]["metadata"]["uid"])
    bench.lister.request(ADAPTER)
    bench.pass_in(4)
    assert [] == told.changes
    bench.pass_in(1)
    assert [("SocAdapter", "a", True), ("SocAdapter", "b", False)] == told.changes
    assert 1 == len(told.passes)
    assert bench.cache.get(ADAPTER, ObjectKey("soc", "a")) is None


def test_everything_is_looked_at_every_ten_minutes(bench: Bench, told: Told) -> None:
    """Follow-ups do not put off the full pass."""
    bench.put("a")
    bench.lister.list_due()
    for _ in range(13):
        bench.lister.request(ADAPTER)
        bench.pass_in(60)
    assert 2 == len(told.passes)


def test_follow_up_asked_for_during_a_list_comes(bench: Bench) -> None:
    """A list that is under way does not answer what is asked for meanwhile."""

    def ask(_: Asked) -> None:
        bench.lister.request(ADAPTER)

    bench.server.after = ask
    bench.lister.list_due()
    bench.server.after = None
    bench.server.asked.clear()
    bench.pass_in(5)
    assert [f"{ADAPTERS}/socadapters"] == [asked.path for asked in bench.server.asked if "socadapters" in asked.path]


def test_missing_kind_is_found_when_it_is_installed(bench: Bench, told: Told) -> None:
    """KubeRay may come later: it is looked for, listed, and the watch is told to take it in."""
    bench.lister.list_due()
    assert 1 == bench.served
    bench.server.served[JOBS] = ["rayjobs"]
    bench.server.put(f"{JOBS}/namespaces/soc/rayjobs/run", {"metadata": {"namespace": "soc", "name": "run"}})
    bench.pass_in(37)
    assert 2 == bench.served
    assert ("RayJob", ["run"]) in told.passes
    assert "of=us" == bench.server.asked[-1].parameters["labelSelector"]


def test_kind_that_is_removed_leaves_nothing(bench: Bench, told: Told) -> None:
    """With its definition, every object of a kind is gone, and that is told."""
    bench.put("a")
    bench.lister.list_due()
    bench.server.served.pop(ADAPTERS)
    bench.pass_in(601 * 1.2)
    assert [("SocAdapter", "a", True)] == told.changes
    assert "SocAdapter" in (bench.lister.complete() or "")


def test_failed_list_is_repeated_and_changes_nothing(bench: Bench, told: Told) -> None:
    """While the server fails the cache stays as it is, and the list is tried again soon."""
    bench.put("a")
    bench.lister.list_due()
    bench.server.faults.append(lambda _: status(403, "Forbidden", "no"))
    bench.pass_in(601 * 1.2)
    assert 1 == len(bench.cache.keys(ADAPTER))
    bench.server.faults.clear()
    bench.pass_in(3)
    assert 2 == len(told.passes)


def test_thread_lists_and_ends(bench: Bench, told: Told) -> None:
    """The thread lists at once, when it is asked, and ends when it is told to."""
    bench.put("a")
    lister = Lister(bench.client, bench.cache, (Watched(ADAPTER),), told)
    lister.start()
    assert lister.wait_until_known(30)
    bench.drop("a")
    lister.request(ADAPTER, timedelta(0))
    told.wait_for(lambda: ("SocAdapter", "a", True) in told.changes)
    assert lister.stop(30)


def test_namespaces_are_listed_one_by_one(bench: Bench, told: Told) -> None:
    """With a role in some namespaces only, nothing is asked of the whole cluster."""
    lister = Lister(bench.client, bench.cache, (Watched(ADAPTER),), told, namespaces=("soc", "lab"), clock=bench.clock)
    lister.list_due()
    paths = [f"{ADAPTERS}/namespaces/{name}/socadapters" for name in ("soc", "lab")]
    assert paths == [asked.path for asked in bench.server.asked]
