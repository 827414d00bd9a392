"""Child processes that end with their parent, however that ends, and whose log is quoted when they end too early."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_TAIL_LINES = 15

# The kernel is asked in the child itself: between fork and exec of a process with threads, no Python code may run.
_BOUND_TO_PARENT = """
import ctypes, os, sys
parent, program, *rest = sys.argv[1:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
    if os.getppid() != int(parent):
        sys.exit("the parent ended first")
os.execv(program, [program, *rest])
"""


class ProcessEnded(RuntimeError):
    """A process that should be running has ended."""


def free_port() -> int:
    """A port of the loopback interface that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def family(pid: int) -> list[int]:
    """The process and all below it, whatever groups they were put into."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill(pids: Sequence[int]) -> None:
    """All at once, as a machine or a container that dies."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Child:
    """A running program whose output goes to `log`."""

    name: str
    log: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, program: Path, arguments: Sequence[str], folder: Path) -> "Child":
        """Starts `program` with `folder` as its working directory and ``<name>.log`` there as its output.

        The child is killed when the thread that called this ends: call it from one that lives as long as the child.
        """
        log = folder / f"{program.name}.log"
        shim = [sys.executable, "-I", "-S", "-c", _BOUND_TO_PARENT, str(os.getpid()), str(program)]
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*shim, *arguments],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(program.name, log, process)

    def require_running(self) -> None:
        """Raises `ProcessEnded`, with the last lines of the log, when the process has ended."""
        if (status := self.process.poll()) is not None:
            raise ProcessEnded(f"{self.name} ended with {status}. The end of {self.log}:\n{self.tail()}")

    def tail(self) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-_TAIL_LINES:])

    def kill(self) -> None:
        """Ends the process at once, without a chance to tidy up, and waits until it is gone."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
