"""The enterprise: people, machines, everyday work, and the stories behind its alerts, all drawn from one seed.

`World(seed)` plans everything and holds the truth; `write` puts the telemetry, without any truth, into an SQLite file.
Days 6-31 are the training period, days 34-44 the holdout, with other people and machines. Called by `dataset`,
tests and benchmarks. What tools and experts make of it is not decided here.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Final

from socadapter_api.case import Verdict
from socadapter_api.errors import SpecError
from socadapter_range.actors import enact, everyday
from socadapter_range.directory import HOLDOUT_PAIRS, TRAIN_PAIRS, Entity, Names, staff
from socadapter_range.stories import Campaign, Story, StoryTeller, campaigns
from socadapter_range.telemetry import DAY, Telemetry
from socadapter_range.vocabulary import (
    ALERT_TYPES,
    CONTEXTS,
    MISSING,
    AlertType,
    Drift,
    Policy,
    drifted,
    parse_drift,
    policy_of,
)

EPOCH: Final = int(datetime(2025, 3, 3, tzinfo=UTC).timestamp())
DAYS: Final = 45
TRAIN_DAYS: Final = range(6, 32)
HOLDOUT_DAYS: Final = range(34, DAYS)
CAPACITY: Final = {"train": 1200, "holdout": 320}
"""Alerts of each split that a world holds per context."""

_ROUND: Final = (Verdict.TRUE_POSITIVE,) * 8 + (Verdict.BENIGN_TRUE_POSITIVE,) * 5 + (Verdict.FALSE_POSITIVE,) * 7
_UNDECIDABLE_EVERY: Final = 16


@dataclass(frozen=True, slots=True)
class Incident:
    """One alert with the story behind it."""

    id: str
    context: str
    split: str
    story: Story
    entity: Entity
    indicator: str
    severity: str
    detail: str
    ts: int

    @property
    def observed_at(self) -> datetime:
        """When the alert was raised."""
        return datetime.fromtimestamp(self.ts, UTC)

    @property
    def day(self) -> int:
        """Days since the world began."""
        return (self.ts - EPOCH) // DAY


class World:
    """A small enterprise with two business contexts; equal seeds and drifts give equal worlds."""

    def __init__(self, seed: int = 7, drift: Sequence[str | Drift] = ()) -> None:
        self.seed = seed
        self.drifts = tuple(parse_drift(item) if isinstance(item, str) else item for item in drift)
        self._names = Names(self._rng("names"))
        self._staff = {
            (context, split): staff(self._names, self._rng("staff", context, split), policy_of(context), size)
            for context in CONTEXTS
            for split, size in (("train", TRAIN_PAIRS), ("holdout", HOLDOUT_PAIRS))
        }
        self._incidents = {(context, split): self._plan(context, split) for context in CONTEXTS for split in CAPACITY}

    def _rng(self, *purpose: str) -> random.Random:
        return random.Random(":".join((str(self.seed), *purpose)))

    def campaigns(self, context: str, split: str) -> tuple[Campaign, ...]:
        """The attack campaigns that ran against `context` in the period of `split`."""
        days = TRAIN_DAYS if split == "train" else HOLDOUT_DAYS
        return campaigns(self._rng("campaigns", context, split), days)

    def policy(self, context: str, day: int) -> Policy:
        """What `context` holds for routine on `day`."""
        start = HOLDOUT_DAYS.start
        active = [drift for drift in self.drifts if day >= (start if drift.day is None else drift.day)]
        return drifted(policy_of(context), active)

    def policy_on(self, context: str, moment: datetime | None) -> Policy:
        """What `context` holds for routine at `moment`; None is the first day."""
        return self.policy(context, 0 if moment is None else (int(moment.timestamp()) - EPOCH) // DAY)

    def incidents(self, context: str, split: str) -> list[Incident]:
        """All alerts of `context` in `split` (`train` or `holdout`), types and truths evenly mixed in every stretch.

        Raises:
            SpecError: no such context or split.
        """
        try:
            return self._incidents[context, split]
        except KeyError:
            raise SpecError(f"the range has no context {context!r} with split {split!r}") from None

    def write(self, path: str | Path) -> None:
        """The telemetry as an SQLite file, byte for byte the same for the same world.

        Raises:
            SpecError: `path` exists already.
        """
        if Path(path).exists():
            raise SpecError(f"{path} exists already; the range never overwrites telemetry, remove it first")
        self._telemetry.write(str(path))

    @cached_property
    def _telemetry(self) -> Telemetry:
        telemetry = Telemetry(self._rng("rows"))
        for entities in self._staff.values():
            for entity in entities:
                telemetry.add("assets", entity.host, entity.user, entity.role, entity.owner, entity.system)
                everyday(telemetry, entity, range(DAYS), EPOCH, self._rng("everyday", entity.user))
        for incidents in self._incidents.values():
            for incident in incidents:
                rng = self._rng("enact", incident.id)
                enact(telemetry, incident.story, incident.entity, incident.indicator, incident.ts, rng)
        return telemetry

    def _plan(self, context: str, split: str) -> list[Incident]:
        rng = self._rng("plan", context, split)
        days = TRAIN_DAYS if split == "train" else HOLDOUT_DAYS
        teller = StoryTeller(self._rng("stories", context, split), self.campaigns(context, split))
        roster = _Roster(self._staff[context, split], rng)
        planned = []
        for index, (kind, truth) in enumerate(_schedule(rng, CAPACITY[split])):
            day = rng.choice(days)
            policy = self.policy(context, day)
            story = teller.tell(kind, truth, policy, day)
            entity = roster.book(story.phrases["asset"], policy, day)
            if story.phrases["asset"] != MISSING:
                story.phrases["asset"] = entity.role
            planned.append(
                Incident(
                    id=f"{context}-{split}-{index:04d}",
                    context=context,
                    split=split,
                    story=story,
                    entity=entity,
                    indicator=self._names.domain(),
                    severity=rng.choice(("low", "medium", "high")),
                    detail=rng.choice(kind.details),
                    ts=EPOCH + day * DAY + rng.randrange(DAY),
                )
            )
        return planned


def _schedule(rng: random.Random, size: int) -> Iterable[tuple[AlertType, Verdict]]:
    """Types in shuffled rounds; per type the truths in shuffled blocks; every sixteenth alert is undecidable."""
    blocks: dict[str, list[Verdict]] = {kind.key: [] for kind in ALERT_TYPES}
    order: list[AlertType] = []
    for index in range(size):
        if not order:
            order = rng.sample(ALERT_TYPES, len(ALERT_TYPES))
        kind = order.pop()
        if index % _UNDECIDABLE_EVERY == _UNDECIDABLE_EVERY - 1:
            yield kind, Verdict.ESCALATE
            continue
        if not blocks[kind.key]:
            blocks[kind.key] = rng.sample(_ROUND, len(_ROUND))
        yield kind, blocks[kind.key].pop()


class _Roster:
    """Books machines for stories so that the evidence windows of one machine's alerts never overlap."""

    def __init__(self, entities: Sequence[Entity], rng: random.Random) -> None:
        self._rng = rng
        self._by_role: dict[str, list[Entity]] = {}
        for entity in entities:
            self._by_role.setdefault(entity.role, []).append(entity)
        self._busy: set[tuple[str, int]] = set()

    def book(self, role: str, policy: Policy, day: int) -> Entity:
        """A machine with `role`, or with one that means the same under `policy`; any machine if `role` is unknown."""
        covers = ("asset", role) in policy.covering
        alike = [other for other in self._by_role if (("asset", other) in policy.covering) is covers]
        choices = [alike] if role == MISSING else [[role], alike]
        free = next(filter(None, (self._free(roles, day) for roles in choices)), [])
        if not free:
            raise SpecError(f"no machine with role {role!r} is free on day {day}; ask for another seed")
        entity = self._rng.choice(free)
        self._busy |= {(entity.host, day + shift) for shift in (-1, 0, 1)}
        return entity

    def _free(self, roles: Sequence[str], day: int) -> list[Entity]:
        return [
            entity for role in roles for entity in self._by_role.get(role, ()) if (entity.host, day) not in self._busy
        ]
