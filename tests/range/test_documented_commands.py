"""The commands in the range's documentation are commands that it has."""

import re
import shlex
from pathlib import Path

import pytest

from socadapter_range.__main__ import main, parser
from socadapter_range.vocabulary import ALERT_TYPES

_PAGE = (Path(__file__).parents[2] / "docs" / "range.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python -m socadapter_range (.+)$", _PAGE, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_documented_commands_parse(command: str) -> None:
    """Every documented command line is accepted by the parser."""
    assert callable(parser().parse_args(shlex.split(command)).run)


@pytest.mark.slow
def test_documented_export_and_check_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documented exports and the check run as written, and all figures hold."""
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        if not command.startswith("serve"):
            assert main(shlex.split(command)) == 0


def test_documented_alert_types_are_the_real_ones() -> None:
    """The page's table names each alert type with its three tools."""
    for kind in ALERT_TYPES:
        assert f"| {kind.title} | `{kind.first}` | `{kind.second}` | `{kind.cover}` |" in _PAGE
