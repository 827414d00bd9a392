"""Live progress of what `up`, `train` and `demo` drive: bars on a terminal, plain lines elsewhere.

Reads ``metrics.jsonl`` of the runs' scratch folders, which is ahead of status by seconds.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from socadapter_api.adapter import RunStatus, SocAdapter
from socadapter_api.conditions import Condition
from socadapter_api.errors import SocAdapterError
from socadapter_api.manifest import STAGES, GrpoOutcome, Outcome
from socadapter_api.pool import SocServingPool
from socadapter_cli.footprint import footprint_of_candidate, footprint_of_run
from socadapter_operator.domain.state import RunState
from socadapter_operator.local.reconciler import Pass
from socadapter_store import layout
from socadapter_store.run_folder import read_result

_TAIL_BYTES = 8192
_QUIET_S = 15.0
_STAGES = tuple(stage.value for stage in STAGES)
_FOOTPRINTS = {Outcome.PUBLISHED.value: footprint_of_run, Outcome.GATE_FAILED.value: footprint_of_candidate}


@dataclass
class _Told:
    """What was last printed about one resource."""

    text: str = ""
    where: tuple[str, str] = ("", "")
    at: float = 0.0


@dataclass
class Display:
    """Shows passes. `scratch` is where a run keeps its live metrics."""

    console: Console
    scratch: Callable[[str], Path]
    _live: Live | None = None
    _told: dict[str, _Told] = field(default_factory=dict)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, seen: Pass) -> None:
        """Shows one pass."""
        for name, note in seen.notes:
            style = "yellow" if note.warning else "dim"
            self.console.print(Text(f"{_clock()} {name}: {note.reason}: {note.message}", style=style), soft_wrap=True)
            for told in _made(name, seen) if note.reason == "RunFinished" else ():
                self.console.print(Text(f"{_clock()} {name}: {told}"), soft_wrap=True)
        if self._live is not None:
            self._live.update(self._table(seen))
            return
        for adapter in seen.adapters:
            self._tell(adapter.metadata.name, self._line(adapter), _where(adapter, self._metrics(adapter.status.run)))
        for pool in seen.pools:
            self._tell(pool.metadata.name, _pool_line(pool), ("pool", _pool_line(pool)))

    def _tell(self, name: str, text: str, where: tuple[str, str]) -> None:
        """Prints a line when the stage changed, and otherwise now and then while something moves."""
        told = self._told.setdefault(name, _Told())
        now = time.monotonic()
        if where != told.where or (text != told.text and now - told.at >= _QUIET_S):
            self.console.print(Text(f"{_clock()} {name}: {text}"), soft_wrap=True)
            self._told[name] = _Told(text, where, now)

    def _table(self, seen: Pass) -> Table:
        table = Table.grid(padding=(0, 2))
        for adapter in seen.adapters:
            metrics = self._metrics(adapter.status.run)
            bar = ProgressBar(total=1.0, completed=_share(metrics), width=24) if metrics else Text("")
            table.add_row(Text(adapter.metadata.name, style="bold"), bar, Text(self._line(adapter)))
        for pool in seen.pools:
            table.add_row(Text(pool.metadata.name, style="bold"), Text(""), Text(_pool_line(pool)))
        return table

    def _line(self, adapter: SocAdapter) -> str:
        run = adapter.status.run
        if run is not None and run.state == RunState.RUNNING:
            return running(run, self._metrics(run))
        told = _condition(adapter.status.conditions, "Reconciling")
        if told is not None and told.status == "True":
            return told.message or told.reason
        told = _condition(adapter.status.conditions, "Stalled")
        if told is not None and told.status == "True":
            return f"{told.reason}: {told.message}"
        told = _condition(adapter.status.conditions, "Ready")
        return f"{told.reason}: {told.message}" if told else "new"

    def _metrics(self, run: RunStatus | None) -> dict[str, Any]:
        if run is None or run.state != RunState.RUNNING:
            return {}
        live = last_metrics(self.scratch(run.run_id) / "metrics.jsonl")
        progress = run.progress.model_dump(mode="json", by_alias=False) if run.progress else {}
        if not live or float(progress.get("at") or 0) > float(live.get("at") or 0):
            return progress
        return live


def last_metrics(path: Path) -> dict[str, Any]:
    """The last whole line of a run's ``metrics.jsonl``; empty where there is none yet."""
    try:
        with path.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _TAIL_BYTES, 0))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return {}


