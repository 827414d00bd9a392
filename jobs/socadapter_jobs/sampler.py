"""What GRPO samples: groups of whole investigations per alert, refilled where a group teaches nothing.

The `rollout_func` that TRL calls. Where the spec asks for candidates, each is investigated once and the step is made of
those about which the policy is least certain: a policy that knows most alerts would sample groups that agree. Groups
whose verdicts are all worth the same are replaced by other alerts, within a budget; what still teaches nothing is
blanked, so that it costs no training compute and moves nothing. Trajectories that an outage decided carry no reward and
leave the baseline.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from socadapter_agent.engine import Sampling, TokenRecord
from socadapter_agent.investigation import Investigation
from socadapter_agent.transformers_engine import TransformersEngine
from socadapter_api.case import ANSWERS, Case, Verdict
from socadapter_api.training import GrpoSpec
from socadapter_api.trajectory import Trajectory
from socadapter_jobs.environment import ToolboxOf
from socadapter_jobs.policy import ADAPTER
from socadapter_jobs.rewards import Reward, group_rewards, teaches
from socadapter_jobs.rollouts import LoopThread, Request, budgets_of, investigate_all

CASE_KEY = "case_id"
"""The extra key of a prompt message by which TRL hands an alert's id through to the sampler."""

MIN_SCORABLE = 2
"""A group with fewer scorable trajectories has no baseline."""


@dataclass(frozen=True, slots=True)
class Group:
    """One alert's trajectories and their rewards, in one order."""

    case: Case
    investigations: tuple[Investigation, ...]
    rewards: tuple[Reward | None, ...]

    @property
    def teaches(self) -> bool:
        return teaches(self.rewards) and sum(reward is not None for reward in self.rewards) >= MIN_SCORABLE


