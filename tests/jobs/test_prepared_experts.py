"""Experts' investigations are learned from only where the run's agent could have made them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from socadapter_agent.tools import ToolSpec
from socadapter_api import errors
from socadapter_api.trajectory import ToolCall
from socadapter_jobs import prepare as preparation
from socadapter_jobs.data import case_files
from socadapter_jobs.workspace import Workspace

pytestmark = pytest.mark.slow

MakeWorkspace = Callable[..., Workspace]


@pytest.fixture
def investigations(data: Any, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A run's data with the experts' investigations changed."""

    def change(**changes: Any) -> dict[str, Any]:
        path = str(tmp_path / "changed.jsonl")
        case_files.write_trajectories(path, [expert.model_copy(update=changes) for expert in data.experts])
        return {"trajectories": [{"uri": path}]}

    return change


def test_experts_may_ask_recorded_evidence_as_they_like(
    make_workspace: MakeWorkspace, blank_base: Path, investigations: Callable[..., dict[str, Any]]
) -> None:
    """It answers whatever it is asked with, and a call without an id is cited by its place."""
    calls = (ToolCall(tool="signins", args={"user": "ann", "days": 3}, result="device=known"),)
    workspace = make_workspace(blank_base, data=investigations(calls=calls))
    preparation.prepare(workspace)
    experts = preparation.read_experts(workspace)
    assert [calls] * len(experts) == [expert.calls for expert in experts]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        pytest.param({"tool": "ledger"}, r"'ledger' \(there is no such tool\)", id="unknown tool"),
        pytest.param({"args": {"host": "web"}}, r"'signins' \(missing argument user\)", id="other arguments"),
    ],
)
def test_experts_whose_calls_the_tools_would_refuse_are_refused(
    make_workspace: MakeWorkspace,
    blank_base: Path,
    investigations: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    call: dict[str, Any],
    told: str,
) -> None:
    """SFT would teach what the agent is then refused; the case is named, and so is what the run offers."""
    asking = ToolSpec("signins", "", {"type": "object", "properties": {"user": {}}, "required": ["user"]})
    monkeypatch.setattr(preparation, "offered_tools", lambda *_: (asking,))
    calls = (ToolCall.model_validate({"tool": "signins", "args": {"user": "ann"}, "evidence_id": "e1", **call}),)
    with pytest.raises(errors.ToolSchemaMismatch, match=rf"case 'c\d+' calls {told}; the run offers \['signins'\]"):
        preparation.prepare(make_workspace(blank_base, data=investigations(calls=calls)))


def test_experts_who_cite_what_no_call_returned_are_refused(
    make_workspace: MakeWorkspace, blank_base: Path, investigations: Callable[..., dict[str, Any]]
) -> None:
    """The model would cite what it never saw; what is only odd is told beside what is told of the alerts."""
    with pytest.raises(errors.DataError, match="investigations cite evidence that none of their calls returned"):
        preparation.prepare(make_workspace(blank_base, data=investigations(citations=("e1", "e9"))))
    facts = preparation.prepare(make_workspace(blank_base, data=investigations(citations=())))
    assert ("warning", "no citations") in {(row["severity"], row["name"]) for row in facts["checks"]}
