"""The one judgement on a version's bytes, the same for publishing, serving and ``socadapter verify``.

A version is good when its folder passes the static checks, every file has the digest that the manifest names, the
manifest's digest is the one expected, and a trusted key signed all of it. Fetching the folder is left to `cache`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from socadapter_api import digest, names
from socadapter_api.errors import BaseMismatch, DigestMismatch, ForeignFile, ManifestInvalid
from socadapter_api.manifest import AdapterManifest
from socadapter_store import layout, signatures, static_checks
from socadapter_store.faults import reported

MANIFEST_LIMIT_BYTES = 2**20
_CHUNK_BYTES = 2**20


def verify_version(
    run_folder: Path,
    expected_digest: str | None,
    public_keys: Sequence[str],
    base_digest: str | None = None,
    max_rank: int | None = None,
) -> AdapterManifest:
    """The manifest of the version in the local `run_folder`, after everything about it was checked.

    `expected_digest` None accepts whatever digest a trusted key signed. `public_keys` are PEM texts.

    Raises:
        ForeignFile, UnsafeFormat, RankTooHigh: as `static_checks.check_folder`.
        ManifestInvalid: the manifest cannot be read or contradicts the weights.
        DigestMismatch: a file or the version has another digest.
        SignatureInvalid: as `signatures.verify`.
        BaseMismatch: the adapter was trained on another base than `base_digest`.
        StoreUnavailable, DiskFull: a file cannot be read for now, which says nothing of what it holds.
    """
    manifest = read_manifest(run_folder)
    if expected_digest is not None and manifest.adapter_digest != expected_digest:
        raise DigestMismatch(f"{run_folder} holds {manifest.adapter_digest}, not {expected_digest}; do not load it")
    signatures.verify(run_folder, run_folder / layout.SIGNATURE, public_keys)
    with reported("check", str(run_folder)):
        facts = static_checks.check_folder(run_folder / layout.ADAPTER, max_rank)
        check_digests(run_folder / layout.ADAPTER, manifest)
    if (facts.rank, facts.alpha, facts.parameters) != (manifest.rank, manifest.alpha, manifest.adapter_parameters):
        raise ManifestInvalid(
            f"{run_folder} says rank {manifest.rank}, alpha {manifest.alpha}, {manifest.adapter_parameters} parameters;"
            f" its weights have rank {facts.rank}, alpha {facts.alpha}, {facts.parameters} parameters"
        )
    if base_digest is not None and manifest.base_digest != base_digest:
        raise BaseMismatch(
            f"{manifest.version} was trained on base {manifest.base_digest}, the pool serves {base_digest};"
            " train it again on the pool's base"
        )
    return manifest


def read_manifest(run_folder: Path) -> AdapterManifest:
    """The manifest in the local `run_folder`, unverified.

    Raises:
        ManifestInvalid: it is missing, too large, malformed, or its version name does not follow from its content.
        StoreUnavailable: it cannot be read for now.
    """
    path = run_folder / layout.MANIFEST
    with reported("read", str(path)):
        try:
            if path.stat().st_size > MANIFEST_LIMIT_BYTES:
                raise ManifestInvalid(f"{path} is larger than {MANIFEST_LIMIT_BYTES} bytes")
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise ManifestInvalid(f"{path} cannot be read: {error}") from error
    return parse_manifest(data, str(path))


def parse_manifest(data: bytes, where: str) -> AdapterManifest:
    """`data` as a manifest; raises as `read_manifest`, naming `where`."""
    try:
        manifest = AdapterManifest.model_validate(json.loads(data))
    except (ValidationError, ValueError, RecursionError) as error:
        raise ManifestInvalid(f"{where} is not a manifest: {error}") from error
    if foreign := sorted(manifest.files.keys() - layout.ADAPTER_FILES):
        raise ForeignFile(f"{where} lists {foreign}, which do not belong in an adapter")
    if manifest.adapter_digest != digest.of_files(manifest.files):
        raise ManifestInvalid(f"{where} names digest {manifest.adapter_digest}, which is not that of its files")
    expected = names.version_name(manifest.context, manifest.number, manifest.adapter_digest)
    if manifest.version != expected:
        raise ManifestInvalid(f"{where} is named {manifest.version!r}, its content makes it {expected!r}")
    return manifest


def file_digests(folder: Path) -> dict[str, names.Digest]:
    """The digest of each file directly in the local `folder`, by name."""
    return {path.name: file_digest(path) for path in sorted(folder.iterdir())}


def file_digest(path: Path) -> names.Digest:
    """The digest of the local file `path`, read in pieces."""
    with path.open("rb") as file:
        return digest.of_stream(iter(lambda: file.read(_CHUNK_BYTES), b""))


def check_digests(folder: Path, manifest: AdapterManifest) -> None:
    """Does nothing where the files of `folder`, an ``adapter/``, are those that `manifest` names.

    Raises:
        ForeignFile: there is a file that the manifest does not list.
        DigestMismatch: a file is missing or has another digest.
    """
    found = file_digests(folder)
    if foreign := sorted(found.keys() - manifest.files.keys()):
        raise ForeignFile(f"{folder} holds {foreign}, which its manifest does not list")
    for name, expected in manifest.files.items():
        if found.get(name) != expected:
            raise DigestMismatch(f"{folder / name} has {found.get(name)}, expected {expected}")
