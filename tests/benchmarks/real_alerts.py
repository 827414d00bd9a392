"""How an adapter does on real alerts of an organisation that it never saw (`make bench-real-alerts`).

Reads a prepared JSONL of AIT-ADS, ``ait_ads_train.jsonl`` in the folder that ``SOCADAPTER_REAL_DATA`` names, holds out
one organisation in turn, and trains SFT and then GRPO on the others within a time limit. Experts are scripted from the
training organisations' evidence, which the adapter reads through tool calls only. Dates, and how long a recording has
been running, are hidden: they give the label away. Beside it: the cheap baselines, from all training cases.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))

from tests.benchmarks import arms
from tests.benchmarks.ledger import Ledger, keep, kept, require_same_settings, run_with_model
from tests.benchmarks.plans import balanced_over_time, context_of, judged_sample, plan_of
from tests.benchmarks.real_figures import GRPO, SFT, aggregate, figures, markdown

from socadapter_agent.replay import ReplayToolbox, specs_of_cases
from socadapter_agent.tools import GuardedToolbox
from socadapter_api import digest
from socadapter_api.case import Case
from socadapter_api.training import EvaluationSpec, ReplayMiss
from socadapter_api.trajectory import ExpertTrajectory
from socadapter_jobs.data import split
from socadapter_jobs.data.case_files import read_trajectories, write_trajectories
from socadapter_jobs.data.importers.jsonl import JsonlOptions, import_jsonl
from socadapter_jobs.data.scripted_experts import script_all
from socadapter_jobs.scoring.baselines import run_baselines
from socadapter_jobs.scoring.metrics import summarize
from socadapter_jobs.scoring.scored_case import ScoredCase

DATA = "SOCADAPTER_REAL_DATA"
FILE = "ait_ads_train.jsonl"
LAYOUT = JsonlOptions(
    hide=frozenset({"observed_days_so_far"}),
    relative_times=True,
    time_field="alert.last_seen",
    entity_fields=("alert.host",),
)
EVALUATION = EvaluationSpec()
_FOLDERS = {SFT: "sft", GRPO: "sft_grpo"}
_HEADROOM = 0.93
_PROBE_STEPS = 2
_SECONDS_PER_CASE = 1.5


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="real_alerts.py", description=__doc__)
    found.add_argument("--organisations", type=lambda text: text.split(","), default=["harrison", "wheeler"])
    found.add_argument("--minutes", type=float, default=45.0, help="of training for each organisation")
    found.add_argument("--sft-share", type=float, default=0.6, help="of these minutes; the rest is GRPO's")
    found.add_argument("--max-epochs", type=float, default=3.0)
    found.add_argument("--max-judged", type=int, default=400, help="held-out cases of one organisation")
    found.add_argument("--ambiguous", type=int, default=200, help="so many of them with an undecisive title, if any")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--out", type=Path, default=Path("build/bench"))
    arms.add_training_options(found)
    arms.add_grpo_options(found)
    found.set_defaults(max_turn_tokens=64, max_development=48)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is not finished yet; writes ``real_alerts.json`` and ``.md``; 0 where the floors are reached."""
    options = parser().parse_args(argv)
    source = Path(os.environ.get(DATA, "")) / FILE
    if not os.environ.get(DATA) or not source.is_file():
        print(f"skipped: {DATA} names no folder with {FILE} in it; nothing was measured on real alerts")
        return 0
    cases = import_jsonl(str(source), LAYOUT).cases
    work = options.out / "real_alerts"
    settings = _settings(options) | {"data": digest.of_bytes(source.read_bytes())}
    require_same_settings(work / "settings.json", settings)
    bench = arms.Bench.on(options.base, work)
    ledger = Ledger({task: s for name in options.organisations for task, s in _expected(name, options).items()})
    rows = []
    for name in options.organisations:
        rows.append(run_organisation(bench, name, cases, work / name, options, ledger))
        result = aggregate(rows, options.minutes) | {"settings": settings}
        keep(options.out / "real_alerts.json", result | {"complete": len(rows) == len(options.organisations)})
        (options.out / "real_alerts.md").write_text(markdown(result))
    result = aggregate(rows, options.minutes)
    print(markdown(result))
    return 0 if all(claim["holds"] for claim in result["holds"]) else 1


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if name not in {"out", "organisations"}}


def _expected(name: str, options: argparse.Namespace) -> dict[str, float]:
    budget = options.minutes * 60.0 * _HEADROOM
    judging = _SECONDS_PER_CASE * options.max_judged
    return {
        f"{name} {SFT}": options.sft_share * budget,
        f"{name} {GRPO}": (1.0 - options.sft_share) * budget,
        f"{name} {SFT} judged": judging,
        f"{name} {GRPO} judged": judging,
    }


def run_organisation(
    bench: arms.Bench,
    name: str,
    cases: Sequence[Case],
    folder: Path,
    options: argparse.Namespace,
    ledger: Ledger,
) -> dict[str, Any]:
    """Trains without the organisation `name` and judges its alerts."""
    parts = split.hold_out_group(cases, context_of(cases, name))
    train = split.dedupe(parts.kept).cases
    ground = _ground(train, folder, options)
    training = _train(bench, ground, name, folder, options, ledger)
    held = judged_sample(parts.held_out, options.max_judged, options.ambiguous, options.seed)
    scores = _judge(bench, ground, name, folder, held, options, ledger)
    found = {**scores, **run_baselines(train, held)}
    return {
        "organisation": name,
        "training_cases": len(train),
        "learned_from": len(ground.train),
        "held_out": len(parts.held_out),
        "training": training,
        "minutes": sum(facts["seconds"] for facts in training.values()) / 60.0,
        "arms": {arm: figures(summarize(rows, weights=EVALUATION.utility)) for arm, rows in found.items()},
    }


