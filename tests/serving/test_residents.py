"""What one engine holds: verified first, pinned or on demand, never dropped while in use."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from socadapter_agent.engine import Sampling, Session, Turn
from socadapter_api import digest
from socadapter_api.errors import EngineUnavailable, SignatureInvalid, StoreUnavailable
from socadapter_api.manifest import AdapterManifest
from socadapter_api.serving_table import ContextRoute, ServedVersion, ServingTable
from socadapter_serve.replica import budgets_of, residents_of
from socadapter_serve.residents import Residents, VerifiedAdapter

D = digest.of_bytes(b"x")


def manifest(**changes: Any) -> AdapterManifest:
    fields: dict[str, Any] = {
        "version": "cloud-v1-00000001",
        "context": "cloud",
        "namespace": "soc",
        "run_id": "r",
        "number": 1,
        "files": {},
        "base_uri": "b",
        "base_parameters": 1,
        "adapter_parameters": 1,
        "rank": 1,
        "alpha": 1,
        "target_modules": (),
        "created_at": "now",
    }
    digests = ("adapter_digest", "base_digest", "template_digest", "tools_digest", "config_digest", "code_digest")
    return AdapterManifest(**(fields | dict.fromkeys(digests, D) | changes))


def served(number: int) -> ServedVersion:
    full = f"sha256:{number:064x}"
    return ServedVersion(name=f"cloud-v{number}-{full[7:15]}", uri=f"/store/{number}", digest=full)


class CountingEngine:
    """An engine that holds names, refuses to hold more than it may, and yields to others while it loads."""

    base_digest = template_digest = D
    precision = None

    def __init__(self, places: int) -> None:
        self.held: set[str] = set()
        self.loads: Counter[str] = Counter()
        self.most = 0
        self.leaving = asyncio.Event()
        self.may_leave = asyncio.Event()
        self.may_leave.set()
        self._places = places

    @property
    def adapters(self) -> frozenset[str]:
        return frozenset(self.held)

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def load_adapter(self, name: str, directory: Path) -> None:
        await asyncio.sleep(0)
        assert name not in self.held
        assert len(self.held) < self._places
        self.held.add(name)
        self.loads[name] += 1
        self.most = max(self.most, len(self.held))

    async def unload_adapter(self, name: str) -> None:
        self.leaving.set()
        await self.may_leave.wait()
        await asyncio.sleep(0)
        self.held.remove(name)

    def open(self, system: str, user: str, adapter: str | None = None) -> Session:
        raise AssertionError("no conversation is opened here")

    async def chat(self, messages: list[dict[str, str]], adapter: str | None, sampling: Sampling) -> Turn:
        raise AssertionError("no conversation is opened here")


class Fetcher:
    """Verified folders, and refusals on request."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.refuse: dict[str, Exception] = {}
        self.gate: asyncio.Event | None = None

    async def __call__(self, version: ServedVersion) -> VerifiedAdapter:
        self.asked[version.name] += 1
        if self.gate is not None:
            await self.gate.wait()
        if version.name in self.refuse:
            raise self.refuse[version.name]
        return VerifiedAdapter(Path("/cache") / version.name, manifest())


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def shelf(
    capacity: int, wait_s: float = 5.0, clock: Callable[[], float] = time.monotonic
) -> tuple[Residents, CountingEngine, Fetcher]:
    engine, fetcher = CountingEngine(capacity), Fetcher()
    return Residents(engine, fetcher, capacity, wait_s, clock), engine, fetcher


async def use(residents: Residents, version: ServedVersion) -> None:
    async with residents.lease(version):
        await asyncio.sleep(0)


async def test_many_callers_share_one_load() -> None:
    """A version that many ask for at once is fetched and loaded once."""
    residents, engine, fetcher = shelf(2)
    await residents.pin([], [served(1).name])
    await asyncio.gather(*(use(residents, served(1)) for _ in range(20)))
    assert (fetcher.asked[served(1).name], engine.loads[served(1).name]) == (1, 1)


async def test_pinned_versions_stay_whatever_is_asked_for() -> None:
    """A stream of other versions passes through the one free place."""
    residents, engine, _ = shelf(3)
    pinned = [served(1), served(2)]
    await residents.pin([v.name for v in pinned], [served(n).name for n in range(1, 20)])
    for version in pinned:
        await residents.ensure(version)
    await asyncio.gather(*(use(residents, served(n)) for n in range(3, 20)))
    assert [engine.loads[version.name] for version in pinned] == [1, 1]
    assert {version.name for version in pinned} <= engine.held
    assert engine.most == 3


async def test_the_longest_unused_leaves_first() -> None:
    """Of the versions that are not pinned, the one used last stays."""
    residents, engine, _ = shelf(2)
    await residents.pin([], [served(n).name for n in (1, 2, 3)])
    for n in (1, 2, 1, 3):
        await use(residents, served(n))
    assert {served(1).name, served(3).name} == engine.held


