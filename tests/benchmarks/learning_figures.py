"""What the learning benchmark's scored cases amount to: figures per arm, paired differences, and what holds.

Pure: scored cases in, numbers, verdicts and a Markdown page out. Called by `learning`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from socadapter_api.manifest import Calibration
from socadapter_api.training import UtilityWeights
from socadapter_jobs.scoring.bootstrap import SAMPLES, Arm, paired_difference
from socadapter_jobs.scoring.figures import Columns, columns
from socadapter_jobs.scoring.metrics import point_figures, wilson

BASE, SFT, GRPO, MORE = "base", "sft", "sft_grpo", "sft_more"
ARMS = (BASE, SFT, GRPO, MORE)
TITLES = {BASE: "base", SFT: "SFT", GRPO: "SFT + GRPO", MORE: "SFT, same compute"}
COMPARED = ("utility", "fnr", "balanced_accuracy", "calls_per_case", "tokens_per_case")
_SHOWN = (
    "utility",
    "utility_of_own_verdict",
    "balanced_accuracy",
    "fnr",
    "auc",
    "calls_per_case",
    "tokens_per_case",
    "loops_per_100",
    "unknown_tools_per_100",
    "invalid_rate",
)

MARGIN = 0.02
SAVING = 0.20
FEW_PER_100 = 2.0
LEAST_CASES_PER_SEED = 200
LEAST_SEEDS = 3


@dataclass(frozen=True, slots=True)
class Part:
    """One seed and context: every arm's judged cases with its calibration, and the facts of its training."""

    seed: int
    context: str
    arms: Mapping[str, Arm]
    training: Mapping[str, Any] = field(default_factory=dict)
    """``sft``, ``sft_grpo`` and ``sft_more``, each with its ``seconds``."""

    @property
    def name(self) -> str:
        return f"seed {self.seed}, {self.context}"

    def named_cases(self) -> "Part":
        """The same with ids that no other part has: worlds of other seeds use the same ids for other cases."""

        def renamed(arm: Arm) -> Arm:
            return Arm(tuple(replace(c, id=f"{self.seed}/{self.context}/{c.id}") for c in arm.cases), arm.calibration)

        return replace(self, arms={name: renamed(arm) for name, arm in self.arms.items()})


def aggregate(
    parts: Sequence[Part], weights: UtilityWeights, *, minutes_per_seed: float, samples: int = SAMPLES
) -> dict[str, Any]:
    """Everything that ``learning.json`` holds about finished parts."""
    named = [part.named_cases() for part in parts]
    arms = {arm: pooled_figures([part.arms[arm] for part in named], weights) for arm in ARMS}
    differences = {
        f"{first} - {second}": compared(
            [p.arms[first] for p in named], [p.arms[second] for p in named], weights, samples
        )
        for first, second in ((GRPO, SFT), (GRPO, MORE), (SFT, BASE))
    }
    counts = cases_per_seed(parts)
    minutes = training_minutes(parts)
    return {
        "seeds": sorted({part.seed for part in parts}),
        "contexts": sorted({part.context for part in parts}),
        "cases_per_seed": {str(seed_): count for seed_, count in counts.items()},
        "training_minutes_per_seed": {str(seed_): count for seed_, count in minutes.items()},
        "arms": arms,
        "differences": differences,
        "holds": held(arms, differences, counts, minutes, minutes_per_seed),
        "parts": [_part_row(part, weights) for part in parts],
    }


def pooled_figures(arms: Sequence[Arm], weights: UtilityWeights) -> dict[str, Any]:
    """Every figure over the cases of all `arms` together, utility also of the model's own verdict."""
    served = _stacked([columns(_used(arm), arm.calibration, weights) for arm in arms])
    own = _stacked([columns(_used(arm), Calibration(), weights) for arm in arms])
    figures: dict[str, Any] = dict(point_figures(served))
    attacks = int(served.attack.sum())
    figures["utility_of_own_verdict"] = point_figures(own)["utility"]
    figures["loops_per_100"] = figures["repeats_per_100"]
    figures["n"] = len(served.attack)
    figures["attacks"] = attacks
    figures["undecidable"] = sum(not case.decidable for arm in arms for case in arm.cases)
    figures["unscorable"] = sum(not case.scorable for arm in arms for case in arm.cases)
    figures["fnr_interval"] = wilson(attacks - int((served.attack * served.called).sum()), attacks)
    return figures


