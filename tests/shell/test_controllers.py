"""The controllers over a real HTTP API, with a backend that stands still."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.kube.api_server import ApiServer, Asked
from tests.kube.conftest import Fixed

from socadapter_api import digest
from socadapter_api.adapter import SocAdapter
from socadapter_api.errors import BackendUnavailable, Conflict, SpecError
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ContextRoute, ServingTable
from socadapter_api.training import RunSpec
from socadapter_operator.domain import triggers
from socadapter_operator.domain.course import POLL
from socadapter_operator.domain.observed import EndedRun, Observed, ServingState, ServingView
from socadapter_operator.domain.state import BackendRun, RunState
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.recorder import Recorder
from socadapter_operator.kube.resources import ADAPTER, POOL, Kind, Object, ObjectKey
from socadapter_operator.observation import Observer
from socadapter_operator.shell import endings, routing
from socadapter_operator.shell.adapters import AdapterController
from socadapter_operator.shell.cache import Cache
from socadapter_operator.shell.claims import Claims
from socadapter_operator.shell.contracts import Contracts
from socadapter_operator.shell.pools import LOOKED_AT_EVERY, PoolController
from socadapter_operator.shell.refusals import AFTER_REFUSAL

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
CLOUD, BASE = ObjectKey("soc", "cloud"), ObjectKey("soc", "base")


class Still:
    """A backend with one word for every run and one view of every pool."""

    def __init__(self) -> None:
        self.run = BackendRun(RunState.RUNNING)
        self.view = ServingView()
        self.tables: list[ServingTable] = []
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.over: tuple[EndedRun, ...] = ()
        self.at_start: Callable[[], None] = lambda: None
        self.at_stop: Callable[[str], None] = self.stopped.append

    def observe(self, run_id: str) -> BackendRun:
        return self.run

    def start(self, spec: RunSpec, pool: object) -> None:
        self.started.append(spec.run_id)
        self.at_start()

    def stop(self, run_id: str) -> None:
        self.at_stop(run_id)

    def ended(self, namespace: str, adapter: str) -> tuple[EndedRun, ...]:
        return self.over

    def forget(self, run_id: str) -> None:
        raise BackendUnavailable(f"{run_id} stays")

    def trusted_keys(self, pool: object) -> tuple[()]:
        return ()

    def serving(self, pool: object) -> ServingView:
        return self.view

    def apply_table(self, pool: object, table: ServingTable) -> None:
        self.tables.append(table)


@dataclass
class Bench:
    """A server, the cache, both controllers and the backend that they share."""

    server: ApiServer
    client: Client
    root: Path
    refusal: SpecError | None = None
    backend: Still = field(default_factory=Still)
    others: dict[str, Still] = field(default_factory=dict)
    """Backends of single pools, by the pool's name; every other pool has `backend`."""

    def __post_init__(self) -> None:
        self.server.served["/apis/socadapter.io/v1alpha1"] = ["socadapters", "socservingpools", "socadapterversions"]
        self.cache = Cache()
        self.recorder = Recorder(self.client, "test")
        self.adapters = self.controller()
        shared: Any = (self.recorder, Contracts(), Claims(), lambda: NOW)
        backend_of: Any = self.backend_of
        self.pools = PoolController(self.client, self.cache, backend_of, *shared)

    def controller(self) -> AdapterController:
        """One of adapters that has done nothing yet."""
        backend_of: Any = self.backend_of
        observer = Observer(backend_of, self.root / "cache")
        shared: Any = (self.recorder, Contracts(), Claims(), lambda: NOW)
        return AdapterController(self.client, self.cache, backend_of, observer, *shared)

    def backend_of(self, pool: SocServingPool | None) -> Still:
        if self.refusal is not None:
            raise self.refusal
        return self.others.get(pool.metadata.name if pool else "", self.backend)

    def put(self, kind: Kind, name: str, item: Object, *, seen: bool = True) -> Object:
        """Stores an object, and has the cache see it."""
        path = kind.path("soc", name)
        held = self.server.objects.get(path, {}).get("metadata", {})
        about = {"name": name, "namespace": "soc", "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"}
        body = {"apiVersion": kind.api_version, "kind": kind.kind, **item}
        body["metadata"] = {**about, **held, **item.get("metadata", {})}
        stored = self.server.put(path, body)
        if seen:
            self.cache.upsert(kind, stored)
        return stored

    def pool(self, name: str = "base", **spec: Any) -> Object:
        base = {"uri": "builtin://tiny", "digest": digest.of_bytes(b"base")}
        return self.put(POOL, name, {"spec": {"base": base, "store": str(self.root / "store")} | spec})

    def adapter(self, status: Object | None = None, **spec: Any) -> Object:
        known = {"context": "cloud", "servingPoolRef": {"name": "base"}, "data": {"alerts": [{"uri": "a.jsonl"}]}}
        return self.put(ADAPTER, "cloud", {"spec": known | spec, **({"status": status} if status else {})})

    def see(self) -> None:
        """The cache catches up."""
        for kind, name in ((ADAPTER, "cloud"), (POOL, "base")):
            if kind.path("soc", name) in self.server.objects:
                self.cache.upsert(kind, self.server.objects[kind.path("soc", name)])

    def status(self, kind: Kind = ADAPTER, name: str = "cloud") -> Object:
        held: Object = self.server.objects[kind.path("soc", name)].get("status") or {}
        return held

    def condition(self, kind: str) -> tuple[str, str]:
        found: Object = next((c for c in self.status().get("conditions", ()) if c["type"] == kind), {})
        return str(found.get("status", "")), str(found.get("reason", ""))

    def last_number(self) -> int:
        return int(self.status()["lastNumber"])

    def writes(self) -> int:
        return sum(asked.method != "GET" for asked in self.server.asked)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    server = ApiServer()
    client = Client(Fixed(server.url))
    yield Bench(server, client, tmp_path)
    client.close()
    server.close()


