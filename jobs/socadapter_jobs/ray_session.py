"""The Ray that a run trains on: the one that exists, or one of this run's own, closed to everybody else.

A Ray of our own listens on loopback only and asks every caller for a token that lies in the run's scratch folder. It
reports to no one. Called by `run`, before anything imports Ray: Ray reads its environment once, on import.
"""

import contextlib
import logging
import math
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import psutil

from socadapter_agent.allocator import allocator
from socadapter_agent.base_model import BUILTIN
from socadapter_api.errors import BackendUnavailable
from socadapter_api.training import RunSpec

_log = logging.getLogger(__name__)
_TRIES = 3
_TOO_SLOW = "timed out during startup"
_OBJECT_STORE_BYTES = 128 * 2**20
_TOKEN_FILE = "ray.token"  # noqa: S105  a file's name
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_OFFLINE = "HF_HUB_OFFLINE"
_DEEPSPEED_DEVICE = "DS_ACCELERATOR"


def quiet_libraries() -> None:
    """Keeps every library from reporting home. What the environment says already stays as it is."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def ray_session(spec: RunSpec, scratch: Path) -> Iterator[None]:
    """Joins the Ray that is initialized, or the one that ``RAY_ADDRESS`` names, or starts one for this run alone.

    Raises:
        BackendUnavailable: Ray did not start, or cannot be reached.
    """
    quiet_libraries()
    if _is_local(spec.base.uri):  # a hub is asked only for a base that lies there
        os.environ.setdefault(_OFFLINE, "1")
    if not spec.compute.gpus_per_worker:
        os.environ.setdefault(_DEEPSPEED_DEVICE, "cpu")
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        _close_to_strangers(scratch)
    import ray

    if ray.is_initialized():
        yield
        return
    names = (*_QUIET, _OFFLINE, _DEEPSPEED_DEVICE)
    variables = {name: os.environ[name] for name in names if name in os.environ} | allocator()
    try:
        if address:
            ray.init(address=address, runtime_env={"env_vars": variables}, log_to_driver=True)
        else:
            with _home_of_ray(scratch) as home:
                _start(spec, variables | home)
    except Exception as error:  # Ray raises no class of its own where a node does not come up
        raise BackendUnavailable(f"Ray {address or 'of this run'} cannot be used: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _start(spec: RunSpec, variables: dict[str, str]) -> None:
    """Starts a Ray for this run, with `variables` in its workers.

    Ray waits 30 seconds for what it started, which a busy machine may not keep: then it is ended, and started again.
    """
    import ray

    for tries_left in reversed(range(_TRIES)):
        before = set(psutil.Process().children(recursive=True))
        try:
            ray.init(
                address="local",
                num_cpus=max(1, math.ceil(spec.compute.cpus_per_worker * spec.compute.workers)) + 1,
                num_gpus=spec.compute.gpus_per_worker * spec.compute.workers or None,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                runtime_env={"env_vars": variables},
                logging_level=logging.WARNING,
                log_to_driver=False,  # without a dashboard Ray Train's helpers complain every second
                _node_ip_address="127.0.0.1",
            )
            return
        except Exception as error:
            if _TOO_SLOW not in str(error) or not tries_left:
                raise
            _log.warning("ray_start_timed_out tries_left=%d", tries_left)
            _end(set(psutil.Process().children(recursive=True)) - before)


def _end(children: set[psutil.Process]) -> None:
    """Ends processes and waits until they have ended."""
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children)


@contextlib.contextmanager
def _home_of_ray(scratch: Path) -> Iterator[dict[str, str]]:
    """Starts what is started inside with a home folder of Ray's own; gives the variables that take workers back home.

    Ray asks the cloud providers' metadata addresses where it runs, usage statistics or not, unless the home folder
    holds a cluster configuration.
    """
    folder = scratch / "ray-home"
    folder.mkdir(exist_ok=True)
    (folder / "ray_bootstrap_config.yaml").write_text("{}\n")
    before = os.environ.get("HOME")
    os.environ["HOME"] = str(folder)
    try:
        yield {} if before is None else {"HOME": before}
    finally:
        if before is None:
            del os.environ["HOME"]
        else:
            os.environ["HOME"] = before


def _is_local(uri: str) -> bool:
    return uri == BUILTIN or Path(uri).is_dir()


def _close_to_strangers(scratch: Path) -> None:
    """Without a token, whoever reaches the machine could run code in the run's name."""
    token = scratch / _TOKEN_FILE
    if not token.exists():
        partial = scratch / f".{_TOKEN_FILE}.{os.getpid()}"
        partial.touch(mode=0o600)
        partial.write_text(secrets.token_hex(32))
        partial.replace(token)
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    os.environ.pop("RAY_AUTH_TOKEN", None)
    # Off, Ray takes 127.0.0.1 for this node's address instead of replacing it, and its servers bind to nothing else.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # one machine: nobody takes a node away
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")
