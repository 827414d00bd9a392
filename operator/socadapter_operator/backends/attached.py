"""Processes that a command starts beside its runs and services, such as the demo's tool server, one per name.

``<state>/attached/<name>/`` holds the record and the log. They live on when the command ends; `end_all` ends them.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from socadapter_operator.backends import process
from socadapter_operator.backends.process import Process

FOLDER = "attached"
_GRACE_S = 5.0


def folder(state: Path, name: str) -> Path:
    """Where the process keeps its record and log."""
    return state / FOLDER / name


def running(state: Path, name: str) -> bool:
    """Whether the process of that name runs."""
    found = Process.read(folder(state, name) / "process.json")
    return found is not None and found.alive


def ensure(state: Path, name: str, command: Sequence[str]) -> bool:
    """Starts `command` under `name` unless it runs already; says whether it was started.

    Raises:
        BackendUnavailable: the program cannot be started.
    """
    if running(state, name):
        return False
    record = folder(state, name) / "process.json"
    process.launch(command, os.environ, folder(state, name) / "log", record)
    return True


def end_all(state: Path) -> list[str]:
    """Ends every attached process; returns their names."""
    ended = []
    for record in sorted((state / FOLDER).glob("*/process.json")):
        found = Process.read(record)
        if found is not None and found.alive:
            ended.append(record.parent.name)
            found.end(_GRACE_S)
        record.unlink(missing_ok=True)
    return ended
