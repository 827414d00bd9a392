"""The work queue: one thread per key, nothing lost, failures spaced out, and an end that waits for what runs."""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.shell.conftest import Clock

from socadapter_api.errors import ClusterUnavailable, ObjectInvalid
from socadapter_operator.shell.queue import Backoff, Outcome, Workers, WorkQueue

KEYS = ("a", "b", "c")


@pytest.fixture
def queue(clock: Clock) -> WorkQueue[str]:
    return WorkQueue(backoff=Backoff(first_s=1, cap_s=8), clock=clock)


def taken(queue: WorkQueue[str]) -> list[str]:
    """All that can be taken now."""
    found = []
    while (key := queue.take(timeout_s=0)) is not None:
        found.append(key)
    return found


def test_waiting_key_is_one_item(queue: WorkQueue[str]) -> None:
    """However often a key is added while it waits, it is worked on once."""
    for _ in range(3):
        queue.add("a")
    queue.add("b")
    assert ["a", "b"] == taken(queue)


def test_key_added_while_worked_on_comes_once_more(queue: WorkQueue[str]) -> None:
    """A change during the work is seen by another round afterwards, and not before."""
    queue.add("a")
    assert ["a"] == taken(queue)
    for _ in range(3):
        queue.add("a")
    assert [] == taken(queue)
    queue.done("a")
    assert ["a"] == taken(queue)
    queue.done("a")
    assert [] == taken(queue)


def test_full_pass_goes_behind_changes(queue: WorkQueue[str]) -> None:
    """Low items wait for all others; one that is added normally is no longer low."""
    for key in KEYS:
        queue.add(key, low=True)
    queue.add("d")
    queue.add("c")
    assert ["d", "c", "a", "b"] == taken(queue)


def test_failures_space_out_up_to_the_cap(queue: WorkQueue[str], clock: Clock) -> None:
    """The pause doubles from failure to failure, never above the cap, at least half of it, and a success resets it."""
    pauses = []
    for _ in range(6):
        queue.add("a")
        taken(queue)
        pauses.append(queue.failed("a") or 0.0)
    for pause, longest in zip(pauses, (1, 2, 4, 8, 8, 8), strict=True):
        assert longest / 2 <= pause <= longest
    queue.add("a")
    taken(queue)
    queue.done("a")
    assert 0 == queue.failures("a")


def test_failed_key_comes_back_by_itself(queue: WorkQueue[str], clock: Clock) -> None:
    """What failed is worked on again after its pause, once."""
    queue.add("a")
    taken(queue)
    pause = queue.failed("a")
    assert pause is not None
    assert [] == taken(queue)
    clock.at += pause
    assert ["a"] == taken(queue)


def test_failed_key_comes_at_once_when_something_changes(queue: WorkQueue[str], clock: Clock) -> None:
    """A change does not wait for a pause; the pause it made needless is over."""
    queue.add("a")
    taken(queue)
    queue.failed("a")
    queue.add("a")
    assert ["a"] == taken(queue)
    queue.done("a")
    clock.at += 100
    assert [] == taken(queue)


def test_last_word_on_when_to_come_back_counts(queue: WorkQueue[str], clock: Clock) -> None:
    """A handler's wish replaces its earlier one, sooner or later; without a wish there is no next time."""
    queue.add("a")
    taken(queue)
    queue.done("a", requeue_after=timedelta(seconds=10))
    queue.add("a")
    taken(queue)
    queue.done("a", requeue_after=timedelta(seconds=50))
    clock.at += 49
    assert [] == taken(queue)
    clock.at += 1
    assert ["a"] == taken(queue)


def test_time_asked_from_outside_always_comes(queue: WorkQueue[str], clock: Clock) -> None:
    """What others asked for is not dropped because the key was worked on in between."""
    queue.add_after("a", timedelta(seconds=10))
    queue.add_after("a", timedelta(seconds=20))
    queue.add("a")
    for passed in (0, 10, 10):
        clock.at += passed
        assert ["a"] == taken(queue)
        queue.done("a")
    assert [] == taken(queue)


def test_forgotten_key_is_not_looked_at_again(queue: WorkQueue[str], clock: Clock) -> None:
    """After its resource is gone a key has no failures and no times left."""
    queue.add("a")
    taken(queue)
    queue.failed("a")
    queue.add_after("a", timedelta(seconds=3))
    queue.forget("a")
    clock.at += 100
    assert ([], 0) == (taken(queue), queue.failures("a"))


@dataclass(frozen=True, eq=False)
class Resource:
    """A key that is only itself, so that whoever holds on to it can be counted."""

    name: str


