"""What an adapter's folder may hold. Every refusal is made with a file that a loader would otherwise open."""

import json
import math
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from socadapter_api.errors import ArtifactError, ForeignFile, RankTooHigh, UnsafeFormat
from socadapter_store import layout
from socadapter_store.static_checks import AdapterFacts, check_folder

Spoil = Callable[[Path], object]


def test_plain_lora_passes(adapter: Path) -> None:
    """What PEFT writes for a plain LoRA is accepted and described."""
    weights = load_file(adapter / layout.WEIGHTS)
    facts = check_folder(adapter)

    size = sum(path.stat().st_size for path in adapter.iterdir())
    parameters = sum(tensor.size for tensor in weights.values())
    assert facts == AdapterFacts(
        rank=4, alpha=8, parameters=parameters, size_bytes=size, target_modules=("q_proj", "v_proj")
    )


def test_rank_beyond_the_pool_is_refused(adapter: Path) -> None:
    """A pool's limit binds whatever the adapter says."""
    assert check_folder(adapter, max_rank=4).rank == 4
    with pytest.raises(RankTooHigh, match="rank 4, the pool takes at most 3"):
        check_folder(adapter, max_rank=3)


def _add(name: str, data: bytes = b"text") -> Spoil:
    return lambda folder: (folder / name).write_bytes(data)


def _zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / layout.MODEL_CARD, "w") as archive:
        archive.writestr("a", "b")


def _link(name: str, target: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        pytest.param(_add("notes.txt"), ForeignFile, id="unknown file"),
        pytest.param(_add(".hidden"), ForeignFile, id="hidden file"),
        pytest.param(_add(".gitattributes"), ForeignFile, id="git file, which signing tools leave out"),
        pytest.param(_add("adapter_model.safetensors.index.json"), ForeignFile, id="shard index"),
        pytest.param(lambda folder: (folder / "sub").mkdir(), ForeignFile, id="folder"),
        pytest.param(_link("other.json", "/etc/passwd"), ForeignFile, id="link out"),
        pytest.param(_link(layout.WEIGHTS, "README.md"), ForeignFile, id="link inside"),
        pytest.param(_link(layout.MODEL_CARD, "nowhere"), ForeignFile, id="dangling link"),
        pytest.param(lambda folder: (folder / layout.WEIGHTS).unlink(), ForeignFile, id="no weights"),
        pytest.param(lambda folder: (folder / layout.CONFIG).unlink(), ForeignFile, id="no configuration"),
        *(
            pytest.param(_add(f"adapter_model{suffix}"), UnsafeFormat, id=f"{suffix} file")
            for suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".PKL", ".npz", ".py", ".so", ".zip")
        ),
        pytest.param(_add(layout.WEIGHTS, pickle.dumps({"a": 1})), UnsafeFormat, id="pickle named safetensors"),
        pytest.param(_add(layout.CONFIG, pickle.dumps({"a": 1})), UnsafeFormat, id="pickle named json"),
        pytest.param(_add(layout.MODEL_CARD, pickle.dumps([1], protocol=2)), UnsafeFormat, id="pickle named md"),
        pytest.param(_add(layout.MODEL_CARD, b"#!/bin/sh\n"), UnsafeFormat, id="script named md"),
        pytest.param(_add(layout.MODEL_CARD, b"\x7fELF..."), UnsafeFormat, id="program named md"),
        pytest.param(_add(layout.MODEL_CARD, b"caf\xe9"), UnsafeFormat, id="not text"),
        pytest.param(_add(layout.MODEL_CARD, b"x" * (2**20 + 1)), UnsafeFormat, id="oversized text"),
        pytest.param(_zip, UnsafeFormat, id="archive named md"),
        pytest.param(_add(layout.CONFIG, b"{"), UnsafeFormat, id="broken json"),
        pytest.param(_add(layout.CONFIG, b"[]"), UnsafeFormat, id="json that is no object"),
        pytest.param(_add(layout.CONFIG, b"[" * 100_000), UnsafeFormat, id="json nested to exhaust the stack"),
        pytest.param(_add(layout.CONFIG, b"{}"), UnsafeFormat, id="empty configuration"),
    ],
)
def test_foreign_and_unsafe_files_are_refused(spoil: Spoil, error: type[ArtifactError], adapter: Path) -> None:
    """Nothing but three plain, well-formed files may lie in an adapter's folder."""
    spoil(adapter)
    with pytest.raises(error):
        check_folder(adapter)


