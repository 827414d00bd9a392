"""What a stage says of itself while it runs."""

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from socadapter_api.errors import DiskFull, StoreUnavailable
from socadapter_api.manifest import Progress, Stage
from socadapter_jobs import run
from socadapter_jobs.workspace import LiveMetrics, Workspace
from socadapter_store import layout

pytestmark = pytest.mark.slow


def test_what_is_left_is_told_by_the_pace_since_the_first_figure(
    make_workspace: Callable[..., Workspace], blank_base: Path
) -> None:
    """Not by how long the stage took to load, nor by what an earlier start of it had done."""
    workspace = make_workspace(blank_base)
    live = LiveMetrics(workspace, Stage.SFT, iter([1000.0, 1010.0, 1030.0]).__next__)
    for step in (41, 42, 44):
        live(step, 100, {"loss": 1.0})
    rows = [json.loads(line) for line in (workspace.scratch / "metrics.jsonl").read_text().splitlines()]
    assert [None, 580.0, 560.0] == [row["eta_s"] for row in rows]


def test_work_goes_on_while_progress_cannot_be_written(
    make_workspace: Callable[..., Workspace],
    run_here: Callable[..., Any],
    blank_base: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither a stage that starts nor one that is under way dies of a store that is away: readers alone miss it."""
    workspace = make_workspace(blank_base)
    (Path(workspace.store.uri) / layout.PROGRESS).mkdir(parents=True)  # nothing can be written in its place
    with pytest.raises(StoreUnavailable):
        workspace.store.write_progress(Progress(stage=Stage.PREPARE, at=0.0))
    with caplog.at_level(logging.WARNING):
        run._once(workspace, Stage.PREPARE)
        live = LiveMetrics(workspace, Stage.SFT)
        live(1, 2, {"loss": 1.0})
        live.settle()
    assert workspace.store.finished_stage(Stage.PREPARE) is not None
    told = [text for text in caplog.messages if text.startswith("progress_not_written run=cloud-1-a")]
    assert ["stage=prepare", "stage=sft"] == [text.split()[2] for text in told]


def test_what_is_done_beside_the_steps_is_told_too(make_workspace: Callable[..., Workspace], blank_base: Path) -> None:
    """Every few seconds, and at its end, with the step at which it is done."""
    workspace = make_workspace(blank_base)
    live = LiveMetrics(workspace, Stage.GRPO, iter([1000.0, 1001.0, 1003.0, 1003.5]).__next__)
    live(4, 40, {"reward": 1.0})
    for done in (1, 40, 96):
        live.say(4, 40, "development", done, 96)
        live.settle()
    rows = [json.loads(line) for line in (workspace.scratch / "metrics.jsonl").read_text().splitlines()]
    assert [None, "development 40/96", "development 96/96"] == [row.get("message") for row in rows]
    progress = workspace.store.read_progress()
    assert progress is not None
    assert (4, 40, "development 96/96") == (progress.step, progress.steps, progress.message)
    assert [1.0] * 3 == [row["reward"] for row in rows]
    assert 1.0 == progress.reward, "it stays while the next step samples"


def test_a_store_that_hangs_holds_up_neither_steps_nor_tool_calls(
    make_workspace: Callable[..., Workspace], blank_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is told while the store is busy is overtaken by what is told later, which is written at last."""
    workspace = make_workspace(blank_base)
    hangs, back, written = threading.Event(), threading.Event(), list[str]()

    def hang(_: object, progress: Progress) -> None:
        hangs.set()
        assert back.wait(60.0)
        written.append(progress.message or f"step {progress.step}")

    monkeypatch.setattr(Workspace, "tell", hang)
    live = LiveMetrics(workspace, Stage.GRPO, iter([1000.0, 1010.0, 1020.0]).__next__)
    live.say(0, 40, "trajectories", 8, 96)
    assert hangs.wait(60.0)
    live.say(0, 40, "trajectories", 96, 96)
    live(1, 40, {"reward": 1.0})
    assert [] == written, "and nobody waited"
    back.set()
    live.settle()
    assert ["trajectories 8/96", "step 1"] == written


def test_a_disk_that_is_full_is_told_at_the_next_figure(
    make_workspace: Callable[..., Workspace], blank_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a store that is away is passed over: everything else that is written would fail for want of space too."""
    workspace = make_workspace(blank_base)

    def fail(*_: object) -> None:
        raise DiskFull("no space left")

    monkeypatch.setattr(Workspace, "tell", fail)
    live = LiveMetrics(workspace, Stage.SFT)
    live(1, 9, {"loss": 1.0})
    with pytest.raises(DiskFull, match="no space left"):
        live.settle()
    live.settle()