def _made(name: str, seen: Pass) -> Iterator[str]:
    """What became of GRPO in the run of adapter `name`, and how small what it made is, as far as it came to that."""
    adapter = next((found for found in seen.adapters if found.metadata.name == name), None)
    pool = next((p for p in seen.pools if adapter and p.metadata.name == adapter.spec.serving_pool_ref.name), None)
    last = adapter.status.last_run if adapter else None
    tell = _FOOTPRINTS.get(last.reason) if last else None
    if adapter is None or pool is None or last is None or tell is None:
        return
    uri = layout.run_uri(pool.spec.store, adapter.metadata.namespace, adapter.spec.context, last.run_id)
    try:
        result = read_result(uri)
        if result is not None and result.grpo is not None:
            yield grpo_told(result.grpo)
        if found := tell(uri):
            yield f"the adapter has {found}"
    except SocAdapterError:
        return  # the store went away just now; report and `socadapter verify` tell the same later


def grpo_told(outcome: GrpoOutcome) -> str:
    """How GRPO ended, and which adapter it left, in a line."""
    status = "stopped by its time limit" if outcome.status == "TimeLimit" else outcome.status.lower()
    why = outcome.message or (outcome.reason if outcome.reason != outcome.status else "")
    told = f"GRPO {status} after {outcome.steps} steps{f' ({why})' if why else ''}"
    if not outcome.steps:
        return told
    kept = f"that of step {outcome.best_step}" if outcome.best_step else "the one that it started from"
    return f"{told}; the best adapter on the development alerts is {kept}"


def running(run: RunStatus, metrics: dict[str, Any]) -> str:
    """How far a run is: stage, step, loss, reward and what is left, as far as `metrics` have them."""
    if not metrics:
        return f"run {run.run_id} starts"
    parts = [str(metrics.get("stage", ""))]
    if metrics.get("steps"):
        parts.append(f"{metrics.get('step', 0)}/{metrics['steps']}")
    for name, shown in (("loss", ".3f"), ("reward", ".2f")):
        if isinstance(metrics.get(name), int | float):
            parts.append(f"{name} {metrics[name]:{shown}}")
    if isinstance(metrics.get("eta_s"), int | float):
        parts.append(f"about {duration(metrics['eta_s'])} left in this stage")
    if metrics.get("message"):
        parts.append(str(metrics["message"]))
    return "  ".join(parts)


def _where(adapter: SocAdapter, metrics: dict[str, Any]) -> tuple[str, str]:
    """What must change for a new line on a plain terminal: the stage, or why nothing runs."""
    run = adapter.status.run
    if run is not None and run.state == RunState.RUNNING:
        return run.run_id, str(metrics.get("stage", ""))
    reasons = [c.reason for c in adapter.status.conditions if c.type in ("Ready", "Reconciling", "Stalled")]
    return run.state if run else "", " ".join(reasons)


def _share(metrics: dict[str, Any]) -> float:
    """How much of the run is done, each stage counting the same."""
    stage = metrics.get("stage")
    if stage not in _STAGES:
        return 0.0
    steps = float(metrics.get("steps") or 0)
    within = min(float(metrics.get("step") or 0) / steps, 1.0) if steps else 0.0
    return (_STAGES.index(stage) + within) / len(_STAGES)


def _pool_line(pool: SocServingPool) -> str:
    told = _condition(pool.status.conditions, "Ready")
    return f"{told.reason}: {told.message}" if told else "new"


def _condition(conditions: tuple[Condition, ...], kind: str) -> Condition | None:
    return next((condition for condition in conditions if condition.type == kind), None)


def duration(seconds: float) -> str:
    """A time still to go, in minutes or seconds."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _clock() -> str:
    return time.strftime("%H:%M:%S")