def test_an_object_that_cannot_be_read_is_told_once_and_keeps_its_status(bench: Bench) -> None:
    """Stalled with the reason, everything else in status as it was, and no second write."""
    serving = {"observedGeneration": 1, "servingPool": "base", "lastNumber": 7}
    bench.adapter(serving, fromAnotherRelease=True)
    assert AFTER_REFUSAL == bench.adapters.reconcile(CLOUD)
    assert ("True", "InvalidSpec") == bench.condition("Stalled")
    assert ("base", 7) == (bench.status()["servingPool"], bench.status()["lastNumber"])
    written = bench.writes()
    bench.see()
    bench.adapters.reconcile(CLOUD)
    assert written == bench.writes()


def test_what_serves_an_adapter_that_cannot_be_read_goes_on_serving(bench: Bench) -> None:
    """Its route stays in the table."""
    bench.pool()
    bench.adapter(fromAnotherRelease=True)
    route = ContextRoute(context="cloud", salt="0" * 16)
    base = digest.of_bytes(b"base")
    bench.backend.view = ServingView(
        ServingState.STARTING, table=ServingTable(generation=3, base_digest=base, routes=(route,))
    )
    bench.pools.reconcile(BASE)
    assert [] == bench.backend.tables
    bench.adapter()
    bench.pools.reconcile(BASE)
    assert [4] == [table.generation for table in bench.backend.tables]


def test_an_error_while_looking_is_told_and_looked_at_again(bench: Bench) -> None:
    """A backend that cannot be made of the pool's spec stalls the pool; without it nobody would look again."""
    bench.pool()
    bench.refusal = SpecError("ray.address is no address")
    assert AFTER_REFUSAL == bench.pools.reconcile(BASE)
    (stalled,) = [c for c in bench.status(POOL, "base")["conditions"] if c["type"] == "Stalled"]
    assert ("True", "InvalidSpec") == (stalled["status"], stalled["reason"])


