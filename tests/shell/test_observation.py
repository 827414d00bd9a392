"""What is seen of runs: read from the store once, and kept for as many as there is room for."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.shell.test_controllers import Still

from socadapter_api import digest
from socadapter_api.adapter import SocAdapter
from socadapter_api.manifest import Outcome, RunResult
from socadapter_api.pool import SocServingPool
from socadapter_operator.domain.claim import Claim
from socadapter_operator.domain.state import Marker
from socadapter_operator.observation import Observer
from socadapter_store import layout
from socadapter_store.run_folder import RunFolder

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
HASH = digest.of_bytes(b"wanted")


class Stored:
    """An adapter whose runs end in a local store, and an observer that keeps two."""

    def __init__(self, root: Path) -> None:
        backend: Any = Still()
        self.observer = Observer(lambda _pool: backend, root / "cache", kept=2)
        base = {"uri": "builtin://tiny", "digest": digest.of_bytes(b"base")}
        spec = {"base": base, "store": str(root / "store")}
        self.pool = SocServingPool.model_validate({"metadata": {"name": "base", "namespace": "soc"}, "spec": spec})

    def end(self, run_id: str) -> None:
        """The run misses a gate."""
        self._folder(run_id).finish(RunResult(run_id=run_id, context="cloud", outcome=Outcome.GATE_FAILED))

    def remove(self, run_id: str) -> None:
        """The run's folder goes."""
        shutil.rmtree(self._uri(run_id))

    def marker(self, run_id: str) -> Marker:
        """What is seen of the run."""
        adapter = SocAdapter.model_validate(
            {
                "metadata": {"name": "cloud", "namespace": "soc", "uid": "uid-1"},
                "spec": {"context": "cloud", "servingPoolRef": {"name": "base"}, "data": {"alerts": [{"uri": "a"}]}},
                "status": {"run": {"runId": run_id, "state": "Running", "trainingHash": HASH, "number": 1}},
            }
        )
        return self.observer.observe(adapter, [self.pool], [Claim.of(adapter)], (), NOW).runs[run_id].evidence.marker

    def _folder(self, run_id: str) -> RunFolder:
        return RunFolder.at(self._uri(run_id))

    def _uri(self, run_id: str) -> str:
        return layout.run_uri(self.pool.spec.store, "soc", "cloud", run_id)


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def test_a_finished_run_is_read_once(stored: Stored) -> None:
    """What was seen of it stays when its folder is gone; of the adapter that is gone nothing does."""
    stored.end("run-1")
    assert Marker.SUCCESS is stored.marker("run-1")
    stored.remove("run-1")
    assert Marker.SUCCESS is stored.marker("run-1")
    stored.observer.forget("uid-1")
    assert Marker.NONE is stored.marker("run-1")


def test_as_many_finished_runs_are_kept_as_there_is_room_for(stored: Stored) -> None:
    """Of three the one that was looked at longest ago is read again, and the others are not."""
    for run_id in ("run-1", "run-2"):
        stored.end(run_id)
        stored.marker(run_id)
    stored.marker("run-1")
    stored.end("run-3")
    stored.marker("run-3")
    for run_id in ("run-1", "run-2", "run-3"):
        stored.remove(run_id)
    seen = [stored.marker(run_id) for run_id in ("run-1", "run-2", "run-3")]
    assert [Marker.SUCCESS, Marker.NONE, Marker.SUCCESS] == seen


@pytest.mark.parametrize(
    ("running", "policy", "asked"),
    [
        pytest.param(False, "Forbid", 1, id="nothing runs"),
        pytest.param(True, "Forbid", 0, id="the run has to end first"),
        pytest.param(True, "Replace", 1, id="the tick would replace it"),
    ],
)
def test_verdicts_are_counted_where_a_tick_needs_to_know(
    running: bool, policy: str, asked: int, tmp_path: Path
) -> None:
    """All of a window is a lot to fetch every two seconds while something trains."""
    backend: Any = Still()
    counted: list[str] = []

    def count(_: object, context: str, window: str) -> int:
        counted.append(window)
        return 7

    backend.verdicts = count
    run = {"runId": "run-1", "state": "Running", "trainingHash": HASH, "number": 1} if running else None
    schedule = {"cron": "0 2 * * *", "timeZone": "UTC", "startingDeadline": "24h", "concurrencyPolicy": policy}
    adapter = SocAdapter.model_validate(
        {
            "metadata": {"name": "cloud", "namespace": "soc", "uid": "uid-1"},
            "spec": {
                "context": "cloud",
                "servingPoolRef": {"name": "base"},
                "data": {"alerts": [{"uri": "a"}], "feedback": {"window": "24h"}},
                "schedule": schedule,
            },
            "status": {
                "run": run,
                "observedSchedule": "0 2 * * * UTC",
                "nextScheduleTime": "2026-01-05T02:00:00Z",
            },
        }
    )
    stored = Stored(tmp_path)
    observer = Observer(lambda _pool: backend, tmp_path / "cache")
    found = observer.observe(adapter, [stored.pool], [Claim.of(adapter)], (), NOW)
    assert (asked, 7 if asked else None) == (len(counted), found.verdicts)
