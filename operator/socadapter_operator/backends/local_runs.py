"""Training runs as child processes of this machine, ``python -m socadapter_jobs``, as many as it has room for.

Each run has a folder ``<state>/runs/<run-id>/``::

    run.json       RunSpec, which the job finds in SOCADAPTER_RUN_SPEC
    queued         there while the run waits for its turn; its time of change is its place in the queue
    process.json   the process, see `process`
    stopping       there once the run was asked to stop
    run.log        what it printed
    scratch/       checkpoints and metrics.jsonl
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from socadapter_api import errors
from socadapter_api.training import RunSpec
from socadapter_operator.backends import process
from socadapter_operator.backends.process import Process
from socadapter_operator.domain.observed import EndedRun
from socadapter_operator.domain.state import RUN_LOST, BackendRun, RunState

JOB = (sys.executable, "-m", "socadapter_jobs")
STOP_GRACE_S = 120.0
"""How long a run may take for its checkpoint before it is killed."""

_STOPPED = 130
_INTERRUPTED = BackendRun(RunState.FAILED, errors.RunInterrupted.reason, "stopped on request; resumable", True)


class LocalRuns:
    """The runs of one state folder. `job` is the command that runs one; `environment` is added to its own.

    `cpus` are the CPU cores that runs may ask for together, all that this process may use where None. A run that asks
    for more trains alone, and of those that ask for GPUs one trains at a time.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        job: Sequence[str] = JOB,
        cpus: float | None = None,
        stop_grace_s: float = STOP_GRACE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._job = tuple(job)
        self._cpus = cpus or float(process.usable_cores())
        self._stop_grace_s = stop_grace_s
        self._clock = clock

    def start(self, spec: RunSpec) -> None:
        """Queues the run, or leaves it alone if it is queued or running, and launches what has room."""
        folder = self.folder(spec.run_id)
        if not self.alive(spec.run_id):
            process.write_json(folder / "run.json", spec.model_dump(mode="json"))
            (folder / "stopping").unlink(missing_ok=True)
            (folder / "queued").touch(exist_ok=True)
        self.tend()

    def observe(self, run_id: str) -> BackendRun:
        """What is known about a run's process."""
        folder = self.folder(run_id)
        if not (folder / "run.json").is_file():
            return BackendRun()
        if self.alive(run_id):
            return BackendRun(RunState.RUNNING)
        if (folder / "queued").exists():
            busy, cpus = self._live(), self._asked(run_id).cpus
            used = sum(self._asked(other).cpus for other in busy)
            taken = f"of {self._cpus:g} CPU cores here {used:g} are taken, and this run asks for {cpus:g}"
            message = f"waits for {', '.join(busy) or 'others'}: {taken}"
            return BackendRun(RunState.QUEUED, "MachineBusy", message)
        if (folder / "stopping").exists():
            return _INTERRUPTED
        found = Process.read(folder / "process.json")
        if found is None:
            return BackendRun()
        return self._ended(folder, found)

    def stop(self, run_id: str) -> None:
        """Interrupts a run, so that it writes a checkpoint; one that only waits leaves the queue."""
        folder = self.folder(run_id)
        if (folder / "queued").exists():
            (folder / "queued").unlink(missing_ok=True)
            (folder / "stopping").touch()
        found = Process.read(folder / "process.json")
        if found is not None and found.alive and not (folder / "stopping").exists():
            (folder / "stopping").touch()
            found.interrupt(signal.SIGINT)

    def kill(self, run_id: str) -> None:
        """Ends a run now, with all its children."""
        (self.folder(run_id) / "queued").unlink(missing_ok=True)
        if found := Process.read(self.folder(run_id) / "process.json"):
            found.kill()

    def tend(self) -> None:
        """Kills what did not stop in time and launches what waits, oldest first."""
        for run_id in self._live():
            if self._overdue(run_id):
                self.kill(run_id)
        waiting = sorted(self._folder.glob("*/queued"), key=lambda mark: (mark.stat().st_mtime_ns, mark.parent.name))
        for mark in waiting:
            if not self._has_room_for(mark.parent.name):
                break  # a smaller one behind it must not keep it waiting
            self._launch(mark.parent)

    def live(self) -> tuple[str, ...]:
        """The runs that train at this moment."""
        return tuple(self._live())

    def queued(self) -> tuple[str, ...]:
        """The runs that wait for their turn."""
        return tuple(sorted(mark.parent.name for mark in self._folder.glob("*/queued")))

    def alive(self, run_id: str) -> bool:
        """Whether the run trains at this moment."""
        found = Process.read(self.folder(run_id) / "process.json")
        return found is not None and found.alive

    def folder(self, run_id: str) -> Path:
        """Where everything of a run on this machine lies."""
        return self._folder / run_id

    def log_path(self, run_id: str) -> Path:
        """Where the run's output goes."""
        return self.folder(run_id) / "run.log"

    def scratch(self, run_id: str) -> Path:
        """Where the run keeps checkpoints and live metrics."""
        return self.folder(run_id) / "scratch"

    def ended(self, namespace: str, adapter: str) -> tuple[EndedRun, ...]:
        """The runs of one adapter that have a folder here and neither train nor wait."""
        found = []
        for record in sorted(self._folder.glob("*/run.json")):
            spec, folder = process.read_json(record), record.parent
            mine = isinstance(spec, dict) and (spec.get("namespace"), spec.get("adapter")) == (namespace, adapter)
            if mine and not (folder / "queued").exists() and not self.alive(folder.name):
                found.append(EndedRun(folder.name, _last_word(folder)))
        return tuple(found)

    def forget(self, run_id: str) -> None:
        """Removes the folder of an ended run; one that trains or waits is left alone."""
        folder = self.folder(run_id)
        if not self.alive(run_id) and not (folder / "queued").exists():
            shutil.rmtree(folder, ignore_errors=True)

    def logs(self, run_id: str, *, follow: bool = False) -> Iterator[str]:
        """The run's output, line by line; with `follow` until its process ends."""
        return process.lines(self.log_path(run_id), lambda: follow and self.alive(run_id))

    def _live(self) -> list[str]:
        return sorted(
            record.parent.name for record in self._folder.glob("*/process.json") if self.alive(record.parent.name)
        )

    def _has_room_for(self, run_id: str) -> bool:
        own, others = self._asked(run_id), [self._asked(other) for other in self._live()]
        fits = own.cpus + sum(other.cpus for other in others) <= self._cpus
        return not others or (fits and not (own.gpus and any(other.gpus for other in others)))

    def _asked(self, run_id: str) -> "_Asked":
        """What a run asks for; all CPU cores where its record cannot be read, so that it trains alone."""
        try:
            compute = RunSpec.model_validate(process.read_json(self.folder(run_id) / "run.json")).compute
        except ValidationError:
            return _Asked(self._cpus, gpus=False)
        return _Asked(compute.workers * compute.cpus_per_worker, gpus=compute.gpus_per_worker > 0)

    def _launch(self, folder: Path) -> None:
        record = folder / "process.json"
        if before := Process.read(record):
            before.kill()  # leftovers of a killed attempt must not write into the scratch of the next one
        (folder / "scratch").mkdir(parents=True, exist_ok=True)
        environment = {**_inherited(), **self._environment, "SOCADAPTER_RUN_SPEC": str(folder / "run.json")}
        process.launch(self._job, environment, folder / "run.log", record)
        (folder / "queued").unlink(missing_ok=True)

    def _overdue(self, run_id: str) -> bool:
        try:
            asked = (self.folder(run_id) / "stopping").stat().st_mtime
        except OSError:
            return False
        return self._clock() - asked > self._stop_grace_s

    def _ended(self, folder: Path, found: Process) -> BackendRun:
        code = found.exit_code()
        if code == 0:
            return BackendRun(RunState.SUCCEEDED)
        if code == _STOPPED:
            return _INTERRUPTED
        how = "ended" if code is None else f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        last = process.last_line(folder / "run.log")
        return BackendRun(
            RunState.FAILED, RUN_LOST, f"the run's process {how} without a result{f'; it said: {last}' if last else ''}"
        )


@dataclass(frozen=True, slots=True)
class _Asked:
    cpus: float
    gpus: bool


def _last_word(folder: Path) -> datetime:
    log = folder / "run.log"
    return datetime.fromtimestamp((log if log.exists() else folder / "run.json").stat().st_mtime, UTC)


def _inherited() -> dict[str, str]:
    """Our own environment, without an address that would make the child join somebody's Ray cluster."""
    return {
        key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR")
    }
