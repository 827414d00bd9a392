"""A run from its spec to its marker: each stage a Ray Train run of its own, finished stages never repeated.

``python -m socadapter_jobs`` calls `execute`. Which Ray that is, `ray_session` decides; what a stage does, `stages`.
"""

import contextlib
import logging
import shutil
import signal
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

from socadapter_api import errors
from socadapter_api.errors import DiskFull, RunInterrupted, SocAdapterError, TrainingError
from socadapter_api.manifest import STAGES, Outcome, Progress, RunResult, Stage
from socadapter_api.training import Placement, RunSpec
from socadapter_jobs import secret_files
from socadapter_jobs.candidates import require_same_parent
from socadapter_jobs.ray_session import quiet_libraries, ray_session
from socadapter_jobs.ray_trainers import trainer_class
from socadapter_jobs.report.page import write_page
from socadapter_jobs.workspace import Workspace

__all__ = ["execute", "quiet_libraries", "work"]

_log = logging.getLogger(__name__)
_TRAINED = (Stage.SFT, Stage.GRPO)
_ERROR_NOTE = "stage_error.json"
_NEARLY_FULL_BYTES = 64 * 1024
_ECHO_EVERY_S = 2.0


def execute(spec: RunSpec) -> RunResult:
    """Runs what is still to be done of `spec` and returns its result, which is in the store by then.

    Raises:
        RunInterrupted: stopped on request; the same spec goes on later.
        SocAdapterError: the run failed; its result says so already.
    """
    workspace = Workspace.of(spec)
    workspace.store.drop_torn_markers()
    if (present := workspace.store.read_result()) is not None:
        return present
    workspace.stop_request.unlink(missing_ok=True)
    if workspace.is_lost:
        _log.warning("scratch_lost run=%s scratch=%s", spec.run_id, workspace.scratch)
        workspace.store.forget_stages()
    try:
        require_same_parent(workspace)
        # Ray takes SIGTERM for itself when it starts: asked for before, and again after.
        with _stoppable(workspace), ray_session(spec, workspace.scratch), _stoppable(workspace), _echo(workspace):
            for stage in STAGES:
                if workspace.store.read_result() is None:
                    _once(workspace, stage)
    except RunInterrupted:
        raise
    except SocAdapterError as error:
        _fail(workspace, error)
        raise
    result = workspace.store.read_result()
    if result is None:
        raise TrainingError(f"run {spec.run_id!r} finished its stages without a result in {workspace.store.uri}")
    return result


def _fail(workspace: Workspace, error: SocAdapterError) -> None:
    _log.error("run_failed", extra={"run": workspace.spec.run_id, "reason": error.reason})
    result = RunResult(
        run_id=workspace.spec.run_id,
        context=workspace.spec.context,
        outcome=Outcome.FAILED,
        reason=error.reason,
        message=str(error)[:4000],
        retryable=error.retryable,
    )
    try:
        evaluation = workspace.noted("evaluation.json") or {}
        write_page(workspace.store, evaluation, result)
    except Exception as trouble:  # noqa: BLE001  such as what the run failed of; its result counts
        _log.warning("report_not_written run=%s error=%s", workspace.spec.run_id, trouble)
    workspace.store.finish(result)


def _once(workspace: Workspace, stage: Stage) -> None:
    """Runs a stage unless its marker is there."""
    if workspace.store.finished_stage(stage) is not None:
        return
    if workspace.stop_request.exists():
        raise RunInterrupted(f"stopped on request before stage {stage.value}")
    workspace.tell(Progress(stage=stage, message="started", at=time.time()))
    _log.info("stage_started stage=%s run=%s", stage.value, workspace.spec.run_id)
    started = time.time()
    facts = _in_ray_train(workspace, stage)
    _log.info("stage_finished stage=%s seconds=%.1f", stage.value, time.time() - started)
    if workspace.store.read_result() is None:
        workspace.store.finish_stage(stage, facts | {"seconds": round(time.time() - started, 1)})


