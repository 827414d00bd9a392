"""Records of processes: found again, never mistaken for another, ended with what they left."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from socadapter_api.errors import BackendUnavailable
from socadapter_operator.backends import attached, process
from socadapter_operator.backends.process import Process

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Callable[[list[str]], Process]]:
    started: list[Process] = []

    def launch(command: list[str]) -> Process:
        started.append(process.launch(command, os.environ, tmp_path / "log", tmp_path / "process.json"))
        assert Process.read(tmp_path / "process.json") == started[-1]
        return started[-1]

    yield launch
    for found in started:
        found.kill()
        found.exit_code()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_is_known_by_its_id_and_its_start(launched: Callable[[list[str]], Process]) -> None:
    """A record with the id of a living process and another start is not that process, and is never signalled."""
    found = launched(SLEEP)
    stranger = Process(found.pid, "another start")
    assert (True, False) == (found.alive, stranger.alive)
    stranger.interrupt(signal.SIGKILL)
    stranger.kill()
    assert found.alive


def test_a_zombie_is_dead(launched: Callable[[list[str]], Process]) -> None:
    """A child that ended and was not waited for does not count as running."""
    found = launched([sys.executable, "-c", ""])
    until(lambda: not found.alive)


def test_killing_reaches_what_a_dead_leader_left(launched: Callable[[list[str]], Process], tmp_path: Path) -> None:
    """Grandchildren die, those that left the group included, also when the process itself is gone already."""
    pid_file = tmp_path / "grandchild"
    found = launched(
        [
            sys.executable,
            "-c",
            "import subprocess, sys, pathlib\n"
            f"p = subprocess.Popen({SLEEP!r}, process_group=0)\n"
            f"pathlib.Path({str(pid_file)!r}).write_text(str(p.pid))\n"
            "p.wait()",
        ]
    )
    until(lambda: pid_file.exists() and bool(pid_file.read_text()))
    grandchild = int(pid_file.read_text())
    os.kill(found.pid, signal.SIGKILL)
    until(lambda: found.exit_code() == -signal.SIGKILL)
    assert process.started_at(grandchild) is not None
    found.kill()
    until(lambda: process.started_at(grandchild) is None)


def test_a_process_that_ignores_termination_is_killed(launched: Callable[[list[str]], Process], tmp_path: Path) -> None:
    """After its grace."""
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    found = launched([sys.executable, "-c", deaf])
    until(lambda: "deaf" in (tmp_path / "log").read_text())
    found.end(0.1)
    assert not found.alive


def test_a_process_that_cannot_be_recorded_does_not_run(tmp_path: Path) -> None:
    """Nobody would find it again, and the next pass would start another beside it."""
    said = tmp_path / "pid"
    program = f"import os, pathlib, time; pathlib.Path({str(said)!r}).write_text(str(os.getpid())); time.sleep(60)"
    (tmp_path / "record").write_text("a file where a folder should be")
    with pytest.raises(OSError, match="record"):
        process.launch([sys.executable, "-c", program], os.environ, tmp_path / "log", tmp_path / "record/process.json")
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert not said.exists() or process.started_at(int(said.read_text() or 0)) is None


def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    """The error names the program."""
    with pytest.raises(BackendUnavailable, match="no-such-program"):
        process.launch(["no-such-program"], os.environ, tmp_path / "log", tmp_path / "process.json")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x", "started": "y"}', '{"pid": 1}'])
def test_a_torn_record_is_no_process(text: str, tmp_path: Path) -> None:
    """Whatever lies in the record, nothing is signalled on its word."""
    (tmp_path / "process.json").write_text(text)
    assert Process.read(tmp_path / "process.json") is None


def test_attached_processes_are_started_once_and_ended_together(tmp_path: Path) -> None:
    """`ensure` starts what does not run; `end_all` ends it and forgets it."""
    assert [True, False] == [attached.ensure(tmp_path, "tools", SLEEP) for _ in range(2)]
    assert ["tools"] == attached.end_all(tmp_path)
    assert (False, []) == (attached.running(tmp_path, "tools"), attached.end_all(tmp_path))


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    """A reader sees the old value or the new one; a torn file reads as nothing."""
    path = tmp_path / "folder" / "value.json"
    process.write_json(path, {"a": 1})
    assert ({"a": 1}, [path]) == (process.read_json(path), list(path.parent.iterdir()))
    path.write_text(json.dumps({"a": 1})[:-1])
    assert process.read_json(path) is None