def test_an_adapter_that_cannot_be_read_can_be_deleted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The finalizer comes off after the deadline."""
    about = {"deletionTimestamp": NOW.isoformat(), "finalizers": [endings.FINALIZER]}
    bench.put(ADAPTER, "cloud", {"metadata": about, "spec": {"unknown": 1}})
    assert POLL == bench.adapters.reconcile(CLOUD)
    monkeypatch.setattr(endings, "DEADLINE", timedelta(0))
    assert bench.adapters.reconcile(CLOUD) is None
    (patch,) = [asked for asked in bench.server.asked if asked.method == "PATCH"]
    assert [] == patch.body["metadata"]["finalizers"]


def test_a_defect_is_told_without_its_text(bench: Bench) -> None:
    """What no code expects goes to the queue, status names its kind once, and a pass that works takes that away."""
    bench.pool()
    bench.adapter()
    bench.backend.run = BackendRun()

    def fail() -> None:
        raise ZeroDivisionError("s3cret")

    bench.backend.at_start = fail
    with pytest.raises(ZeroDivisionError):
        bench.adapters.reconcile(CLOUD)
    assert ("True", "InternalError") == bench.condition("Reconciling")
    (told,) = [c["message"] for c in bench.status()["conditions"] if c["type"] == "Reconciling"]
    assert "ZeroDivisionError" in told
    assert "s3cret" not in str(bench.status())
    written = bench.writes()
    bench.see()
    with pytest.raises(ZeroDivisionError):
        bench.adapters.reconcile(CLOUD)
    assert written == bench.writes()
    bench.backend.at_start = lambda: None
    bench.adapters.reconcile(CLOUD)
    assert ("True", "InternalError") != bench.condition("Reconciling")


def test_a_defect_while_an_object_ends_is_an_event(bench: Bench) -> None:
    """Its status is not written any more; whoever waits for the deletion sees why it does not come."""
    bench.pool()
    run = {"runId": "cloud-1", "state": "Running", "trainingHash": digest.of_bytes(b"a"), "number": 1, "attempt": 0}
    held = bench.adapter({"run": run})
    about = {**held["metadata"], "deletionTimestamp": NOW.isoformat(), "finalizers": [endings.FINALIZER]}
    bench.put(ADAPTER, "cloud", {**held, "metadata": about})
    bench.server.served["/apis/events.k8s.io/v1"] = ["events"]

    def fail(run_id: str) -> None:
        raise ZeroDivisionError("s3cret")

    bench.backend.at_stop = fail
    with pytest.raises(ZeroDivisionError):
        bench.adapters.reconcile(CLOUD)
    bench.recorder.write_due()
    (event,) = [asked.body for asked in bench.server.asked if asked.method == "PATCH"]
    assert ("InternalError", "Warning") == (event["reason"], event["type"])
    assert "s3cret" not in str(event)


def test_progress_that_was_planned_on_a_memory_replaces_no_later_status(bench: Bench) -> None:
    """A cache that lags behind a resumed run does not take its attempt back."""
    bench.pool()
    first = bench.adapter()
    adapter = SocAdapter.model_validate({name: first[name] for name in ("apiVersion", "kind", "metadata", "spec")})
    pool = SocServingPool.model_validate(bench.server.objects[POOL.path("soc", "base")])
    wanted = triggers.wanted_hash(adapter, Observed(pools={"base": pool}))
    run = {"runId": "cloud-1", "state": "Running", "trainingHash": wanted, "number": 1, "attempt": 0}
    bench.adapter({"run": run})
    bench.adapters.reconcile(CLOUD)
    bench.see()
    settled = bench.status()
    spec = bench.server.objects[ADAPTER.path("soc", "cloud")]["spec"]
    earlier = [{**condition, "message": "a step before"} for condition in settled["conditions"]]
    bench.put(ADAPTER, "cloud", {"spec": spec, "status": {**settled, "conditions": earlier}})
    later = {**settled, "run": {**settled["run"], "attempt": 1}}
    bench.put(ADAPTER, "cloud", {"spec": spec, "status": later}, seen=False)
    successor = bench.controller()
    with pytest.raises(Conflict):
        successor.reconcile(CLOUD)
    assert 1 == bench.status()["run"]["attempt"]


class Ended(BaseException):
    """The operator's process is no more."""


