"""How sure a difference between two arms is: the paired bootstrap over the same cases.

Cases are resampled within strata of their label, whole case by whole case: a case that several seeds scored is drawn
once for all of them, because its outcomes are not independent. Vectorised; seeded; pure. Called by `gates`, the report
and the learning benchmark.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from socadapter_api.errors import EmptyData, MalformedRow
from socadapter_api.manifest import Calibration
from socadapter_api.training import UtilityWeights
from socadapter_jobs.scoring.figures import FIGURES, SHARES, Columns, Floats, columns
from socadapter_jobs.scoring.scored_case import ScoredCase

SAMPLES = 2000
_CELLS_AT_ONCE = 2_000_000

Pair = tuple[ScoredCase, ScoredCase]


@dataclass(frozen=True, slots=True)
class Arm:
    """One model's judged cases with the calibration that belongs to it."""

    cases: tuple[ScoredCase, ...]
    calibration: Calibration = field(default_factory=Calibration)


@dataclass(frozen=True, slots=True)
class Difference:
    """First arm minus second on one figure, with a two-sided percentile interval over `n` pairs."""

    figure: str
    first: float | None
    second: float | None
    value: float | None
    low: float | None
    high: float | None
    n: int
    dropped: int = 0
    """Pairs left out because an outage decided one of the two."""
    share_of: int | None = None
    """How many of the pairs a figure in `SHARES` is a share of, for both arms."""

    @property
    def is_blind(self) -> bool:
        """Whether no resample differs, so that the interval is a point and leaves out what other cases would show."""
        return self.value == self.low == self.high == 0.0


def paired_difference(
    first: Arm | Sequence[Arm],
    second: Arm | Sequence[Arm],
    figure: str,
    *,
    weights: UtilityWeights | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> Difference:
    """The difference of `figure` (a name in `FIGURES`) between two arms that judged the same cases.

    Given several arms on each side, the k-th of the one is paired with the k-th of the other (training seeds) and the
    figure is taken over all pairs together. None where the figure is not defined.

    Raises:
        MalformedRow: the arms did not judge the same cases, or one judged a case twice.
        EmptyData: no pair is left.
    """
    firsts, seconds = _as_list(first), _as_list(second)
    if len(firsts) != len(seconds):
        raise MalformedRow(f"{len(firsts)} arms cannot be paired with {len(seconds)}")
    pairs = [_paired(a, b) for a, b in zip(firsts, seconds, strict=True)]
    kept = [[pair for pair in one if pair[0].scorable and pair[1].scorable] for one in pairs]
    decidable = [[pair for pair in one if pair[0].decidable] for one in kept]
    flat = [pair for one in decidable for pair in one]
    if not flat:
        raise EmptyData("no case was judged by both arms and left scorable: there is nothing to compare")
    weights = weights or UtilityWeights()
    a = _stack(
        [columns([p[0] for p in one], arm.calibration, weights) for one, arm in zip(decidable, firsts, strict=True)]
    )
    b = _stack(
        [columns([p[1] for p in one], arm.calibration, weights) for one, arm in zip(decidable, seconds, strict=True)]
    )
    measure = FIGURES[figure]
    ones = np.ones((1, len(flat)))
    at_first, at_second = float(measure(a, ones)[0]), float(measure(b, ones)[0])
    drawn = np.concatenate([measure(a, w) - measure(b, w) for w in _resamples(flat, samples, seed)])
    low, high = _interval(drawn, confidence)
    of = SHARES.get(figure)
    return Difference(
        figure=figure,
        first=_known(at_first),
        second=_known(at_second),
        value=_known(at_first - at_second),
        low=low,
        high=high,
        n=len(flat),
        dropped=sum(len(one) for one in pairs) - sum(len(one) for one in kept),
        share_of=None if of is None else int((of(a) * of(b)).sum()),
    )


def compare(
    first: Arm | Sequence[Arm],
    second: Arm | Sequence[Arm],
    figures: Sequence[str],
    *,
    weights: UtilityWeights | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Mapping[str, Difference]:
    """`paired_difference` of several figures."""
    return {
        figure: paired_difference(first, second, figure, weights=weights, samples=samples, seed=seed)
        for figure in figures
    }


def _as_list(arms: Arm | Sequence[Arm]) -> list[Arm]:
    return [arms] if isinstance(arms, Arm) else list(arms)


def _by_id(arm: Arm) -> dict[str, ScoredCase]:
    found = {case.id: case for case in arm.cases}
    if len(found) != len(arm.cases):
        raise MalformedRow(f"an arm judged {len(arm.cases)} cases under {len(found)} ids; ids must be unique")
    return found


def _paired(first: Arm, second: Arm) -> list[Pair]:
    a, b = _by_id(first), _by_id(second)
    if a.keys() != b.keys():
        alone = sorted(a.keys() ^ b.keys())
        raise MalformedRow(f"the arms judged different cases: {len(alone)} in one only, such as {alone[:3]}")
    if moved := [key for key in a if a[key].label is not b[key].label]:
        raise MalformedRow(f"the arms disagree on the label of {len(moved)} cases, such as {moved[:3]}")
    return [(a[key], b[key]) for key in a]


def _stack(parts: Sequence[Columns]) -> Columns:
    names = [column.name for column in fields(Columns)]
    return Columns(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _resamples(pairs: Sequence[Pair], samples: int, seed: int) -> Iterator[Floats]:
    """Blocks of weights (resamples x cases): how often each case was drawn."""
    units, strata = _units(pairs)
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS_AT_ONCE // max(1, len(pairs)))
    for start in range(0, samples, block):
        size = min(block, samples - start)
        drawn = np.empty((size, int(units.max()) + 1))
        for members in strata:
            drawn[:, members] = rng.multinomial(len(members), np.full(len(members), 1.0 / len(members)), size=size)
        yield drawn[:, units]


def _units(pairs: Sequence[Pair]) -> tuple[npt.NDArray[np.intp], list[npt.NDArray[np.intp]]]:
    """Each pair's unit of resampling (its case's id), and the units of each stratum.

    Strata also hold apart the cases whose grounding was looked at: there are few, and each resample must have as many.
    """
    number = {key: index for index, key in enumerate(dict.fromkeys(first.id for first, _ in pairs))}
    traits: list[set[tuple[bool, bool, bool]]] = [set() for _ in number]
    for first, second in pairs:
        checked = (first.ungrounded is not None, second.ungrounded is not None)
        traits[number[first.id]].add((first.is_attack, *checked))
    strata: dict[frozenset[tuple[bool, bool, bool]], list[int]] = {}
    for unit, found in enumerate(traits):
        strata.setdefault(frozenset(found), []).append(unit)
    units = np.array([number[first.id] for first, _ in pairs])
    return units, [np.array(members) for members in strata.values()]


def _interval(drawn: Floats, confidence: float) -> tuple[float | None, float | None]:
    if np.isnan(drawn).any():
        return None, None
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return float(low), float(high)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
