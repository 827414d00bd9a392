"""Groups of whole investigations: refilled where they teach nothing, blanked where that fails, never split.

The engine is scripted, so that a test decides each trajectory's verdict and outage; everything else is real.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from tests.jobs.scripted import FP, TP, Outage, ScriptedEngine

from socadapter_agent.replay import ReplayToolbox, specs_of_cases
from socadapter_agent.tools import Toolbox
from socadapter_api.case import Case, Verdict
from socadapter_api.training import GrpoSpec, ReplayMiss
from socadapter_jobs.rewards import class_weights
from socadapter_jobs.rollouts import LoopThread
from socadapter_jobs.sampler import CASE_KEY, Group, Sampler

pytestmark = pytest.mark.slow

GROUP = 4


@dataclass
class Sampled:
    """One call of the sampler and what came of it."""

    rows: list[dict[str, Any]]
    groups: list[Group]
    refilled: int
    told: list[tuple[str, int, int]]


Sample = Callable[..., Sampled]


@pytest.fixture
def sample(making: Any) -> Sample:
    """Samples groups for the alerts with the given numbers, out of 12, attacks being the even ones."""
    cases: list[Case] = making.cases(12)
    specs = specs_of_cases(cases)

    def run(
        script: Mapping[int, Verdict | tuple[Verdict, ...]],
        wanted: list[int],
        *,
        refill_rounds: int = 0,
        candidates: int = 1,
        odds: Mapping[int, float] | None = None,
        broken: Callable[[Case], bool] = lambda case: False,
        prompts: list[Any] | None = None,
    ) -> Sampled:
        seen: list[tuple[list[Group], int]] = []
        told: list[tuple[str, int, int]] = []

        def toolbox_of(case: Case) -> Toolbox:
            return Outage(ReplayToolbox(case.evidence, specs, ReplayMiss.NO_DATA), broken(case))

        with LoopThread() as loop:
            sampler = Sampler(
                engine=ScriptedEngine(script, odds or {}),  # type: ignore[arg-type]
                cases=cases,
                spec=GrpoSpec(group_size=GROUP, refill_rounds=refill_rounds, candidates_per_alert=candidates),
                weights=class_weights([case.label for case in cases], True),
                toolbox_of=toolbox_of,
                loop=loop,
                seed=0,
                after=lambda groups, refilled: seen.append((groups, refilled)),
                telling=lambda *at: told.append(at),
            )
            rows = {row["prompt"][0][CASE_KEY]: row["prompt"] for row in sampler.dataset_rows()}
            asked = prompts or [rows[f"c{number}"] for number in wanted for _ in range(GROUP)]
            rows_of = sampler(asked, SimpleNamespace(state=SimpleNamespace(global_step=3)))
        assert 1 == len(seen)
        length = len(asked)
        assert dict.fromkeys(rows_of, length) == {key: len(values) for key, values in rows_of.items()}
        return Sampled([{key: rows_of[key][n] for key in rows_of} for n in range(length)], *seen[0], told)

    return run


def test_rows_carry_what_was_sampled_and_what_it_was_worth(sample: Sample) -> None:
    """Ids, masks and log-probabilities as the engine gave them; one completion per prompt, in the prompts' order."""
    done = sample({0: (TP, TP, FP, FP), 1: (FP, TP, FP, TP)}, [0, 1])
    assert [101, 101, 102, 102, 102, 101, 102, 101] == [row["completion_ids"][-1] for row in done.rows]
    assert {(5, 6, 7)} == {tuple(row["prompt_ids"]) for row in done.rows}
    assert {(1, 0, 1)} == {tuple(row["env_mask"]) for row in done.rows}
    assert {(-0.5, 0.0, -0.5)} == {tuple(row["logprobs"]) for row in done.rows}
    assert [1.25, 1.25, -1, -1, 1.25, -1, 1.25, -1] == pytest.approx([row["trajectory_reward"] for row in done.rows])
    assert 0 == done.refilled


def test_a_group_that_agrees_costs_nothing_and_moves_nothing(sample: Sample) -> None:
    """Without a refill it is blanked: one masked token, no reward."""
    done = sample({0: TP, 2: (TP, FP, TP, FP)}, [0, 2])
    blanks, rows = done.rows[:GROUP], done.rows[GROUP:]
    assert {(1, 1, (0,), None)} == {
        (len(b["prompt_ids"]), len(b["completion_ids"]), tuple(b["env_mask"]), b["trajectory_reward"]) for b in blanks
    }
    assert all(row["trajectory_reward"] is not None for row in rows)


def test_a_group_that_agrees_is_replaced_by_a_fresh_alert(sample: Sample) -> None:
    """Whole groups only, and never by an alert that the step already has."""
    script: dict[int, Verdict | tuple[Verdict, ...]] = dict.fromkeys(range(12), (TP, FP, TP, FP))
    done = sample(script | {0: TP, 1: FP}, [0, 1, 2], refill_rounds=1)
    used = [group.case.id for group in done.groups]
    assert 2 == done.refilled
    assert "c2" == used[2]
    assert not {"c0", "c1"} & set(used)
    assert 3 == len(set(used))
    assert all(len(group.investigations) == GROUP for group in done.groups)
    assert all(row["trajectory_reward"] is not None for row in done.rows)