def compared(
    firsts: Sequence[Arm], seconds: Sequence[Arm], weights: UtilityWeights, samples: int
) -> dict[str, dict[str, Any]]:
    """Paired differences of the main figures; of utility also before the escalation threshold."""

    def difference(figure: str, one: Sequence[Arm], other: Sequence[Arm]) -> dict[str, Any]:
        return asdict(paired_difference(one, other, figure, weights=weights, samples=samples))

    own = ([Arm(arm.cases) for arm in firsts], [Arm(arm.cases) for arm in seconds])
    found = {figure: difference(figure, firsts, seconds) for figure in COMPARED}
    return {**found, "utility_of_own_verdict": difference("utility", *own)}


def _used(arm: Arm) -> list[Any]:
    return [case for case in arm.cases if case.decidable and case.scorable]


def _stacked(parts: Sequence[Columns]) -> Columns:
    return Columns(**{c.name: np.concatenate([getattr(part, c.name) for part in parts]) for c in fields(Columns)})


def cases_per_seed(parts: Sequence[Part]) -> dict[int, int]:
    """How many held-out cases of each seed the figures are of."""
    counts: dict[int, int] = {}
    for part in parts:
        counts[part.seed] = counts.get(part.seed, 0) + len(_used(part.arms[SFT]))
    return counts


def training_minutes(parts: Sequence[Part]) -> dict[int, float]:
    """Minutes of training of each seed, all arms and contexts together, rollouts and start gates included."""
    minutes: dict[int, float] = {}
    for part in parts:
        spent = sum(float(facts["seconds"]) for facts in part.training.values()) / 60.0
        minutes[part.seed] = minutes.get(part.seed, 0.0) + spent
    return minutes


def held(
    arms: Mapping[str, Mapping[str, Any]],
    differences: Mapping[str, Mapping[str, Mapping[str, Any]]],
    counts: Mapping[int, int],
    minutes: Mapping[int, float],
    minutes_per_seed: float,
) -> list[dict[str, Any]]:
    """Each claim with what was measured, and whether it holds."""
    over, equal = differences[f"{GRPO} - {SFT}"], differences[f"{GRPO} - {MORE}"]
    wasted = {name: _wasted(arms[name]) for name in ARMS}
    bound = max(FEW_PER_100, wasted[BASE] / 2)
    as_good = _above(equal["utility"]["value"], -MARGIN) and _below(equal["fnr"]["value"], MARGIN)
    saved = {name: _saving(equal[name]) for name in ("calls_per_case", "tokens_per_case")}
    cheaper = min(saved.values()) >= SAVING and _above(equal["balanced_accuracy"]["value"], -MARGIN)
    return [
        _claim(
            "SFT + GRPO over the adapter that it started from: utility up, 95 % interval above 0",
            _above(over["utility"]["low"], 0.0, strictly=True),
            _interval(over["utility"]),
        ),
        _claim("... and no higher FNR", _below(over["fnr"]["value"], 0.0), _interval(over["fnr"])),
        _claim(
            f"SFT + GRPO against equal-compute SFT: not worse by more than {MARGIN} in utility and FNR, or at least "
            f"{SAVING:.0%} fewer tool calls and tokens at equal accuracy",
            as_good or cheaper,
            f"utility {_interval(equal['utility'])}; FNR {_interval(equal['fnr'])}; calls "
            f"{-saved['calls_per_case']:+.0%}, tokens {-saved['tokens_per_case']:+.0%}, balanced accuracy "
            f"{_interval(equal['balanced_accuracy'])}",
        ),
        _claim(
            f"loops and unknown tools per 100 cases: at most half of the base's, or {FEW_PER_100:g}",
            wasted[GRPO] <= bound,
            f"base {wasted[BASE]:.1f}, SFT {wasted[SFT]:.1f}, SFT + GRPO {wasted[GRPO]:.1f}; bound {bound:.1f}",
        ),
        _claim(
            f"at least {LEAST_SEEDS} seeds of at least {LEAST_CASES_PER_SEED} decidable cases",
            len(counts) >= LEAST_SEEDS and min(counts.values()) >= LEAST_CASES_PER_SEED,
            f"{len(counts)}, fewest {min(counts.values())}",
        ),
        _claim(
            f"at most {minutes_per_seed:g} minutes of training a seed",
            max(minutes.values()) <= minutes_per_seed,
            f"most {max(minutes.values()):.1f}",
        ),
    ]


