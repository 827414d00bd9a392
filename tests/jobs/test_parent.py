"""The version that a run continues from or competes with is taken as serving would, before anything is trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from socadapter_api import digest, errors
from socadapter_api.manifest import RunResult
from socadapter_api.training import RunSpec
from socadapter_jobs import prepare as preparation
from socadapter_jobs.candidates import require_same_parent
from socadapter_jobs.workspace import Workspace
from socadapter_store import signatures
from socadapter_store.verify import read_manifest

pytestmark = pytest.mark.slow

MakeWorkspace = Callable[..., Workspace]
Published = Callable[..., Path]


@pytest.fixture
def next_key(tmp_path: Path) -> signatures.KeyPair:
    """The key after a rotation."""
    return signatures.make_key(tmp_path / "next-key")


def parent(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    return {"name": manifest.version, "uri": str(folder), "digest": manifest.adapter_digest}


def test_a_run_goes_on_after_the_key_was_changed(
    make_workspace: MakeWorkspace,
    published: Published,
    blank_base: Path,
    key: signatures.KeyPair,
    next_key: signatures.KeyPair,
) -> None:
    """A parent that an earlier key signed is taken while the pool still trusts that key, and not without."""
    changes: dict[str, Any] = {"parent": parent(published()), "signing_key": str(next_key.private)}
    trusting = make_workspace(blank_base, trusted_keys=[key.public_pem()], **changes)
    assert preparation.prepare(trusting)["counts"]["train"]
    with pytest.raises(errors.SignatureInvalid, match="none of the 1 trusted keys"):
        preparation.prepare(make_workspace(blank_base, **changes))


def test_a_parent_on_another_base_is_refused(
    make_workspace: MakeWorkspace, published: Published, blank_base: Path
) -> None:
    """Continuing from it, or competing with it, would mean nothing."""
    folder = published(digest.of_bytes(b"other base"))
    with pytest.raises(errors.BaseMismatch, match="was trained on base"):
        preparation.prepare(make_workspace(blank_base, parent=parent(folder)))


def test_a_parent_of_too_high_a_rank_is_refused(
    make_workspace: MakeWorkspace, published: Published, blank_base: Path
) -> None:
    """The pool takes no adapter of that rank any more."""
    workspace = make_workspace(blank_base, parent=parent(published()), max_rank=2, lora={"rank": 2, "alpha": 4})
    with pytest.raises(errors.RankTooHigh, match="has rank 4, the pool takes at most 2"):
        preparation.prepare(workspace)


def test_a_run_ends_where_what_it_goes_on_from_has_changed(
    make_workspace: MakeWorkspace, published: Published, blank_base: Path, run_here: Callable[[RunSpec], RunResult]
) -> None:
    """After a rollback what was trained is of a version that was given up, and a manifest would name another."""
    first = parent(published())
    other = {**first, "name": "cloud-v9-00000000", "digest": digest.of_bytes(b"other")}
    changes: dict[str, Any] = {"continue_from": "Parent", "lora": {"rank": 4, "alpha": 8}}
    workspace = make_workspace(blank_base, parent=first, **changes)
    preparation.prepare(workspace)
    require_same_parent(workspace)
    for now in (other, None):
        with pytest.raises(errors.ResumeMismatch, match="was prepared to go on from adapter sha256"):
            run_here(make_workspace(blank_base, parent=now, **changes).spec)
        failed = workspace.store.read_result()
        assert failed is not None
        assert ("ResumeMismatch", False) == (failed.reason, failed.retryable)
        workspace.store.reopen()


def test_who_starts_from_the_base_may_compete_with_whoever_serves(
    make_workspace: MakeWorkspace, published: Published, blank_base: Path
) -> None:
    """The champion is no parent, and may change while the run waits."""
    workspace = make_workspace(blank_base, parent=parent(published()))
    preparation.prepare(workspace)
    require_same_parent(make_workspace(blank_base, parent=None))
    assert preparation.read_facts(workspace)["parent"] is None
