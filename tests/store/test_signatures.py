"""Signatures of the OpenSSF format: what they cover, whom they trust, and that they need no network."""

import base64
import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_signing
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from socadapter_api.errors import SecretNotFound, SignatureInvalid, StoreUnavailable
from socadapter_store import layout, signatures
from socadapter_store.signatures import KeyPair


@pytest.fixture
def signed(adapter: Path, key: KeyPair) -> Path:
    """A run folder with an adapter, a manifest and their signature."""
    (adapter.parent / layout.MANIFEST).write_text('{"a": 1}')
    signatures.sign(adapter.parent, key.private, adapter.parent / layout.SIGNATURE)
    return adapter.parent


def _verify(folder: Path, *public_keys: str) -> str:
    return signatures.verify(folder, folder / layout.SIGNATURE, public_keys)


def test_private_key_is_for_its_owner_and_kept(tmp_path: Path) -> None:
    """The key file is 0600 from its first moment, and asking again gives the same pair."""
    pair = signatures.make_key(tmp_path / "secrets")
    assert stat.S_IMODE(pair.private.stat().st_mode) == 0o600
    private = pair.private.read_bytes()

    assert signatures.make_key(tmp_path / "secrets") == pair
    assert pair.private.read_bytes() == private
    key = serialization.load_pem_private_key(private, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp256r1"


@pytest.mark.parametrize("links", [True, False])
def test_a_key_is_whole_or_not_there(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of one, from a disk that was full, would stand in the way of every later start."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    def without(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space left"):
            signatures.make_key(tmp_path)
    assert [] == list(tmp_path.iterdir())
    if not links:
        monkeypatch.setattr(os, "link", without)
    pair = signatures.make_key(tmp_path)
    assert {pair.private, pair.public} == set(tmp_path.iterdir())
    assert stat.S_IMODE(pair.private.stat().st_mode) == 0o600


def test_signer_is_named_among_several_trusted_keys(signed: Path, key: KeyPair, tmp_path: Path) -> None:
    """Keys can be rotated: any trusted one will do, and the answer says which it was."""
    other = signatures.make_key(tmp_path / "other")
    expected = signatures.fingerprint(key.public_pem())
    assert _verify(signed, other.public_pem(), key.public_pem()) == expected
    assert expected.startswith("sha256:")


def test_run_files_beside_the_adapter_need_no_signature(signed: Path, key: KeyPair) -> None:
    """Progress, stage markers, evidence and result change after signing and are not part of what is vouched for."""
    (signed / layout.STAGES).mkdir()
    for name in (layout.PROGRESS, layout.RESULT, layout.SUCCESS, layout.EVALUATION, layout.REPORT, "stages/sft.json"):
        (signed / name).write_text("{}")
    assert _verify(signed, key.public_pem())


@pytest.mark.parametrize(
    "tamper",
    [
        pytest.param(lambda run: (run / layout.SIGNATURE).unlink(), id="unsigned"),
        pytest.param(lambda run: (run / layout.SIGNATURE).write_bytes(b""), id="empty signature"),
        pytest.param(lambda run: (run / layout.SIGNATURE).write_bytes(b"[" * 9999), id="nested signature"),
        pytest.param(lambda run: (run / layout.SIGNATURE).write_bytes(b" " * (2**20 + 1)), id="huge signature"),
        pytest.param(lambda run: (run / layout.SIGNATURE).write_text("{}"), id="signature without content"),
        pytest.param(lambda run: (run / layout.MANIFEST).write_text('{"a": 2}'), id="manifest changed"),
        pytest.param(lambda run: (run / layout.MANIFEST).unlink(), id="manifest removed"),
        pytest.param(lambda run: (run / "adapter" / layout.CONFIG).write_text("{}"), id="configuration changed"),
        pytest.param(lambda run: (run / "adapter" / layout.MODEL_CARD).unlink(), id="file removed"),
        pytest.param(lambda run: (run / "adapter/extra").write_text("x"), id="file added to the adapter"),
        pytest.param(lambda run: (run / "adapter/.gitattributes").write_text("x"), id="git file added"),
        pytest.param(lambda run: (run / ".gitattributes").write_text("x"), id="git file added beside"),
        pytest.param(lambda run: (run / "extra.py").write_text("x"), id="file added beside"),
        pytest.param(lambda run: (run / "adapter/progress.json").write_text("x"), id="unsigned name in the adapter"),
        pytest.param(lambda run: (run / "adapter/link").symlink_to("/etc/passwd"), id="link added"),
    ],
)
def test_anything_but_the_signed_files_is_refused(tamper: Callable[[Path], object], signed: Path, key: KeyPair) -> None:
    """A file changed, removed or added, and a signature missing or broken, all end the same way."""
    tamper(signed)
    with pytest.raises(SignatureInvalid):
        _verify(signed, key.public_pem())


def test_a_full_machine_is_no_bad_signature(
    signed: Path, key: KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_files: Callable[[], Any]
) -> None:
    """Too many open files, or no place for a temporary one: the same may be asked again, and is then answered."""
    public = key.public_pem()
    with no_files(), pytest.raises(StoreUnavailable, match="Too many open files"):
        _verify(signed, public)
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
        with pytest.raises(StoreUnavailable, match="gone"):
            _verify(signed, public)
    assert _verify(signed, public)


def test_untrusted_key_is_refused(signed: Path, tmp_path: Path) -> None:
    """A genuine signature by anyone else is worth nothing, nor is any where nobody is trusted."""
    other = signatures.make_key(tmp_path / "other")
    with pytest.raises(SignatureInvalid, match="none of the 1 trusted keys"):
        _verify(signed, other.public_pem())
    with pytest.raises(SignatureInvalid, match="none of the 0 trusted keys"):
        _verify(signed)


def test_signature_that_names_a_trusted_key_but_is_not_by_it_is_refused(
    signed: Path, key: KeyPair, tmp_path: Path
) -> None:
    """The key that a bundle names is a hint only."""
    path = signed / layout.SIGNATURE
    genuine = json.loads(path.read_text())
    signatures.sign(signed, signatures.make_key(tmp_path / "other").private, path)
    forged = json.loads(path.read_text()) | {"verificationMaterial": genuine["verificationMaterial"]}
    path.write_text(json.dumps(forged))
    with pytest.raises(SignatureInvalid):
        _verify(signed, key.public_pem())


def test_signature_over_less_than_the_whole_is_refused(signed: Path, key: KeyPair) -> None:
    """A trusted signature made by another tool with `adapter/` left out does not cover an adapter."""
    hashing = model_signing.hashing.Config().set_ignored_paths(paths=["adapter", layout.SIGNATURE])
    config = model_signing.signing.Config().use_elliptic_key_signer(private_key=key.private)
    config.set_hashing_config(hashing).sign(signed, signed / layout.SIGNATURE)
    with pytest.raises(SignatureInvalid):
        _verify(signed, key.public_pem())


def test_signature_of_another_folder_is_refused(signed: Path, key: KeyPair, tmp_path: Path) -> None:
    """A signature cannot be moved to other content."""
    other = tmp_path / "other"
    (other / "adapter").mkdir(parents=True)
    (other / layout.MANIFEST).write_text("{}")
    (other / layout.SIGNATURE).write_bytes((signed / layout.SIGNATURE).read_bytes())
    with pytest.raises(SignatureInvalid):
        _verify(other, key.public_pem())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_change_to_the_bundle_changes_what_it_vouches_for(signed: Path, key: KeyPair, data: st.DataObject) -> None:
    """Any damaged byte is refused or is no part of payload and signature, and raises nothing unexpected."""
    path = signed / layout.SIGNATURE
    good = path.read_bytes()
    damaged = bytearray(good)
    damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(damaged))
    try:
        _verify(signed, key.public_pem())
    except SignatureInvalid:
        pass
    else:
        before, after = (json.loads(text)["dsseEnvelope"] for text in (good, damaged))
        assert base64.b64decode(before["payload"]) == base64.b64decode(after["payload"])
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize(
    "pem",
    [
        pytest.param("", id="empty"),
        pytest.param("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", id="garbage"),
        pytest.param(
            ed25519.Ed25519PrivateKey.generate()
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode(),
            id="another kind of key",
        ),
    ],
)
def test_trust_that_is_no_key_is_named(pem: str, signed: Path) -> None:
    """A pool with a broken trust list fails closed and says which key is at fault."""
    with pytest.raises(SecretNotFound, match="public key"):
        _verify(signed, pem)


def test_public_tool_verifies_our_signature(signed: Path, key: KeyPair) -> None:
    """Anyone can check a version with the library's own command, given the public key."""
    command = [sys.executable, "-m", "model_signing", "verify", "key", "--signature", signed / layout.SIGNATURE]
    done = subprocess.run(
        [*map(str, command), "--public_key", str(key.public), str(signed)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


_OFFLINE = """
import sys
from pathlib import Path

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise SystemExit(f"{event} {arguments}")

sys.addaudithook(refuse)
from socadapter_store import layout, signatures

folder, private, public = map(Path, sys.argv[1:])
signatures.sign(folder, private, folder / layout.SIGNATURE)
print(signatures.verify(folder, folder / layout.SIGNATURE, [public.read_text()]))
"""


def test_signing_and_verifying_open_no_connection(signed: Path, key: KeyPair) -> None:
    """Key mode asks no transparency log, no time stamp and no trust root."""
    done = subprocess.run(
        [sys.executable, "-c", _OFFLINE, str(signed), str(key.private), str(key.public)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == signatures.fingerprint(key.public_pem())