def _in_ray_train(workspace: Workspace, stage: Stage) -> dict[str, Any]:
    """Runs one stage as a Ray Train run and returns the facts that its first worker left."""
    import ray.train
    from ray.train.v2.api.exceptions import TrainingFailedError

    spec = workspace.spec
    compute = spec.compute
    workers = compute.workers if stage in _TRAINED else 1
    # A stage of one worker has its machine to itself: all that the workers have where they share one.
    spread = compute.placement is Placement.SPREAD
    cpus = compute.cpus_per_worker * (1 if stage in _TRAINED or spread else compute.workers)
    resources = {"CPU": cpus}
    for note in (_ERROR_NOTE, _facts_note(stage)):
        (workspace.scratch / note).unlink(missing_ok=True)
    trainer = trainer_class(workers)(
        work,
        train_loop_config={
            "spec": spec.model_dump_json(),
            "stage": stage.value,
            "cpus": cpus,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=compute.gpus_per_worker > 0,
            resources_per_worker=resources | ({"GPU": compute.gpus_per_worker} if compute.gpus_per_worker else {}),
            placement_strategy="SPREAD" if spread else "PACK",
        ),
        run_config=ray.train.RunConfig(
            name=f"{spec.run_id}-{stage.value}-{uuid.uuid4().hex[:8]}",
            storage_path=str(workspace.scratch / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=compute.max_failures),
        ),
    )
    try:
        _beside_main_thread(trainer.fit)
    except TrainingFailedError as error:
        _raise_noted(workspace)
        if _out_of_space(error, workspace.scratch):
            raise _disk_full(stage, workspace, error) from error
        raise TrainingError(
            f"stage {stage.value} died {compute.max_failures + 1} times: {str(error)[-1500:]}"
        ) from error
    _raise_noted(workspace)
    facts = workspace.noted(_facts_note(stage))
    if not isinstance(facts, dict):
        if _out_of_space(None, workspace.scratch):
            raise _disk_full(stage, workspace, None)
        raise TrainingError(
            f"stage {stage.value} ended and left no {_facts_note(stage)} in {workspace.scratch}: where the Ray cluster "
            "has several nodes, that folder has to be one that they share"
        )
    return facts


def _facts_note(stage: Stage) -> str:
    return f"facts-{stage.value}.json"


def _beside_main_thread(fit: Callable[[], object]) -> None:
    """Runs `fit` and waits. On the main thread it would take SIGINT for itself and end the run without a checkpoint."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="fit")
    try:
        pool.submit(fit).result()
    finally:
        pool.shutdown(wait=False)


def _out_of_space(error: BaseException | None, scratch: Path) -> bool:
    """Whether a full disk is behind `error`. Some libraries hide it: then the disk itself tells."""
    return DiskFull.is_behind(error) or shutil.disk_usage(scratch).free < _NEARLY_FULL_BYTES


def _disk_full(stage: Stage, workspace: Workspace, error: BaseException | None) -> DiskFull:
    told = f" ({str(error)[-300:]})" if error else ""
    return DiskFull(
        f"stage {stage.value}: no space left below {workspace.scratch}{told}; free some, the next start resumes"
    )


def _raise_noted(workspace: Workspace) -> None:
    """Raises, as its own class, the error that a worker of the stage noted; Ray would retry and disguise it."""
    noted = workspace.noted(_ERROR_NOTE)
    if noted is None:
        return
    kind = getattr(errors, noted["class"], TrainingError)
    _log.debug(noted["traceback"])
    raise kind(noted["message"])


def work(config: dict[str, Any]) -> None:
    """What a worker does. Errors of the tree are final and noted for the driver; any other is Ray's to retry."""
    import ray.train

    from socadapter_jobs import stages

    secret_files.unpack()
    workspace = Workspace.of(RunSpec.model_validate_json(config["spec"]))
    stage = Stage(config["stage"])
    context = ray.train.get_context()
    if workspace.noted(_ERROR_NOTE) is not None:
        return  # another worker's error was final, and Ray has started all of them again
    stages.set_threads(config["cpus"])
    try:
        _work(workspace, stage, context.get_world_rank(), stages.STAGES[stage])
    except SocAdapterError:
        if context.get_world_size() > 1:
            raise  # the others wait for this worker, and only Ray can end them


def _work(workspace: Workspace, stage: Stage, rank: int, done_by: Callable[[Workspace, int], dict[str, Any]]) -> None:
    """Runs a stage and notes its facts, or the error of the tree that ended it."""
    try:
        facts = done_by(workspace, rank)
        if rank == 0:
            workspace.note(_facts_note(stage), facts)
    except SocAdapterError as error:
        _note_error(workspace, error)
        raise
    except Exception as error:  # a library's own error may be a full disk
        if not _out_of_space(error, workspace.scratch):
            raise
        full = _disk_full(stage, workspace, error)
        _note_error(workspace, full)
        raise full from error


def _note_error(workspace: Workspace, error: SocAdapterError) -> None:
    with contextlib.suppress(OSError):  # a full disk takes no note either: the driver then sees no facts
        workspace.note(
            _ERROR_NOTE,
            {"class": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()},
        )


@contextlib.contextmanager
def _stoppable(workspace: Workspace) -> Iterator[None]:
    """SIGINT and SIGTERM ask for a checkpoint and an end; a second one ends at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        if workspace.stop_request.exists():
            raise KeyboardInterrupt
        workspace.stop_request.touch()
        _log.warning("stop_requested", extra={"signal": number})

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _echo(workspace: Workspace) -> Iterator[None]:
    """Logs the workers' live figures as they come, so that the run's own log tells how it went."""
    path = workspace.scratch / "metrics.jsonl"
    ended = threading.Event()

    def follow() -> None:
        position = path.stat().st_size if path.is_file() else 0
        while True:
            last = ended.wait(_ECHO_EVERY_S)
            if path.is_file():
                with path.open() as stream:
                    stream.seek(position)
                    for line in stream:
                        _log.info("stage_progressed %s", line.strip())
                    position = stream.tell()
            if last:
                return

    thread = threading.Thread(target=follow, name="echo", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
