"""A state folder on a temporary disk, driven through real child processes that stand in for the job and serving."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from socadapter_api import digest
from socadapter_api.adapter import SocAdapter
from socadapter_api.training import BaseModelRef
from socadapter_operator.backends.local import LocalBackend
from socadapter_operator.local.driver import Interrupts, stop_runs
from socadapter_operator.local.reconciler import Pass, Reconciler
from socadapter_operator.local.state_folder import StateFolder

HERE = Path(__file__).parent
DEADLINE_S = 120.0
BASE_DIGEST = digest.of_bytes(b"base")


@dataclass
class Bench:
    """One machine under test."""

    root: Path
    cpus: float = 1.0
    """Of the machine: runs ask for one each."""

    def __post_init__(self) -> None:
        self.script = self.root / "script"
        self.script.write_text("publish")
        self.files = self.root / "files"
        self.files.mkdir()
        self.state = StateFolder(self.root / "state")
        self.now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
        self.restart()

    def restart(self, job: Sequence[str] = (), *, serve: bool = True) -> None:
        """A new process in the place of the one that drove the folder before. `job`: another program for runs."""
        self.backend = LocalBackend(
            self.state.path,
            self.root / "cache",
            _base,
            job=job or (sys.executable, str(HERE / "stand_in_job.py"), str(self.script)),
            serve=(sys.executable, str(HERE / "stand_in_serve.py")),
            cpus=self.cpus,
        )
        self.reconciler = Reconciler(self.state, self.backend, self.root / "cache", lambda: self.now, serve)

    def play(self, *lines: str) -> None:
        """What the next runs' attempts do."""
        self.script.write_text("\n".join(lines))

    def pool(self, name: str = "base", **spec: object) -> None:
        """Writes a pool's file."""
        body = {"base": {"uri": "builtin://tiny"}, "store": str(self.root / "store"), "port": 8123} | spec
        metadata = {"name": name, "namespace": "soc"}
        self._write(f"pool-{name}", {"kind": "SocServingPool", "metadata": metadata, "spec": body})

    def adapter(self, name: str = "cloud", **spec: object) -> None:
        """Writes an adapter's file."""
        body = {
            "context": name,
            "servingPoolRef": {"name": "base"},
            "data": {"alerts": [{"uri": "alerts.jsonl"}]},
        } | spec
        self._write(name, {"kind": "SocAdapter", "metadata": {"name": name, "namespace": "soc"}, "spec": body})

    def apply(self) -> None:
        """Takes the files."""
        self.reconciler.apply([self.files])

    def drive(self, until: Callable[[Pass], bool] = lambda seen: seen.settled) -> Pass:
        """Passes until the condition holds."""
        deadline = time.monotonic() + DEADLINE_S
        while not until(seen := self.reconciler.pass_once()):
            assert time.monotonic() < deadline, self.told(seen)
            time.sleep(0.02)
        return seen

    def told(self, seen: Pass) -> str:
        """Why a condition did not come true, for the failing test's reader."""
        return "\n".join(
            f"{c.type}={c.status} {c.reason} {c.message}" for a in seen.adapters for c in a.status.conditions
        )

    def get(self, name: str = "cloud") -> SocAdapter:
        """The adapter as its status file shows it."""
        found = self.state.read(SocAdapter, "soc", name)
        assert found is not None
        return found

    def condition(self, kind: str, name: str = "cloud") -> tuple[str, str]:
        """Status and reason of one of the adapter's conditions."""
        found = next(c for c in self.get(name).status.conditions if c.type == kind)
        return found.status.value, found.reason

    def attempts(self, run_id: str) -> int:
        """How many processes the run has had."""
        return len((self.backend.runs.scratch(run_id) / "attempts").read_text().splitlines())

    def end(self) -> None:
        """Leaves no process behind."""
        stop_runs(self.backend, Interrupts())
        for pool in self.reconciler.pools():
            self.backend.delete(pool)

    def _write(self, name: str, resource: dict[str, object]) -> None:
        text = yaml.safe_dump({"apiVersion": "socadapter.io/v1alpha1", **resource})
        (self.files / f"{name}.yaml").write_text(text)


def _base(ref: BaseModelRef) -> str:
    return BASE_DIGEST


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A machine with one pool and one adapter, nothing started."""
    made = Bench(tmp_path)
    made.pool()
    made.adapter()
    yield made
    made.end()
