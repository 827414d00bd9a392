"""Reads a LoRA's safetensors file as untrusted bytes: its header by hand, its values only to see that they are finite.

The format (huggingface/safetensors): eight bytes of header length, a JSON header of ``{name: {dtype, shape,
data_offsets}}``, then the tensors back to back. The checks are stricter than a loader's: no gaps, no repeats, floats
only, names and shapes of a LoRA only. Called by `static_checks`; no tensor is ever built.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from socadapter_api.errors import UnsafeFormat

HEADER_LIMIT_BYTES = 16 * 2**20
_CHUNK_BYTES = 8 * 2**20
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class _Float:
    unsigned: str
    exponent: int


_FLOATS = {
    "F32": _Float("<u4", 0x7F800000),
    "F16": _Float("<u2", 0x7C00),
    "BF16": _Float("<u2", 0x7F80),
}
"""Allowed dtypes, and the bits that are all set in NaN and in the infinities."""

_LORA_NAME = re.compile(r"base_model\.model\.(?P<module>\w+(\.\w+)*)\.lora_(?P<side>[AB])\.weight", re.ASCII)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One entry of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class LoraWeights:
    """What the header says of a LoRA."""

    rank: int
    parameters: int
    modules: tuple[str, ...]
    """Paths inside the base model, such as ``model.layers.0.self_attn.q_proj``."""


def inspect(path: Path, rank: int) -> LoraWeights:
    """Checks the whole file and describes it.

    Raises:
        UnsafeFormat: the file is not a finite LoRA of `rank` in well-formed safetensors.
    """
    with path.open("rb") as file:
        tensors, data_begin = _read_header(file, path)
        _check_offsets(tensors, path.stat().st_size - data_begin, path)
        modules = _check_lora(tensors, rank, path)
        for tensor in tensors:
            _check_finite(file, data_begin, tensor, path)
    parameters = sum(math.prod(tensor.shape) for tensor in tensors)
    return LoraWeights(rank=rank, parameters=parameters, modules=tuple(sorted(modules)))


def _refuse(path: Path, what: str) -> NoReturn:
    raise UnsafeFormat(f"{path}: {what}; this is not a LoRA as SocAdapter writes it, do not load it")


def _read_header(file: BinaryIO, path: Path) -> tuple[list[Tensor], int]:
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    available = path.stat().st_size - 8
    if len(prefix) < 8 or not 2 <= length <= min(available, HEADER_LIMIT_BYTES):
        _refuse(path, f"the header claims {length} bytes of a file of {available + 8}")
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        _refuse(path, f"the header is not JSON ({error})")
    if not isinstance(header, dict):
        _refuse(path, "the header is not a JSON object")
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse(path, f"{_METADATA} is not a map of text")
    tensors = [_parse_tensor(name, entry, path) for name, entry in header.items()]
    if not tensors:
        _refuse(path, "the file holds no tensor")
    return tensors, 8 + length


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dict. Loaders differ in which of two equal keys wins, so neither may."""
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a key occurs twice")
    return entries


def _parse_tensor(name: str, entry: Any, path: Path) -> Tensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"tensor {name!r} has no dtype, shape and data_offsets, or more than these")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _FLOATS:
        _refuse(path, f"tensor {name!r} has dtype {dtype!r}, allowed are {', '.join(_FLOATS)}")
    if not _counts(shape, positive=True) or not _counts(offsets) or len(offsets) != 2:
        _refuse(path, f"tensor {name!r} has shape {shape!r} and offsets {offsets!r}")
    return Tensor(name, dtype, tuple(shape), offsets[0], offsets[1])


def _counts(values: Any, *, positive: bool = False) -> bool:
    least = 1 if positive else 0
    return isinstance(values, list) and all(type(value) is int and value >= least for value in values)


def _check_offsets(tensors: list[Tensor], data_bytes: int, path: Path) -> None:
    """Tensors must lie back to back from the first byte of the data to the last: nothing overlaps, nothing hides."""
    position = 0
    for tensor in sorted(tensors, key=lambda entry: (entry.begin, entry.end)):
        expected = math.prod(tensor.shape) * np.dtype(_FLOATS[tensor.dtype].unsigned).itemsize
        place, right = (tensor.begin, tensor.end), (position, position + expected)
        if place != right:
            _refuse(path, f"tensor {tensor.name!r} lies at {place}, expected {right}")
        position = tensor.end
    if position != data_bytes:
        _refuse(path, f"the tensors cover {position} of {data_bytes} bytes of data")


def _check_lora(tensors: list[Tensor], rank: int, path: Path) -> set[str]:
    """Every tensor is the A or the B of a module, every module has both, and their shapes agree with `rank`."""
    sides: dict[str, set[str]] = {}
    for tensor in tensors:
        match = _LORA_NAME.fullmatch(tensor.name)
        if match is None:
            _refuse(path, f"tensor {tensor.name!r} is not named like a LoRA weight")
        side = match["side"]
        if len(tensor.shape) != 2 or tensor.shape[0 if side == "A" else 1] != rank:
            _refuse(path, f"tensor {tensor.name!r} of shape {list(tensor.shape)} does not have rank {rank}")
        sides.setdefault(match["module"], set()).add(side)
    if halves := sorted(module for module, found in sides.items() if found != {"A", "B"}):
        _refuse(path, f"modules {halves[:3]} have only one of lora_A and lora_B")
    return set(sides)


def _check_finite(file: BinaryIO, data_begin: int, tensor: Tensor, path: Path) -> None:
    float_type = _FLOATS[tensor.dtype]
    file.seek(data_begin + tensor.begin)
    left = tensor.end - tensor.begin
    while left:
        chunk = file.read(min(left, _CHUNK_BYTES))
        if not chunk:
            _refuse(path, f"the file ended inside tensor {tensor.name!r}")
        bits = np.frombuffer(chunk, dtype=float_type.unsigned)
        if bool(((bits & float_type.exponent) == float_type.exponent).any()):
            _refuse(path, f"tensor {tensor.name!r} holds NaN or an infinity")
        left -= len(chunk)