async def test_a_version_in_use_is_not_dropped_by_a_new_table() -> None:
    """It is forgotten by the table, used to the end, and leaves then."""
    residents, engine, _ = shelf(2)
    await residents.pin([served(1).name], [served(1).name])
    async with residents.lease(served(1)):
        await residents.pin([served(2).name], [served(2).name])
        assert served(1).name in engine.held
    assert served(1).name not in engine.held
    assert residents.find(served(1).name) is None


@pytest.mark.parametrize("fails", [True, False])
async def test_a_version_that_the_table_let_go_of_while_it_was_loaded_is_forgotten(fails: bool) -> None:
    """Nobody may read in a report that it is refused, or find that it is still held."""
    residents, engine, fetcher = shelf(2)
    fetcher.gate = asyncio.Event()
    if fails:
        fetcher.refuse[served(1).name] = StoreUnavailable("not now")
    await residents.pin([served(1).name], [served(1).name])
    loading = asyncio.create_task(residents.ensure(served(1)))
    await asyncio.sleep(0)
    await residents.pin([], [])
    fetcher.gate.set()
    await asyncio.gather(loading, return_exceptions=True)
    assert ((), set()) == (residents.reports(), engine.held)


async def test_a_version_waits_for_a_place_in_use() -> None:
    """With every place in use a load waits, and goes on as soon as one is given back."""
    residents, engine, _ = shelf(1)
    await residents.pin([], [served(1).name, served(2).name])
    async with residents.lease(served(1)):
        waiting = asyncio.create_task(use(residents, served(2)))
        await asyncio.sleep(0.01)
        assert not waiting.done()
    await waiting
    assert {served(2).name} == engine.held


async def test_a_place_that_never_comes_free_is_an_error() -> None:
    """The wait has an end and names the limit to raise."""
    residents, _, _ = shelf(1, wait_s=0.05)
    await residents.pin([served(1).name], [served(1).name, served(2).name])
    await residents.ensure(served(1))
    with pytest.raises(EngineUnavailable, match="maxLoras"):
        await residents.ensure(served(2))


async def test_a_refused_version_reaches_no_engine_and_is_not_read_again() -> None:
    """The reason is reported; asking again costs nothing until refusals are forgotten."""
    residents, engine, fetcher = shelf(2)
    name = served(1).name
    fetcher.refuse[name] = SignatureInvalid("not signed by a trusted key")
    await residents.pin([name], [name])
    for _ in range(5):
        with pytest.raises(SignatureInvalid):
            await residents.ensure(served(1))
    assert (fetcher.asked[name], engine.loads[name]) == (1, 0)
    (report,) = residents.reports()
    assert (report.ready, report.reason) == (False, "SignatureInvalid")
    fetcher.refuse.clear()
    residents.forget_refusals()
    await residents.ensure(served(1))
    assert [found.ready for found in residents.reports()] == [True]


async def test_an_engine_that_fails_refuses_that_version_only() -> None:
    """Whatever a loader raises stays with its version."""
    residents, _, fetcher = shelf(2)
    fetcher.refuse[served(1).name] = RuntimeError("boom")
    await residents.pin([], [served(1).name, served(2).name])
    with pytest.raises(EngineUnavailable, match="boom"):
        await residents.ensure(served(1))
    await residents.ensure(served(2))


async def test_a_name_is_never_used_for_other_bytes() -> None:
    """The same name with another digest is refused while the first is known."""
    residents, engine, _ = shelf(2)
    await residents.pin([], [served(1).name])
    await residents.ensure(served(1))
    with pytest.raises(EngineUnavailable, match="never reused"):
        await residents.ensure(served(1).model_copy(update={"digest": D}))
    assert engine.loads[served(1).name] == 1


async def test_a_version_may_come_back_while_it_leaves() -> None:
    """Dropped by one table and wanted by the next at once, it ends up loaded once."""
    residents, engine, _ = shelf(2)
    name = served(1).name
    await residents.pin([name], [name])
    await residents.ensure(served(1))
    leaving = asyncio.create_task(residents.pin([], []))
    await asyncio.sleep(0)
    await residents.pin([name], [name])
    await residents.ensure(served(1))
    await leaving
    assert ({name}, 2) == (engine.held, engine.loads[name])