def test_wishes_that_others_replaced_take_no_room(clock: Clock) -> None:
    """Ten thousand looks at two keys, each of which asks for the next in twelve hours: few are kept, none is lost."""
    queue: WorkQueue[Resource] = WorkQueue(clock=clock, superseded=100)
    keys = Resource("a"), Resource("b")
    free = [sys.getrefcount(key) for key in keys]
    queue.add_after(keys[1], timedelta(hours=11))
    for _ in range(5_000):
        for key in keys:
            queue.add(key)
            assert key is queue.take(timeout_s=0)
            queue.done(key, requeue_after=timedelta(hours=12))
        clock.at += 1
    held = sum(sys.getrefcount(key) - before for key, before in zip(keys, free, strict=True))
    assert held < 150, "times that count for nothing are kept"
    for passed, due in ((11 * 3600 - 5_000, keys[1]), (3600 + 5_000, keys[0])):
        assert queue.take(timeout_s=0) is None
        clock.at += passed
        assert due is queue.take(timeout_s=0)
        queue.done(due)


@settings(max_examples=80, stateful_step_count=50)
class AnyOrder(RuleBasedStateMachine):
    """Adds, takes, ends and waits in any order: one at a time per key, and no change goes unseen."""

    @initialize()
    def start(self) -> None:
        self.clock = Clock()
        self.queue: WorkQueue[str] = WorkQueue(backoff=Backoff(first_s=1, cap_s=8), clock=self.clock, superseded=2)
        self.running: set[str] = set()
        self.unseen: set[str] = set()
        self.timers: list[tuple[float, str]] = []

    @rule(key=st.sampled_from(KEYS), low=st.booleans())
    def add(self, key: str, low: bool) -> None:
        self.queue.add(key, low=low)
        self.unseen.add(key)

    @rule(key=st.sampled_from(KEYS), delay=st.integers(0, 9))
    def add_after(self, key: str, delay: int) -> None:
        self.queue.add_after(key, timedelta(seconds=delay))
        self.timers.append((self.clock.at + delay, key))

    @rule(passed=st.integers(0, 10))
    def wait(self, passed: int) -> None:
        self.clock.at += passed

    @rule()
    def take(self) -> None:
        self._fire()
        key = self.queue.take(timeout_s=0)
        if key is None:
            assert not self.unseen - self.running, "a change is not handed out"
        else:
            assert key not in self.running, "two work on one key"
            self.running.add(key)
            self.unseen.discard(key)

    @rule(key=st.sampled_from(KEYS), how=st.sampled_from(["done", "again", "failed", "given up"]))
    def end(self, key: str, how: str) -> None:
        if key not in self.running:
            return
        self._fire()
        self.queue.idle()  # collects what is due, as a waiting thread would
        self.running.discard(key)
        if how == "done":
            self.queue.done(key)
        elif how == "again":
            self.queue.done(key, requeue_after=timedelta(seconds=3))
            self.timers.append((self.clock.at + 3, f"wish {key}"))
        else:
            self.queue.failed(key, retry=how == "failed")

    def _fire(self) -> None:
        due = [key for at, key in self.timers if at <= self.clock.at]
        self.timers = [(at, key) for at, key in self.timers if at > self.clock.at]
        self.unseen |= {key for key in due if key in KEYS}

    @invariant()
    def counts_what_waits(self) -> None:
        if hasattr(self, "queue"):
            assert len(self.queue) <= len(KEYS)

    def teardown(self) -> None:
        """At the end, every change and every time asked for has been worked on."""
        self.clock.at += 100
        self._fire()
        for key in list(self.running):
            self.queue.idle()
            self.queue.done(key)
        self.unseen -= set(taken(self.queue))
        assert set() == self.unseen


TestAnyOrder = AnyOrder.TestCase


@contextmanager
def working(
    handle: Callable[[str], timedelta | None],
    queue: WorkQueue[str],
    seen: Callable[[str, Outcome, BaseException | None], None] = lambda *_: None,
) -> Iterator[Workers[str]]:
    """Four threads that work with `handle` until the block ends."""
    workers = Workers(queue, handle, threads=4, name="test", on_outcome=lambda k, o, e, _: seen(k, o, e))
    workers.start()
    try:
        yield workers
    finally:
        assert workers.stop(20)


