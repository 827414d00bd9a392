"""Users who keep changing their mind: adapters are applied, edited back and forth, trained, suspended and deleted."""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from tests.life_cycle.conftest import Site

from socadapter_api.adapter import TRAIN_REQUESTED_AT
from socadapter_api.errors import ObjectNotFound
from socadapter_operator.domain.version_conditions import REVOKED
from socadapter_operator.kube.resources import ADAPTER, ADAPTER_VERSION, uid_of

RANKS = (4, 8, 16)
HISTORY = 3
NEVER_FIRES = {"cron": "0 2 30 2 *"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user of one adapter wants by now. `bad`: a schedule that cannot be followed."""

    pool: str
    rank: int = RANKS[0]
    suspend: bool = False
    bad: bool = False

    def spec(self) -> dict[str, Any]:
        """As the user writes it."""
        made = {
            "servingPoolRef": {"name": self.pool},
            "lora": {"rank": self.rank},
            "history": {"successful": HISTORY},
            "suspend": self.suspend,
        }
        return {**made, "schedule": NEVER_FIRES} if self.bad else made


class Users:
    """One user for each of `adapters`, a name and the pool that serves it. `seed` decides what they do."""

    def __init__(self, site: Site, seed: int, adapters: Mapping[str, str]) -> None:
        self.wanted: dict[str, Wanted | None] = dict.fromkeys(adapters)
        self.done: Counter[str] = Counter()
        self._site = site
        self._pools = dict(adapters)
        self._random = random.Random(seed)
        self._changes: tuple[tuple[Callable[[str, Wanted], Wanted | None], int], ...] = (
            (self._edit, 8),
            (self._train, 4),
            (self._suspend, 2),
            (self._break, 2),
            (self._delete, 1),
            (self._recreate, 1),
            (self._revoke, 1),
        )

    def begin(self) -> None:
        """Everything is applied for the first time."""
        for name in self.wanted:
            self._create(name)

    def change(self) -> None:
        """One of the users does one thing."""
        name = self._random.choice(sorted(self.wanted))
        wanted = self.wanted[name]
        if wanted is None:
            self._create(name)
            return
        changes, weights = zip(*self._changes, strict=True)
        (change,) = self._random.choices(changes, weights)
        self.wanted[name] = change(name, wanted)
        self.done[change.__name__.removeprefix("_")] += 1

    def pause_s(self, mean_s: float) -> float:
        """How long nobody does anything now."""
        return min(self._random.expovariate(1 / mean_s), 4 * mean_s)

    def _create(self, name: str) -> None:
        """Applies it, unless the one before is still on its way out."""
        if not self._site.get(name):
            self.wanted[name] = self._apply(name, Wanted(self._pools[name], self._random.choice(RANKS)))
            self.done["create"] += 1

    def _edit(self, name: str, wanted: Wanted) -> Wanted:
        return self._apply(name, replace(wanted, rank=self._random.choice(RANKS)))

    def _suspend(self, name: str, wanted: Wanted) -> Wanted:
        return self._apply(name, replace(wanted, suspend=not wanted.suspend))

    def _break(self, name: str, wanted: Wanted) -> Wanted:
        return self._apply(name, replace(wanted, bad=not wanted.bad))

    def _train(self, name: str, wanted: Wanted) -> Wanted:
        asked = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        held = {"name": name, "namespace": self._site.namespace, "annotations": {TRAIN_REQUESTED_AT: asked}}
        self._site.client.apply(ADAPTER, {"metadata": held}, manager="kubectl-annotate")
        return wanted

    def _revoke(self, name: str, wanted: Wanted) -> Wanted:
        stable = ((self._site.get(name).get("status") or {}).get("versions") or {}).get("stable")
        if stable is not None:
            held = {"name": stable["name"], "namespace": self._site.namespace, "annotations": {REVOKED: "by its user"}}
            with suppress(ObjectNotFound):
                uid = uid_of(self._site.client.get(ADAPTER_VERSION, self._site.namespace, stable["name"]))
                self._site.client.apply(ADAPTER_VERSION, {"metadata": {**held, "uid": uid}}, manager="kubectl-annotate")
        return wanted

    def _delete(self, name: str, wanted: Wanted) -> None:
        self._site.client.delete(ADAPTER, self._site.namespace, name, uid=uid_of(self._site.get(name)))

    def _recreate(self, name: str, wanted: Wanted) -> Wanted | None:
        """Deletes it and applies it at once; where a finalizer holds it, it is applied some other time."""
        self._delete(name, wanted)
        return None if self._site.get(name) else self._apply(name, wanted)

    def _apply(self, name: str, wanted: Wanted) -> Wanted:
        self._site.adapter(name, **wanted.spec())
        return wanted
