"""Duplicates out, holdout and development cases off, so that neither shares time, entities or content with training.

A strict split over two dimensions costs cases: those that are late but of a training entity, or early but of a held
out one, belong to neither side and are dropped. Where a strict split would leave a side without both classes, the next
weaker one is taken and `Split.how` says so; `check` measures what overlap is left. Pure and seeded; called by the
prepare stage, which lets an explicitly named holdout go before any of this.

Where cases are drawn one by one, each draws by what it shows, whatever others there are: while the data grow from night
to night it stays on its side, or a run that goes on from an adapter would be calibrated on what that one has learned.
"""

import hashlib
import math
import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from socadapter_api import digest
from socadapter_api.case import Case, Verdict
from socadapter_api.errors import EmptyData, OneClass

MIN_PER_CLASS = 2
"""A side with fewer cases of a class than this measures, and teaches, nothing."""

_ATTEMPTS = 40


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """What is left, and what went: ids of exact repeats, and of cases that contradict each other."""

    cases: tuple[Case, ...]
    repeats: tuple[str, ...]
    contradictory: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """Two disjoint sides in their original order, and the ids that belong to neither."""

    kept: tuple[Case, ...]
    held_out: tuple[Case, ...]
    dropped: tuple[str, ...] = ()
    how: str = ""


def content_key(case: Case) -> str:
    """The digest of what an investigation of the case can see: the alert and all of its evidence."""
    return digest.of_json([case.alert, case.evidence])


