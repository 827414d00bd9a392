"""One leader at a time: the elector against a server that fails as it likes, on clocks that a test turns."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.kube.api_server import Answer, ApiServer, Asked, status
from tests.kube.conftest import Fixed

from socadapter_api.errors import AlreadyExists, ClusterUnavailable, Conflict, LeadershipLost, ObjectNotFound
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.lease import LeaseElector, LeaseTimes, Standing
from socadapter_operator.kube.resources import LEASE, SECRET, Kind, Object

PATH = "/apis/coordination.k8s.io/v1/namespaces/soc/leases/operator"


class Clock:
    """A monotonic clock that moves when told to."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@dataclass
class Candidate:
    """One elector and what it was told."""

    elector: LeaseElector
    told: list[str] = field(default_factory=list)


def candidate(client: Client, clock: Callable[[], float], identity: str) -> Candidate:
    told: list[str] = []
    elector = LeaseElector(
        client,
        "soc",
        "operator",
        identity,
        clock=clock,
        on_won=lambda: told.append("won"),
        on_lost=lambda: told.append("lost"),
    )
    return Candidate(elector, told)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_first_comes_to_lead_and_second_waits(client: Client, clock: Clock) -> None:
    """The first candidate leads at once; the second stays behind for as long as the first renews."""
    first, second = candidate(client, clock, "a"), candidate(client, clock, "b")
    for _ in range(30):
        first.elector.step()
        second.elector.step()
        clock.at += 2
    assert (["won"], []) == (first.told, second.told)
    assert Standing.WAITING is second.elector.standing


def test_standby_takes_over_after_what_was_promised(client: Client, clock: Clock) -> None:
    """A leader that died is succeeded when its promise is over, not before, and the change is counted."""
    first, second = candidate(client, clock, "a"), candidate(client, clock, "b")
    first.elector.step()
    second.elector.step()
    clock.at += 14.9
    second.elector.step()
    assert "Waiting" == second.elector.standing.value
    clock.at += 0.2
    second.elector.step()
    assert second.elector.leading
    lease = client.get(LEASE, "soc", "operator")
    assert ("b", 1) == (lease["spec"]["holderIdentity"], lease["spec"]["leaseTransitions"])


def test_released_lease_is_taken_at_once(client: Client, clock: Clock) -> None:
    """After a clean stop the successor leads with its next try, and the one that stopped writes no more."""
    first, second = candidate(client, clock, "a"), candidate(client, clock, "b")
    first.elector.step()
    second.elector.step()
    first.elector.release()
    with pytest.raises(LeadershipLost):
        first.elector.fence()
    second.elector.step()
    assert second.elector.leading


def test_leader_that_cannot_renew_stops_before_another_may_start(
    client: Client, server: ApiServer, clock: Clock
) -> None:
    """Ten seconds after its last renewal the fence closes and the loss is told once, though nobody else leads yet."""
    first = candidate(client, clock, "a")
    first.elector.step()
    server.faults.append(lambda _: status(403, "Forbidden", "no"))
    clock.at += 9.9
    first.elector.fence()
    clock.at += 0.1
    with pytest.raises(LeadershipLost, match="soc/operator"):
        first.elector.fence()
    assert (0.0, 0.0) == (first.elector.step(), first.elector.step())
    assert ["won", "lost"] == first.told


def test_wall_clocks_decide_nothing(client: Client, clock: Clock) -> None:
    """An hour back, on either machine: who leads goes on leading, and its standby goes on waiting."""
    wall = [datetime(2026, 3, 2, 12, tzinfo=UTC), datetime(2026, 3, 2, 12, tzinfo=UTC)]
    first, second = (
        LeaseElector(client, "soc", "operator", name, clock=clock, now=partial(wall.__getitem__, at))
        for at, name in enumerate(("first", "second"))
    )
    first.step()
    second.step()
    for at in (0, 1, 0):
        wall[at] -= timedelta(hours=1)
        clock.at += 2
        first.step()
        second.step()
        assert (True, False) == (first.leading, second.leading)


def test_another_holder_ends_leadership_at_once(client: Client, server: ApiServer, clock: Clock) -> None:
    """A leader that finds another name in the Lease stops at once, whatever its own clock says."""
    first = candidate(client, clock, "a")
    first.elector.step()
    lease = server.objects[PATH]
    server.put(PATH, {**lease, "spec": {**lease["spec"], "holderIdentity": "thief"}})
    first.elector.step()
    assert Standing.LOST is first.elector.standing
    assert ["won", "lost"] == first.told


def test_renewal_whose_answer_was_lost_counts(client: Client, server: ApiServer, clock: Clock) -> None:
    """A renewal that arrived although its answer did not is found by the next try: leadership goes on."""
    first = candidate(client, clock, "a")
    first.elector.step()
    server.after = lambda asked: status(500, "InternalError", "lost") if asked.method == "PUT" else None
    clock.at += 2
    first.elector.step()
    server.after = None
    clock.at += 2
    first.elector.step()
    clock.at += 9
    first.elector.fence()
    assert ["won"] == first.told