def test_linked_folder_is_refused(adapter: Path) -> None:
    """The folder itself may not be a link either: it could be pointed elsewhere after the check."""
    link = adapter.with_name("link")
    link.symlink_to(adapter)
    with pytest.raises(ForeignFile):
        check_folder(link)
    with pytest.raises(ForeignFile):
        check_folder(adapter.with_name("missing"))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"auto_mapping": {"parent_library": "os", "base_model_class": "system"}}, id="class to import"),
        pytest.param({"megatron_config": {"a": 1}, "megatron_core": "evil"}, id="module to import"),
        pytest.param({"megatron_core": "evil"}, id="module named"),
        pytest.param({"trust_remote_code": True}, id="remote code"),
        pytest.param({"auto_map": {"AutoModel": "x.Y"}}, id="auto map"),
        pytest.param({"peft_type": "IA3"}, id="not a lora"),
        pytest.param({"task_type": "SEQ_CLS"}, id="other task"),
        pytest.param({"modules_to_save": ["lm_head"]}, id="whole modules replaced"),
        pytest.param({"layer_replication": [[0, 2], [1, 2]]}, id="base layers replicated"),
        pytest.param({"init_lora_weights": "pissa"}, id="base weights changed at loading"),
        pytest.param({"loftq_config": {"loftq_bits": 4}}, id="base weights quantized"),
        pytest.param({"bias": "all"}, id="biases"),
        pytest.param({"use_dora": True}, id="dora"),
        pytest.param({"rank_pattern": {"q_proj": 999}}, id="hidden rank"),
        pytest.param({"target_modules": "(a+)+$"}, id="pattern that backtracks"),
        pytest.param({"target_modules": []}, id="no targets"),
        pytest.param({"target_modules": ["k_proj"]}, id="weights that nobody targets"),
        pytest.param({"r": 8}, id="rank other than the weights'"),
        pytest.param({"r": 0}, id="rank zero"),
        pytest.param({"r": True}, id="rank that is no number"),
        pytest.param({"r": 10**30}, id="enormous rank"),
        pytest.param({"lora_alpha": "8"}, id="alpha as text"),
        pytest.param({"something_new": {"a": "b"}}, id="setting unknown here"),
    ],
)
def test_configuration_that_does_more_than_a_lora_is_refused(change: dict[str, Any], adapter: Path) -> None:
    """A loader obeys the configuration, so it may not import, patch, replace or rename anything."""
    path = adapter / layout.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UnsafeFormat):
        check_folder(adapter)


def _header(adapter: Path) -> tuple[dict[str, Any], bytes]:
    data = (adapter / layout.WEIGHTS).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _write(adapter: Path, header: dict[str, Any] | bytes, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (adapter / layout.WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def _entry(**changes: Any) -> Callable[[dict[str, Any], bytes], tuple[dict[str, Any], bytes]]:
    def spoil(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        header[FIRST] = header[FIRST] | changes
        return header, data

    return spoil


def _renamed(name: str) -> Callable[[dict[str, Any], bytes], tuple[dict[str, Any], bytes]]:
    return lambda header, data: ({(name if key == FIRST else key): value for key, value in header.items()}, data)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda header, data: (header, data + b"PK\x03\x04hidden"), id="bytes after the tensors"),
        pytest.param(lambda header, data: (header, data[:-1]), id="cut off"),
        pytest.param(lambda header, data: ({"__metadata__": {"a": "b"}}, b""), id="no tensor"),
        pytest.param(lambda header, data: (header | {"__metadata__": {"a": 1}}, data), id="metadata not text"),
        pytest.param(lambda header, data: (b"[]", data), id="header no object"),
        pytest.param(lambda header, data: (b"{", data), id="header no json"),
        pytest.param(
            lambda header, data: (json.dumps(header).encode()[:-1] + b', "__metadata__": {}}', data), id="key twice"
        ),
        pytest.param(_entry(dtype="I64"), id="integers"),
        pytest.param(_entry(dtype="F64"), id="another float"),
        pytest.param(_entry(dtype=["F32"]), id="list for a dtype"),
        pytest.param(_entry(dtype={"F32": 4}), id="object for a dtype"),
        pytest.param(_entry(shape=[4, -16]), id="negative dimension"),
        pytest.param(_entry(shape=[4, 0]), id="empty dimension"),
        pytest.param(_entry(shape=[2**40, 2**40]), id="dimensions that overflow"),
        pytest.param(_entry(shape=[16, 4]), id="rank on the wrong side"),
        pytest.param(_entry(shape=[64]), id="vector"),
        pytest.param(_entry(data_offsets=[0, 2**62]), id="offset beyond the file"),
        pytest.param(_entry(data_offsets=[-4, 252]), id="negative offset"),
        pytest.param(_entry(data_offsets=[0]), id="half an offset"),
        pytest.param(_entry(code="import os"), id="extra key in an entry"),
        pytest.param(_renamed("base_model.model.lm_head.weight"), id="base weight"),
        pytest.param(_renamed(FIRST + "\n"), id="name with a line end"),
        pytest.param(_renamed(FIRST.replace("lora_A", "lora_magnitude_vector")), id="dora weight"),
        pytest.param(_renamed(FIRST.replace("q_proj", "k_proj")), id="A without B"),
    ],
)
def test_malformed_weights_are_refused(
    spoil: Callable[[dict[str, Any], bytes], tuple[dict[str, Any] | bytes, bytes]], adapter: Path
) -> None:
    """The header is untrusted: bounds, types, names and shapes are checked before a loader maps the file."""
    _write(adapter, *spoil(*_header(adapter)))
    with pytest.raises(UnsafeFormat):
        check_folder(adapter)


