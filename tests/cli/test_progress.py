"""What `up`, `train` and `demo` show of a run: a bar on a terminal, lines elsewhere, and how small its adapter is."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from socadapter_api import digest
from socadapter_api.adapter import SocAdapter
from socadapter_api.manifest import GrpoOutcome, Outcome, RunResult
from socadapter_api.pool import SocServingPool
from socadapter_cli.progress import Display
from socadapter_operator.domain.actions import Note
from socadapter_operator.domain.state import RunState
from socadapter_operator.local.reconciler import Notes, Pass
from socadapter_store import layout
from socadapter_store.run_folder import RunFolder
from socadapter_store.store import Store

RUN = "cloud-1-a"


def seen(tmp_path: Path, *notes: Note, **status: Any) -> Pass:
    """A pass over a pool and an adapter of this status."""
    metadata = {"namespace": "soc"}
    pool = {"base": {"uri": "builtin://tiny"}, "store": str(tmp_path / "store")}
    adapter = {
        "context": "cloud",
        "servingPoolRef": {"name": "base"},
        "data": {"alerts": [{"uri": "alerts.jsonl"}]},
    }
    told: Notes = tuple(("cloud", note) for note in notes)
    return Pass(
        pools=(SocServingPool.model_validate({"metadata": {"name": "base", **metadata}, "spec": pool}),),
        adapters=(
            SocAdapter.model_validate({"metadata": {"name": "cloud", **metadata}, "spec": adapter, "status": status}),
        ),
        requeue_after=None,
        notes=told,
    )


def run(state: RunState, reason: str = "") -> dict[str, Any]:
    hash_ = digest.of_bytes(b"training")
    return {"runId": RUN, "state": state.value, "trainingHash": hash_, "number": 1, "reason": reason}


def shown(tmp_path: Path, *passes: Pass, terminal: bool = False) -> str:
    """What a display prints of these passes."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, no_color=True, width=240)
    with Display(console, lambda run_id: tmp_path / run_id) as display:
        for each in passes:
            display.show(each)
    return file.getvalue()


@pytest.fixture
def half_done(tmp_path: Path) -> Pass:
    """A run in the middle of GRPO, which scores its policy just now."""
    rows = [
        {"stage": "grpo", "step": 5, "steps": 10, "reward": 0.5, "at": 1.0},
        {"stage": "grpo", "step": 5, "steps": 10, "message": "development 40/96", "at": 2.0},
    ]
    (tmp_path / RUN).mkdir()
    (tmp_path / RUN / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return seen(tmp_path, run=run(RunState.RUNNING))


def test_a_terminal_shows_a_bar(tmp_path: Path, half_done: Pass) -> None:
    """Half of the third of five stages is half of the bar's 24 places; beside it stands what is done just now."""
    told = shown(tmp_path, half_done, terminal=True)
    assert (True, False) == ("━" * 12 in told, "━" * 13 in told)
    assert "grpo  5/10  development 40/96" in told


def test_elsewhere_a_line_is_printed(tmp_path: Path, half_done: Pass) -> None:
    """Once for the stage, without a bar, and no second one within a quarter of a minute."""
    told = shown(tmp_path, half_done, half_done)
    assert (1, False) == (told.count("cloud: grpo  5/10  development 40/96"), "━" in told)


@pytest.mark.parametrize(
    ("adapter", "told"),
    [
        pytest.param(
            {"parameters": 1_221_120, "base_parameters": 134_515_008, "bytes": 4_912_345},
            "cloud: the adapter has 0.91 % of the base's parameters, 4.9 MB",
            id="judged",
        ),
        pytest.param(
            {"parameters": 24, "bytes": 96}, "cloud: the adapter has 24 parameters, 0.1 kB", id="base unknown"
        ),
        pytest.param(None, "", id="not told"),
    ],
)
def test_what_missed_a_gate_is_measured_too(tmp_path: Path, adapter: dict[str, int] | None, told: str) -> None:
    """Its size is in its evaluation, since there is no manifest."""
    folder = layout.run_uri(str(tmp_path / "store"), "soc", "cloud", RUN)
    Store(folder).write_json(layout.EVALUATION, {"adapter": adapter})
    ended = Note("RunFinished", f"run {RUN}: GateFailed")
    said = shown(tmp_path, seen(tmp_path, ended, lastRun=run(RunState.SUCCEEDED, Outcome.GATE_FAILED.value)))
    assert "RunFinished" in said
    assert (told in said) if told else ("the adapter has" not in said)


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        pytest.param(
            {"status": "Completed", "reason": "NothingLeft", "message": "88% of the groups agreed", "steps": 4},
            "GRPO completed after 4 steps (88% of the groups agreed); the best adapter on the development alerts is "
            "the one that it started from",
            id="nothing gained",
        ),
        pytest.param(
            {"status": "TimeLimit", "reason": "TimeLimit", "steps": 8, "best_step": 4},
            "GRPO stopped by its time limit after 8 steps; "
            "the best adapter on the development alerts is that of step 4",
            id="gained",
        ),
        pytest.param({"status": "Skipped"}, "GRPO skipped after 0 steps\n", id="left out"),
    ],
)
def test_a_run_says_what_became_of_grpo(tmp_path: Path, outcome: dict[str, Any], told: str) -> None:
    """A reward that falls on the screen, and a stage that ends early, would look like failures."""
    folder = RunFolder.at(layout.run_uri(str(tmp_path / "store"), "soc", "cloud", RUN))
    folder.write_json(layout.EVALUATION, {})
    folder.finish(
        RunResult(run_id=RUN, context="cloud", outcome=Outcome.GATE_FAILED, grpo=GrpoOutcome.model_validate(outcome))
    )
    ended = Note("RunFinished", f"run {RUN}: GateFailed")
    said = shown(tmp_path, seen(tmp_path, ended, lastRun=run(RunState.SUCCEEDED, Outcome.GATE_FAILED.value)))
    assert told in said
