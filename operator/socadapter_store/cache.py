"""Fetches published versions into a local, content-addressed folder, each whole or not at all.

An entry is ``<cache>/<digest hex>-<hash of the run's URI>`` and holds `adapter/`, the manifest and the signature. A
published run never changes, so an entry stays good without asking the store again, and a store outage does not stop a
replica from starting. An entry is trusted no more than the store: `fetch_verified` judges it each time. Called by
serving, by the evaluation of a champion and by the command line.
"""

import contextlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Collection, Sequence
from pathlib import Path

from socadapter_api import digest
from socadapter_api.errors import ArtifactError, DigestMismatch, ForeignFile, ManifestInvalid
from socadapter_api.manifest import AdapterManifest, Outcome
from socadapter_store import layout, static_checks
from socadapter_store.faults import reported
from socadapter_store.run_folder import RunFolder
from socadapter_store.store import Store, sync_folder
from socadapter_store.verify import MANIFEST_LIMIT_BYTES, file_digest, parse_manifest, verify_version

_PARTIAL = ".partial-"
_ABANDONED_S = 24 * 3600.0
_UNUSED_S = 30 * 24 * 3600.0
_ENTRY = re.compile(r"[0-9a-f]{64}-[0-9a-f]{12}")


def download(run_uri: str | Path, cache: Path, expected_digest: str | None = None) -> Path:
    """The local copy of the version that the run at `run_uri` published: ``adapter/``, manifest and signature.

    Checks digests against the manifest, and nothing else: use `fetch_verified` before loading.

    Raises:
        ManifestInvalid: the run has not published a version, or its manifest cannot be read.
        ForeignFile: `adapter/` holds a file that no manifest may list.
        DigestMismatch: the manifest or a file has another digest than expected.
        StoreUnavailable, DiskFull: the store does not answer, or the cache cannot be written.
    """
    if expected_digest is not None:
        present = _entry(cache, expected_digest, run_uri)
        if present.is_dir():
            _note_use(present)
            return present
    store = Store(run_uri)
    manifest = _published_manifest(store, expected_digest)
    entry = _entry(cache, manifest.adapter_digest, run_uri)
    if entry.is_dir():
        return entry
    partial = cache / f"{_PARTIAL}{uuid.uuid4().hex}"
    with reported("write", str(cache)):
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        _drop_abandoned(cache)
        try:
            _fill(partial, store, manifest)
            _settle(partial, entry)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return entry


def fetch_verified(
    run_uri: str | Path,
    cache: Path,
    expected_digest: str,
    public_keys: Sequence[str],
    base_digest: str | None = None,
    max_rank: int | None = None,
) -> tuple[Path, AdapterManifest]:
    """A local copy that passed `verify.verify_version`, and its manifest.

    A copy that was already there and is bad is thrown away and fetched once more, so a damaged cache mends itself. One
    that cannot be read for now is not known to be bad, and stays.
    Raises as `download` and `verify_version`.
    """
    was_present = _entry(cache, expected_digest, run_uri).is_dir()
    path = download(run_uri, cache, expected_digest)
    try:
        return path, verify_version(path, expected_digest, public_keys, base_digest, max_rank)
    except ArtifactError:
        shutil.rmtree(path, ignore_errors=True)
        if not was_present:
            raise
    path = download(run_uri, cache, expected_digest)
    return path, verify_version(path, expected_digest, public_keys, base_digest, max_rank)


def prune(cache: Path, kept: Collection[str]) -> int:
    """Removes entries that nobody took up for a month, but for versions with a digest in `kept`; returns how many.

    Every night brings another version, and the store keeps all of them.
    """
    now, removed = time.time(), 0
    hexes = {one.removeprefix("sha256:") for one in kept}
    if not cache.is_dir():
        return 0
    for entry in cache.iterdir():
        old = _ENTRY.fullmatch(entry.name) and entry.name.partition("-")[0] not in hexes
        if old and now - entry.stat().st_mtime > _UNUSED_S:
            shutil.rmtree(entry, ignore_errors=True)
            removed += 1
    return removed


def _note_use(entry: Path) -> None:
    with contextlib.suppress(OSError):  # a cache that is only read is pruned by whoever fills it
        os.utime(entry)


def _entry(cache: Path, adapter_digest: str, run_uri: str | Path) -> Path:
    origin = digest.of_bytes(str(run_uri).rstrip("/").encode()).removeprefix("sha256:")[:12]
    return cache / f"{adapter_digest.removeprefix('sha256:')}-{origin}"


def _published_manifest(store: Store, expected_digest: str | None) -> AdapterManifest:
    result = RunFolder(store).read_result()
    if result is None or result.outcome is not Outcome.PUBLISHED:
        state = "has not finished" if result is None else f"ended as {result.outcome.value}"
        raise ManifestInvalid(f"run {store.uri} {state}, so it has no version to load")
    data = store.read(layout.MANIFEST, MANIFEST_LIMIT_BYTES)
    if data is None:
        raise ManifestInvalid(f"{store.uri} has no {layout.MANIFEST}")
    manifest = parse_manifest(data, f"{store.uri}/{layout.MANIFEST}")
    for named in (result.digest, expected_digest):
        if named is not None and named != manifest.adapter_digest:
            raise DigestMismatch(f"{store.uri} holds version {manifest.adapter_digest}, expected {named}")
    if foreign := sorted(set(store.list(layout.ADAPTER)) - manifest.files.keys()):
        raise ForeignFile(f"{store.uri}/{layout.ADAPTER} holds {foreign}, which the manifest does not list")
    return manifest


def _fill(partial: Path, store: Store, manifest: AdapterManifest) -> None:
    (partial / layout.ADAPTER).mkdir(parents=True, mode=0o700)
    for path in (layout.MANIFEST, layout.SIGNATURE):
        store.download(path, partial / path, MANIFEST_LIMIT_BYTES)
    for name, expected in manifest.files.items():
        path = layout.adapter_file(name)
        present = store.download(path, partial / path, static_checks.SIZE_LIMITS_BYTES[name])
        actual = file_digest(partial / path) if present else None
        if actual != expected:
            raise DigestMismatch(f"{store.uri}/{path} has digest {actual}, the manifest names {expected}")


def _settle(partial: Path, entry: Path) -> None:
    """Gives a complete download its name. Another process may have been first; its copy is as good."""
    sync_folder(partial / layout.ADAPTER)
    sync_folder(partial)
    try:
        partial.rename(entry)
    except OSError:
        if not entry.is_dir():
            raise
    sync_folder(entry.parent)


def _drop_abandoned(cache: Path) -> None:
    """Removes what a killed process left half-downloaded a day ago or longer."""
    now = time.time()
    with os.scandir(cache) as entries:
        for entry in entries:
            if entry.name.startswith(_PARTIAL) and now - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED_S:
                shutil.rmtree(entry.path, ignore_errors=True)
