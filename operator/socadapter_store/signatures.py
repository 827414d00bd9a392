"""OpenSSF model signatures with an EC P-256 key: who vouches for an adapter and its manifest.

A signature is a detached Sigstore bundle that lists every file with its SHA-256. Key mode needs no network. Which
files are covered is decided here and not by the signature: `adapter/` and ``manifest.json``, nothing else in a run's
folder, no links, no files beside. Called by `verify` and `publication`.
"""

import base64
import binascii
import contextlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import model_signing
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from socadapter_api import digest
from socadapter_api.errors import SecretNotFound, SignatureInvalid
from socadapter_store import layout
from socadapter_store.faults import reported
from socadapter_store.store import write_atomically

PRIVATE_KEY = "signing-key.pem"
PUBLIC_KEY = "signing-key.pub"
_BUNDLE_LIMIT_BYTES = 2**20
_PREDICATE = "https://model_signing/signature/v1.0"

# What a hostile bundle makes the library raise: it parses with pydantic, indexing and attribute access. A signed file
# may be missing; whatever else a file system raises says nothing of the bytes.
_REFUSALS = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
    FileNotFoundError,
    InvalidSignature,
)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Where a key pair lies."""

    private: Path
    public: Path

    def public_pem(self) -> str:
        """The public key as the PEM text that a pool's `trust.publicKeys` takes."""
        return self.public.read_text(encoding="ascii")


def make_key(folder: Path) -> KeyPair:
    """The key pair in `folder`, made if there is none: EC P-256, PEM, the private key readable by its owner only."""
    pair = KeyPair(folder / PRIVATE_KEY, folder / PUBLIC_KEY)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not pair.private.exists():
        with contextlib.suppress(FileExistsError):  # another process was first, its key is as good
            pem = new_private_key().encode("ascii")
            write_atomically(pair.private, lambda file: file.write(pem), mode=0o600, replace=False)
    pair.public.write_text(public_key_of(pair.private), encoding="ascii")
    return pair


