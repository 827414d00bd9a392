"""Digests of code and configuration name what made an adapter, and nothing that did not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from socadapter_api.training import RunSpec
from socadapter_jobs.provenance import code_digest, config_digest, surroundings

MakeSpec = Callable[..., RunSpec]


def test_the_codes_digest_is_stable() -> None:
    """Equal code, equal digest."""
    assert code_digest() == code_digest()
    assert code_digest().startswith("sha256:")


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"run_id": "cloud-1-b"}, id="run"),
        pytest.param({"store": "/elsewhere"}, id="store"),
        pytest.param({"scratch": "/elsewhere"}, id="scratch"),
        pytest.param({"signing_key": "/elsewhere/key.pem"}, id="key"),
        pytest.param({"trusted_keys": ["-----BEGIN PUBLIC KEY-----"]}, id="trusted keys"),
    ],
)
def test_places_and_names_do_not_change_the_configurations_digest(
    make_spec: MakeSpec, blank_base: Path, changes: dict[str, Any]
) -> None:
    """The same training elsewhere has the same digest."""
    assert config_digest(make_spec(blank_base)) == config_digest(make_spec(blank_base, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"seed": 1}, id="seed"),
        pytest.param({"lora": {"rank": 2}}, id="rank"),
        pytest.param({"grpo": {"reward": {"missed_attack": -2.0}}}, id="reward"),
        pytest.param({"evaluation": {"miss_budget": 0.2}}, id="miss budget"),
    ],
)
def test_what_is_learned_from_changes_it(make_spec: MakeSpec, blank_base: Path, changes: dict[str, Any]) -> None:
    """Every setting that can change an adapter, or its threshold."""
    assert config_digest(make_spec(blank_base)) != config_digest(make_spec(blank_base, **changes))


def test_surroundings_name_the_libraries(make_spec: MakeSpec, blank_base: Path) -> None:
    """Versions, seed, accelerator and how long each stage took; what was not measured is left out."""
    found = surroundings(make_spec(blank_base, seed=3), {"sft": 1.26, "grpo": None}, "none")
    assert {"torch", "transformers", "trl", "peft", "ray"} <= set(found["libraries"])
    assert (3, {"sft": 1.3}, "none") == (found["seed"], found["seconds"], found["accelerator"])
