"""A run's records: what counts, what may be torn, and what never changes again."""

from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socadapter_api.errors import AlreadyPublished, DigestMismatch, ManifestInvalid, StoreUnavailable
from socadapter_api.manifest import Outcome, Progress, RunResult, Stage
from socadapter_operator import evidence
from socadapter_operator.domain.state import Marker
from socadapter_store import layout
from socadapter_store.run_folder import RunFolder, read_progress, read_result


@pytest.fixture(params=["local", "memory"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    return RunFolder.at(tmp_path / "run" if request.param == "local" else f"memory://{uuid4().hex}/run")


def _result(outcome: Outcome = Outcome.GATE_FAILED) -> RunResult:
    return RunResult(run_id="cloud-7-a", context="cloud", outcome=outcome, reason="GateFailed")


def test_progress_and_markers_come_back(run: RunFolder) -> None:
    """The last progress and each finished stage are there for the operator and for a resumed run."""
    assert run.read_progress() is None
    assert run.finished_stage(Stage.SFT) is None
    for step in range(3):
        run.write_progress(Progress(stage=Stage.SFT, step=step, steps=3, at=1.5))
    run.finish_stage(Stage.SFT, {"adapter": "abc"})

    assert read_progress(run.uri) == Progress(stage=Stage.SFT, step=2, steps=3, at=1.5)
    assert run.finished_stage(Stage.SFT) == {"stage": "sft", "adapter": "abc"}
    assert run.finished_stage(Stage.GRPO) is None


@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b'{"stage": "nap"}', b"\xff"])
def test_torn_progress_and_markers_are_as_good_as_none(torn: bytes, run: RunFolder) -> None:
    """On a store without atomic writes a reader may meet half a file: no reason to fail, and no finished stage."""
    run.store.write(layout.PROGRESS, torn)
    run.store.write(layout.stage_marker(Stage.SFT), torn)
    assert run.read_progress() is None
    assert run.finished_stage(Stage.SFT) is None


@pytest.mark.parametrize("outcome", list(Outcome))
def test_result_counts_with_its_marker_only(outcome: Outcome, run: RunFolder) -> None:
    """A run that broke is marked as failed; a failed gate and a skipped run are finished runs."""
    run.store.write(layout.RESULT, _result(outcome).model_dump_json().encode())
    assert read_result(run.uri) is None

    run.finish(_result(outcome))
    assert read_result(run.uri) == _result(outcome)
    assert run.store.exists(layout.FAILED) is (outcome is Outcome.FAILED)
    assert run.store.exists(layout.SUCCESS) is (outcome is not Outcome.FAILED)


def test_finished_run_does_not_change(run: RunFolder) -> None:
    """After the marker no record is written, by whatever call, and an equal result is no change."""
    run.write_json(layout.EVALUATION, {})
    run.finish(_result())
    assert run.finish(_result()) == _result()
    for write in (
        lambda: run.write_progress(Progress(stage=Stage.SFT, at=0.0)),
        lambda: run.finish_stage(Stage.SFT),
        lambda: run.write(layout.REPORT, b""),
        lambda: run.write_json(layout.EVALUATION, {}),
        lambda: run.upload(Path(__file__), layout.MANIFEST),
        lambda: run.finish(_result(Outcome.SKIPPED)),
        run.reopen,
    ):
        with pytest.raises(AlreadyPublished):
            write()


def test_broken_run_may_be_reopened(run: RunFolder) -> None:
    """A retry in the same folder takes the failure back first, and may then finish otherwise."""
    run.finish(_result(Outcome.FAILED))
    with pytest.raises(AlreadyPublished):
        run.write(layout.REPORT, b"")
    run.reopen()
    assert read_result(run.uri) is None
    run.write(layout.REPORT, b"")
    run.finish(_result(Outcome.SKIPPED))
    assert read_result(run.uri) == _result(Outcome.SKIPPED)


def test_result_other_than_the_marked_one_is_refused(run: RunFolder) -> None:
    """The marker names the result's digest, so a result that was swapped or torn afterwards is found."""
    run.finish(_result())
    run.store.write(layout.RESULT, _result(Outcome.PUBLISHED).model_dump_json().encode())
    with pytest.raises(DigestMismatch, match="one of them was changed"):
        read_result(run.uri)
    run.store.remove(layout.RESULT)
    with pytest.raises(ManifestInvalid, match=r"no result\.json"):
        read_result(run.uri)


@pytest.mark.parametrize("marker", [b"[]", b"{}", b"null", b'{"result": 3}'])
def test_broken_marker_is_not_a_result(marker: bytes, run: RunFolder) -> None:
    """A marker that names no result never makes one count."""
    run.store.write(layout.RESULT, _result().model_dump_json().encode())
    run.store.write(layout.SUCCESS, marker)
    try:
        assert read_result(run.uri) is None
    except (ManifestInvalid, DigestMismatch) as refusal:
        assert run.uri in str(refusal)  # noqa: PT017 - null reads as no marker, the others are refused


@pytest.mark.parametrize("name", [layout.SUCCESS, layout.FAILED])
@pytest.mark.parametrize("marker", [b"", b"{", b'{"result":"sha2'])
def test_a_marker_that_is_being_written_says_nothing_yet(marker: bytes, name: str, run: RunFolder) -> None:
    """Some stores show a file before its bytes are there; the run itself takes away what its killed writer left."""
    run.store.write(layout.RESULT, _result().model_dump_json().encode())
    run.store.write(name, marker)
    with pytest.raises(StoreUnavailable, match="being written"):
        read_result(run.uri)
    assert Marker.UNREADABLE is evidence.read(run.uri, None).marker
    run.drop_torn_markers()
    assert read_result(run.uri) is None
    run.finish(_result())
    run.drop_torn_markers()
    assert read_result(run.uri) == _result()


@given(metrics=st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False, allow_infinity=False), max_size=4))
def test_every_figure_survives(metrics: dict[str, float]) -> None:
    """What a run measured is read back exactly."""
    run = RunFolder.at(f"memory://{uuid4().hex}/run")
    result = _result().model_copy(update={"metrics": metrics})
    run.finish(result)
    assert read_result(run.uri) == result


def test_leftovers_of_a_killed_writer_are_hidden_and_swept(tmp_path: Path) -> None:
    """A temporary file is neither listed nor kept once the run has finished."""
    run = RunFolder.at(tmp_path)
    leftover = tmp_path / "stages/.sft.json.x.unfinished"
    leftover.parent.mkdir()
    leftover.write_bytes(b"half")
    assert run.store.list() == ()
    run.finish(_result())
    assert not leftover.exists()
