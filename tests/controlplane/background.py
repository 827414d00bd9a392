"""A control plane that outlives the command that started it: ``make cluster`` and ``make cluster-down``.

A keeper process holds it, and a lock for as long as it lives; what stands in the folder without the lock is what a
killed keeper left behind.
"""

import argparse
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))

from tests.controlplane import plane
from tests.controlplane.binaries import ProgramMissing
from tests.controlplane.cluster import wait_for
from tests.controlplane.processes import ProcessEnded

DEFAULT = Path(__file__).parents[2] / "build" / "cluster"
_WATCH_S = 1.0


class Keeper:
    """The background control plane whose state is in one folder, if it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "keeper.log"
        self._state = folder / "keeper.json"
        self._lock = folder / "keeper.lock"
        self._process: subprocess.Popen[bytes] | None = None

    def up(self) -> str:
        """Starts a control plane unless one runs, and says how to use it.

        Raises:
            ProcessEnded: it did not start; the message says why.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._is_running():
            self._tidy()
            with self.log.open("wb") as output:
                self._process = keeper = subprocess.Popen(
                    [sys.executable, __file__, "keep", "--folder", str(self.folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            wait_for(lambda: self._state.exists() or keeper.poll() is not None, "the control plane")
            if keeper.poll() is not None:
                raise ProcessEnded(self.log.read_text("utf-8", "replace").strip())
        return str(self._read()["text"])

    def down(self) -> bool:
        """Stops it and removes what it had; False when none ran."""
        running = self._is_running()
        if running:
            wait_for(self._state.exists, "the control plane, which is starting")
            os.kill(int(str(self._read()["pid"])), signal.SIGTERM)
            wait_for(lambda: not self._is_running(), "the keeper's end")
        self._tidy()
        return running

    def keep(self) -> None:
        """Runs a control plane until a signal ends this process, or one of the programs ends."""
        stopped = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        with self._held(), plane.control_plane() as running:
            state = {"pid": os.getpid(), "folder": str(running.folder), "text": plane.describe(running)}
            partial = self._state.with_suffix(".partial")
            partial.write_text(json.dumps(state), "utf-8")
            partial.rename(self._state)
            try:
                while not stopped.wait(_WATCH_S):
                    running.require_running()
            finally:
                self._state.unlink(missing_ok=True)

    def _read(self) -> dict[str, object]:
        state: dict[str, object] = json.loads(self._state.read_text("utf-8"))
        return state

    def _is_running(self) -> bool:
        if not self._lock.exists():
            return False
        with self._lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @contextmanager
    def _held(self) -> Iterator[None]:
        with self._lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield

    def _tidy(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._process = None
        if self._state.exists():
            shutil.rmtree(str(self._read()["folder"]), ignore_errors=True)
            self._state.unlink()


def main(arguments: Sequence[str] | None = None) -> int:
    """Starts, stops or keeps the background control plane."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=("up", "down", "keep"))
    parser.add_argument("--folder", type=Path, default=DEFAULT, help="where its state is kept")
    options = parser.parse_args(arguments)
    keeper = Keeper(options.folder)
    try:
        if options.verb == "up":
            print(keeper.up())
        elif options.verb == "down":
            print("stopped" if keeper.down() else "no cluster was running")
        else:
            keeper.keep()
    except (ProcessEnded, ProgramMissing) as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
