"""Digests of code and configuration name what made an adapter, and nothing that did not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from socadapter_api.training import RunSpec
from socadapter_jobs.provenance import code_digest, config_digest, public_uri, surroundings

pytestmark = pytest.mark.slow

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


@pytest.mark.parametrize(
    ("uri", "public"),
    [
        pytest.param("/data/who?.jsonl", "/data/who?.jsonl", id="path"),
        pytest.param("s3://soc/alerts/cloud/", "s3://soc/alerts/cloud/", id="bucket"),
        pytest.param("https://h/a.jsonl?X-Amz-Signature=c0ffee", "https://h/a.jsonl", id="presigned"),
        pytest.param("https://ann:hunter2@h:8443/a.jsonl", "https://h:8443/a.jsonl", id="password"),
        pytest.param("https://h?token=a@b/c", "https://h", id="query at once"),
        pytest.param("https://h/ann@b.jsonl", "https://h/ann@b.jsonl", id="at in a path"),
        pytest.param("zip://a.jsonl::https://t@h/a.zip?sig=1", "zip://a.jsonl::https://h/a.zip", id="chain"),
    ],
)
def test_what_lets_a_reader_in_is_left_out_of_a_uri(uri: str, public: str) -> None:
    """User, password and query; the rest says where the data came from."""
    assert public == public_uri(uri)


def test_surroundings_name_the_libraries(make_spec: MakeSpec, blank_base: Path) -> None:
    """Versions, seed, accelerator and how long each stage took; what was not measured is left out."""
    found = surroundings(make_spec(blank_base, seed=3), {"sft": 1.26, "grpo": None}, "none")
    assert {"torch", "transformers", "trl", "peft", "ray"} <= set(found["libraries"])
    assert (3, {"sft": 1.3}, "none") == (found["seed"], found["seconds"], found["accelerator"])