def test_deleted_lease_is_made_anew_by_its_holder(client: Client, server: ApiServer, clock: Clock) -> None:
    """Somebody deletes the Lease: the leader writes it again, and a standby that knew of it still waits."""
    first, second = candidate(client, clock, "a"), candidate(client, clock, "b")
    first.elector.step()
    second.elector.step()
    del server.objects[PATH]
    second.elector.step()
    first.elector.step()
    assert (True, False) == (first.elector.leading, second.elector.leading)


def test_fence_stops_writes(server: ApiServer, credentials: Fixed, client: Client, clock: Clock) -> None:
    """A client with the leader's fence writes while it leads, and afterwards nothing leaves it; reads go on."""
    first = candidate(client, clock, "a")
    fenced = Client(credentials, fence=first.elector.fence)
    secret: Object = {"metadata": {"namespace": "soc", "name": "a"}}
    with pytest.raises(LeadershipLost):
        fenced.create(SECRET, secret)
    first.elector.step()
    fenced.create(SECRET, secret)
    clock.at += 10
    with pytest.raises(LeadershipLost):
        fenced.apply(SECRET, secret)
    assert "a" == fenced.get(SECRET, "soc", "a")["metadata"]["name"]
    fenced.close()
    assert "PATCH" not in {asked.method for asked in server.asked}


def test_run_renews_until_it_is_stopped_and_gives_back(client: Client, server: ApiServer) -> None:
    """The thread leads, renews and, told to stop, leaves the Lease without a holder."""
    stop, won = threading.Event(), threading.Event()
    times = LeaseTimes(promised_s=3, renew_deadline_s=2, retry_s=0.02)
    elector = LeaseElector(client, "soc", "operator", "a", times=times, on_won=won.set)
    renewed = threading.Event()
    server.after = lambda asked: renewed.set() if asked.method == "PUT" else None
    thread = threading.Thread(target=elector.run, args=(stop,))
    thread.start()
    assert won.wait(20)
    assert renewed.wait(20)
    stop.set()
    thread.join(20)
    assert "" == server.objects[PATH]["spec"]["holderIdentity"]
    assert Standing.RELEASED is elector.standing


def test_times_that_cannot_work_are_refused() -> None:
    """A deadline beyond the promise would let two lead; it is refused before anything starts."""
    with pytest.raises(ValueError, match="cannot be kept"):
        LeaseTimes(promised_s=10, renew_deadline_s=10)


def test_times_in_the_lease_are_written_for_people(client: Client, clock: Clock) -> None:
    """The record carries Kubernetes' micro times and whole seconds, as other tools read them."""
    candidate(client, clock, "a").elector.step()
    spec = client.get(LEASE, "soc", "operator")["spec"]
    assert 15 == spec["leaseDurationSeconds"]
    assert spec["renewTime"].endswith("Z")
    assert 27 == len(spec["renewTime"])


class OneLease:
    """A Lease in memory, with the API's conditions on versions; answers get lost on demand."""

    def __init__(self) -> None:
        self.lease: Object | None = None
        self.version = 0
        self.next: str = ""
        self.delay: Callable[[], None] = lambda: None
        self.defect: Exception | None = None

    def get(self, kind: Kind, namespace: str, name: str, *, timeout_s: float | None = None) -> Object:
        self._fail("request")
        if self.lease is None:
            raise ObjectNotFound("no lease")
        return self.lease

    def create(self, kind: Kind, item: Object, *, timeout_s: float | None = None) -> Object:
        self._fail("request")
        if self.lease is not None:
            raise AlreadyExists("there")
        return self._store(item)

    def replace(self, kind: Kind, item: Object, *, timeout_s: float | None = None) -> Object:
        self._fail("request")
        held = self.lease or {"metadata": {}}
        if item["metadata"]["resourceVersion"] != held["metadata"].get("resourceVersion"):
            raise Conflict("changed")
        return self._store(item)

    def _store(self, item: Object) -> Object:
        self.version += 1
        about = {**item["metadata"], "resourceVersion": str(self.version)}
        self.lease = {**item, "metadata": about}
        stored = self.lease
        self.delay()
        self._fail("answer")
        return stored

    def _fail(self, where: str) -> None:
        if self.defect is not None:
            raise self.defect
        if self.next == where:
            self.next = ""
            raise ClusterUnavailable(f"the {where} was lost")


