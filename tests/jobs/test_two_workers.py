"""Two workers on Ray Train, with DDP and with DeepSpeed ZeRO-2, do together what one worker does alone.

Only the stages that have several workers run on Ray here; `test_killed_runs` has all of them on it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from socadapter_api.manifest import Outcome, Stage
from socadapter_api.training import RunSpec
from socadapter_jobs.candidates import sft_folder
from socadapter_jobs.workspace import Workspace
from socadapter_store import signatures
from socadapter_store.verify import verify_version

pytestmark = [pytest.mark.slow, pytest.mark.alone]

DEADLINE_S = 900
BATCH, STEPS, GROUP, ALERTS = 4, 5, 4, 2
SPEC: dict[str, Any] = {
    "sft": {"batch_size": BATCH, "max_examples": BATCH * STEPS},
    "grpo": {"steps": 2, "group_size": GROUP, "alerts_per_step": ALERTS, "refill_rounds": 0},
    "evaluation": {"summaries": 0},
}


@dataclass(frozen=True)
class Watched:
    """A run that ended, and what its workers noted."""

    workspace: Workspace
    notes: Path
    workers: int

    def batches(self, stage: Stage) -> dict[int, list[list[Any]]]:
        """By optimizer step, what each worker had, in the order of the workers."""
        found: dict[int, list[list[Any]]] = {}
        for rank in range(self.workers):
            for row in self._rows(f"{stage.value}.{rank}"):
                found.setdefault(row["step"], []).append(row["batch"])
        return found

    def adapters(self, stage: Stage) -> list[str]:
        """The digest with which each worker ended."""
        rows = [row for rank in range(self.workers) for row in self._rows(f"adapter.{rank}")]
        return [row["digest"] for row in rows if row["stage"] == stage.value]

    def _rows(self, name: str) -> list[Any]:
        return [json.loads(line) for line in (self.notes / name).read_text().splitlines()]


Watch = Callable[..., Watched]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


@pytest.fixture
def watched(make_spec: Callable[..., RunSpec], base: Path, folder: Path) -> Watch:
    """Runs a spec with so many workers to its end, or gives back the run of that name, which has ended."""

    def start(name: str, where: str, workers: int, **compute: Any) -> Watched:
        here = folder / name
        places = {"store": str(here / "store"), "scratch": str(here / "scratch")}
        spec = make_spec(base, **SPEC | places, compute={"workers": workers, **compute})
        done = Watched(Workspace.of(spec), here, workers)
        if done.workspace.store.read_result() is not None:
            return done
        path = here / "spec.json"
        path.write_text(spec.model_dump_json())
        environment = os.environ | {
            "SOCADAPTER_RUN_SPEC": str(path),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "TORCH_EXTENSIONS_DIR": str(here / "compiled"),
        }
        environment.pop("RAY_ADDRESS", None)
        script = Path(__file__).parent / "watched_job.py"
        with (here / "log").open("wb") as log:
            ended = subprocess.run(
                [sys.executable, str(script), str(here), where],
                stdout=log,
                stderr=log,
                env=environment,
                timeout=DEADLINE_S,
                check=False,
            )
        assert 0 == ended.returncode, (here / "log").read_text()[-6000:]
        return done

    return start


def joined(batches: dict[int, list[list[Any]]]) -> dict[int, list[Any]]:
    """What all workers had in a step, as one worker has it."""
    return {step: [row for batch in parts for row in batch] for step, parts in batches.items()}


def losses(run: Watched) -> list[float]:
    return [row["loss"] for row in run.workspace.noted("sft_history.json") or []]


def learned(run: Watched) -> torch.Tensor:
    """The half of SFT's adapter that starts at zero, as one vector."""
    tensors = load_file(sft_folder(run.workspace) / "adapter_model.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors) if "lora_B" in name])


@pytest.mark.parametrize("strategy", ["DDP", "DeepSpeedZero2"])
def test_two_workers_share_one_run(watched: Watch, strategy: str, key: signatures.KeyPair) -> None:
    """The same examples at the same step in the same order, the same adapter on both; published, nothing compiled."""
    alone, both = watched("alone", "here", 1), watched(strategy, "ray", 2, strategy=strategy)
    result = both.workspace.store.read_result()
    assert result is not None
    assert (Outcome.PUBLISHED, "Completed") == (result.outcome, result.grpo and result.grpo.status)
    assert not (both.notes / "compiled").exists()
    verify_version(Path(both.workspace.store.uri), result.digest, [key.public_pem()])
    for stage, steps, size in ((Stage.SFT, STEPS, BATCH), (Stage.GRPO, 2, ALERTS * GROUP)):
        shared, whole = both.batches(stage), joined(alone.batches(stage))
        assert list(range(steps)) == sorted(whole)
        assert whole == joined(shared)
        assert {(size // 2, size // 2)} == {tuple(len(batch) for batch in parts) for parts in shared.values()}
        first, second = both.adapters(stage)
        assert first == second
    assert both.adapters(Stage.SFT)[0] == (both.workspace.store.finished_stage(Stage.SFT) or {})["adapter"]
    assert losses(both) == pytest.approx(losses(alone), rel=1e-3)
    apart = torch.linalg.vector_norm(learned(both) - learned(alone)) / torch.linalg.vector_norm(learned(alone))
    assert apart < 1e-2
    for batch in (batch for parts in both.batches(Stage.GRPO).values() for batch in parts):
        groups = [batch[start : start + GROUP] for start in range(0, len(batch), GROUP)]
        assert all(1 == len(set(group)) for group in groups)
        assert len(groups) == len(set(batch))