def test_a_step_tells_how_far_it_is(sample: Sample) -> None:
    """It takes minutes on a small machine."""
    done = sample({0: TP, 1: FP} | dict.fromkeys(range(2, 12), (TP, FP, TP, FP)), [0, 1], candidates=2, refill_rounds=1)
    parts = (("candidates", 4), ("trajectories", 2 * GROUP), ("refill", 2 * GROUP))
    assert [(what, number, of) for what, of in parts for number in range(1, of + 1)] == done.told


def test_refilling_ends(sample: Sample) -> None:
    """Where every alert agrees, the rounds run out, or the alerts do, and the step is blank."""
    for rounds in (1, 3, 16):
        done = sample(dict.fromkeys(range(12), TP), [0, 1], refill_rounds=rounds)
        assert 0 == done.refilled
        assert {None} == {row["trajectory_reward"] for row in done.rows}


def test_an_outage_leaves_the_baseline(sample: Sample) -> None:
    """Trajectories that an outage decided have no reward; alone they make a whole group blank."""
    done = sample({0: (TP, FP, TP, FP)}, [0], broken=lambda case: True)
    assert [False] * GROUP == [i.trajectory.scorable for i in done.groups[0].investigations]
    assert {None} == {row["trajectory_reward"] for row in done.rows}
    assert {(0,)} == {tuple(row["env_mask"]) for row in done.rows}


def test_groups_that_were_split_are_refused(sample: Sample) -> None:
    """A batch that ends inside a group would give a baseline of strangers."""
    prompts = [[{"role": "user", "content": "", CASE_KEY: f"c{n}"}] for n in (0, 0, 0, 0, 1, 1)]
    with pytest.raises(ValueError, match="groups of 4"):
        sample({}, [], prompts=prompts)


def test_the_same_step_is_sampled_alike_again(sample: Sample) -> None:
    """A resumed run refills with the same alerts."""
    script: dict[int, Verdict | tuple[Verdict, ...]] = dict.fromkeys(range(12), (TP, FP, TP, FP))
    first, second = (sample(script | {0: TP, 1: FP}, [0, 1], refill_rounds=1) for _ in range(2))
    assert [g.case.id for g in first.groups] == [g.case.id for g in second.groups]


def test_a_step_is_made_of_the_least_certain_candidates(sample: Sample) -> None:
    """Each candidate is looked at once; those whose right verdict is nearest to even odds are sampled in groups."""
    odds = {n: 0.99 if n % 2 == 0 else 0.01 for n in range(12)} | {4: 0.6, 7: 0.5}  # the others are right, and sure
    script = dict.fromkeys(range(12), (TP, FP, TP, FP))
    done = sample(script, [0, 1], candidates=6, odds=odds)
    assert ["c7", "c4"] == [group.case.id for group in done.groups]
    assert all(len(group.investigations) == GROUP for group in done.groups)


def test_a_sure_mistake_is_no_uncertainty(sample: Sample) -> None:
    """A group that is wrong throughout has no baseline to learn from, just as one that is right throughout."""
    odds = {n: 0.001 if n % 2 == 0 else 0.999 for n in range(12)} | {3: 0.2}
    done = sample(dict.fromkeys(range(12), (TP, FP, TP, FP)), [0], candidates=12, odds=odds)
    assert ["c3"] == [group.case.id for group in done.groups]


def test_a_step_refills_from_its_other_candidates_first(sample: Sample) -> None:
    """The next least certain alert takes a dull group's place."""
    odds = {n: 0.99 if n % 2 == 0 else 0.01 for n in range(12)} | {4: 0.6, 7: 0.5}
    done = sample({4: (TP, FP, TP, FP), 7: FP}, [0], candidates=12, odds=odds, refill_rounds=1)
    assert ["c4"] == [group.case.id for group in done.groups]
    assert 1 == done.refilled


def test_what_an_outage_decided_is_the_last_candidate(sample: Sample) -> None:
    """An investigation that tools failed says nothing about the policy."""
    odds = dict.fromkeys(range(12), 0.9) | {5: 0.5}
    script = dict.fromkeys(range(12), (TP, FP, TP, FP))
    done = sample(script, [0], candidates=12, odds=odds, broken=lambda case: case.id == "c5")
    assert done.groups[0].case.id != "c5"


def test_the_truth_stays_out_of_the_prompts(making: Any) -> None:
    """TRL's data set knows an alert by its id and nothing else."""
    unused: Any = None
    with LoopThread() as loop:
        sampler = Sampler(unused, making.cases(3), GrpoSpec(), {}, unused, loop, 0, unused)
        rows = [{"prompt": [{"role": "user", "content": "", CASE_KEY: f"c{n}"}]} for n in range(3)]
        assert rows == sampler.dataset_rows()
