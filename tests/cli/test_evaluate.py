"""`socadapter evaluate`: where its figures go is known to work before anything is scored."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Call = Callable[..., Result]
SCORE = ("evaluate", "--base", "nowhere", "--alerts", "missing.jsonl", "--json")


@pytest.mark.parametrize("out", ["file/figures.json", "/proc/nope/figures.json"])
def test_a_place_that_cannot_be_written_is_told_first(out: str, call: Call, tmp_path: Path) -> None:
    """Also before the base and the alerts, which are wrong here too, are looked at."""
    (tmp_path / "file").write_text("no folder")
    result = call(*SCORE, out)
    assert (2, True) == (result.exit_code, f"error[InvalidSpec]: --json {out} cannot be written" in result.stderr), (
        result.output
    )


@pytest.mark.slow  # imports what scores
def test_looking_leaves_no_file_and_changes_none(call: Call, tmp_path: Path) -> None:
    """When scoring then fails, an earlier evaluation is as it was and no empty one is left."""
    (tmp_path / "earlier.json").write_text("{}")
    for out in ("new/figures.json", "earlier.json"):
        assert call(*SCORE, out).exit_code == 2
    assert ([], "{}") == (list((tmp_path / "new").iterdir()), (tmp_path / "earlier.json").read_text())
