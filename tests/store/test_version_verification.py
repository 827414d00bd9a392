"""One judgement on a version: every way in which stored bytes can be wrong is found, whoever asks."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from socadapter_api import digest
from socadapter_api.errors import (
    ArtifactError,
    BaseMismatch,
    DigestMismatch,
    ForeignFile,
    ManifestInvalid,
    RankTooHigh,
    SignatureInvalid,
    SocAdapterError,
    StoreUnavailable,
    UnsafeFormat,
)
from socadapter_api.manifest import AdapterManifest, RunResult
from socadapter_store import layout, signatures
from socadapter_store.cache import download
from socadapter_store.publication import publish
from socadapter_store.run_folder import RunFolder
from socadapter_store.signatures import KeyPair
from socadapter_store.verify import file_digests, read_manifest, verify_version


@pytest.fixture
def version(
    adapter: Path,
    key: KeyPair,
    fields: Callable[..., dict[str, Any]],
    result: Callable[..., RunResult],
    tmp_path: Path,
) -> Path:
    """A local copy of a published version."""
    run = RunFolder.at(tmp_path / "store/run")
    publish(adapter.parent, fields(), result(), run, key.private)
    return download(run.uri, tmp_path / "cache")


def _rewrite(run_folder: Path, **changes: Any) -> None:
    path = run_folder / layout.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_good_version_gives_its_manifest(version: Path, key: KeyPair) -> None:
    """With and without a digest to expect; base and rank are checked where the caller names them."""
    manifest = read_manifest(version)
    assert isinstance(manifest, AdapterManifest)
    keys = [key.public_pem()]
    assert verify_version(version, None, keys) == manifest
    assert verify_version(version, manifest.adapter_digest, keys, manifest.base_digest, max_rank=4) == manifest


def test_wrong_expectations_are_named(version: Path, key: KeyPair) -> None:
    """Another digest, another base or a lower rank limit each has its own reason."""
    keys = [key.public_pem()]
    with pytest.raises(DigestMismatch):
        verify_version(version, digest.of_bytes(b"other"), keys)
    with pytest.raises(BaseMismatch, match="train it again"):
        verify_version(version, None, keys, base_digest=digest.of_bytes(b"other"))
    with pytest.raises(RankTooHigh):
        verify_version(version, None, keys, max_rank=2)


@pytest.mark.parametrize(
    ("tamper", "error"),
    [
        pytest.param(lambda run: (run / layout.MANIFEST).unlink(), ManifestInvalid, id="no manifest"),
        pytest.param(lambda run: (run / layout.MANIFEST).write_text("{"), ManifestInvalid, id="broken manifest"),
        pytest.param(lambda run: (run / layout.MANIFEST).write_text("[" * 9999), ManifestInvalid, id="nested manifest"),
        pytest.param(
            lambda run: (run / layout.MANIFEST).write_text(" " * (2**20 + 1)), ManifestInvalid, id="huge manifest"
        ),
        pytest.param(lambda run: _rewrite(run, surprise=1), ManifestInvalid, id="unknown field"),
        pytest.param(lambda run: _rewrite(run, version="cloud-v7-00000000"), ManifestInvalid, id="another's name"),
        pytest.param(lambda run: _rewrite(run, number=8), ManifestInvalid, id="another number"),
        pytest.param(lambda run: _rewrite(run, files={}), ManifestInvalid, id="files not those of the digest"),
        pytest.param(
            lambda run: _rewrite(run, files={"../../x": digest.of_bytes(b"")}), ForeignFile, id="path out of the folder"
        ),
        pytest.param(lambda run: _rewrite(run, metrics={"auc": 1.0}), SignatureInvalid, id="figures improved"),
        pytest.param(
            lambda run: _rewrite(run, calibration={"escalateAt": 0.0}), SignatureInvalid, id="threshold changed"
        ),
        pytest.param(lambda run: (run / layout.SIGNATURE).unlink(), SignatureInvalid, id="unsigned"),
        pytest.param(lambda run: (run / "adapter/x.bin").write_bytes(b""), ArtifactError, id="pickle added"),
        pytest.param(lambda run: shutil.rmtree(run / "adapter"), ArtifactError, id="no adapter"),
    ],
)
def test_tampered_version_is_refused(
    tamper: Callable[[Path], object], error: type[SocAdapterError], version: Path, key: KeyPair
) -> None:
    """Whoever can write to the store or the cache cannot get anything else loaded."""
    expected = read_manifest(version).adapter_digest
    tamper(version)
    with pytest.raises(error):
        verify_version(version, expected, [key.public_pem()])


def test_what_cannot_be_read_for_now_is_not_refused(
    version: Path, key: KeyPair, monkeypatch: pytest.MonkeyPatch, no_files: Callable[[], Any]
) -> None:
    """A machine without a free file, or a disk that fails in the midst of it: tried again, and good then."""

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "bad disk")

    keys = [key.public_pem()]
    with no_files(), pytest.raises(StoreUnavailable, match=r"manifest\.json: .*Too many open files"):
        verify_version(version, None, keys)
    with monkeypatch.context() as patch:
        patch.setattr("socadapter_store.tensors._check_finite", broken)
        with pytest.raises(StoreUnavailable, match="bad disk"):
            verify_version(version, None, keys)
    assert read_manifest(version) == verify_version(version, None, keys)


def _resigned(version: Path, key: KeyPair, **changes: Any) -> None:
    """Makes the manifest consistent with the files and signs it, as a careless but trusted publisher would."""
    manifest = read_manifest(version)
    files = file_digests(version / layout.ADAPTER)
    adapter_digest = digest.of_files(files)
    named = f"{manifest.context}-v{manifest.number}-{adapter_digest[7:15]}"
    fresh = {"files": files, "adapterDigest": adapter_digest, "version": named}
    _rewrite(version, **(fresh | changes))
    signatures.sign(version, key.private, version / layout.SIGNATURE)


def test_trusted_signature_does_not_replace_the_checks(version: Path, key: KeyPair) -> None:
    """Even what a trusted key signed is not loaded when it is unsafe, or not what its manifest says."""
    keys = [key.public_pem()]
    _resigned(version, key)
    verify_version(version, None, keys)

    _resigned(version, key, rank=8)
    with pytest.raises(ManifestInvalid, match="rank 8"):
        verify_version(version, None, keys)

    (version / layout.ADAPTER / layout.CONFIG).write_text('{"peft_type": "LORA", "auto_mapping": {"a": "b"}}')
    _resigned(version, key)
    with pytest.raises(UnsafeFormat):
        verify_version(version, None, keys)


def test_file_that_the_manifest_does_not_list_is_refused(version: Path, key: KeyPair) -> None:
    """A signed file that is allowed by name, but not listed, is foreign all the same."""
    manifest = json.loads((version / layout.MANIFEST).read_text())
    files = {name: value for name, value in manifest["files"].items() if name != layout.MODEL_CARD}
    adapter_digest = digest.of_files(files)
    _rewrite(version, files=files, adapterDigest=adapter_digest, version=f"cloud-v7-{adapter_digest[7:15]}")
    signatures.sign(version, key.private, version / layout.SIGNATURE)
    with pytest.raises(ForeignFile, match=r"README\.md"):
        verify_version(version, None, [key.public_pem()])