@dataclass(slots=True)
class Sampler:
    """Samples groups with the policy as it is now."""

    engine: TransformersEngine
    cases: Sequence[Case]
    spec: GrpoSpec
    weights: dict[Verdict, float]
    toolbox_of: ToolboxOf
    loop: LoopThread
    seed: int
    after: Callable[[list[Group], int], None]
    """Called with a step's final groups and how many were refilled."""
    telling: Callable[[str, int, int], None] = lambda *_: None
    """Told what is sampled, and how many of how many of its investigations have ended."""
    _by_id: dict[str, Case] = field(default_factory=dict)
    _step: int = 0

    def __post_init__(self) -> None:
        self._by_id = {case.id: case for case in self.cases}

    def dataset_rows(self) -> list[dict[str, Any]]:
        """One prompt a case. The text is the sampler's own business: TRL sees only the id."""
        return [{"prompt": [{"role": "user", "content": "", CASE_KEY: case.id}]} for case in self.cases]

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
        """TRL's `rollout_func`: one completion per prompt, groups being runs of equal ids.

        Returns token ids as sampled, ``env_mask`` (1 for the model's tokens) and ``trajectory_reward`` (None where
        nothing is to be learned), all of the length of `prompts`.
        """
        self._step = int(trainer.state.global_step)
        wanted = [self._by_id[key] for key, _ in groupby(prompt[0][CASE_KEY] for prompt in prompts)]
        self.engine.forget()
        groups, refilled = self.loop.run(self._sample(wanted))
        self.after(groups, refilled)
        rows = [row for group in groups for row in self._rows(group)]
        if len(rows) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts do not split into groups of {self.spec.group_size}")
        return {key: [row[key] for row in rows] for key in rows[0]}

    async def _sample(self, wanted: list[Case]) -> tuple[list[Group], int]:
        rng = random.Random(f"{self.seed}:{self._step}:{wanted[0].id}")
        chosen, reserve = await self._chosen(wanted, rng)
        groups = await self._groups(chosen, rng, "trajectories")
        used = {case.id for case in (*chosen, *reserve)}
        refilled = 0
        for _ in range(self.spec.refill_rounds):
            dull = [index for index, group in enumerate(groups) if not group.teaches]
            replacements, reserve = reserve[: len(dull)], reserve[len(dull) :]
            replacements += self._fresh(len(dull) - len(replacements), used, rng)
            if not replacements:
                break
            for index, group in zip(dull, await self._groups(replacements, rng, "refill"), strict=False):
                if group.teaches:
                    groups[index] = group
                    refilled += 1
        return groups, refilled

    def _fresh(self, count: int, used: set[str], rng: random.Random) -> list[Case]:
        """At most `count` alerts that the step has not used, which are used from now on."""
        left = [case for case in self.cases if case.id not in used]
        found = rng.sample(left, min(count, len(left)))
        used |= {case.id for case in found}
        return found

    async def _chosen(self, wanted: list[Case], rng: random.Random) -> tuple[list[Case], list[Case]]:
        """The step's alerts, and what it may refill from: the other candidates, the least certain first."""
        more = (self.spec.candidates_per_alert - 1) * len(wanted)
        if more == 0:
            return wanted, []
        candidates = wanted + self._fresh(more, {case.id for case in wanted}, rng)
        done = await self._investigated(candidates, 0.0, rng, "candidates")
        certain = [_certainty(case, i.trajectory) for case, i in zip(candidates, done, strict=True)]
        order = sorted(range(len(candidates)), key=certain.__getitem__)
        queue = [candidates[index] for index in order]
        return queue[: len(wanted)], queue[len(wanted) :]

    async def _investigated(
        self, cases: list[Case], temperature: float, rng: random.Random, what: str
    ) -> list[Investigation]:
        budgets = budgets_of(self.spec, summary=False)
        requests = [
            Request(case, ADAPTER, Sampling(temperature, stop_at_verdict=True, seed=rng.getrandbits(48)), budgets)
            for case in cases
        ]
        ended = itertools.count(1)
        return await investigate_all(
            requests,
            self.engine,
            self.toolbox_of,
            at_once=len(requests),
            done=lambda *_: self.telling(what, next(ended), len(requests)),
        )

    async def _groups(self, cases: list[Case], rng: random.Random, what: str) -> list[Group]:
        size = self.spec.group_size
        repeated = [case for case in cases for _ in range(size)]
        done = await self._investigated(repeated, self.spec.temperature, rng, what)
        groups = []
        for number, case in enumerate(cases):
            own = tuple(done[number * size : (number + 1) * size])
            weight = self.weights.get(case.label, 1.0)
            rewards = group_rewards(self.spec.reward, case.label, weight, [i.trajectory for i in own])
            groups.append(Group(case, own, tuple(rewards)))
        return groups

    def _rows(self, group: Group) -> Iterator[dict[str, Any]]:
        for investigation, reward in zip(group.investigations, group.rewards, strict=True):
            tokens = investigation.tokens
            if tokens is None:
                raise ValueError("the engine gave no tokens to train on")
            yield _row(tokens, reward.total) if group.teaches and reward and tokens.ids else _blank(tokens)


def _certainty(case: Case, trajectory: Trajectory) -> float:
    """How far from even the odds of the right verdict are, 0 to 0.5; 0 without a verdict, 1 where an outage decided."""
    if not trajectory.scorable:
        return 1.0
    if trajectory.probabilities is None or case.label not in ANSWERS:
        return 0.0
    return abs(trajectory.probabilities[ANSWERS.index(case.label)] - 0.5)


def _row(tokens: TokenRecord, reward: float) -> dict[str, Any]:
    return {
        "prompt_ids": list(tokens.prompt_ids),
        "completion_ids": list(tokens.ids),
        "logprobs": list(tokens.logprobs),
        "env_mask": list(tokens.mask),
        "trajectory_reward": reward,
    }


def _blank(tokens: TokenRecord) -> dict[str, Any]:
    """A row that costs nearly nothing and moves nothing."""
    said = tokens.ids[-1:] or tokens.prompt_ids[-1:]  # nothing, where the alert itself fills the context
    return {
        "prompt_ids": list(tokens.prompt_ids[-1:]),
        "completion_ids": list(said),
        "logprobs": list(tokens.logprobs[-1:] or (0.0,)),
        "env_mask": [0],
        "trajectory_reward": None,
    }
