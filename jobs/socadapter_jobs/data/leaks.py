"""Fields that betray the label: how well a look-up of one field alone predicts it, judged by cross-validation.

Text is looked up as it is, numbers and times by decile and by the best single threshold, so that "attacks come late"
is found as readily as a telling title. A field may lie at any depth; what a list's items have in common is one, such as
``alert.entities[].name``, and is looked up by all values that occur in it. Pure; called by `check`.
"""

import bisect
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from socadapter_api.case import Case
from socadapter_jobs.data.visibility import parse_time

FOLDS = 5
_BINS = 10
_MAX_FIELDS = 400
_MIN_PRESENT = 0.5
_MAX_TEXT = 200


@dataclass(frozen=True, slots=True)
class FieldScore:
    """How well one field alone tells attacks from the rest, as balanced accuracy on unseen folds."""

    field: str
    balanced_accuracy: float


def score_alert_fields(cases: Sequence[Case], seed: int = 0) -> list[FieldScore]:
    """All visible fields, best first."""
    return _score([(_fields("alert", case.alert), case.is_attack) for case in cases if case.decidable], seed)


def score_evidence_fields(cases: Sequence[Case], seed: int = 0) -> list[FieldScore]:
    """All single values of the recorded evidence, best first."""
    return _score([(_fields("", case.evidence), case.is_attack) for case in cases if case.decidable], seed)


def _score(rows: Sequence[tuple[dict[str, Any], bool]], seed: int) -> list[FieldScore]:
    attacks = sum(attack for _, attack in rows)
    if min(attacks, len(rows) - attacks) < FOLDS:
        return []
    fields = _common(rows)[:_MAX_FIELDS]
    labels = [attack for _, attack in rows]
    folds = _folds(labels, seed)
    scored = [FieldScore(field, _one([values.get(field) for values, _ in rows], labels, folds)) for field in fields]
    return sorted(scored, key=lambda found: (-found.balanced_accuracy, found.field))


def _common(rows: Sequence[tuple[dict[str, Any], bool]]) -> list[str]:
    """The fields that at least half of one class has, the commonest first: one that only attacks carry tells most."""
    present = Counter(field for values, _ in rows for field in values)
    often: set[str] = set()
    for kind in (True, False):
        of_kind = [values for values, attack in rows if attack is kind]
        seen = Counter(field for values in of_kind for field in values)
        often |= {field for field, count in seen.items() if count >= _MIN_PRESENT * len(of_kind)}
    return [field for field, _ in present.most_common() if field in often]


def _one(values: Sequence[Any], labels: Sequence[bool], folds: Sequence[int]) -> float:
    """The better of a look-up and, for numbers and times, a threshold."""
    numbers = [_number(value) for value in values]
    by_value = _look_up(_keys(values, numbers), labels, folds)
    return (
        max(by_value, _threshold(numbers, labels, folds)) if any(number is not None for number in numbers) else by_value
    )


