"""What the commands of local mode share: the state folder, the backend over it, and the reconciler."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from socadapter_api.training import BaseModelRef
from socadapter_operator.backends.local import LocalBackend
from socadapter_operator.local import state_folder
from socadapter_operator.local.reconciler import Reconciler
from socadapter_operator.local.state_folder import StateFolder


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


def resolve_base(ref: BaseModelRef) -> str:
    """The digest of a base, which is fetched or unpacked on the first call.

    Raises:
        BaseNotFound, BaseMismatch: as `socadapter_agent.base_model.resolve_base`.
    """
    from socadapter_agent.base_model import resolve_base as resolve

    return resolve(ref, default_cache()).digest
