"""The training hash: it changes with what a run learns, and with nothing else."""

from typing import Any

import pytest

from socadapter_api.adapter import AdapterSpec
from socadapter_api.training import training_hash

BASE = "sha256:" + "0" * 64
SPEC: dict[str, Any] = {
    "context": "cloud",
    "servingPoolRef": {"name": "pool"},
    "data": {"alerts": [{"uri": "alerts.jsonl"}]},
}


def hash_of(changes: dict[str, Any], base: str = BASE) -> str:
    spec = AdapterSpec.model_validate(SPEC | changes)
    return training_hash(spec.data, spec.lora, spec.sft, spec.grpo, base)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"data": {"alerts": [{"uri": "other.jsonl"}]}}, id="data"),
        pytest.param({"lora": {"rank": 4}}, id="lora"),
        pytest.param({"sft": {"epochs": 2}}, id="sft"),
        pytest.param({"grpo": {"reward": {"correct": 2}}}, id="reward"),
    ],
)
def test_learning_changes_it(changes: dict[str, Any]) -> None:
    """What decides the outcome of a run is in the hash."""
    assert hash_of(changes) != hash_of({})


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"rollout": {"steps": [{"weightPercent": 5}]}}, id="rollout"),
        pytest.param({"schedule": {"cron": "0 2 * * *"}}, id="schedule"),
        pytest.param({"evaluation": {"missBudget": 0.1}}, id="evaluation"),
        pytest.param({"compute": {"workers": 2}}, id="compute"),
        pytest.param({"compute": {"image": "train:2", "nodeSelector": {"gpu": "a"}, "queue": "soc"}}, id="pods"),
        pytest.param({"compute": {"podTemplate": {"spec": {"runtimeClassName": "nvidia"}}}}, id="pod template"),
        pytest.param({"compute": {"placement": "Spread", "scratch": {"claimName": "shared"}}}, id="scratch"),
        pytest.param({"suspend": True}, id="suspend"),
        pytest.param({"lora": {"rank": 8}}, id="a default, written out"),
    ],
)
def test_the_rest_does_not(changes: dict[str, Any]) -> None:
    """A change of rollout, schedule, gates or machines never trains."""
    assert hash_of(changes) == hash_of({})


def test_base_changes_it() -> None:
    """Another base is another training."""
    assert hash_of({}, "sha256:" + "1" * 64) != hash_of({})
