"""The local cache of versions: complete entries only, once fetched never asked for again, mended when damaged."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from socadapter_api import digest
from socadapter_api.errors import DigestMismatch, ForeignFile, ManifestInvalid, SignatureInvalid, StoreUnavailable
from socadapter_api.manifest import Outcome, RunResult
from socadapter_store import layout
from socadapter_store.cache import download, fetch_verified, prune
from socadapter_store.publication import Publication, publish
from socadapter_store.run_folder import RunFolder
from socadapter_store.signatures import KeyPair, make_key
from socadapter_store.store import Store


@pytest.fixture
def published(
    adapter: Path,
    key: KeyPair,
    fields: Callable[..., dict[str, Any]],
    result: Callable[..., RunResult],
    tmp_path: Path,
) -> Publication:
    run = RunFolder.at(tmp_path / "store/soc/cloud/run")
    run.write_json(layout.EVALUATION, {"not": "downloaded"})
    return publish(adapter.parent, fields(), result(), run, key.private)


def _digest(published: Publication) -> str:
    return published.manifest.adapter_digest


def test_entry_holds_what_loading_needs(published: Publication, tmp_path: Path) -> None:
    """Adapter, manifest and signature, and none of the run's other files."""
    entry = download(published.result.uri, tmp_path / "cache")
    found = {path.relative_to(entry).as_posix() for path in entry.rglob("*") if path.is_file()}
    adapter = {layout.adapter_file(name) for name in layout.ADAPTER_FILES}
    assert found == adapter | {layout.MANIFEST, layout.SIGNATURE}
    assert entry.name.startswith(_digest(published).removeprefix("sha256:"))


def test_fetched_version_needs_the_store_no_more(published: Publication, key: KeyPair, tmp_path: Path) -> None:
    """A replica starts from its cache while the store is away."""
    first = download(published.result.uri, tmp_path / "cache", _digest(published))
    shutil.rmtree(published.result.uri)
    arguments = (published.result.uri, tmp_path / "cache", _digest(published), [key.public_pem()])
    assert fetch_verified(*arguments) == (first, published.manifest)


def test_damaged_entry_is_fetched_again(published: Publication, key: KeyPair, tmp_path: Path) -> None:
    """A bad copy is replaced once; when the store's copy is bad too, the error stands and nothing stays."""
    keys = [key.public_pem()]
    cache = tmp_path / "cache"
    entry, _ = fetch_verified(published.result.uri, cache, _digest(published), keys)
    (entry / layout.ADAPTER / layout.MODEL_CARD).write_text("changed")
    assert fetch_verified(published.result.uri, cache, _digest(published), keys)[0] == entry

    (entry / layout.ADAPTER / layout.MODEL_CARD).write_text("changed")
    Store(published.result.uri).write(layout.adapter_file(layout.MODEL_CARD), b"changed")
    with pytest.raises(DigestMismatch):
        fetch_verified(published.result.uri, cache, _digest(published), keys)
    assert list(cache.iterdir()) == []


def test_entry_that_cannot_be_read_for_now_stays(
    published: Publication, key: KeyPair, tmp_path: Path, no_files: Callable[[], Any]
) -> None:
    """It is not known to be bad, and the store may be away: told as something to try again."""
    arguments = (published.result.uri, tmp_path / "cache", _digest(published), [key.public_pem()])
    entry, _ = fetch_verified(*arguments)
    shutil.rmtree(published.result.uri)
    with no_files(), pytest.raises(StoreUnavailable, match="Too many open files"):
        fetch_verified(*arguments)
    assert (entry, published.manifest) == fetch_verified(*arguments)


def test_cache_that_cannot_be_written_is_told(published: Publication, key: KeyPair, tmp_path: Path) -> None:
    """As a failure of the machine that may pass, not as one of the version."""
    (tmp_path / "cache").write_text("no folder")
    with pytest.raises(StoreUnavailable, match="cannot write"):
        fetch_verified(published.result.uri, tmp_path / "cache", _digest(published), [key.public_pem()])


