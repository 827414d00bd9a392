"""A tool's outage decides nothing for good: it is left out where it is short, and ends the attempt where it is not.

The engine is scripted; which alerts' tools fail, a test decides.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.jobs.scripted import FP, TP, Outage, ScriptedEngine

from socadapter_agent.base_model import BaseModel
from socadapter_agent.replay import ReplayToolbox, specs_of_cases
from socadapter_agent.tools import Toolbox
from socadapter_api.case import Case
from socadapter_api.errors import ToolOutage
from socadapter_api.names import Digest
from socadapter_api.training import GrpoSpec, LoraSpec, ReplayMiss, UtilityWeights
from socadapter_jobs import grpo
from socadapter_jobs.candidates import STATE
from socadapter_jobs.grpo_memory import GrpoMemory
from socadapter_jobs.policy import load_policy
from socadapter_jobs.rollouts import LoopThread
from socadapter_jobs.sampler import Group, Sampler

pytestmark = pytest.mark.slow

GROUP = 4
DEVELOPMENT = 20


@dataclass
class Tools:
    """Recorded evidence, and failures instead of it for those alerts that are `broken` at the time."""

    cases: list[Case]
    broken: Callable[[Case], bool] = lambda case: False
    opened: int = 0

    def of(self, case: Case) -> Toolbox:
        self.opened += 1
        inner = ReplayToolbox(case.evidence, specs_of_cases(self.cases), ReplayMiss.NO_DATA)
        return Outage(inner, self.broken(case))


@dataclass
class Begun:
    """GRPO's stage in one folder, and what its tools do."""

    make: Callable[[], grpo._Stage]
    tools: Tools
    loop: LoopThread
    folder: Path
    spec: GrpoSpec
    numbers: dict[str, int] = field(default_factory=dict)

    def sampled(self, stage: grpo._Stage, cases: list[Case]) -> None:
        """Has the stage see a step of these alerts, whose groups all disagree."""
        seen: list[tuple[list[Group], int]] = []
        engine: Any = ScriptedEngine({self.numbers[case.id]: (TP, FP, TP, FP) for case in cases})
        after: Any = lambda groups, refilled: seen.append((groups, refilled))  # noqa: E731
        sampler = Sampler(engine, cases, self.spec, {}, self.tools.of, self.loop, 0, after)
        groups, refilled = self.loop.run(sampler._sample(cases))
        stage.sampled(1, groups, refilled)


@pytest.fixture
def begun(blank_base: Path, making: Any, tmp_path: Path) -> Iterator[Begun]:
    """The stage of a policy that is always right, on 20 alerts of development."""
    base = BaseModel(str(blank_base), blank_base, Digest(""))
    policy = load_policy(base, LoraSpec(rank=2), dtype=torch.float32, seed=0)
    cases: list[Case] = making.cases(DEVELOPMENT)
    numbers = {case.id: number for number, case in enumerate(cases)}
    tools = Tools(cases)
    unused: Any = None
    spec = GrpoSpec(group_size=GROUP, refill_rounds=0)
    engine: Any = ScriptedEngine(
        {numbers[case.id]: case.label for case in cases},
        {numbers[case.id]: 0.9 if case.is_attack else 0.1 for case in cases},
    )
    with LoopThread() as loop:

        def make() -> grpo._Stage:
            run = grpo.GrpoRun(
                policy=policy,
                tokenizer=unused,
                train=(),
                development=cases,
                spec=spec,
                utility=UtilityWeights(),
                toolbox_of=tools.of,
                folder=tmp_path,
                dtype=torch.float32,
                seed=0,
                max_unscorable_percent=10,
            )
            return grpo._Stage(run, GrpoMemory.load(tmp_path / STATE), tmp_path / STATE, engine, loop)

        yield Begun(make, tools, loop, tmp_path, spec, numbers)


@pytest.mark.parametrize("after", [pytest.param(0, id="scored"), pytest.param(DEVELOPMENT, id="sampled")])
def test_an_outage_at_the_start_refuses_nothing(begun: Begun, after: int) -> None:
    """While the adapter is scored or sampled: the attempt ends, nothing is remembered, and the next one goes on."""
    begun.tools.broken = lambda case: begun.tools.opened > after
    with pytest.raises(ToolOutage, match="a tool failed in 20 of 20 investigations of the start gate"):
        begun.make().start_gate()
    assert not (begun.folder / STATE).exists()
    begun.tools.broken = lambda case: False
    assert begun.make().start_gate() is None


def test_a_tool_that_failed_once_is_no_missing_verdict(begun: Begun) -> None:
    """Within what may be left out the gate judges the others."""
    begun.tools.broken = lambda case: case.id in ("c0", "c1")
    stage = begun.make()
    assert stage.start_gate() is None
    assert (10.0, 100.0) == (
        stage.memory.development[0]["unscorable_percent"],
        stage.memory.development[0]["valid_percent"],
    )


def test_a_step_without_tools_is_not_made(begun: Begun) -> None:
    """Three of four alerts' tools fail: the attempt ends before anything is taken for collapse."""
    begun.tools.broken = lambda case: case.id != "c0"
    stage = begun.make()
    with pytest.raises(ToolOutage, match="12 of 16 investigations of step 1 of GRPO"):
        begun.sampled(stage, begun.tools.cases[:4])
    assert (None, 0) == (stage.memory.stop, len(stage.watch.window))


def test_what_an_outage_took_out_is_no_sign_of_collapse(begun: Begun) -> None:
    """Two of four alerts' tools fail: the groups of the others disagree, and only these are looked at."""
    begun.tools.broken = lambda case: case.id in ("c0", "c1")
    stage = begun.make()
    begun.sampled(stage, begun.tools.cases[:4])
    [signs] = stage.watch.window
    assert (0.0, 2 * GROUP) == (signs.zero_variance, len(signs.verdicts))
    assert len(signs.verdicts) == len(signs.labels) == len(signs.sequences)
    assert (2.0 * GROUP, 0.5) == (stage.latest["unscorable"], stage.latest["accuracy"])
