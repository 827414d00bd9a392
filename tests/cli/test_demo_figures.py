"""What the demo leaves behind as figures."""

import json
from pathlib import Path

from socadapter_cli import demo_figures

FOUND = {"cloud": {"base": None, "adapter": {"balanced_accuracy": 0.9, "fnr": 0.1, "n": 80}, "version": "v1"}}


def test_a_run_that_finds_nothing_new_leaves_the_result_as_it_is(tmp_path: Path) -> None:
    """The seconds are those of the run that trained, not of one that only served again."""
    path = tmp_path / "out" / "result.json"
    demo_figures.write(path, FOUND, 1195.04)
    demo_figures.write(path, FOUND, 5.0)
    assert {"seconds": 1195.0, "contexts": FOUND} == json.loads(path.read_text())


def test_new_figures_and_what_cannot_be_read_are_replaced(tmp_path: Path) -> None:
    """Another version, or a file that was cut short, is written anew."""
    path = tmp_path / "result.json"
    for before in ('{"seconds": 9, "contexts": {}}', '{"seconds": 9,', "[]", ""):
        path.write_text(before)
        demo_figures.write(path, FOUND, 7.0)
        assert {"seconds": 7.0, "contexts": FOUND} == json.loads(path.read_text())
