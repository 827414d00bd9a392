"""The adapter folders of a run: what SFT reached, what GRPO kept, what the run continues from. Called by the stages."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from socadapter_agent.base_model import default_cache
from socadapter_api.errors import ResumeMismatch
from socadapter_api.manifest import AdapterManifest, Stage
from socadapter_api.training import Continuation, ParentRef, RunSpec
from socadapter_jobs.secret_files import signing_key
from socadapter_jobs.workspace import PREPARED_NOTE, Workspace
from socadapter_store import cache, signatures

STATE = "state.json"
"""What GRPO remembers, in its folder; its ``best`` names the folder of the best adapter, None where it has none. Its
``best_digest`` is that adapter's, as it was saved."""
DEVELOPMENT = "development.json"
"""The development scores of the adapter beside it."""


@dataclass(frozen=True, slots=True)
class Parent:
    """The verified version that a run continues from or competes with."""

    folder: Path
    """Its adapter's files."""
    manifest: AdapterManifest


def sft_folder(workspace: Workspace) -> Path:
    """Where SFT leaves its adapter."""
    return workspace.scratch / "sft" / "adapter"


def candidate_folder(workspace: Workspace) -> Path:
    """The adapter that the run would publish: GRPO's best where there is one, else what SFT reached."""
    return best_of_grpo(workspace.scratch / "grpo") or sft_folder(workspace)


def best_of_grpo(folder: Path) -> Path | None:
    """The folder of the best adapter and its ``development.json`` that GRPO kept in `folder`; None where it kept none.

    Only what ``state.json`` names is whole: a stage that was killed may have left others.
    """
    name = _remembered(folder).get("best")
    return folder / name if name else None


def candidate_digest(workspace: Workspace) -> str | None:
    """The digest that the adapter in `candidate_folder` was left with, as the stage that left it noted."""
    grpo = _remembered(workspace.scratch / "grpo")
    if grpo.get("best"):
        return grpo.get("best_digest")
    return (workspace.store.finished_stage(Stage.SFT) or {}).get("adapter")


def _remembered(folder: Path) -> dict[str, Any]:
    state = folder / STATE
    found: dict[str, Any] = json.loads(state.read_text()) if state.is_file() else {}
    return found


def continued_from(spec: RunSpec) -> ParentRef | None:
    """The version that the run starts from; None where it starts from the base, whatever it competes with."""
    return spec.parent if spec.continue_from is Continuation.PARENT else None


def require_same_parent(workspace: Workspace) -> None:
    """Does nothing where the run goes on from the version that it was prepared to go on from.

    Raises:
        ResumeMismatch: by now it would be another one, such as after a rollback: what was trained is not of that.
    """
    noted = workspace.noted(PREPARED_NOTE) or {}
    now = continued_from(workspace.spec)
    if "parent" not in noted or noted["parent"] == (now.digest if now else None):
        return
    raise ResumeMismatch(
        f"run {workspace.spec.run_id!r} was prepared to go on from adapter {noted['parent']}, and would now go on from "
        f"{f'{now.name} ({now.digest})' if now else 'the base'}: what served has changed since. Start a new run"
    )


def parent_version(spec: RunSpec, base_digest: str) -> Parent | None:
    """The version that this run continues from or competes with, as serving would take it; None without a parent.

    Raises:
        ArtifactError: it fails a check, is signed by no key that the pool trusts, or was trained on another base.
    """
    if spec.parent is None:
        return None
    key = signing_key(spec)
    own = [signatures.public_key_of(key)] if key else []
    keys = tuple(dict.fromkeys((*spec.trusted_keys, *own)))
    kept = default_cache() / "versions"
    folder, manifest = cache.fetch_verified(spec.parent.uri, kept, spec.parent.digest, keys, base_digest, spec.max_rank)
    cache.prune(kept, [spec.parent.digest])
    return Parent(folder / "adapter", manifest)
