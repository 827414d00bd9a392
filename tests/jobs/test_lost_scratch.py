"""A scratch folder that went with its pod: the run begins anew instead of failing on what is no longer there."""

from pathlib import Path

import pytest
from tests.jobs.conftest import bare_spec

from socadapter_api.errors import AlreadyPublished
from socadapter_api.manifest import Outcome, RunResult, Stage
from socadapter_jobs.workspace import PREPARED_NOTE, Workspace


def workspace(tmp_path: Path, scratch: str) -> Workspace:
    return Workspace.of(bare_spec(tmp_path, scratch))


@pytest.fixture
def trained(tmp_path: Path) -> Workspace:
    """A run that has prepared its data and finished SFT."""
    made = workspace(tmp_path, "scratch")
    made.note(PREPARED_NOTE, {"digests": {}})
    for stage in (Stage.PREPARE, Stage.SFT):
        made.store.finish_stage(stage)
    return made


def test_present_scratch_is_gone_on_with(trained: Workspace) -> None:
    """A run that finds what it left goes on from there; one that left nothing has lost nothing."""
    assert not trained.is_lost
    trained.store.forget_stages()
    assert not trained.is_lost


def test_lost_scratch_is_noticed(trained: Workspace, tmp_path: Path) -> None:
    """Finished stages without their work are done again, all of them."""
    moved = workspace(tmp_path, "scratch-of-another-pod")
    assert moved.is_lost
    moved.store.forget_stages()
    assert [None, None] == [moved.store.finished_stage(stage) for stage in (Stage.PREPARE, Stage.SFT)]
    assert not moved.is_lost


def test_a_finished_run_forgets_nothing(trained: Workspace) -> None:
    """What was published stays as it is."""
    trained.store.finish(RunResult(run_id="cloud-1", context="cloud", outcome=Outcome.SKIPPED, reason="TooFewVerdicts"))
    with pytest.raises(AlreadyPublished):
        trained.store.forget_stages()