async def test_a_load_waits_while_another_version_leaves() -> None:
    """With a place to be had later, and idle versions besides, the event loop goes on, and with it what leaves."""
    residents, engine, _ = shelf(2)
    names = [served(number).name for number in (1, 2, 3)]
    await residents.pin([], names)
    await use(residents, served(1))
    await use(residents, served(2))
    engine.may_leave.clear()
    leaving = asyncio.create_task(residents.pin([], names[1:]))
    await engine.leaving.wait()
    loading = asyncio.create_task(residents.ensure(served(3)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not loading.done()
    engine.may_leave.set()
    await asyncio.gather(leaving, loading)
    assert {*names[1:]} == engine.held


async def test_a_table_that_is_replaced_while_a_version_leaves_loses_no_place() -> None:
    """The version leaves the engine although nobody waits for it any more."""
    residents, engine, _ = shelf(1)
    await residents.pin([], [served(1).name])
    await use(residents, served(1))
    engine.may_leave.clear()
    leaving = asyncio.create_task(residents.pin([], []))
    await engine.leaving.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    engine.may_leave.set()
    await residents.pin([], [served(2).name])
    await residents.ensure(served(2))
    assert {served(2).name} == engine.held


async def test_a_refusal_that_may_pass_is_forgotten_in_time() -> None:
    """Whoever asks some seconds later gets the version, without a new table; what cannot pass stays refused."""
    clock = Clock()
    residents, engine, fetcher = shelf(2, clock=clock)
    away, bad = served(1), served(2)
    await residents.pin([], [away.name, bad.name])
    fetcher.refuse = {away.name: StoreUnavailable("the store is away"), bad.name: SignatureInvalid("nobody signed it")}
    for version in (away, bad, away, bad):
        with pytest.raises((StoreUnavailable, SignatureInvalid)):
            await residents.ensure(version)
    clock.now_s = 5.0
    fetcher.refuse.pop(away.name)
    await residents.ensure(away)
    with pytest.raises(SignatureInvalid):
        await residents.ensure(bad)
    assert ({away.name}, 2, 1) == (engine.held, fetcher.asked[away.name], fetcher.asked[bad.name])


async def test_a_caller_that_leaves_does_not_stop_a_load() -> None:
    """The load goes on for those who still wait."""
    residents, engine, fetcher = shelf(2)
    fetcher.gate = asyncio.Event()
    await residents.pin([], [served(1).name])
    impatient = asyncio.create_task(residents.ensure(served(1)))
    patient = asyncio.create_task(residents.ensure(served(1)))
    await asyncio.sleep(0)
    impatient.cancel()
    fetcher.gate.set()
    await patient
    assert engine.loads[served(1).name] == 1


def table(*routes: ContextRoute) -> ServingTable:
    return ServingTable(generation=1, routes=routes)


@pytest.mark.parametrize(
    ("capacity", "expected"),
    [
        pytest.param(6, [1, 5, 2, 3, 4], id="all fit"),
        pytest.param(5, [1, 5, 2, 3, 4], id="all fit exactly"),
        pytest.param(4, [1, 5, 2], id="one place is left for the rest"),
        pytest.param(1, [], id="every version on demand"),
    ],
)
def test_what_is_missed_most_is_pinned(capacity: int, expected: list[int]) -> None:
    """Every stable version before any canary, canaries before previous ones, shadows last."""
    routes = table(
        ContextRoute(context="a", stable=served(1), canary=served(2), previous=served(3), shadow=served(4)),
        ContextRoute(context="b", stable=served(5)),
    )
    assert [served(n) for n in expected] == list(residents_of(routes, capacity))


def test_budgets_are_those_of_training() -> None:
    """A version spends what it was trained to spend; unknown entries are no error."""
    budgets = budgets_of(manifest(budgets={"max_turns": 3, "max_calls": 2, "later": 1}))
    assert (3, 2, budgets_of(None).max_turn_tokens) == (budgets.max_turns, budgets.max_calls, budgets.max_turn_tokens)


def test_a_turn_has_room_for_the_summary_where_one_is_wanted() -> None:
    """As in the run's own judging: without it an answer would be cut within its summary, and count as malformed."""
    trained = manifest(budgets={"max_turn_tokens": 40, "max_summary_tokens": 96})
    assert 136 == budgets_of(trained, summary=True).max_turn_tokens
    assert 40 == budgets_of(trained).max_turn_tokens


async def test_retryable_failures_are_told_apart() -> None:
    """An unreachable store is not a verdict on the version."""
    residents, _, fetcher = shelf(2)
    fetcher.refuse[served(1).name] = StoreUnavailable("no route")
    await residents.pin([], [served(1).name])
    with pytest.raises(StoreUnavailable) as caught:
        await residents.ensure(served(1))
    assert caught.value.retryable


async def test_an_engine_that_cannot_let_go_spoils_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing unload is logged; the investigation that held the version ends well."""
    residents, engine, _ = shelf(2)

    async def broken(name: str) -> None:
        raise RuntimeError("cannot unload")

    monkeypatch.setattr(engine, "unload_adapter", broken)
    await residents.pin([], [])
    await use(residents, served(1))
    assert residents.find(served(1).name) is None