def dedupe(cases: Iterable[Case]) -> Deduplicated:
    """Each content once. Equal content under different labels teaches nothing but noise: all of it goes."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(content_key(case), []).append(case)
    kept: list[Case] = []
    repeats: list[str] = []
    contradictory: list[str] = []
    for group in groups.values():
        if len({case.label for case in group}) > 1:
            contradictory += [case.id for case in group]
            continue
        kept.append(group[0])
        repeats += [case.id for case in group[1:]]
    return Deduplicated(tuple(kept), tuple(repeats), tuple(contradictory))


def split_holdout(cases: Sequence[Case], percent: float, seed: int, max_holdout: int | None = None) -> Split:
    """Splits off about `percent` of the cases that are used, later than and of other entities than the rest.

    No more than `max_holdout`: what would not be scored is not taken from training.

    Weaker splits, in this order, where the data do not allow it: by entity, by time, by class at random.

    Raises:
        OneClass: there are not enough cases of both classes for any split.
    """
    share = percent / 100.0 if max_holdout is None else min(percent / 100.0, max_holdout / max(1, len(cases)))
    alike = _Shares(share, share)
    methods: tuple[Method, ...] = (
        lambda rng: _by_time_and_entity(cases, share, rng),
        lambda rng: _by_entity(cases, alike, rng, slack=1.25),
        lambda _: _by_time(cases, share),
        lambda _: _at_random(cases, alike, seed),
    )
    return _split(cases, seed, max_holdout, methods)


def split_development(cases: Sequence[Case], percent: float, seed: int, max_development: int | None = None) -> Split:
    """Splits off about `percent` of the training cases for calibration and checkpoints, by entity where that is free.

    Within `max_development` as many attacks as others, since what is fitted and gated there rests on the rarer class;
    never more than `percent` of either. Who fits a probability to such a set weighs it back to `attack_share`. An
    entity split is only taken where no case is lost: training cases are worth more than a strict development set.
    """
    shares = _balanced(cases, percent / 100.0, max_development)
    methods: tuple[Method, ...] = (
        lambda rng: _by_entity(cases, shares, rng, slack=1.0),
        lambda _: _at_random(cases, shares, seed),
    )
    return _split(cases, seed, max_development, methods)


def divide_beside(parts: Split, cases: Sequence[Case], percent: float, seed: int, most: int | None = None) -> Split:
    """`parts` with `cases` beside them, of which about `percent` are held out.

    Each goes to the side on which its visible alert is already, else to one that it draws for itself: no other case
    moves it, in no other run. Of those to be held out no more than `most` are, and none of the others is kept.
    """
    away = {digest.of_json(case.alert) for case in parts.held_out}
    known = away | {digest.of_json(case.alert) for case in parts.kept}
    shown = [digest.of_json(case.alert) for case in cases]
    away |= {alert for alert in shown if alert not in known and _lot(seed, alert) < percent / 100.0}
    drawn = [case for case, alert in zip(cases, shown, strict=True) if alert in away]
    kept = tuple(case for case, alert in zip(cases, shown, strict=True) if alert not in away)
    held = sample(drawn, most, seed)
    chosen = {case.id for case in held}
    spare = tuple(case.id for case in drawn if case.id not in chosen)
    return Split((*parts.kept, *kept), (*parts.held_out, *held), (*parts.dropped, *spare), parts.how)


def attack_share(cases: Iterable[Case]) -> float:
    """The share of attacks among the decidable of `cases`; 0 where none is decidable."""
    decidable = [case for case in cases if case.decidable]
    return sum(case.is_attack for case in decidable) / max(1, len(decidable))


def hold_out_group(cases: Sequence[Case], prefix: str) -> Split:
    """Holds out the cases whose group or context starts with `prefix`, such as one organisation.

    Raises:
        EmptyData: no case, or every case, does.
    """
    held = [case for case in cases if case.group.startswith(prefix) or case.context.startswith(prefix)]
    if not held or len(held) == len(cases):
        some = sorted({case.context for case in cases} | {case.group for case in cases})[:8]
        raise EmptyData(
            f"{prefix!r} holds out {len(held)} of {len(cases)} cases; groups and contexts are such as {some}"
        )
    away = {case.id for case in held}
    return Split(tuple(case for case in cases if case.id not in away), tuple(held), how=f"group {prefix}")


def sample(cases: Sequence[Case], most: int | None, seed: int) -> tuple[Case, ...]:
    """A seeded sample of at most `most` cases with the labels in proportion, in the original order."""
    if most is None or len(cases) <= most:
        return tuple(cases)
    rng = random.Random(seed)
    by_label: dict[Verdict, list[int]] = {}
    for index, case in enumerate(cases):
        by_label.setdefault(case.label, []).append(index)
    ranked: list[tuple[float, int]] = []
    for members in by_label.values():
        rng.shuffle(members)
        ranked += [((place + 0.5) / len(members), index) for place, index in enumerate(members)]
    chosen = sorted(index for _, index in sorted(ranked)[:most])
    return tuple(cases[index] for index in chosen)


@dataclass(frozen=True, slots=True)
class _Shares:
    """Which part of the attacks, and of all others, is to be held out."""

    attacks: float
    others: float

    def wanted(self, cases: Sequence[Case]) -> tuple[float, float]:
        """How many attacks and how many others of `cases` that is.

        Products, not sums of shares: those round otherwise from Python 3.12 on, and a seed would give another split.
        """
        attacks, others = _by_class(cases)
        return self.attacks * attacks, self.others * others


Method = Callable[[random.Random], Split | None]


def _balanced(cases: Sequence[Case], share: float, most: int | None) -> _Shares:
    """At most `share` of each class; within `most` cases as many of the one as of the other."""
    attacks, others = _by_class(cases)
    if most is None or share * len(cases) <= most or not attacks or not others:
        return _Shares(share, share)
    held_others = min(share * others, max(most / 2, most - share * attacks))
    return _Shares((most - held_others) / attacks, held_others / others)


def _split(cases: Sequence[Case], seed: int, most: int | None, methods: Sequence[Method]) -> Split:
    for method in methods:
        found = method(random.Random(seed))
        if found is not None and _usable(found.kept) and _usable(found.held_out):
            held = sample(found.held_out, most, seed)
            chosen = {case.id for case in held}
            spare = tuple(case.id for case in found.held_out if case.id not in chosen)
            return Split(found.kept, held, (*found.dropped, *spare), found.how)
    attacks = sum(case.is_attack for case in cases)
    raise OneClass(
        f"{len(cases)} cases with {attacks} attacks cannot be split so that both sides hold at least {MIN_PER_CLASS} "
        "attacks and as many others. Add labelled alerts, or name a holdout of your own"
    )


def _usable(cases: Sequence[Case]) -> bool:
    attacks = sum(case.is_attack for case in cases)
    others = sum(case.decidable and not case.is_attack for case in cases)
    return min(attacks, others) >= MIN_PER_CLASS


def _by_time_and_entity(cases: Sequence[Case], share: float, rng: random.Random) -> Split | None:
    """Late cases of held-out entities against early cases of the others; the rest is dropped.

    Holding out a share s of the time and of the entities leaves s*s on the one side and (1-s)*(1-s) on the other.
    """
    if not _known(cases):
        return None
    ratio = (share / (1.0 - share)) ** 0.5
    part = ratio / (1.0 + ratio)
    times = sorted(_time(case) for case in cases)
    cut = times[min(len(times) - 1, round(len(times) * (1.0 - part)))]
    best: Split | None = None
    for _ in range(_ATTEMPTS):
        away = _entities_of_share(cases, part, rng)
        kept = tuple(case for case in cases if _time(case) < cut and not away.intersection(case.entities))
        held = tuple(case for case in cases if _time(case) >= cut and away.issuperset(case.entities))
        more = best is None or len(kept) + len(held) > len(best.kept) + len(best.held_out)
        if more and _usable(kept) and _usable(held):
            best = Split(kept, held, _neither(cases, kept, held), "time and entity")
    return best


def _by_entity(cases: Sequence[Case], shares: _Shares, rng: random.Random, slack: float) -> Split | None:
    """Whole groups of cases that share entities, directly or over others; none is dropped.

    The groups held out may come to `slack` times what `shares` asks for.
    """
    if not all(case.entities for case in cases):
        return None
    groups = [(group, _by_class([cases[index] for index in group])) for group in _components(cases)]
    wanted = shares.wanted(cases)
    most = sum(wanted) * slack + 1e-6
    best: Split | None = None
    nearest = math.inf
    for _ in range(_ATTEMPTS):
        rng.shuffle(groups)
        away: set[int] = set()
        taken = (0, 0)
        for group, more in groups:
            with_it = (taken[0] + more[0], taken[1] + more[1])
            if sum(with_it) <= most and math.dist(with_it, wanted) < math.dist(taken, wanted):
                away.update(group)
                taken = with_it
        kept = tuple(case for index, case in enumerate(cases) if index not in away)
        held = tuple(case for index, case in enumerate(cases) if index in away)
        distance = math.dist(taken, wanted)
        if distance < nearest and len(held) >= sum(wanted) / 2 and _usable(kept) and _usable(held):
            best, nearest = Split(kept, held, (), "entity"), distance
    return best


def _lot(seed: int, name: str) -> float:
    """What `name` draws, from 0 to below 1."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:6]) / 2**48


