"""What GRPO is worth: base, SFT, SFT + GRPO and SFT given the same compute, over several seeds (`make bench-learning`).

Each seed is another simulated enterprise, another training order and another sampling. Per seed and context: one SFT
adapter; GRPO from it; the same adapter trained on by SFT for as many seconds as GRPO took, rollouts and start gate
included. Of the latter the better of start and end is kept, by development-set utility, as GRPO keeps its best. All
arms judge the same held-out alerts. Stopped at any time, the next run goes on where this one was.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))

from tests.benchmarks import arms
from tests.benchmarks.learning_figures import ARMS, BASE, GRPO, MORE, SFT, Part, aggregate, markdown
from tests.benchmarks.ledger import Ledger, keep, require_same_settings, run_with_model
from tests.benchmarks.plans import epochs_for, with_habits

from socadapter_api.case import Case
from socadapter_api.training import EvaluationSpec, GrpoSpec
from socadapter_jobs.data import split
from socadapter_jobs.data.case_files import read_cases, read_trajectories
from socadapter_jobs.scoring import calibration
from socadapter_jobs.scoring.bootstrap import Arm
from socadapter_jobs.scoring.metrics import summarize
from socadapter_jobs.scoring.scored_case import ScoredCase
from socadapter_range.dataset import TELEMETRY_FILE, export
from socadapter_range.vocabulary import CONTEXTS
from socadapter_range.world import World

_SFT_EXPECTED_SHARE = 0.2
_HEADROOM = 0.95
_LEAST_GRPO_S = 60.0
_SECONDS_PER_CASE = 1.0
_DEFAULTS = {
    "summary_percent": 20,
    "grpo_steps": 8,
    "grpo_learning_rate": 6e-4,
    "candidates_per_alert": 3,
    "eval_every": 4,
    "max_development": 96,
}
"""Defaults of this benchmark alone: the summaries and the rate of the samples, and what three seeds have time for."""
EVALUATION = EvaluationSpec()


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="learning.py", description=__doc__)
    found.add_argument("--seeds", type=_numbers, default=[1, 2, 3], help="comma-separated")
    found.add_argument("--contexts", type=lambda text: text.split(","), default=[CONTEXTS[1]], help="comma-separated")
    found.add_argument("--minutes-per-seed", type=float, default=60.0, help="of training, all contexts and arms")
    found.add_argument("--train", type=int, default=1000, help="alerts a context with experts' investigations")
    found.add_argument("--extra-alerts", type=int, default=0, help="alerts that only GRPO sees: verdicts, no experts")
    found.add_argument("--holdout", type=int, default=216, help="held-out alerts a context")
    found.add_argument("--habit-titles", type=int, default=3, help="alert titles whose attacks experts close by habit")
    found.add_argument("--habit-percent", type=float, default=85.0, help="of the attacks under those titles")
    found.add_argument("--out", type=Path, default=Path("build/bench"))
    arms.add_training_options(found)
    arms.add_grpo_options(found)
    found.set_defaults(**_DEFAULTS)
    return found


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


@dataclass(frozen=True, slots=True)
class Unit:
    """One seed and context, and the folder of its results."""

    seed: int
    context: str
    folder: Path

    def task(self, name: str) -> str:
        return f"seed {self.seed} {self.context} {name}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is not finished yet and writes ``learning.json`` and ``learning.md``; 0 where every claim holds."""
    options = parser().parse_args(argv)
    work = options.out / "learning"
    require_same_settings(work / "settings.json", _settings(options))
    bench = arms.Bench.on(options.base, work)
    units = [
        Unit(seed, context, work / f"seed-{seed}" / context) for seed in options.seeds for context in options.contexts
    ]
    ledger = Ledger({task: s for unit in units for task, s in _expected(unit, options).items()})
    result: dict[str, Any] = {}
    parts: list[Part] = []
    for unit in units:
        parts.append(run_unit(bench, unit, options, ledger))
        result = aggregate(parts, EVALUATION.utility, minutes_per_seed=options.minutes_per_seed)
        circumstances = {"settings": _settings(options), "complete": len(parts) == len(units)}
        keep(options.out / "learning.json", result | circumstances)
        (options.out / "learning.md").write_text(markdown(result))
    print(markdown(result))
    return 0 if all(claim["holds"] for claim in result["holds"]) else 1


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What must not change between runs in one folder; seeds and contexts may be added."""
    left_out = {"out", "seeds", "contexts"}
    return {name: value for name, value in vars(options).items() if name not in left_out}


def _budget_s(options: argparse.Namespace) -> float:
    """Seconds of training that one seed and context may take in all."""
    return float(options.minutes_per_seed) * 60.0 / len(options.contexts) * _HEADROOM


def _expected(unit: Unit, options: argparse.Namespace) -> dict[str, float]:
    budget = _budget_s(options)
    rest = (1.0 - _SFT_EXPECTED_SHARE) / 2 * budget
    judged = {f"{arm} on {name}": _SECONDS_PER_CASE * n for arm, name, n in _judgings(options)}
    tasks = {SFT: _SFT_EXPECTED_SHARE * budget, GRPO: rest, MORE: rest, **judged}
    return {unit.task(name): seconds for name, seconds in tasks.items()}


def _judgings(options: argparse.Namespace) -> list[tuple[str, str, int]]:
    held = [(arm, "holdout", options.holdout) for arm in ARMS]
    return [*((arm, "development", options.max_development) for arm in ARMS if arm != BASE), *held]


def run_unit(bench: arms.Bench, unit: Unit, options: argparse.Namespace, ledger: Ledger) -> Part:
    """Trains and judges every arm of one seed and context, as far as that is not done yet."""
    world = unit.folder.parent / "range"
    _export(world, unit.seed, options)
    tools = arms.RangeTools(world / TELEMETRY_FILE)
    ground = _ground(world / unit.context, unit.seed, tools, options)
    training = _train(bench, ground, unit, options, ledger)
    holdout = read_cases(str(world / unit.context / "holdout.jsonl"))
    with arms.Examining(bench, tools.guarded(), arms.grpo_of(options)) as examining:
        found = _judge(unit, ground, holdout, examining, ledger)
    return Part(unit.seed, unit.context, found, training)


def _export(world: Path, seed: int, options: argparse.Namespace) -> None:
    """The seed's enterprise, whole or not at all."""
    if world.exists():
        return
    partial = world.with_name(world.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    export(World(seed), partial, train=options.train, holdout=options.holdout, extra=options.extra_alerts)
    partial.rename(world)


def _ground(folder: Path, seed: int, tools: arms.RangeTools, options: argparse.Namespace) -> arms.Ground:
    cases: tuple[Case, ...] = read_cases(str(folder / "alerts.jsonl"))
    parts = split.split_development(cases, EVALUATION.development_percent, seed, options.max_development)
    own = {case.id for case in parts.kept}
    extra = read_cases(str(folder / "alerts_extra.jsonl")) if options.extra_alerts else ()
    experts = [e for e in read_trajectories(str(folder / "trajectories.jsonl")) if e.case_id in own]
    return arms.Ground(
        train=(*parts.kept, *extra),
        development=parts.held_out,
        experts=with_habits(experts, options.habit_titles, options.habit_percent, seed),
        specs=tools.specs,
        toolbox_of=tools.guarded(),
        lora=arms.lora_of(options),
        seed=seed,
    )


def _train(
    bench: arms.Bench, ground: arms.Ground, unit: Unit, options: argparse.Namespace, ledger: Ledger
) -> dict[str, Any]:
    """The three trained arms, each read back where it is finished."""

    def stage(name: str, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        folder = unit.folder / name
        if (folder / arms.DONE).is_file():
            ledger.skip(unit.task(name))
            return work(folder)
        ledger.begin(unit.task(name))
        facts = work(folder)
        ledger.finish()
        return facts

    sft = arms.sft_of(options)
    start = unit.folder / SFT / arms.ADAPTER_FOLDER
    first = stage(SFT, lambda folder: arms.supervised(bench, ground, folder, sft, report=ledger.at))
    left = max(_LEAST_GRPO_S, (_budget_s(options) - first["seconds"]) / 2)
    grpo: GrpoSpec = arms.grpo_of(options, left)
    second = stage(
        GRPO,
        lambda folder: arms.reinforced(
            bench, ground, folder, grpo, start_from=start, utility=EVALUATION.utility, report=ledger.at
        ),
    )
    longer = arms.sft_of(options, epochs=epochs_for(second["seconds"], first, options.batch_size))
    third = stage(
        MORE,
        lambda folder: arms.supervised(
            bench, ground, folder, longer, start_from=start, limit_s=second["seconds"], report=ledger.at
        ),
    )
    return {SFT: first, GRPO: second, MORE: third}


def _judge(
    unit: Unit, ground: arms.Ground, holdout: Sequence[Case], examining: arms.Examining, ledger: Ledger
) -> dict[str, Arm]:
    adapters = {
        SFT: unit.folder / SFT / arms.ADAPTER_FOLDER,
        GRPO: arms.best_of(unit.folder / GRPO),
        MORE: unit.folder / MORE / arms.ADAPTER_FOLDER,
    }
    twins = {GRPO: SFT} if arms.same_adapter(adapters[GRPO], adapters[SFT]) else {}

    def scored(arm: str, name: str, cases: Sequence[Case]) -> tuple[ScoredCase, ...]:
        path = unit.folder / "scores" / f"{twins.get(arm, arm)}-{name}.json"
        task = unit.task(f"{arm} on {name}")
        if path.is_file():
            ledger.skip(task)
            return arms.judged(examining, arms.Judging(path, cases))
        ledger.begin(task)
        work = arms.Judging(path, cases, None if arm == BASE else arm, adapters.get(arm))
        rows = arms.judged(examining, work, ledger.at)
        ledger.finish()
        return rows

    development = {arm: scored(arm, "development", ground.development) for arm in adapters}
    share = split.attack_share((*ground.train, *ground.development))
    utility = {
        arm: summarize(rows, weights=EVALUATION.utility, attack_share=share).utility or 0.0
        for arm, rows in development.items()
    }
    if utility[SFT] >= utility[MORE]:
        twins[MORE] = SFT
        development[MORE] = development[SFT]
    keep(unit.folder / "selection.json", {"development_utility": utility, "same_as": twins})
    found = {BASE: Arm(scored(BASE, "holdout", holdout))}
    for arm in adapters:
        fitted = calibration.fit(development[arm], EVALUATION.miss_budget, share)
        found[arm] = Arm(scored(arm, "holdout", holdout), fitted)
    return found


if __name__ == "__main__":
    sys.exit(run_with_model(main))
