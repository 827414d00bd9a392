"""Which cases a benchmark learns from and judges, and for how long it learns. Pure and seeded.

Called by `learning` and `real_alerts`.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from socadapter_api.case import Case, Verdict
from socadapter_api.errors import EmptyData
from socadapter_api.trajectory import ExpertTrajectory
from socadapter_jobs.data import split

_HABIT = "This alert is noise here."


def epochs_for(seconds: float, first: Mapping[str, Any], batch_size: int) -> float:
    """How many epochs fit into `seconds` at the pace of the arm `first`; at least one step, at most 100 epochs.

    The learning rate falls to zero over these epochs, so that the time limit should only trim what the pace misjudged.
    """
    steps = max(1.0, seconds / (first["seconds"] / first["steps"]))
    return float(min(100.0, steps * batch_size / first["examples"]))


def plan_of(seconds: float, seconds_per_example: float, available: int, max_epochs: float) -> tuple[int, float]:
    """How many examples to learn from and how many epochs, so that SFT takes about `seconds`."""
    readings = max(1.0, seconds / seconds_per_example)
    examples = max(1, min(available, int(readings)))
    return examples, round(min(max_epochs, max(1.0, readings / examples)), 2)


def with_habits(
    experts: Sequence[ExpertTrajectory], titles: int, percent: float, seed: int
) -> tuple[ExpertTrajectory, ...]:
    """`experts` of whom `percent` close attacks of `titles` alert titles, whatever they found, as analysts do by habit.

    The titles are drawn by seed, and of each title's attacks the part is exact. An alert's verified label stays what it
    is. Raises EmptyData where there are fewer titles with attacks.
    """
    rng = random.Random(seed)
    attacks: dict[str, list[str]] = {}
    for expert in experts:
        if expert.verdict is Verdict.TRUE_POSITIVE:
            attacks.setdefault(str(expert.alert["title"]), []).append(expert.case_id)
    if len(attacks) < titles:
        raise EmptyData(f"experts are to err on {titles} alert titles, and attacks have only {len(attacks)}")
    closed: set[str] = set()
    for title in rng.sample(sorted(attacks), titles):
        closed.update(rng.sample(attacks[title], round(percent / 100.0 * len(attacks[title]))))
    update = {"verdict": Verdict.FALSE_POSITIVE, "summary": _HABIT}
    return tuple(expert.model_copy(update=update) if expert.case_id in closed else expert for expert in experts)


def context_of(cases: Sequence[Case], name: str) -> str:
    """The context whose last part is `name`."""
    contexts = sorted({case.context for case in cases})
    found = [context for context in contexts if context.rpartition("/")[2] == name]
    if len(found) != 1:
        raise EmptyData(f"organisation {name!r} is the end of {len(found)} of the contexts {contexts}")
    return found[0]


def judged_sample(cases: Sequence[Case], most: int, ambiguous: int, seed: int) -> tuple[Case, ...]:
    """At most `most` cases in proportion, but as many as `ambiguous` of those whose title does not decide."""
    if len(cases) <= most:
        return tuple(cases)
    unclear = [case for case in cases if case.ambiguous]
    clear = [case for case in cases if not case.ambiguous]
    share = max(min(len(unclear), ambiguous), round(most * len(unclear) / len(cases)))
    return (*split.sample(unclear, share, seed), *split.sample(clear, most - share, seed))


def balanced_over_time(cases: Sequence[Case], most: int, seed: int) -> tuple[Case, ...]:
    """Attacks and others in equal number, at most `most` in all, evenly over each organisation's time, shuffled."""
    attacks = [case for case in cases if case.is_attack]
    others = [case for case in cases if case.decidable and not case.is_attack]
    half = min(len(attacks), len(others), max(1, most // 2))
    chosen = [*_evenly(attacks, half), *_evenly(others, half)]
    random.Random(seed).shuffle(chosen)
    return tuple(chosen)


def _evenly(cases: Sequence[Case], count: int) -> list[Case]:
    """`count` cases at equal distances in the order of organisation and time."""
    ordered = sorted(cases, key=lambda case: (case.context, case.observed_at.timestamp() if case.observed_at else 0.0))
    return [ordered[int((place + 0.5) * len(ordered) / count)] for place in range(count)]
