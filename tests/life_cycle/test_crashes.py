"""The operator is stopped before and after each of its writes; every restart ends in the same state, and loses nothing.

Every run of the suite tries the shorter life cycle with KubeRay's resources: applied, trained, published, served,
deleted. ``make test-crash`` (SOCADAPTER_TEST_CRASHES=whole) puts another training spec before the end, tries users who
do not wait, and both once more with processes outside the cluster.
"""

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
from tests.controlplane.cluster import Cluster
from tests.life_cycle.grounds import Ground, Spec, grounds
from tests.life_cycle.lives import FIRST, SECOND, Life
from tests.life_cycle.stops import StopAt

from socadapter_operator.kube.resources import Object

WHOLE = os.environ.get("SOCADAPTER_TEST_CRASHES") == "whole"
SPECS: Sequence[Spec] = (FIRST, SECOND) if WHOLE else (FIRST,)
GROUNDS = ("stand-ins", "kuberay") if WHOLE else ("kuberay",)
T = TypeVar("T")

LANES = 4
"""How many lives are lived at a time, each on a ground of its own: most of a life is waiting."""

pytestmark = [
    pytest.mark.slow,
    # Threads of a stopped operator end as they would with their process: without a word to anybody.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@dataclass
class Points:
    """The kill points that are left, for several lanes; they end with the first write that no life came to."""

    tried: list[str] = field(default_factory=list)
    _left: Iterator[tuple[int, bool]] = field(
        default_factory=lambda: ((number, after_it) for number in itertools.count(1) for after_it in (False, True))
    )
    _end: float = float("inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> StopAt | None:
        """The next one; None where there is none."""
        with self._lock:
            number, after_it = next(self._left)
            return StopAt(number, after_it) if number < self._end else None

    def done(self, stop: StopAt) -> None:
        """A life has ended that was to be stopped at `stop`."""
        with self._lock:
            if stop.told:
                self.tried.append(stop.told)
            else:
                self._end = min(self._end, stop.number)

    def give_up(self) -> None:
        """Hands out no more."""
        with self._lock:
            self._end = 0


@pytest.fixture
def lanes(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Ground]]:
    """Grounds to live on side by side."""
    with grounds(request.param, cluster, tmp_path, monkeypatch, LANES) as made:
        yield made


@pytest.mark.parametrize("lanes", GROUNDS, indirect=True)
def test_every_restart_ends_in_the_same_state(lanes: list[Ground], capsys: pytest.CaptureFixture[str]) -> None:
    """One run and one version for each spec, ready, then gone with all that was made: wherever the operator ended."""
    golden = _lived(Life(lanes[0]), lambda life: life.live(SPECS, [None] * len(SPECS)))

    def same(life: Life) -> list[Object]:
        return life.live(SPECS, golden)

    tried = _every_point(lanes, same)
    assert len(tried) > 20, tried
    with capsys.disabled():
        print(f"\ncrash matrix on {type(lanes[0]).__name__}: {len(tried)} kill points, {len(set(tried))} different")


@pytest.mark.skipif(not WHOLE, reason="SOCADAPTER_TEST_CRASHES is not whole")
@pytest.mark.parametrize("lanes", ["stand-ins", "kuberay"], indirect=True)
def test_users_who_go_on_while_nobody_operates_lose_nothing(
    lanes: list[Ground], capsys: pytest.CaptureFixture[str]
) -> None:
    """Another spec, or the end, before the next operator comes: no run is left working, none started twice."""
    tried = _every_point(lanes, lambda life: life.live_hastily(SPECS))
    assert len(tried) > 20, tried
    with capsys.disabled():
        print(f"\nhasty users on {type(lanes[0]).__name__}: {len(tried)} kill points, {len(set(tried))} different")


def _every_point(lanes: list[Ground], live: Callable[[Life], object]) -> list[str]:
    """Lives as `live` says, with an operator that ends at another point each time; the points that were reached."""
    points = Points()

    def lane(ground: Ground) -> None:
        while (stop := points.take()) is not None:
            try:
                _lived(Life(ground, stop), live)
            except BaseException as error:
                points.give_up()
                raise AssertionError(f"stopped {stop.told or 'never'} (write {stop.number}): {error}") from error
            points.done(stop)

    with ThreadPoolExecutor(len(lanes)) as threads:
        for ended in [threads.submit(lane, ground) for ground in lanes]:
            ended.result()
    return points.tried


def _lived(life: Life, live: Callable[[Life], T]) -> T:
    try:
        lived = live(life)
        life.die()
    finally:
        life.end()
    return lived
