"""An evaluation that was interrupted goes on with what it kept, where that answers what is asked now."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from socadapter_api.case import Case
from socadapter_api.trajectory import Trajectory
from socadapter_jobs.evaluation import _investigated
from socadapter_jobs.examiner import Ended, Round
from socadapter_jobs.workspace import Workspace

pytestmark = pytest.mark.slow

DIGESTS = {"candidate": "sha256:a", "champion": "sha256:b"}


@dataclass
class Examining:
    """An examiner without an engine: each investigation names the round that it was asked for in."""

    asked: list[Round] = field(default_factory=list)

    def investigate(self, rounds: Sequence[Round], ended: Ended) -> list[list[Trajectory]]:
        self.asked += rounds
        found = [[Trajectory(version=f"round {len(self.asked)}") for _ in each.cases] for each in rounds]
        for number, trajectories in enumerate(found):
            for index, trajectory in enumerate(trajectories):
                ended(number, index, trajectory)
        return found


@pytest.fixture
def investigated(make_workspace: Callable[..., Workspace], blank_base: Path) -> Callable[..., tuple[bool, set[str]]]:
    """Whether a round had to be asked, and what its investigations name."""
    examining: Any = Examining()

    def run(asked: Round, digests: dict[str, str] = DIGESTS, **edited: Any) -> tuple[bool, set[str]]:
        before = len(examining.asked)
        workspace = make_workspace(blank_base, **edited)
        found = _investigated(workspace, examining, {"arm": asked}, digests, lambda done, of: None)
        return len(examining.asked) > before, {trajectory.version for trajectory in found["arm"]}

    return run


def test_what_was_kept_is_not_asked_again(investigated: Any, making: Any) -> None:
    """The same adapter on the same cases, as far as before."""
    asked = Round(making.cases(3), "champion")
    assert (True, {"round 1"}) == investigated(asked)
    assert (False, {"round 1"}) == investigated(asked)


@pytest.mark.parametrize(
    ("now", "digests"),
    [
        pytest.param(lambda cases: Round(cases, "champion"), {"champion": "sha256:c"}, id="champion"),
        pytest.param(lambda cases: Round(cases, "candidate"), DIGESTS, id="adapter"),
        pytest.param(lambda cases: Round(cases, None), DIGESTS, id="base"),
        pytest.param(lambda cases: Round(cases, "champion", summary=True), DIGESTS, id="summary"),
        pytest.param(lambda cases: Round(cases[:2], "champion"), DIGESTS, id="fewer cases"),
        pytest.param(lambda cases: Round(cases[::-1], "champion"), DIGESTS, id="other order"),
    ],
)
def test_an_answer_to_another_question_is_not_used(
    investigated: Any, making: Any, now: Callable[[list[Case]], Round], digests: dict[str, str]
) -> None:
    """A rollback made another version the champion, or the spec was edited: the arm is asked anew, and kept as that."""
    cases = making.cases(3)
    investigated(Round(cases, "champion"))
    assert (True, {"round 2"}) == investigated(now(cases), digests)
    assert (False, {"round 2"}) == investigated(now(cases), digests)


@pytest.mark.parametrize(
    "edited",
    [
        pytest.param({"grpo": {"max_calls": 3}}, id="calls"),
        pytest.param({"grpo": {"max_turn_tokens": 40}}, id="tokens"),
        pytest.param({"data": {"replay_miss": "Unscorable"}}, id="what was not recorded"),
    ],
)
def test_an_answer_under_other_budgets_is_not_used(investigated: Any, making: Any, edited: dict[str, Any]) -> None:
    """The manifest names the budgets under which its figures hold."""
    asked = Round(making.cases(3), "champion")
    investigated(asked)
    assert (True, {"round 2"}) == investigated(asked, **edited)
