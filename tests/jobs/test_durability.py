"""What vouches for other files is written once they are on the disk: a power cut never leaves it without them."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState

from socadapter_agent.base_model import BaseModel
from socadapter_api.names import Digest
from socadapter_api.training import LoraSpec
from socadapter_jobs import prepare as preparation
from socadapter_jobs.candidates import DEVELOPMENT, sft_folder
from socadapter_jobs.checkpoints import CheckpointSeal
from socadapter_jobs.development import DevelopmentScore, write_scores
from socadapter_jobs.policy import load_policy, save_adapter
from socadapter_jobs.training_stages import sft_stage
from socadapter_jobs.workspace import PREPARED_NOTE, Workspace

pytestmark = pytest.mark.slow


class Disk:
    """What was synced, at which size; and what was not yet when a file got its name."""

    def __init__(self) -> None:
        self._synced: dict[int, int] = {}
        self.named: dict[str, list[str]] = {}

    def sync(self, handle: int) -> None:
        state = os.fstat(handle)
        self._synced[state.st_ino] = state.st_size

    def missing(self, folder: Path) -> list[str]:
        """Files and folders from `folder` on that a power cut would take."""
        return [path.name for path in (folder, *folder.rglob("*")) if not self._is_there(path)]

    def _is_there(self, path: Path) -> bool:
        state = path.stat()
        return state.st_ino in self._synced and (path.is_dir() or self._synced[state.st_ino] == state.st_size)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Notes what this process syncs from now on."""
    disk, fsync, replace = Disk(), os.fsync, Path.replace

    def syncing(handle: int) -> None:
        fsync(handle)
        disk.sync(handle)

    def naming(self: Path, target: Path) -> Path:
        folders = [path for path in Path(target).parent.rglob("*") if path.is_dir()] or [Path(target).parent]
        disk.named[Path(target).name] = [name for folder in folders for name in disk.missing(folder)]
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "replace", naming)
    return disk


@pytest.fixture
def policy(blank_base: Path) -> Any:
    return load_policy(
        BaseModel(str(blank_base), blank_base, Digest("")), LoraSpec(rank=2), dtype=torch.float32, seed=0
    )


def test_a_seal_comes_after_its_checkpoint(disk: Disk, policy: Any, tmp_path: Path) -> None:
    """Every file of it, whoever wrote it, and the folder."""
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    (folder / "optimizer.pt").write_bytes(b"state")
    arguments: Any = SimpleNamespace(output_dir=str(tmp_path))
    CheckpointSeal(policy, None).on_save(arguments, TrainerState(global_step=3), TrainerControl())
    assert [] == disk.named["sealed.json"]
    assert [] == disk.missing(folder)


def test_adapters_and_scores_are_there_before_they_are_named(disk: Disk, policy: Any, tmp_path: Path) -> None:
    """Those that GRPO keeps as its best."""
    folder = tmp_path / "best-2"
    save_adapter(policy, folder)
    write_scores(folder / DEVELOPMENT, DevelopmentScore(2, 0.5, None, None, None, 100.0))
    assert [] == disk.missing(folder)


def test_stages_leave_what_their_markers_vouch_for(
    disk: Disk, make_workspace: Callable[..., Workspace], blank_base: Path
) -> None:
    """The prepared sets before the note that holds their digests; SFT's adapter before the stage's facts."""
    workspace = make_workspace(blank_base, sft={"epochs": 0.0})
    preparation.prepare(workspace)
    assert [] == disk.named[PREPARED_NOTE]
    sft_stage(workspace, 0)
    assert [] == disk.missing(sft_folder(workspace))
