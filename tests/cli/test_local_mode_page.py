"""The page on local mode says what the code does."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from socadapter_cli.main import COMMANDS
from socadapter_operator.domain.state import BackendRun, Evidence, Marker, RunState, settle

PAGE = (Path(__file__).parents[2] / "docs/local-mode.md").read_text()
SHOWN = re.findall(r"^\| `socadapter (\w+)(.*?)` \|", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("name", "rest"), SHOWN, ids=[f"{name}{rest}" for name, rest in SHOWN])
def test_commands_on_the_page_exist(name: str, rest: str, call: Callable[..., Result]) -> None:
    """Every command and every option that is shown is one that the program takes."""
    result = call(name, "--help")
    assert result.exit_code == 0
    for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest):
        assert option in result.output


def test_every_command_is_on_the_page() -> None:
    """Except those of data, which have a page of their own."""
    assert set(COMMANDS) - {"data"} == {name for name, _ in SHOWN}


def test_the_table_of_states_is_the_code_s() -> None:
    """Row by row."""
    rows = {
        marker.value: [settle(BackendRun(state), Evidence(marker)).state.value for state in RunState]
        for marker in Marker
    }
    for marker, states in rows.items():
        assert f"| {marker} | {' | '.join(states)} |" in PAGE
    assert f"| store \\ process | {' | '.join(state.value for state in RunState)} |" in PAGE
