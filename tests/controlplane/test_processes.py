"""Child processes: none outlives its parent, and one that ends early is told with its last words."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.controlplane.cluster import wait_for
from tests.controlplane.processes import Child, ProcessEnded, free_port

PARENT = """
import sys, threading
from pathlib import Path
sys.path.append(sys.argv[1])
from tests.controlplane.processes import Child
child = Child.start(Path("/bin/sleep"), ["600"], Path(sys.argv[2]))
print(child.process.pid, flush=True)
threading.Event().wait()
"""


def is_alive(pid: int) -> bool:
    """Whether a process of that id runs; one that ended and was not yet waited for does not."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_child_ends_with_its_parent(tmp_path: Path) -> None:
    """A parent that is killed, with no chance to tidy up, takes its children along."""
    root = Path(__file__).parents[2]
    parent = subprocess.Popen([sys.executable, "-c", PARENT, root, tmp_path], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        assert is_alive(child)
    finally:
        parent.kill()
        parent.communicate()
    wait_for(lambda: not is_alive(child), "the child's end")


def test_early_end_quotes_the_log(tmp_path: Path) -> None:
    """A program that ended is told with its status and what it said last."""
    child = Child.start(Path("/bin/sh"), ["-c", "echo no such flag; exit 3"], tmp_path)
    child.process.wait()
    with pytest.raises(ProcessEnded, match=r"(?s)sh ended with 3.*no such flag"):
        child.require_running()


def test_kill_waits_for_the_end(tmp_path: Path) -> None:
    """After `kill` the process is gone, also one that ignores polite requests, and a second call does nothing."""
    child = Child.start(Path("/bin/sh"), ["-c", "trap '' TERM; echo deaf; exec sleep 600"], tmp_path)
    wait_for(lambda: "deaf" in child.tail(), "the trap")
    os.kill(child.process.pid, signal.SIGTERM)
    child.kill()
    child.kill()
    assert child.process.returncode == -signal.SIGKILL


def test_free_port_can_be_listened_on() -> None:
    """A port that is called free is one that a server can take."""
    with socket.create_server(("127.0.0.1", free_port())) as server:
        assert server.getsockname()[1] > 0