@settings(max_examples=60, stateful_step_count=40)
class Election(RuleBasedStateMachine):
    """Candidates step, stall, crash and lose requests or answers, in any order and with any delay."""

    @initialize()
    def start(self) -> None:
        self.clock = Clock()
        self.server = OneLease()
        self.born = 0
        self.candidates: list[Candidate] = []
        self.join()

    def join(self) -> None:
        self.born += 1
        made = candidate(self.server, self.clock, f"candidate-{self.born}")  # type: ignore[arg-type]
        self.candidates.append(made)

    @rule(passed=st.sampled_from([0.5, 2.0, 4.0, 9.9, 10.1, 15.1]))
    def wait(self, passed: float) -> None:
        self.clock.at += passed

    @rule(
        who=st.integers(0, 9),
        lost=st.sampled_from(["", "", "request", "answer"]),
        took=st.sampled_from([0, 0, 3, 9, 12]),
        meanwhile=st.integers(-3, 9),
    )
    def step(self, who: int, lost: str, took: float, meanwhile: int) -> None:
        """A try whose answer takes `took` seconds to come back; in the middle of it another one may try."""

        def delay() -> None:
            self.server.delay = lambda: None
            self.clock.at += took / 2
            others = [one for one in self.candidates if one is not self.candidates[who % len(self.candidates)]]
            if meanwhile >= 0 and others:
                others[meanwhile % len(others)].elector.step()
            self.clock.at += took / 2

        self.server.next, self.server.delay = lost, delay
        self.candidates[who % len(self.candidates)].elector.step()
        self.server.next, self.server.delay = "", lambda: None

    @precondition(lambda self: len(self.candidates) < 4)
    @rule()
    def another(self) -> None:
        self.join()

    @rule(who=st.integers(0, 9))
    def stop(self, who: int) -> None:
        self.candidates[who % len(self.candidates)].elector.release()

    @rule(who=st.integers(0, 9))
    def crash(self, who: int) -> None:
        """A process is gone; its successor has a name of its own."""
        self.candidates.pop(who % len(self.candidates))
        self.join()

    @invariant()
    def one_at_most(self) -> None:
        """Never do two believe that they lead, and who believes stands in the Lease."""
        leading = [one.elector.identity for one in getattr(self, "candidates", ()) if one.elector.leading]
        assert len(leading) <= 1
        if leading:
            assert self.server.lease is not None
            assert leading[0] == self.server.lease["spec"]["holderIdentity"]

    def teardown(self) -> None:
        """Whatever happened, a fresh candidate leads within the promise and two tries."""
        self.candidates = []
        self.join()
        for _ in range(12):
            self.candidates[0].elector.step()
            self.clock.at += 2
        assert self.candidates[0].elector.leading


TestElection = Election.TestCase


def test_slow_answer_counts_from_when_it_was_asked(clock: Clock) -> None:
    """A renewal is worth ten seconds from when it was sent: others may have seen it long before its answer came."""
    server = OneLease()

    def slow() -> None:
        clock.at += 9

    server.delay = slow
    first = candidate(server, clock, "a")  # type: ignore[arg-type]
    first.elector.step()
    clock.at += 0.9
    first.elector.fence()
    clock.at += 0.1
    with pytest.raises(LeadershipLost):
        first.elector.fence()


def test_lost_requests_do_not_end_the_waiting(client: Client, server: ApiServer, clock: Clock) -> None:
    """A standby that cannot reach the server goes on trying, and its error stays out of its caller."""
    refused: list[Asked] = []

    def fault(asked: Asked) -> Answer | None:
        refused.append(asked)
        return status(403, "Forbidden", "no")

    server.faults.append(fault)
    waiting = candidate(client, clock, "a")
    assert 2.0 <= waiting.elector.step() <= 2.4
    server.faults.clear()
    waiting.elector.step()
    assert waiting.elector.leading


def test_a_defect_is_a_renewal_that_failed(clock: Clock) -> None:
    """What no code expected is tried again; over in time, leadership goes on, and else it is lost and that is told."""
    server = OneLease()
    first = candidate(server, clock, "a")  # type: ignore[arg-type]
    first.elector.step()
    for passed, defect in ((2, ZeroDivisionError()), (6, None), (2, ZeroDivisionError()), (7, ZeroDivisionError())):
        clock.at += passed
        server.defect = defect
        assert 0 < first.elector.step() <= 2
    assert first.elector.leading
    clock.at += 1
    assert 0.0 == first.elector.step()
    assert (["won", "lost"], Standing.LOST) == (first.told, first.elector.standing)


def test_who_cannot_begin_does_not_keep_the_lease(clock: Clock) -> None:
    """A winner whose work does not begin has lost at once, so that the process ends and another one may try."""
    told: list[str] = []

    def begin() -> None:
        raise RuntimeError("no more threads")

    server = OneLease()
    elector = LeaseElector(
        server,  # type: ignore[arg-type]
        "soc",
        "operator",
        "a",
        clock=clock,
        on_won=begin,
        on_lost=lambda: told.append("lost"),
    )
    assert 0.0 == elector.step()
    assert (["lost"], Standing.LOST) == (told, elector.standing)
