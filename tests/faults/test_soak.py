"""Users change their minds while everything goes wrong; nothing that must hold is broken, and all ends as wanted.

``make test-faults`` runs it for a quarter of an hour; SOCADAPTER_TEST_FAULTS_S says for how many seconds. A run is
repeated with the SOCADAPTER_TEST_FAULTS_SEED that it prints, as far as threads allow.
SOCADAPTER_TEST_CONVERGED_S is the limit for a machine that has more to do than this.
"""

import os
import threading
import time
from pathlib import Path

import pytest
from tests.faults.bench import Bench
from tests.faults.conftest import SEED
from tests.faults.invariants import broken
from tests.faults.kinds import Fault

pytestmark = [pytest.mark.slow, pytest.mark.alone]

LASTS_S = float(os.environ.get("SOCADAPTER_TEST_FAULTS_S") or 90)
CONVERGED_S = float(os.environ.get("SOCADAPTER_TEST_CONVERGED_S") or 30)
KEPT = Path("build") / "test" / f"faults-{SEED}.jsonl"
_PAUSE_S = 1.5
_USERS_END_S = 10.0
"""The users' last change is so long before the last fault: what is measured is how faults are got over."""


def test_nothing_is_lost_and_all_ends_as_wanted(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """With 409, 410, 429, 500, time-outs, lost and repeated events, stale reads and cut streams, each at random."""
    with capsys.disabled():
        print(f"\nfaults by proxy: seed {SEED}, {LASTS_S:.0f} s")
    ends_at, nobody = time.monotonic() + LASTS_S, threading.Event()
    bench.users.begin()
    while (left := ends_at - _USERS_END_S - time.monotonic()) > 0:
        nobody.wait(min(bench.users.pause_s(_PAUSE_S), left))
        bench.users.change()
    nobody.wait(ends_at - time.monotonic())
    converged_s = bench.converge(CONVERGED_S)
    events = bench.record.ordered()
    with capsys.disabled():
        print(f"injected: {bench.proxy.faults.told()}")
        print(f"users did: {', '.join(f'{what} {count}' for what, count in sorted(bench.users.done.items()))}")
        print(f"{len(events)} changes recorded; converged {converged_s:.1f} s after the last fault")
    wrong = broken(events)
    if wrong:
        bench.record.keep(KEPT)
    assert [] == wrong, f"every event is in {KEPT}"
    assert set(Fault) == set(bench.proxy.faults.injected)
