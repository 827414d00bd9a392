"""`socadapter plan` as a check of what was asked for: its exit code is that of what stands in the way."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result

Call = Callable[..., Result]
Resources = Callable[..., Path]


def test_a_plan_that_can_be_carried_out_is_no_failure(call: Call, resources: Resources, tmp_path: Path) -> None:
    """Exit code 0, the run that would start, and what that run's version cannot be used for."""
    (tmp_path / "alerts.jsonl").touch()
    result = call("plan", "-f", str(resources()))
    assert (0, True) == (result.exit_code, "start run cloud-" in result.output), result.output
    assert "warning: ToolSchemaMismatch pool 'base' names no tools" in result.output


def test_files_follow_one_option(call: Call, resources: Resources, tmp_path: Path) -> None:
    """`-f` takes as many as a shell makes of a pattern; none goes without it, and each must be there."""
    (tmp_path / "alerts.jsonl").touch()
    for document in yaml.safe_load_all(resources().read_text()):
        (tmp_path / f"{document['kind']}.yaml").write_text(yaml.safe_dump(document))
    files = ("SocServingPool.yaml", "SocAdapter.yaml")
    for arguments in (("-f", *files), ("-f", files[0], "-f", files[1]), ("-f", files[0], "--state", "s", files[1])):
        result = call("plan", *arguments)
        assert (0, True) == (result.exit_code, "start run cloud-" in result.output), result.output
    assert (2, True) == ((bare := call("plan", *files)).exit_code, "put -f before" in bare.stderr)
    assert (2, True) == ((gone := call("plan", "-f", files[0], "gone.yaml")).exit_code, "does not exist" in gone.stderr)


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