def _fields(path: str, value: Any) -> dict[str, Any]:
    """What lies below `value`, by path: one value as it is, several as a sorted tuple of the texts that differ."""
    found: dict[str, list[Any]] = {}
    for name, leaf in _leaves(path, value):
        found.setdefault(name, []).append(leaf)
    return {
        name: values[0] if len(values) == 1 else tuple(sorted({_cut(leaf) for leaf in values}))
        for name, values in found.items()
    }


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every plain value below `value` with its path, which the items of a list share, and every list without any.

    Not recursive: data may be nested deeper than calls can be.
    """
    pending = [(path, value)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, Mapping):
            inner = [(f"{path}.{key}" if path else str(key), below) for key, below in value.items()]
            pending += reversed(inner)
        elif isinstance(value, list) and value:
            pending += [(f"{path}[]", below) for below in reversed(value)]
        elif isinstance(value, list):
            yield path, "[]"
        elif isinstance(value, (str, int, float, bool)) or value is None:
            yield path, value


def _keys(values: Sequence[Any], numbers: Sequence[float | None]) -> list[str]:
    """One look-up key per value; numbers and times by decile of those that occur."""
    known = sorted(number for number in numbers if number is not None)
    if len(known) < 0.5 * len(values) or len(set(known)) <= _BINS:
        return [_key(value) for value in values]
    edges = [known[len(known) * step // _BINS] for step in range(1, _BINS)]
    return [
        _key(value) if number is None else f"#{bisect.bisect_right(edges, number)}"
        for value, number in zip(values, numbers, strict=True)
    ]


def _key(value: Any) -> str:
    return "\n".join(value) if isinstance(value, tuple) else _cut(value)


def _cut(value: Any) -> str:
    return str(value)[:_MAX_TEXT]


def time_fields(cases: Sequence[Case]) -> dict[str, int]:
    """Visible fields and evidence that hold absolute times, and in how many cases."""
    found: Counter[str] = Counter()
    for case in cases:
        leaves = [*_leaves("alert", case.alert), *_leaves("", case.evidence)]
        found.update({path for path, value in leaves if isinstance(value, str) and _number(value) is not None})
    return dict(found.most_common())


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        try:
            return float(value)
        except OverflowError:  # an integer of hundreds of digits
            return math.inf if value > 0 else -math.inf
    if isinstance(value, str) and value[:4].isdigit() and "-" in value[4:8]:
        at = parse_time(value)
        return at.timestamp() if at is not None else None
    return None


def _folds(labels: Sequence[bool], seed: int) -> list[int]:
    """A fold for each row, the labels in proportion."""
    rng = random.Random(seed)
    folds = [0] * len(labels)
    for kind in (True, False):
        members = [index for index, label in enumerate(labels) if label is kind]
        rng.shuffle(members)
        for place, index in enumerate(members):
            folds[index] = place % FOLDS
    return folds


def _look_up(keys: Sequence[str], labels: Sequence[bool], folds: Sequence[int]) -> float:
    """Balanced accuracy of "as most others with this value", classes weighted alike; an unseen value counts half."""
    counts = Counter(zip(keys, labels, folds, strict=True))
    totals = Counter(zip(labels, folds, strict=True))
    by_key = Counter((key, label) for key, label in zip(keys, labels, strict=True))
    by_label = Counter(labels)
    right = {True: 0.0, False: 0.0}
    for (key, label, fold), count in counts.items():
        share = {
            kind: (by_key[key, kind] - counts[key, kind, fold]) / max(1, by_label[kind] - totals[kind, fold])
            for kind in (True, False)
        }
        if share[True] == share[False]:
            right[label] += count / 2.0
        elif (share[True] > share[False]) is label:
            right[label] += count
    return (right[True] / by_label[True] + right[False] / by_label[False]) / 2.0


def _threshold(numbers: Sequence[float | None], labels: Sequence[bool], folds: Sequence[int]) -> float:
    """Balanced accuracy of the threshold that is best on the other folds; a missing number counts half."""
    rows = sorted(
        (number, label, fold) for number, label, fold in zip(numbers, labels, folds, strict=True) if number is not None
    )
    right = {True: 0.0, False: 0.0}
    for label, number in zip(labels, numbers, strict=True):
        right[label] += 0.5 if number is None else 0.0
    for fold in range(FOLDS):
        cut, attacks_above = _best_cut([(number, label) for number, label, other in rows if other != fold])
        for number, label, other in rows:
            if other == fold:
                right[label] += ((number > cut) is attacks_above) is label
    by_label = Counter(labels)
    return (right[True] / by_label[True] + right[False] / by_label[False]) / 2.0


def _best_cut(rows: Sequence[tuple[float, bool]]) -> tuple[float, bool]:
    """Where to cut sorted numbers so that the classes part best, and whether attacks lie above."""
    attacks = sum(label for _, label in rows)
    others = len(rows) - attacks
    if not attacks or not others:
        return float("-inf"), attacks > 0
    best, below_attacks, below_others = (0.0, float("-inf"), True), 0, 0
    for place, (number, label) in enumerate(rows):
        below_attacks += label
        below_others += not label
        following = rows[place + 1][0] if place + 1 < len(rows) else number
        if following > number:
            lead = below_others / others - below_attacks / attacks
            best = max(best, (abs(lead), (number + following) / 2.0, lead > 0))
    return best[1], best[2]
