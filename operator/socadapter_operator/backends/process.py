"""Child processes that outlive the command that started them, and are found again by a record on disk.

A record holds the process id and the moment the process started, so that an id that the system gave to somebody else
since is never taken for ours, and never signalled.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from socadapter_api.errors import BackendUnavailable

_TAIL_BYTES = 4096
_END_POLL_S = 0.05
_DEATH_S = 5.0
_FOLLOW_S = 0.3
_STAT_STATE = 0
_STAT_SESSION = 3
_STAT_STARTED = 19
_DEAD_STATES = ("Z", "X")

_EXIT_CODES: dict["Process", int] = {}
"""Of children of this very process, which the system tells only once."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process, as its record names it. `started` is opaque and only compared."""

    pid: int
    started: str

    @classmethod
    def read(cls, record: Path) -> Self | None:
        """The process that `record` names; None where there is no usable record."""
        try:
            held = json.loads(record.read_text())
            return cls(int(held["pid"]), str(held["started"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        return bool(self.started) and started_at(self.pid) == self.started

    def exit_code(self) -> int | None:
        """How a child of this very process ended, negative for a signal; None where it runs or is nobody's we know."""
        deadline = time.monotonic() + _DEATH_S
        while self not in _EXIT_CODES:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                return None
            if pid:
                _EXIT_CODES[self] = os.waitstatus_to_exitcode(status)
            elif self.alive or time.monotonic() > deadline:
                return None
            else:
                time.sleep(_END_POLL_S)  # its main thread has ended, others are still on their way
        return _EXIT_CODES[self]

    def interrupt(self, how: signal.Signals) -> None:
        """Sends `how` to the process alone: its own children are its own to stop."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, how)

    def end(self, grace_s: float) -> None:
        """Terminates the process, and kills what is left of its session after `grace_s` at the latest."""
        self.interrupt(signal.SIGTERM)
        self._wait(grace_s)
        self.kill()

    def kill(self) -> None:
        """Kills the process and what is left of its session: Ray gives each of its workers a group of its own."""
        # The session's id stays taken while any member lives. If a stranger has the id now, the session is gone.
        same_boot = self.started.startswith(_boot())
        if self.alive or (same_boot and started_at(self.pid) is None):
            for member in (self.pid, *_session(self.pid)):
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(member, signal.SIGKILL)
            self._wait(_DEATH_S)
            self.exit_code()

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.alive and time.monotonic() < deadline:
            time.sleep(_END_POLL_S)


def launch(command: Sequence[str], environment: Mapping[str, str], log: Path, record: Path) -> Process:
    """Starts `command` in a session of its own, its output appended to `log`, and writes `record`.

    Raises:
        BackendUnavailable: the program cannot be started.
        OSError: `record` cannot be written; nothing runs then.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    output = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        pid = os.posix_spawnp(
            command[0],
            list(command),
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), output, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=[],
            # A shell that starts us in the background has SIGINT ignored, and children would inherit that.
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE],
        )
    except OSError as error:
        raise BackendUnavailable(f"cannot start {command[0]!r}: {error}") from error
    started = Process(pid, started_at(pid) or "")
    try:
        write_json(record, asdict(started))
    except BaseException:  # nobody would know of it, and the next pass would start another
        started.kill()
        raise
    return started


def started_at(pid: int) -> str | None:
    """When the process started, in the system's own terms; None where none is alive under that id."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.parent.parent.joinpath("self").exists():
        return _started_at_by_ps(pid)
    try:
        # The command's name stands in parentheses and may hold anything; fields are counted after it.
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[_STAT_STATE] in _DEAD_STATES else f"{_boot()}/{fields[_STAT_STARTED]}"


def _session(leader: int) -> list[int]:
    """The living members of the session that `leader` made."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # gone meanwhile
        if int(fields[_STAT_SESSION]) == leader and fields[_STAT_STATE] not in _DEAD_STATES:
            members.append(int(stat.parent.name))
    return members


def _boot() -> str:
    """What tells one boot of the machine from the next; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _started_at_by_ps(pid: int) -> str | None:
    found = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = found.stdout.strip().partition(" ")
    return None if not state or state.startswith(_DEAD_STATES) else started.strip()


def usable_cores() -> int:
    """How many CPU cores this process may use; where the system does not say, all that the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def last_line(log: Path) -> str:
    """The last line of a log that says something; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _TAIL_BYTES, 0))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip()[:500] if lines else ""


def lines(log: Path, growing: Callable[[], bool]) -> Iterator[str]:
    """The lines of a log, and those still to come while `growing` holds."""
    if not log.is_file():
        return
    with log.open(encoding="utf-8", errors="replace") as file:
        while True:
            ending = not growing()
            for line in file:
                yield line.rstrip("\n")
            if ending:
                return
            time.sleep(_FOLLOW_S)


def write_json(path: Path, value: object) -> None:
    """Replaces `path` by `value` as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_json(path: Path) -> object | None:
    """The JSON value in `path`; None where there is none, or a torn one."""
    try:
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value