def test_a_run_is_named_in_status_before_it_starts(bench: Bench) -> None:
    """An operator ends in the middle, and another spec is wanted meanwhile: its successor stops what was started."""
    bench.pool()
    bench.adapter()
    bench.backend.run = BackendRun()

    def end() -> None:
        raise Ended

    bench.backend.at_start = end
    with pytest.raises(Ended):
        bench.adapters.reconcile(CLOUD)
    (started,) = bench.backend.started
    assert (started, "Absent", 1) == (*(bench.status()["run"][key] for key in ("runId", "state")), bench.last_number())
    bench.adapter(bench.status(), lora={"rank": 4})
    bench.backend.run = BackendRun(RunState.RUNNING)
    bench.controller().reconcile(CLOUD)
    assert ([started], [started]) == (bench.backend.started, bench.backend.stopped)


def test_of_two_operators_one_announces_a_run(bench: Bench) -> None:
    """Where the other one wrote since this one read, this one starts nothing."""
    bench.pool()
    read = bench.adapter()
    bench.backend.run = BackendRun()

    def faster(asked: Asked) -> None:
        if asked.method == "PATCH":
            bench.put(ADAPTER, "cloud", {"spec": read["spec"]}, seen=False)

    bench.server.faults.append(faster)
    with pytest.raises(Conflict):
        bench.adapters.reconcile(CLOUD)
    assert [] == bench.backend.started


def test_a_run_is_stopped_where_it_was_started(bench: Bench) -> None:
    """Though its adapter names another pool by now, whose backend never heard of it."""
    bench.pool()
    bench.pool("far")
    far = bench.others["far"] = Still()
    far.run = BackendRun()
    bench.adapter()
    bench.backend.run = BackendRun()
    bench.adapters.reconcile(CLOUD)
    (started,) = bench.backend.started
    assert "base" == bench.status()["run"]["servingPool"]
    bench.adapter(bench.status(), servingPoolRef={"name": "far"}, lora={"rank": 4})
    bench.backend.run = BackendRun(RunState.RUNNING)
    bench.adapters.reconcile(CLOUD)
    assert ([started], [], []) == (bench.backend.stopped, far.stopped, far.started)


def test_what_cannot_be_tidied_up_holds_nothing_up(bench: Bench) -> None:
    """The run starts, and status says so; that an old one is still there is told, and tried again."""
    bench.pool()
    bench.adapter(history={"failed": 1})
    bench.backend.run = BackendRun()
    bench.backend.over = tuple(EndedRun(f"cloud-{at}", NOW - timedelta(days=at)) for at in (1, 2, 3))
    with pytest.raises(BackendUnavailable, match="stays"):
        bench.adapters.reconcile(CLOUD)
    assert (1, "Starting") == (len(bench.backend.started), bench.status()["run"]["state"])
    assert ("True", "BackendUnavailable") == bench.condition("Reconciling")


def test_a_refused_start_tells_of_no_training(bench: Bench) -> None:
    """The run is named, and the conditions say what refused it, and nothing else that is not so."""
    bench.pool()
    bench.adapter()
    bench.backend.run = BackendRun()

    def refuse() -> None:
        raise SpecError("no room for it")

    bench.backend.at_start = refuse
    assert AFTER_REFUSAL == bench.adapters.reconcile(CLOUD)
    assert (("True", "InvalidSpec"), ("", "")) == (bench.condition("Stalled"), bench.condition("Trained"))
    written = bench.writes()
    bench.see()
    bench.adapters.reconcile(CLOUD)
    assert written == bench.writes()


def test_a_pool_that_an_adapter_left_is_looked_at(bench: Bench) -> None:
    """It still has the adapter's route, and nothing in the adapter names it any more."""
    bench.pool("old")
    bench.pool("new")
    moved = bench.adapter({"servingPool": "new"}, servingPoolRef={"name": "new"})
    found = routing.items(bench.cache, ADAPTER, moved)
    assert {"old", "new"} == {item.key.name for item in found if item.kind == POOL}


def test_a_service_that_tells_no_events_is_looked_at_by_the_clock(bench: Bench) -> None:
    """A pool on a Ray cluster that exists by itself is never left alone for long."""
    bench.pool(ray={"address": "http://ray.example.test:8265"}, replicas=0)
    bench.backend.view = ServingView(
        ServingState.RUNNING, table=ServingTable(generation=1, base_digest=digest.of_bytes(b"base"), routes=())
    )
    assert LOOKED_AT_EVERY == bench.pools.reconcile(BASE)
