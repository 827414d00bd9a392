"""Whether a candidate may be published: each gate of the spec, what it measured, and why it passed or not.

No figure means not passed. Non-inferiority asks the bound of the paired 95 % interval, not the point value. Where no
pair differs that interval is a point however few the cases are: such a gate passes, and its result says what so many
cases cannot show. Pure; called by the evaluate stage.
"""

from collections.abc import Sequence

from socadapter_api.errors import DataError
from socadapter_api.manifest import GateResult
from socadapter_api.training import Comparison, Gate, UtilityWeights
from socadapter_jobs.scoring.bootstrap import SAMPLES, Arm, Difference, paired_difference
from socadapter_jobs.scoring.figures import LOWER_IS_BETTER, NAMES
from socadapter_jobs.scoring.metrics import summarize, wilson


def evaluate(
    gates: Sequence[Gate],
    candidate: Arm,
    *,
    champion: Arm | None = None,
    base: Arm | None = None,
    max_unscorable_percent: float = 100.0,
    weights: UtilityWeights | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> tuple[GateResult, ...]:
    """One result per bound of each gate, in the spec's order, after one for unscorable cases where there are too many.

    While a context has no champion the base stands in for it: it is what serves until then.
    """
    weights = weights or UtilityWeights()
    figures = summarize(candidate.cases, calibration=candidate.calibration, weights=weights).flat()
    results = _unscorable(candidate, max_unscorable_percent)
    for gate in gates:
        value = figures.get(NAMES[gate.metric])
        if gate.min is not None or gate.max is not None:
            results.append(_bounded(gate, value))
        if gate.non_inferiority is not None:
            against, named = _reference(gate.non_inferiority, champion, base)
            results.append(_non_inferior(gate, value, candidate, against, named, weights, samples, seed))
    return tuple(results)


def passed(results: Sequence[GateResult]) -> bool:
    """Whether all gates passed; no gate at all passes."""
    return all(result.passed for result in results)


def _unscorable(candidate: Arm, allowed_percent: float) -> list[GateResult]:
    """Nothing within the bound. Left-out cases are not a random draw: a model can ask for what fails."""
    left_out = sum(not case.scorable for case in candidate.cases)
    share = left_out / max(len(candidate.cases), 1)
    if 100 * share <= allowed_percent:
        return []
    message = (
        f"{left_out} of {len(candidate.cases)} cases ended without an answer of a tool that was asked; at most "
        f"{allowed_percent:g} % may. See the investigations in the report for the tool, and mend it"
    )
    rule = f"max {allowed_percent / 100:g}"
    return [GateResult(metric="unscorableRate", rule=rule, value=share, passed=False, message=message)]


def _bounded(gate: Gate, value: float | None) -> GateResult:
    bounds = [f"{name} {bound:g}" for name, bound in (("min", gate.min), ("max", gate.max)) if bound is not None]
    rule = ", ".join(bounds)
    if value is None:
        return _without_figure(gate, rule, "the holdout has no case that defines it")
    low_enough = gate.max is None or value <= gate.max
    high_enough = gate.min is None or value >= gate.min
    return GateResult(
        metric=gate.metric.value,
        rule=rule,
        value=value,
        passed=low_enough and high_enough,
        message=f"{gate.metric.value} is {value:.3f}; asked for {rule}",
    )


def _reference(comparison: Comparison, champion: Arm | None, base: Arm | None) -> tuple[Arm | None, str]:
    if comparison.to == "Base":
        return base, "the base"
    if champion is not None:
        return champion, "the champion"
    return base, "the base (no champion yet)"


def _non_inferior(
    gate: Gate,
    value: float | None,
    candidate: Arm,
    against: Arm | None,
    named: str,
    weights: UtilityWeights,
    samples: int,
    seed: int,
) -> GateResult:
    margin = gate.non_inferiority.margin if gate.non_inferiority else 0.0
    figure = NAMES[gate.metric]
    rule = f"not worse than {named} by more than {margin:g}"
    if against is None:
        return _without_figure(gate, rule, f"{named} was not scored")
    try:
        difference = paired_difference(candidate, against, figure, weights=weights, samples=samples, seed=seed)
    except DataError as error:
        return _without_figure(gate, rule, str(error))
    worst = _worst_case(difference, figure)
    if worst is None or difference.value is None:
        return _without_figure(gate, rule, "the shared cases do not define it for both")
    return GateResult(
        metric=gate.metric.value,
        rule=rule,
        value=value,
        passed=worst <= margin,
        message=(
            f"{gate.metric.value}: {difference.first:.3f} against {difference.second:.3f} of {named}, difference "
            f"{difference.value:+.3f} (95 % {difference.low:+.3f} to {difference.high:+.3f}, {difference.n} cases); "
            f"worse by at most {max(worst, 0.0):.3f}, allowed {margin:g}{_unseen(difference)}"
        ),
    )


def _unseen(difference: Difference) -> str:
    """What the interval does not say where no pair differs; of a plain share, how much worse other alerts may be.

    A bound on the share of pairs that get worse, of which none was seen, would refuse equal arms wherever a holdout is
    smaller than some 4 / margin: the gate stays with the interval and hides nothing.
    """
    if not difference.is_blind:
        return ""
    told = ". No pair differs: the interval is a point and proves nothing of other alerts"
    bound = wilson(0, difference.share_of or 0)
    if bound is None:
        return told
    return f"{told}; after {difference.share_of} alike, up to {bound[1]:.3f} of them may get worse (95 %)"


def _worst_case(difference: Difference, figure: str) -> float | None:
    """By how much the candidate may be worse, at the interval's unfavourable end."""
    if figure in LOWER_IS_BETTER:
        return difference.high
    return None if difference.low is None else -difference.low


def _without_figure(gate: Gate, rule: str, why: str) -> GateResult:
    message = f"no figure for {gate.metric.value}: {why}. No figure is not a pass"
    return GateResult(metric=gate.metric.value, rule=rule, value=None, passed=False, message=message)
