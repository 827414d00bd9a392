"""What a stage says of itself while it runs."""

import json
from collections.abc import Callable
from pathlib import Path

from socadapter_api.manifest import Stage
from socadapter_jobs.workspace import LiveMetrics, Workspace


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
