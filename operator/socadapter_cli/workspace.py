"""What the commands of local mode share: the state folder, the backend over it, and the reconciler."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from socadapter_api.pool import SocServingPool
from socadapter_cli.bases import resolve_base
from socadapter_operator.backends.local import LocalBackend
from socadapter_operator.local import state_folder
from socadapter_operator.local.reconciler import Reconciler
from socadapter_operator.local.state_folder import StateFolder

FILE = click.Path(exists=True, path_type=Path)
_LOOK_S = 1.0


def files_option(told: str) -> Callable[[Any], Any]:
    """The option ``-f FILE...``: the command gets `files`. A click option takes one value; the others are arguments."""

    def decorated(command: Any) -> Any:
        @click.option("-f", "--file", "first", type=FILE, multiple=True, metavar="FILE...", help=told)
        @click.argument("further", type=FILE, nargs=-1, metavar="[-f FILE...]")
        @wraps(command)
        def with_files(*positional: Any, first: tuple[Path, ...], further: tuple[Path, ...], **given: Any) -> Any:
            if further and not first:
                raise click.UsageError(f"put -f before {further[0]}")
            return command(*positional, files=first + further, **given)

        return with_files

    return decorated


def state_option(command: Any) -> Any:
    """The option ``--state``."""
    return click.option(
        "--state",
        type=click.Path(path_type=Path, file_okay=False),
        default=state_folder.default,
        show_default="$SOCADAPTER_HOME or ./.socadapter",
        help="Folder that holds status, runs, keys and secrets.",
    )(command)


@dataclass(frozen=True, slots=True)
class Workspace:
    """One state folder and what drives it."""

    state: StateFolder
    backend: LocalBackend
    reconciler: Reconciler
    cache: Path


def open_workspace(folder: Path, *, serve: bool = True) -> Workspace:
    """The workspace in `folder`; nothing is started or written yet."""
    folder = folder.absolute()
    cache = default_cache()
    state = StateFolder(folder)
    backend = LocalBackend(folder, cache, resolve_base)
    return Workspace(state, backend, Reconciler(state, backend, cache, serve=serve), cache)


def default_cache() -> Path:
    """Where bases and verified adapters are kept: ``$SOCADAPTER_CACHE``, or the user's cache folder."""
    configured = os.environ.get("SOCADAPTER_CACHE")
    return Path(configured).absolute() if configured else Path.home() / ".cache" / "socadapter"


def await_bases(
    backend: LocalBackend, pools: Iterable[SocServingPool], stopped: Callable[[], bool] = lambda: False
) -> None:
    """Waits until the base of each pool is here or cannot be had, or until `stopped`; says so where that takes long."""
    for pool in pools:
        told = False
        while not backend.await_base(pool, _LOOK_S) and not stopped():
            if not told:
                click.echo(f"{pool.metadata.name}: base {pool.spec.base.uri!r} is being fetched or unpacked", err=True)
            told = True