def new_private_key() -> str:
    """A new EC P-256 private key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem.decode("ascii")


def public_key_of(private_key: Path) -> str:
    """The public half of a PEM private key, as PEM.

    Raises:
        SecretNotFound: the file is missing, or holds no EC private key.
    """
    try:
        pem = private_key.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise SecretNotFound(f"signing key {private_key} cannot be used: {error}; expected EC P-256 in PEM") from error
    return public_key_of_pem(pem, str(private_key))


def public_key_of_pem(private_key: str, where: str) -> str:
    """The public half of the PEM text of a private key, as PEM; `where` it came from, for the error.

    Raises:
        SecretNotFound: the text is no EC private key.
    """
    try:
        key = serialization.load_pem_private_key(private_key.encode(), None)
    except (ValueError, TypeError) as error:
        raise SecretNotFound(f"signing key {where} cannot be used: {error}; expected EC P-256 in PEM") from error
    public = key.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise SecretNotFound(f"signing key {where} is not an elliptic-curve key; expected EC P-256 in PEM")
    return _pem(public)


def fingerprint(public_key: str) -> str:
    """``sha256:<hex>`` of the public key's DER form, as ``openssl pkey -pubin -outform DER | sha256sum`` prints it.

    Raises:
        SecretNotFound: `public_key` is not the PEM of an elliptic-curve public key.
    """
    der = _load_public(public_key).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return digest.of_bytes(der)


def sign(folder: Path, private_key: Path, to: Path) -> str:
    """Signs ``adapter/`` and ``manifest.json`` of `folder` into the bundle `to`; returns the key's fingerprint.

    Raises:
        SecretNotFound: the key cannot be used.
        SignatureInvalid: the library refused to sign the folder, for a link in it.
    """
    public = public_key_of(private_key)
    config = model_signing.signing.Config().use_elliptic_key_signer(private_key=private_key)
    try:
        config.set_hashing_config(_hashing()).sign(folder, to)
    except ValueError as error:
        raise SignatureInvalid(f"{folder} cannot be signed: {error}") from error
    return fingerprint(public)


def verify(folder: Path, signature: Path, public_keys: Sequence[str]) -> str:
    """The fingerprint of the one of `public_keys` (PEM texts) that signed exactly what `folder` holds.

    Raises:
        SignatureInvalid: unsigned, signed by no trusted key, or a file was changed, added or removed.
        SecretNotFound: one of `public_keys` is not the PEM of an elliptic-curve public key.
        StoreUnavailable, DiskFull: a file cannot be read for now, or there is no room for a temporary one.
    """
    with reported("verify", str(folder)):
        if not signature.is_file() or signature.is_symlink():
            raise SignatureInvalid(f"{folder} is not signed ({signature.name} is missing); publish it again with a key")
        if signature.stat().st_size > _BUNDLE_LIMIT_BYTES:
            raise SignatureInvalid(f"{signature} is too large to be a signature")
        key = _signer(signature, public_keys)
        with tempfile.NamedTemporaryFile("w", suffix=".pub", encoding="ascii") as file:
            file.write(_pem(key))
            file.flush()
            _check(folder, signature, Path(file.name))
    return fingerprint(_pem(key))


def _check(folder: Path, signature: Path, public_key: Path) -> None:
    try:
        config = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        config.set_hashing_config(_hashing()).verify(folder, signature)
        _check_coverage(signature)
    except _REFUSALS as error:
        raise SignatureInvalid(f"{folder} is not what its signature covers: {type(error).__name__}: {error}") from error


def _hashing() -> Any:
    """Every file by SHA-256, links refused, and only what `layout.UNSIGNED` names left out."""
    config = model_signing.hashing.Config().use_file_serialization(hashing_algorithm="sha256", max_workers=1)
    return config.set_ignored_paths(paths=sorted(layout.UNSIGNED), ignore_git_paths=False)


def _signer(signature: Path, public_keys: Sequence[str]) -> ec.EllipticCurvePublicKey:
    """The trusted key that the bundle names. The name is only a hint; the signature is checked with that key after."""
    try:
        hint = json.loads(signature.read_bytes())["verificationMaterial"]["publicKey"]["hint"]
    except _REFUSALS as error:
        raise SignatureInvalid(f"{signature} is not a signature bundle: {type(error).__name__}: {error}") from error
    for text in public_keys:
        key = _load_public(text)
        if digest.of_bytes(_pem(key).encode()) == f"sha256:{hint}":
            return key
    raise SignatureInvalid(
        f"{signature} was made with key {str(hint)[:64]!r}, which is none of the {len(public_keys)} trusted keys;"
        " add its public key to the pool's trust.publicKeys, or publish with a trusted key"
    )


def _check_coverage(signature: Path) -> None:
    """Refuses a genuine signature that leaves out more than ours do: the library takes its list of ignored paths."""
    envelope = json.loads(signature.read_bytes())["dsseEnvelope"]
    try:
        payload = json.loads(base64.b64decode(envelope["payload"]))
    except binascii.Error as error:
        raise ValueError(f"payload is not base64: {error}") from error
    ignored = set(payload["predicate"]["serialization"].get("ignore_paths", ()))
    if payload["predicateType"] != _PREDICATE or not ignored <= layout.UNSIGNED:
        raise ValueError(f"the signature leaves out {sorted(ignored - layout.UNSIGNED)}")
    if layout.MANIFEST not in {resource["name"] for resource in payload["predicate"]["resources"]}:
        raise ValueError(f"the signature does not cover {layout.MANIFEST}")


def _load_public(text: str) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(text.encode())
    except ValueError as error:
        raise SecretNotFound(f"public key {text[:40]!r} is not PEM: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise SecretNotFound(f"public key {text[:40]!r} is not an elliptic-curve key")
    return key


def _pem(key: ec.EllipticCurvePublicKey) -> str:
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem.decode("ascii")