def _by_class(cases: Sequence[Case]) -> tuple[int, int]:
    """How many of `cases` are attacks, and how many are not."""
    attacks = sum(case.is_attack for case in cases)
    return attacks, len(cases) - attacks


def _by_time(cases: Sequence[Case], share: float) -> Split | None:
    if any(case.observed_at is None for case in cases):
        return None
    ordered = sorted(_time(case) for case in cases)
    cut = ordered[min(len(ordered) - 1, round(len(ordered) * (1.0 - share)))]
    kept = tuple(case for case in cases if _time(case) < cut)
    return Split(kept, tuple(case for case in cases if _time(case) >= cut), (), "time")


def _at_random(cases: Sequence[Case], shares: _Shares, seed: int) -> Split | None:
    """The same part of every label of a class; cases with one visible alert stay on one side."""
    seen: dict[str, list[int]] = {}
    for index, case in enumerate(cases):
        seen.setdefault(digest.of_json(case.alert), []).append(index)
    by_label: dict[Hashable, list[list[int]]] = {}
    for _, members in sorted(seen.items(), key=lambda alert: _lot(seed, alert[0])):
        by_label.setdefault(cases[members[0]].label, []).append(members)
    away: set[int] = set()
    for label in sorted(by_label, key=str):
        groups = by_label[label]
        wanted = round(sum(shares.wanted([cases[index] for group in groups for index in group])))
        taken = 0
        for group in groups:
            if taken + len(group) <= wanted:
                away.update(group)
                taken += len(group)
    kept = tuple(case for index, case in enumerate(cases) if index not in away)
    return Split(kept, tuple(case for index, case in enumerate(cases) if index in away), (), "label, at random")


def _known(cases: Sequence[Case]) -> bool:
    return all(case.observed_at is not None and case.entities for case in cases)


def _time(case: Case) -> float:
    assert case.observed_at is not None
    return case.observed_at.timestamp()


def _neither(cases: Sequence[Case], kept: Sequence[Case], held: Sequence[Case]) -> tuple[str, ...]:
    used = {case.id for case in kept} | {case.id for case in held}
    return tuple(case.id for case in cases if case.id not in used)


def _entities_of_share(cases: Sequence[Case], part: float, rng: random.Random) -> set[str]:
    """A random set of entities that covers about `part` of the cases."""
    weight: dict[str, float] = {}
    for case in cases:
        for entity in case.entities:
            weight[entity] = weight.get(entity, 0.0) + 1.0 / len(case.entities)
    names = sorted(weight)
    rng.shuffle(names)
    away: set[str] = set()
    covered = 0.0
    for name in names:
        if covered + weight[name] <= part * len(cases) * 1.1:
            away.add(name)
            covered += weight[name]
    return away


def _components(cases: Sequence[Case]) -> list[list[int]]:
    """Indices of cases, grouped by shared entities (union-find)."""
    parent = list(range(len(cases)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[str, int] = {}
    for index, case in enumerate(cases):
        for entity in case.entities:
            parent[root(index)] = root(first.setdefault(entity, index))
    groups: dict[int, list[int]] = {}
    for index in range(len(cases)):
        groups.setdefault(root(index), []).append(index)
    return list(groups.values())
