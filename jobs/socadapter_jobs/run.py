"""A run from its spec to its marker: each stage a Ray Train run of its own, finished stages never repeated.

``python -m socadapter_jobs`` calls `execute`. Ray is joined where ``RAY_ADDRESS`` names it, else started in this
process's name with token authentication, as Ray does by itself for a local cluster.
"""

import contextlib
import logging
import os
import signal
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from types import FrameType
from typing import Any

from socadapter_api import errors
from socadapter_api.errors import DiskFull, RunInterrupted, SocAdapterError, TrainingError
from socadapter_api.manifest import STAGES, Outcome, Progress, RunResult, Stage
from socadapter_api.training import RunSpec
from socadapter_jobs.workspace import Workspace

_log = logging.getLogger(__name__)
_TRAINED = (Stage.SFT, Stage.GRPO)
_ERROR_NOTE = "stage_error.json"
_NO_SPACE = "No space left on device"
_ECHO_EVERY_S = 2.0


def execute(spec: RunSpec) -> RunResult:
    """Runs what is still to be done of `spec` and returns its result, which is in the store by then.

    Raises:
        RunInterrupted: stopped on request; the same spec goes on later.
        SocAdapterError: the run failed; its result says so already.
    """
    workspace = Workspace.of(spec)
    if (present := workspace.store.read_result()) is not None:
        return present
    workspace.stop_request.unlink(missing_ok=True)
    try:
        with _ray(spec), _stoppable(workspace), _echo(workspace):
            for stage in STAGES:
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
    workspace.store.finish(
        RunResult(
            run_id=workspace.spec.run_id,
            context=workspace.spec.context,
            outcome=Outcome.FAILED,
            reason=error.reason,
            message=str(error)[:4000],
            retryable=error.retryable,
        )
    )


def _once(workspace: Workspace, stage: Stage) -> None:
    """Runs a stage unless its marker is there."""
    if workspace.store.finished_stage(stage) is not None:
        return
    if workspace.stop_request.exists():
        raise RunInterrupted(f"stopped on request before stage {stage.value}")
    workspace.store.write_progress(Progress(stage=stage, message="started", at=time.time()))
    _log.info("stage_started stage=%s run=%s", stage.value, workspace.spec.run_id)
    started = time.time()
    facts = _in_ray_train(workspace, stage)
    _log.info("stage_finished stage=%s seconds=%.1f", stage.value, time.time() - started)
    if workspace.store.read_result() is None:
        workspace.store.finish_stage(stage, facts | {"seconds": round(time.time() - started, 1)})


def _in_ray_train(workspace: Workspace, stage: Stage) -> dict[str, Any]:
    """Runs one stage as a Ray Train run and returns the facts that its first worker left."""
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    spec = workspace.spec
    compute = spec.compute
    workers = compute.workers if stage in _TRAINED else 1
    cpus = compute.cpus_per_worker * (1 if stage in _TRAINED else compute.workers)
    resources = {"CPU": cpus}
    (workspace.scratch / _ERROR_NOTE).unlink(missing_ok=True)
    trainer = TorchTrainer(
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
        ),
        run_config=ray.train.RunConfig(
            name=f"{spec.run_id}-{stage.value}-{uuid.uuid4().hex[:8]}",
            storage_path=str(workspace.scratch / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=compute.max_failures),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        _raise_noted(workspace)
        if _NO_SPACE in str(error):
            raise DiskFull(
                f"stage {stage.value}: no space left below {workspace.scratch}; free some, it resumes"
            ) from error
        raise TrainingError(
            f"stage {stage.value} died {compute.max_failures + 1} times: {str(error)[-1500:]}"
        ) from error
    _raise_noted(workspace)
    facts = workspace.noted(f"facts-{stage.value}.json")
    return facts if isinstance(facts, dict) else {}


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

    workspace = Workspace.of(RunSpec.model_validate_json(config["spec"]))
    stage = Stage(config["stage"])
    rank = ray.train.get_context().get_world_rank()
    stages.set_threads(config["cpus"])
    try:
        facts = stages.STAGES[stage](workspace, rank)
    except SocAdapterError as error:
        _note_error(workspace, error)
        return
    except OSError as error:
        if _NO_SPACE not in str(error):
            raise
        _note_error(workspace, DiskFull(f"stage {stage.value}: {error}; free some space, the run resumes"))
        return
    if rank == 0:
        workspace.note(f"facts-{stage.value}.json", facts)


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


@contextlib.contextmanager
def _ray(spec: RunSpec) -> Iterator[None]:
    """A Ray to train on: the one that exists, or one for this run alone."""
    quiet_libraries()
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    environment = {"env_vars": {name: os.environ[name] for name in _QUIET if name in os.environ}}
    if address:
        ray.init(address=address, runtime_env=environment, log_to_driver=True)
    else:
        cpus = spec.compute.cpus_per_worker * spec.compute.workers
        ray.init(
            num_cpus=max(1, int(cpus + 0.999)) + 1,
            num_gpus=spec.compute.gpus_per_worker * spec.compute.workers or None,
            include_dashboard=False,
            object_store_memory=128 * 1024 * 1024,
            runtime_env=environment,
            logging_level=logging.WARNING,
            log_to_driver=False,  # without a dashboard Ray Train's helpers complain every second; see `_echo`
        )
    try:
        yield
    finally:
        ray.shutdown()


_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "DS_ACCELERATOR": "cpu",
}


def quiet_libraries() -> None:
    """Keeps every library from reporting home. A hub is asked only for a base that is neither built in nor a folder."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