def test_overlapping_tensors_are_refused(adapter: Path) -> None:
    """Two names for the same bytes would let one tensor be checked as another."""
    header, data = _header(adapter)
    other = FIRST.replace("layers.0", "layers.1")
    header[other] = header[other] | {"data_offsets": header[FIRST]["data_offsets"]}
    _write(adapter, header, data)
    with pytest.raises(UnsafeFormat):
        check_folder(adapter)


@pytest.mark.parametrize("length", [0, 1, 2**24 + 1, 2**63, 2**64 - 1])
def test_absurd_header_length_is_refused(length: int, adapter: Path) -> None:
    """The first eight bytes decide how much is read; no value makes the check read or allocate much."""
    data = (adapter / layout.WEIGHTS).read_bytes()
    (adapter / layout.WEIGHTS).write_bytes(struct.pack("<Q", length) + data[8:])
    with pytest.raises(UnsafeFormat):
        check_folder(adapter)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_values_that_are_not_finite_are_refused(value: float, dtype: str, adapter: Path) -> None:
    """One NaN or infinity anywhere, in any allowed precision, is found."""
    _save_as(adapter, dtype, None)
    check_folder(adapter)
    _save_as(adapter, dtype, value)
    with pytest.raises(UnsafeFormat, match="NaN or an infinity"):
        check_folder(adapter)


def _save_as(adapter: Path, dtype: str, value: float | None) -> None:
    """Writes finite weights of `dtype`, the very last element being `value` where one is given."""
    header: dict[str, Any] = {}
    data = bytearray()
    for name, shape in (("A", (4, 16)), ("B", (16, 4))):
        numbers = np.linspace(-1, 1, 64, dtype=np.float32)
        if value is not None and name == "B":
            numbers[-1] = value
        raw = numbers.astype(np.float16).tobytes() if dtype == "F16" else numbers.tobytes()
        if dtype == "BF16":
            raw = (numbers.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        begin = len(data)
        data += raw
        key = FIRST.replace("lora_A", f"lora_{name}")
        header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, len(data)]}
    _write(adapter, header, bytes(data))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_weights_never_crash_the_check(adapter: Path, data: st.DataObject) -> None:
    """Any change to the header's bytes, and any cut, is either harmless or refused; nothing else is raised."""
    path = adapter / layout.WEIGHTS
    good = path.read_bytes()
    damaged = bytearray(good)
    header_end = 8 + struct.unpack("<Q", good[:8])[0]
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, header_end - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)) | st.just(len(good)))
    path.write_bytes(bytes(damaged[:cut]))
    try:
        check_folder(adapter)
    except UnsafeFormat:
        pass
    else:
        assert set(load_file(path)) == set(_header(adapter)[0]) - {"__metadata__"}
    finally:
        path.write_bytes(good)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rank=st.integers(1, 8),
    modules=st.dictionaries(st.sampled_from(["q_proj", "up_proj", "lm_head"]), st.tuples(*[st.integers(1, 9)] * 2)),
)
def test_every_well_formed_lora_passes(adapter: Path, rank: int, modules: dict[str, tuple[int, int]]) -> None:
    """Whatever the shapes, a LoRA that safetensors writes is accepted; the checks are no stricter than they claim."""
    modules = modules or {"q_proj": (3, 5)}
    tensors = {}
    for module, (width_in, width_out) in modules.items():
        tensors[f"base_model.model.m.0.{module}.lora_A.weight"] = np.ones((rank, width_in), np.float32)
        tensors[f"base_model.model.m.0.{module}.lora_B.weight"] = np.zeros((width_out, rank), np.float16)
    save_file(tensors, adapter / layout.WEIGHTS)
    path = adapter / layout.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": rank, "target_modules": sorted(modules)}))
    assert check_folder(adapter).target_modules == tuple(sorted(modules))
