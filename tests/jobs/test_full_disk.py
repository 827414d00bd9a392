"""A full disk ends a run with a reason that a retry can mend, and leaves what was there before as it was.

The kernel itself refuses to write: the process's limit on file sizes is lowered while a stage runs, so that every
library fails in its own way.
"""

import contextlib
import errno
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from socadapter_api import errors
from socadapter_api.manifest import STAGES, Outcome, RunResult, Stage
from socadapter_api.training import RunSpec
from socadapter_jobs import run
from socadapter_jobs.workspace import Workspace
from socadapter_store import layout

RunHere = Callable[[RunSpec], RunResult]

LIMITS_BYTES = {Stage.PREPARE: 2_048, Stage.SFT: 8_192, Stage.GRPO: 8_192, Stage.EVALUATE: 8_192, Stage.PUBLISH: 16_384}


@contextlib.contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path, names: set[str]) -> dict[str, tuple[bytes, int]]:
    """Bytes and times of files, by name."""
    return {name: ((folder / name).read_bytes(), (folder / name).stat().st_mtime_ns) for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("stage", [pytest.param(stage, id=stage.value) for stage in LIMITS_BYTES])
def test_a_run_survives_a_full_disk(
    make_spec: Callable[..., RunSpec],
    run_here: RunHere,
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: Stage,
) -> None:
    """`DiskFull`, retryable; finished stages keep their markers, and the next attempt goes on and publishes."""
    spec = make_spec(base, evaluation={"summaries": 0})
    workspace = Workspace.of(spec)
    folder = Path(workspace.store.uri)
    here = run._in_ray_train

    def cramped(workspace: Workspace, now: Stage) -> dict[str, Any]:
        with no_file_larger_than(LIMITS_BYTES[stage]) if now is stage else contextlib.nullcontext():
            return here(workspace, now)

    monkeypatch.setattr(run, "_in_ray_train", cramped)
    with pytest.raises(errors.DiskFull, match="free s"):
        run_here(spec)
    result = workspace.store.read_result()
    assert result is not None
    assert (Outcome.FAILED, "DiskFull", True) == (result.outcome, result.reason, result.retryable)
    finished = {layout.stage_marker(before) for before in STAGES[: STAGES.index(stage)]}
    assert finished == {name for name in workspace.store.store.list() if name.startswith("stages/")}
    kept = contents(folder, finished)
    monkeypatch.setattr(run, "_in_ray_train", here)
    workspace.store.reopen()
    assert Outcome.PUBLISHED is run_here(spec).outcome
    assert kept == contents(folder, finished)


@pytest.mark.parametrize(
    ("error", "full"),
    [
        pytest.param(OSError(errno.ENOSPC, "x"), True, id="no space"),
        pytest.param(OSError(errno.EDQUOT, "x"), True, id="quota"),
        pytest.param(OSError(errno.EFBIG, "x"), True, id="file size"),
        pytest.param(OSError("write failed: No space left on device"), True, id="no number"),
        pytest.param(RuntimeError("I/O error: No space left on device (os error 28)"), True, id="a library's words"),
        pytest.param(OSError(errno.EACCES, "x"), False, id="forbidden"),
        pytest.param(RuntimeError("shape mismatch"), False, id="something else"),
    ],
)
def test_what_counts_as_a_full_disk(tmp_path: Path, error: Exception, full: bool) -> None:
    """By number, by the words of libraries that wrap it, or by the disk itself."""
    assert full is run._out_of_space(error, tmp_path)


def test_a_disk_without_a_byte_left_tells_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some libraries say only that writing failed."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100})())
    assert run._out_of_space(RuntimeError("PytorchStreamWriter failed writing file"), tmp_path)
