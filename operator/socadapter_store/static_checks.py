"""What an adapter's folder may hold, checked without loading any of it: known files, no code, a plain LoRA.

Loaders of adapters have executed pickles, imported modules named in configuration and patched the base model. So the
folder is judged before a loader sees it, at publishing and again at loading (`verify`). Digests and signatures are
left to `verify`.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from socadapter_api.errors import ForeignFile, RankTooHigh, UnsafeFormat
from socadapter_store import layout, tensors

SIZE_LIMITS_BYTES: Mapping[str, int] = {
    layout.CONFIG: 2**20,
    layout.MODEL_CARD: 2**20,
    layout.WEIGHTS: 8 * 2**30,
}

_PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".dill", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"})
_ARCHIVE_SUFFIXES = frozenset({".gz", ".h5", ".msgpack", ".tar", ".tgz", ".whl", ".zip"})
_PROGRAM_SUFFIXES = frozenset({".dll", ".exe", ".ipynb", ".py", ".pyc", ".pyd", ".sh", ".so"})
_CODE_SUFFIXES = _PICKLE_SUFFIXES | _ARCHIVE_SUFFIXES | _PROGRAM_SUFFIXES
_PICKLE = re.compile(rb"^\x80[\x00-\x05]")
_CODE_MAGICS = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"\x7fELF", b"MZ", b"#!", b"\x93NUMPY", b"\x89HDF")
_MAX_RANK = 512
_MODULE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What the static checks learned of an adapter."""

    rank: int
    alpha: int
    parameters: int
    size_bytes: int
    target_modules: tuple[str, ...]
    """The last parts of the adapted modules' names, such as ``q_proj``."""


def check_folder(folder: Path, max_rank: int | None = None) -> AdapterFacts:
    """Checks the files of `folder`, an ``adapter/``, and describes the LoRA in it.

    Raises:
        ForeignFile: a file that no adapter has, a folder, a link, or a missing file.
        UnsafeFormat: a pickle, an archive or code by name or content, an oversized file, a configuration that makes a
            loader do more than add a LoRA, or malformed weights.
        RankTooHigh: the rank exceeds `max_rank`.
    """
    sizes = _check_names(folder)
    config = _read_config(folder / layout.CONFIG)
    _check_config(config, folder / layout.CONFIG)
    rank = int(config["r"])
    if max_rank is not None and rank > max_rank:
        raise RankTooHigh(
            f"{folder} has rank {rank}, the pool takes at most {max_rank}; lower lora.rank or raise maxLoraRank"
        )
    weights = tensors.inspect(folder / layout.WEIGHTS, rank)
    _check_targets(config["target_modules"], weights.modules, folder)
    return AdapterFacts(
        rank=rank,
        alpha=int(config["lora_alpha"]),
        parameters=weights.parameters,
        size_bytes=sum(sizes.values()),
        target_modules=tuple(sorted({module.rpartition(".")[2] for module in weights.modules})),
    )


def _check_names(folder: Path) -> dict[str, int]:
    """The sizes of the folder's files, having refused every file that may not be there."""
    if folder.is_symlink() or not folder.is_dir():
        raise ForeignFile(f"{folder} is not a folder of its own; an adapter is a plain folder of files")
    sizes: dict[str, int] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in _CODE_SUFFIXES:
            raise UnsafeFormat(f"{path} is of a kind that can carry code; only safetensors are loaded")
        if path.is_symlink() or not path.is_file() or path.name not in layout.ADAPTER_FILES:
            known = ", ".join(sorted(layout.ADAPTER_FILES))
            raise ForeignFile(f"{path} does not belong in an adapter, which holds {known} as plain files")
        sizes[path.name] = path.stat().st_size
        if sizes[path.name] > SIZE_LIMITS_BYTES[path.name]:
            raise UnsafeFormat(f"{path} has {sizes[path.name]} bytes, the limit is {SIZE_LIMITS_BYTES[path.name]}")
        _check_content(path)
    if missing := sorted({layout.CONFIG, layout.WEIGHTS} - sizes.keys()):
        raise ForeignFile(f"{folder} lacks {', '.join(missing)}; the adapter is incomplete")
    return sizes


def _check_content(path: Path) -> None:
    """Refuses what is code whatever its name says."""
    with path.open("rb") as file:
        start = file.read(16)
    if path.name == layout.WEIGHTS:
        # The first bytes are a length, which may look like anything: JSON must follow, as in no pickle or archive.
        if start[8:9] != b"{":
            raise UnsafeFormat(f"{path} does not start as safetensors do; do not load it")
        return
    if _PICKLE.match(start) or start.startswith(_CODE_MAGICS):
        raise UnsafeFormat(f"{path} holds a pickle, an archive or a program under the name of a text file")
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UnsafeFormat(f"{path} is not text: {error}") from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UnsafeFormat(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise UnsafeFormat(f"{path} is not a JSON object")
    return config


def _is_text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= 2048)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_layers(value: Any) -> bool:
    listed = value if isinstance(value, list) else [value]
    return value is None or all(type(layer) is int and layer >= 0 for layer in listed)


def _is_modules(value: Any) -> bool:
    named = isinstance(value, list) and bool(value)
    return named and all(isinstance(name, str) and _MODULE.fullmatch(name) for name in value)


_ALLOWED: Mapping[str, Callable[[Any], bool]] = {
    "peft_type": lambda value: value == "LORA",
    "task_type": lambda value: value in (None, "CAUSAL_LM"),
    "r": lambda value: _is_count(value) and value <= _MAX_RANK,
    "lora_alpha": _is_count,
    "lora_dropout": lambda value: isinstance(value, int | float) and 0 <= value < 1,
    "target_modules": _is_modules,
    "bias": lambda value: value == "none",
    "inference_mode": lambda value: isinstance(value, bool),
    "init_lora_weights": lambda value: isinstance(value, bool),
    "layers_to_transform": _is_layers,
    "layers_pattern": _is_text,
    "base_model_name_or_path": _is_text,
    "revision": _is_text,
    "peft_version": _is_text,
    "megatron_core": lambda value: value in (None, "megatron.core"),
    "qalora_group_size": _is_count,
}
"""Settings that may say something. Any other must be empty: it may change the base, import code, or be unknown here."""

_REQUIRED = ("peft_type", "r", "lora_alpha", "target_modules")


def _check_config(config: dict[str, Any], path: Path) -> None:
    if missing := [key for key in _REQUIRED if key not in config]:
        raise UnsafeFormat(f"{path} lacks {', '.join(missing)}; this is not a LoRA's configuration")
    for key, value in config.items():
        allowed = _ALLOWED.get(key, _is_empty)
        if not allowed(value):
            raise UnsafeFormat(
                f"{path} sets {key} to {str(value)[:120]!r}; only a plain LoRA is loaded, nothing to import or patch"
            )


def _is_empty(value: Any) -> bool:
    return value is None or value is False or value in ({}, [], "")


def _check_targets(targets: list[str], modules: tuple[str, ...], folder: Path) -> None:
    """Every adapted module must be one that the configuration names, or a loader would silently drop its weights."""
    for module in modules:
        if not any(module == target or module.endswith(f".{target}") for target in targets):
            raise UnsafeFormat(f"{folder} holds weights for {module}, which target_modules does not name")
