"""Keeps a reconciler going until it is told to stop, and ends what it drives without losing work.

The first interrupt lets training runs write their checkpoints; the second kills them. Either way the next start
resumes.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType

from socadapter_operator.backends.local import LocalBackend
from socadapter_operator.domain.state import RunState
from socadapter_operator.local.reconciler import Pass, Reconciler
from socadapter_operator.local.state_folder import StateFolder

LONGEST_WAIT = timedelta(seconds=2)
_SHORTEST_WAIT_S = 0.1
_STOP_POLL_S = 0.2


class Interrupts:
    """Counts the interrupts of this process while `caught` is entered."""

    def __init__(self) -> None:
        self._count = 0
        self._event = threading.Event()

    @property
    def count(self) -> int:
        """How many came so far."""
        return self._count

    def wait(self, seconds: float) -> bool:
        """Waits, or returns at once with True when an interrupt came before or comes meanwhile."""
        return self._event.wait(seconds)

    def add(self) -> None:
        """Counts one."""
        self._count += 1
        self._event.set()

    @contextmanager
    def caught(self) -> Iterator["Interrupts"]:
        """Counts SIGINT and SIGTERM instead of dying of them."""

        def counted(_number: int, _frame: FrameType | None) -> None:
            self.add()

        before = {number: signal.signal(number, counted) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def drive(
    reconciler: Reconciler,
    interrupts: Interrupts,
    *,
    until: Callable[[Pass], bool],
    seen: Callable[[Pass], None] = lambda _: None,
) -> Pass:
    """Passes, one after another, until `until` holds or an interrupt comes; returns the last. `seen` gets each."""
    while True:
        latest = reconciler.pass_once()
        seen(latest)
        if interrupts.count or until(latest):
            return latest
        wait = LONGEST_WAIT if latest.requeue_after is None else min(latest.requeue_after, LONGEST_WAIT)
        if interrupts.wait(max(wait.total_seconds(), _SHORTEST_WAIT_S)):
            return latest


def stop_runs(backend: LocalBackend, interrupts: Interrupts, told: Callable[[str], None] = lambda _: None) -> None:
    """Ends every run: checkpoint first, killed on one interrupt more, or when it takes longer than its grace."""
    runs = (*backend.runs.queued(), *backend.runs.live())
    already = interrupts.count
    for run_id in runs:
        told(run_id)
        backend.stop(run_id)
    waiting = threading.Event()
    while alive := [run_id for run_id in runs if backend.observe(run_id).state is RunState.RUNNING]:
        if interrupts.count > already:
            for run_id in alive:
                backend.runs.kill(run_id)
        backend.runs.tend()
        waiting.wait(_STOP_POLL_S)


def end_owner(state: StateFolder, interrupts: Interrupts) -> None:
    """Interrupts the process that drives `state` and waits until it has let go; one interrupt more passes on."""
    owner = state.owner()
    waiting = threading.Event()
    passed = -1
    while owner is not None and owner.alive:
        if interrupts.count > passed:
            owner.interrupt(signal.SIGINT)
            passed = interrupts.count
        waiting.wait(_STOP_POLL_S)