def _ground(train: Sequence[Case], folder: Path, options: argparse.Namespace) -> arms.Ground:
    """All training cases in class balance, with their experts; what the time allows is chosen from them later."""
    parts = split.split_development(train, EVALUATION.development_percent, options.seed, options.max_development)
    chosen = balanced_over_time(parts.kept, len(parts.kept), options.seed)
    specs = specs_of_cases(train)
    return arms.Ground(
        train=chosen,
        development=parts.held_out,
        experts=_experts(parts.kept, chosen, folder / "experts.jsonl", options),
        specs=specs,
        toolbox_of=lambda case: GuardedToolbox(ReplayToolbox(case.evidence, specs, ReplayMiss.NO_DATA)),
        lora=arms.lora_of(options),
        seed=options.seed,
    )


def _experts(
    cases: Sequence[Case], chosen: Sequence[Case], path: Path, options: argparse.Namespace
) -> tuple[ExpertTrajectory, ...]:
    """Scripted investigations of `chosen`, in its order; what to ask is learned from all of `cases`."""
    if not path.is_file():
        scripted, policy = script_all(cases, max_calls=arms.grpo_of(options).max_calls, seed=options.seed)
        print(f"{path.parent.name}: experts ask {', then '.join(policy.tools)}", flush=True)
        write_trajectories(str(path), scripted)
    by_case = {expert.case_id: expert for expert in read_trajectories(str(path))}
    return tuple(by_case[case.id] for case in chosen)


def _train(
    bench: arms.Bench, ground: arms.Ground, name: str, folder: Path, options: argparse.Namespace, ledger: Ledger
) -> dict[str, Any]:
    budget_s = options.minutes * 60.0 * _HEADROOM

    def stage(arm: str, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        path = folder / _FOLDERS[arm]
        if (path / arms.DONE).is_file():
            ledger.skip(f"{name} {arm}")
            return work(path)
        ledger.begin(f"{name} {arm}")
        facts = work(path)
        ledger.finish()
        return facts

    probe = _probe(bench, ground, folder / "probe", options)
    sft_s = options.sft_share * budget_s - probe["seconds"]
    examples, epochs = plan_of(
        sft_s, probe["seconds"] / probe["examples_read"], len(ground.experts), options.max_epochs
    )
    part = _first(ground, examples)
    spec = arms.sft_of(options, epochs=epochs)
    first = stage(SFT, lambda path: arms.supervised(bench, part, path, spec, limit_s=1.1 * sft_s, report=ledger.at))
    rest_s = max(60.0, budget_s - probe["seconds"] - first["seconds"])
    grpo = arms.grpo_of(options, rest_s)
    second = stage(
        GRPO,
        lambda path: arms.reinforced(
            bench,
            part,
            path,
            grpo,
            start_from=folder / _FOLDERS[SFT] / arms.ADAPTER_FOLDER,
            utility=EVALUATION.utility,
            report=ledger.at,
        ),
    )
    return {"probe": probe, SFT: first, GRPO: second}


def _probe(bench: arms.Bench, ground: arms.Ground, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds that a training step takes here, from two that are thrown away; they count as training time."""
    count = _PROBE_STEPS * options.batch_size
    facts = arms.supervised(bench, _first(ground, count), folder, arms.sft_of(options, epochs=1.0))
    return facts | {"examples_read": facts["steps"] * options.batch_size}


def _first(ground: arms.Ground, count: int) -> arms.Ground:
    """The same with the first `count` training cases, which are in random order, classes balanced on average."""
    return arms.Ground(
        train=ground.train[:count],
        development=ground.development,
        experts=ground.experts[:count],
        specs=ground.specs,
        toolbox_of=ground.toolbox_of,
        lora=ground.lora,
        seed=ground.seed,
    )


def _judge(
    bench: arms.Bench,
    ground: arms.Ground,
    name: str,
    folder: Path,
    held: Sequence[Case],
    options: argparse.Namespace,
    ledger: Ledger,
) -> dict[str, tuple[ScoredCase, ...]]:
    adapters = {
        SFT: folder / _FOLDERS[SFT] / arms.ADAPTER_FOLDER,
        GRPO: arms.best_of(folder / _FOLDERS[GRPO]),
    }
    found: dict[str, tuple[ScoredCase, ...]] = {}
    with arms.Examining(bench, ground.toolbox_of, arms.grpo_of(options)) as examining:
        for arm, adapter in adapters.items():
            path = folder / "scores" / f"{_FOLDERS[arm]}.json"
            if kept(path) is not None:
                ledger.skip(f"{name} {arm} judged")
            else:
                ledger.begin(f"{name} {arm} judged")
            found[arm] = arms.judged(examining, arms.Judging(path, held, _FOLDERS[arm], adapter), ledger.at)
            ledger.finish()
    return found


if __name__ == "__main__":
    sys.exit(run_with_model(main))