def test_threads_never_share_a_key() -> None:
    """With many threads and many changes, a key is never worked on twice at once, and its last change is seen."""
    queue: WorkQueue[str] = WorkQueue()
    at_work: Counter[str] = Counter()
    lock, worst, latest, seen = threading.Lock(), [0], dict.fromkeys(KEYS, 0), dict.fromkeys(KEYS, -1)

    def handle(key: str) -> None:
        with lock:
            at_work[key] += 1
            worst[0] = max(worst[0], at_work[key])
            current = latest[key]
        with lock:
            seen[key] = current
            at_work[key] -= 1

    with working(handle, queue):
        for number in range(1, 2001):
            key = KEYS[number % 3]
            with lock:
                latest[key] = number
            queue.add(key)
        deadline = threading.Event()
        while not queue.idle():
            deadline.wait(0.01)
    assert (1, latest) == (worst[0], seen)


def test_what_a_handler_raises_is_told_and_retried() -> None:
    """An error of the network comes back, one that cannot be helped does not, and a defect is caught at the rim."""
    queue: WorkQueue[str] = WorkQueue(backoff=Backoff(first_s=0.001, cap_s=0.001))
    rounds: Counter[str] = Counter()
    outcomes: list[tuple[str, Outcome, str]] = []
    settled = threading.Semaphore(0)

    def handle(key: str) -> None:
        rounds[key] += 1
        if key == "broken":
            raise ObjectInvalid("a field is wrong")
        if rounds[key] == 1:
            raise ClusterUnavailable("no answer") if key == "network" else ZeroDivisionError
        settled.release()

    def seen(key: str, outcome: Outcome, error: BaseException | None) -> None:
        outcomes.append((key, outcome, type(error).__name__))
        if key == "broken":
            settled.release()

    with working(handle, queue, seen):
        for key in ("network", "broken", "defect"):
            queue.add(key)
        for _ in range(3):
            assert settled.acquire(timeout=20)
    assert {"network": 2, "broken": 1, "defect": 2} == rounds
    assert ("broken", Outcome.ERROR, "ObjectInvalid") in outcomes
    assert ("defect", Outcome.ERROR, "ZeroDivisionError") in outcomes
    assert ("network", Outcome.SUCCESS, "NoneType") in outcomes


def test_who_is_told_cannot_end_a_worker() -> None:
    """A defect in what counts outcomes, metrics for instance, is logged, and the next key is worked on."""
    queue: WorkQueue[str] = WorkQueue()
    worked = threading.Semaphore(0)

    def handle(key: str) -> None:
        worked.release()
        if key == "broken":
            raise ObjectInvalid("a field is wrong")

    def seen(key: str, outcome: Outcome, error: BaseException | None) -> None:
        raise ZeroDivisionError

    with working(handle, queue, seen) as workers:
        for key in ("good", "broken", *KEYS):  # more than there are threads
            queue.add(key)
            assert worked.acquire(timeout=20)
        assert workers.alive


def test_server_that_asks_for_a_pause_gets_it(queue: WorkQueue[str]) -> None:
    """A pause that the API server named is not undercut by a short backoff."""
    queue.add("a")
    taken(queue)
    assert 30.0 == queue.failed("a", not_before_s=30)


def test_stop_waits_for_what_runs_and_begins_nothing() -> None:
    """Work in progress ends in peace; what waits is left for the next process; a worker that hangs is told."""
    queue: WorkQueue[str] = WorkQueue()
    begun, may_end, worked = threading.Event(), threading.Event(), []

    def handle(key: str) -> None:
        begun.set()
        assert may_end.wait(20)
        worked.append(key)

    workers = Workers(queue, handle, threads=1, name="test")
    workers.start()
    queue.add("a")
    queue.add("b")
    assert begun.wait(20)
    assert not workers.stop(0.01)
    may_end.set()
    assert workers.stop(20)
    assert ["a"] == worked
    queue.add("c")
    assert queue.take() is None


def test_what_never_began_can_be_stopped() -> None:
    """A standby has workers that wait to be started; its end is a clean one, too."""
    queue: WorkQueue[str] = WorkQueue()
    workers = Workers(queue, lambda _: None, threads=2, name="test")
    assert workers.stop(20)
    assert queue.closed


def test_waiting_threads_wake_for_what_becomes_due() -> None:
    """A thread that waits without an end takes a key whose time comes, and one that is added."""
    queue: WorkQueue[str] = WorkQueue()
    got: list[str] = []
    done = threading.Semaphore(0)

    def handle(key: str) -> None:
        got.append(key)
        done.release()

    with working(handle, queue):
        queue.add_after("later", timedelta(seconds=0.05))
        assert done.acquire(timeout=20)
        queue.add("now")
        assert done.acquire(timeout=20)
    assert ["later", "now"] == got