def test_untrusted_version_does_not_stay_in_the_cache(published: Publication, tmp_path: Path) -> None:
    """What failed verification is not left lying where another loader could find it."""
    stranger = make_key(tmp_path / "stranger")
    with pytest.raises(SignatureInvalid):
        fetch_verified(published.result.uri, tmp_path / "cache", _digest(published), [stranger.public_pem()])
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("tamper", "error"),
    [
        pytest.param(lambda store: store.write("adapter/evil.py", b""), ForeignFile, id="file added"),
        pytest.param(lambda store: store.write("adapter/README.md", b""), DigestMismatch, id="file changed"),
        pytest.param(lambda store: store.remove("adapter/README.md"), DigestMismatch, id="file removed"),
        pytest.param(lambda store: store.write(layout.MANIFEST, b"{}"), ManifestInvalid, id="manifest replaced"),
        pytest.param(lambda store: store.remove(layout.MANIFEST), ManifestInvalid, id="manifest removed"),
        pytest.param(lambda store: store.remove(layout.SUCCESS), ManifestInvalid, id="no marker"),
        pytest.param(lambda store: store.write(layout.RESULT, b"{}"), DigestMismatch, id="result replaced"),
    ],
)
def test_tampered_store_leaves_no_entry(
    tamper: Callable[[Store], None], error: type[Exception], published: Publication, tmp_path: Path
) -> None:
    """Nothing that differs from what was published reaches the cache."""
    tamper(Store(published.result.uri))
    with pytest.raises(error):
        download(published.result.uri, tmp_path / "cache")
    assert not (tmp_path / "cache").exists() or list((tmp_path / "cache").iterdir()) == []


def test_version_other_than_the_table_names_is_refused(published: Publication, tmp_path: Path) -> None:
    """A run folder is not trusted to hold the version that it is asked for."""
    with pytest.raises(DigestMismatch, match="expected sha256:"):
        download(published.result.uri, tmp_path / "cache", digest.of_bytes(b"other"))


@pytest.mark.parametrize("outcome", [None, Outcome.GATE_FAILED, Outcome.SKIPPED, Outcome.FAILED])
def test_run_without_a_version_has_nothing_to_load(outcome: Outcome | None, tmp_path: Path) -> None:
    """Unfinished, failed and skipped runs say so."""
    run = RunFolder.at(tmp_path / "run")
    if outcome is not None:
        run.finish(RunResult(run_id="a", context="cloud", outcome=outcome))
    with pytest.raises(ManifestInvalid, match="no version to load"):
        download(run.uri, tmp_path / "cache")


def test_loaders_that_race_share_one_entry(published: Publication, tmp_path: Path) -> None:
    """Several replicas on one node fetch at once; each gets the complete entry and none a part of it."""
    cache = tmp_path / "cache"
    start = threading.Barrier(4)
    entries: list[Path] = []

    def load() -> None:
        start.wait(timeout=10)
        entry = download(published.result.uri, cache, _digest(published))
        assert (entry / layout.ADAPTER / layout.WEIGHTS).is_file()
        entries.append(entry)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len(entries) == 4
    assert list(cache.iterdir()) == [entries[0]]


def test_what_nobody_used_for_a_month_is_removed(published: Publication, tmp_path: Path) -> None:
    """Not what a table names, nor what was taken up since, nor anything that is no entry."""
    cache = tmp_path / "cache"
    entry, own = download(published.result.uri, cache), cache / "own-notes"
    own.mkdir()
    month_ago = time.time() - 31 * 24 * 3600

    def grow_old() -> None:
        for path in (entry, own):
            os.utime(path, (month_ago, month_ago))

    assert 0 == prune(tmp_path / "nowhere", [])
    assert 0 == prune(cache, [])
    grow_old()
    assert 0 == prune(cache, [_digest(published)])
    download(published.result.uri, cache, _digest(published))
    assert 0 == prune(cache, [])
    grow_old()
    assert 1 == prune(cache, [])
    assert [own] == list(cache.iterdir())


def test_leftovers_of_a_killed_loader_are_removed_in_time(published: Publication, tmp_path: Path) -> None:
    """Half an entry is never mistaken for one, and goes after a day."""
    cache = tmp_path / "cache"
    for name, age_s in (("old", 2 * 86400), ("young", 60)):
        (cache / f".partial-{name}").mkdir(parents=True)
        os.utime(cache / f".partial-{name}", (time.time() - age_s,) * 2)
    entry = download(published.result.uri, cache)
    assert {path.name for path in cache.iterdir()} == {entry.name, ".partial-young"}
