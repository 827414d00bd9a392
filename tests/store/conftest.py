"""A small LoRA on disk, as PEFT writes it, and the fields that a publish stage fills in. Made without torch."""

import contextlib
import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from socadapter_api import digest
from socadapter_api.manifest import Outcome, RunResult
from socadapter_store import layout, signatures

RANK = 4

PEFT_CONFIG: dict[str, Any] = {
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "auto_mapping": None,
    "base_model_name_or_path": "base",
    "bias": "none",
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 8,
    "lora_bias": False,
    "lora_dropout": 0.0,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "peft_version": "0.21.2",
    "qalora_group_size": 16,
    "r": RANK,
    "rank_pattern": {},
    "revision": None,
    "target_modules": ["q_proj", "v_proj"],
    "task_type": "CAUSAL_LM",
    "use_dora": False,
    "use_rslora": False,
}


def lora_tensors(seed: int = 0) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """The weights of a two-layer LoRA over q_proj and v_proj."""
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(2):
        for module, width in (("q_proj", 16), ("v_proj", 8)):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{prefix}.lora_A.weight"] = random.normal(size=(RANK, 16)).astype(np.float32)
            tensors[f"{prefix}.lora_B.weight"] = random.normal(size=(width, RANK)).astype(np.float32)
    return tensors


def write_adapter(folder: Path, seed: int = 0) -> Path:
    """`folder` as an ``adapter/`` that passes every check."""
    folder.mkdir(parents=True)
    save_file(lora_tensors(seed), folder / layout.WEIGHTS, metadata={"format": "pt"})
    (folder / layout.CONFIG).write_text(json.dumps(PEFT_CONFIG, indent=2))
    (folder / layout.MODEL_CARD).write_text("---\nlibrary_name: peft\n---\n# Card\n")
    return folder


def manifest_fields(**changes: Any) -> dict[str, Any]:
    """What a publish stage knows beside the files."""
    fields: dict[str, Any] = {
        "context": "cloud",
        "namespace": "soc",
        "run_id": "cloud-7-a",
        "number": 7,
        "base_uri": "builtin://smollm2-135m-instruct",
        "base_digest": digest.of_bytes(b"base"),
        "base_parameters": 134_515_008,
        "template_digest": digest.of_bytes(b"template"),
        "tools_digest": digest.of_bytes(b"tools"),
        "config_digest": digest.of_bytes(b"config"),
        "code_digest": digest.of_bytes(b"code"),
        "provenance": {"seed": 0},
    }
    return fields | changes


def unfinished_result(**changes: Any) -> RunResult:
    """A run's result before publishing filled in the version."""
    fields: dict[str, Any] = {"run_id": "cloud-7-a", "context": "cloud", "outcome": Outcome.PUBLISHED}
    return RunResult(**(fields | changes))


@contextlib.contextmanager
def without_files() -> Iterator[None]:
    """Within it no file can be opened, as in a process that has too many of them open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def no_files() -> Callable[[], contextlib.AbstractContextManager[None]]:
    return without_files


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "local/adapter")


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> signatures.KeyPair:
    return signatures.make_key(tmp_path_factory.mktemp("key"))


@pytest.fixture
def make_adapter() -> Callable[..., Path]:
    return write_adapter


@pytest.fixture
def fields() -> Callable[..., dict[str, Any]]:
    return manifest_fields


@pytest.fixture
def result() -> Callable[..., RunResult]:
    return unfinished_result
