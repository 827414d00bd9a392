"""The models' common manners: strict about keys, camelCase outside, and every rule of a spec enforced."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from socadapter_api.adapter import AdapterSpec, RolloutStep
from socadapter_api.manifest import Progress, Stage
from socadapter_api.model import MESSAGE_MAX_LENGTH
from socadapter_api.pool import PoolSpec
from socadapter_api.training import Gate, LoraSpec, ToolServer

POOL: dict[str, Any] = {"base": {"uri": "model"}, "store": "store"}
ADAPTER: dict[str, Any] = {"context": "cloud", "servingPoolRef": {"name": "pool"}, "data": {}}


@pytest.mark.parametrize(
    ("model", "value", "complaint"),
    [
        pytest.param(PoolSpec, POOL | {"engine": {"kind": "openai"}}, "goes with engine.kind openai", id="no url"),
        pytest.param(PoolSpec, POOL | {"engine": {"url": "http://x"}}, "goes with engine.kind openai", id="idle url"),
        pytest.param(ToolServer, {"name": "t"}, "exactly one of url and command", id="no transport"),
        pytest.param(ToolServer, {"name": "t", "url": "u", "command": ["c"]}, "exactly one", id="two transports"),
        pytest.param(Gate, {"metric": "auc"}, "sets none of min, max, nonInferiority", id="gate without bound"),
        pytest.param(RolloutStep, {}, "exactly one of shadow and weightPercent", id="empty step"),
        pytest.param(
            RolloutStep,
            {"shadow": {}, "weightPercent": 5},
            "exactly one of shadow and weightPercent",
            id="two-way step",
        ),
        pytest.param(LoraSpec, {"targetModules": []}, "at least 1", id="no module"),
        pytest.param(LoraSpec, {"ranks": 8}, "Extra inputs", id="misspelt key"),
        pytest.param(AdapterSpec, ADAPTER | {"context": "Cloud"}, "match pattern", id="context with capitals"),
        pytest.param(AdapterSpec, ADAPTER | {"grpo": {"groupSize": 3}}, "greater than or equal to 4", id="small group"),
        pytest.param(AdapterSpec, ADAPTER | {"sft": {"epochs": float("inf")}}, "finite", id="infinite"),
    ],
)
def test_refuses(model: Any, value: dict[str, Any], complaint: str) -> None:
    """What cannot be meant is refused, with the rule in words."""
    with pytest.raises(ValidationError, match=complaint):
        model.model_validate(value)


def test_outside_names_are_camel_case() -> None:
    """What is written out is what YAML files say, and both spellings are read."""
    written = AdapterSpec.model_validate(ADAPTER).model_dump(mode="json")
    assert "servingPoolRef" in written
    assert "serving_pool_ref" not in written
    assert AdapterSpec.model_validate(written) == AdapterSpec.model_validate(ADAPTER)


@given(text=st.text(max_size=50), times=st.sampled_from([1, 1000]))
def test_long_message_is_cut(text: str, times: int) -> None:
    """A text for people is never refused for its length: it is cut, and shows that it was."""
    message = Progress(stage=Stage.SFT, message=text * times, at=0.0).message
    assert len(message) <= MESSAGE_MAX_LENGTH
    assert message == text * times or message.endswith("…")
