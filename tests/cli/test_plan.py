"""`socadapter plan` as a check of what was asked for: its exit code is that of what stands in the way."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Call = Callable[..., Result]
Resources = Callable[..., Path]


def test_a_plan_that_can_be_carried_out_is_no_failure(call: Call, resources: Resources, tmp_path: Path) -> None:
    """Exit code 0, and the run that would start."""
    (tmp_path / "alerts.jsonl").touch()
    result = call("plan", "-f", str(resources()))
    assert (0, True) == (result.exit_code, "start run cloud-" in result.output), result.output


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        pytest.param({"schedule": {"cron": "0 2 30 2 *"}}, "InvalidSpec", id="schedule that never fires"),
        pytest.param({"lora": {"rank": 128}}, "RankTooHigh", id="rank above the pool's"),
        pytest.param({"servingPoolRef": {"name": "nowhere"}}, "PoolNotFound", id="no such pool"),
        pytest.param({"data": {}}, "EmptyData", id="no alerts"),
        pytest.param({"compute": {"strategy": "DeepSpeedZero3"}}, "UnsupportedStrategy", id="ZeRO-3"),
    ],
)
def test_a_spec_that_cannot_be_carried_out_is_an_error(
    spec: dict[str, object], reason: str, call: Call, resources: Resources
) -> None:
    """Exit code 2 with the reason, so that a script or a pipeline stops there."""
    result = call("plan", "-f", str(resources(**spec)))
    assert (2, True, False) == (
        result.exit_code,
        f"then Stalled: {reason}" in result.output,
        "start run" in result.output,
    ), result.output


def test_inputs_that_are_not_there_are_told(call: Call, resources: Resources, tmp_path: Path) -> None:
    """Exit code 2 with each file that the run would miss; an address elsewhere is not asked for."""
    (tmp_path / "there.jsonl").touch()
    data = {
        "alerts": [{"uri": "there.jsonl"}, {"uri": "gone.jsonl"}],
        "trajectories": [{"uri": "s3://bucket/experts/"}],
        "holdout": [{"uri": "held/out/"}],
    }
    result = call("plan", "-f", str(resources(data=data)))
    assert (2, 2) == (result.exit_code, result.output.count("error[EmptyData]")), result.output
    for named in ("spec.data.alerts[1].uri", str(tmp_path / "gone.jsonl"), "spec.data.holdout[0].uri"):
        assert named in result.output