def _claim(text: str, holds: bool, measured: str) -> dict[str, Any]:
    return {"claim": text, "holds": holds, "measured": measured}


def _wasted(figures: Mapping[str, Any]) -> float:
    return float(figures["loops_per_100"] or 0.0) + float(figures["unknown_tools_per_100"] or 0.0)


def _saving(difference: Mapping[str, Any]) -> float:
    """Share by which the first arm's figure is below the second's."""
    first, second = difference["first"], difference["second"]
    return 0.0 if not second or first is None else 1.0 - first / second


def _above(value: float | None, bound: float, *, strictly: bool = False) -> bool:
    return value is not None and (value > bound if strictly else value >= bound - 1e-12)


def _below(value: float | None, bound: float) -> bool:
    return value is not None and value <= bound + 1e-12


def _part_row(part: Part, weights: UtilityWeights) -> dict[str, Any]:
    shown = ("n", "utility", "utility_of_own_verdict", "balanced_accuracy", "fnr", "calls_per_case", "tokens_per_case")
    figures = {arm: pooled_figures([part.arms[arm]], weights) for arm in ARMS}
    return {
        "seed": part.seed,
        "context": part.context,
        "arms": {arm: {name: found[name] for name in shown} for arm, found in figures.items()},
        "training": dict(part.training),
    }


def markdown(result: Mapping[str, Any]) -> str:
    """The result as a page for people."""
    lines = [
        f"Seeds {', '.join(map(str, result['seeds']))}; contexts {', '.join(result['contexts'])}; decidable "
        f"held-out cases a seed {', '.join(str(n) for n in result['cases_per_seed'].values())}; minutes of training a "
        f"seed {', '.join(f'{m:.0f}' for m in result['training_minutes_per_seed'].values())}.",
        "",
        f"| pooled over all seeds | {' | '.join(TITLES[arm] for arm in ARMS)} |",
        f"|---|{'---|' * len(ARMS)}",
    ]
    lines += [
        f"| {name.replace('_', ' ')} | {' | '.join(_number(result['arms'][arm][name]) for arm in ARMS)} |"
        for name in ("n", *_SHOWN)
    ]
    lines += ["", "| paired difference | figure | difference | 95 % interval |", "|---|---|---|---|"]
    for pair, figures in result["differences"].items():
        first, second = (TITLES[arm] for arm in pair.split(" - "))
        lines += [
            f"| {first} minus {second} | {name.replace('_', ' ')} | {_signed(d['value'])} | "
            f"{_signed(d['low'])} to {_signed(d['high'])} |"
            for name, d in figures.items()
        ]
    lines += ["", "| asked for | measured | holds |", "|---|---|---|"]
    lines += [f"| {c['claim']} | {c['measured']} | {'yes' if c['holds'] else 'no'} |" for c in result["holds"]]
    lines += ["", "| part | GRPO | balanced accuracy | utility |", "|---|---|---|---|"]
    for part in result["parts"]:
        outcome = part["training"].get(GRPO, {}).get("outcome", {})
        told = f"{outcome.get('status', '')} {outcome.get('reason', '')}, {outcome.get('steps', 0)} steps".strip()
        cells = [
            ", ".join(f"{TITLES[arm]} {_number(part['arms'][arm][name])}" for arm in ARMS)
            for name in ("balanced_accuracy", "utility")
        ]
        lines.append(f"| seed {part['seed']}, {part['context']} | {told} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def _interval(difference: Mapping[str, Any]) -> str:
    return f"{_signed(difference['value'])} [{_signed(difference['low'])}, {_signed(difference['high'])}]"


def _number(value: float | int | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"
