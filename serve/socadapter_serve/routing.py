"""Which version answers: by the incident's place in a hash space against the table's weight. Pure.

The split is exact over the space and sticky: one incident stays with one version as long as the weights allow, and a
weight that grows only moves incidents towards the canary. Called by the gateway, once per investigation.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from socadapter_api import digest
from socadapter_api.case import Alert
from socadapter_api.serving_table import ContextRoute, ServedVersion

HASH_SPACE = 1 << 64


class Role(StrEnum):
    """What a version is to its context."""

    CANARY = "canary"
    STABLE = "stable"
    PREVIOUS = "previous"
    SHADOW = "shadow"
    BASE = "base"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One version that may answer; none is the base without an adapter."""

    role: Role
    version: ServedVersion | None = None

    @property
    def name(self) -> str:
        return self.version.name if self.version else ""

    def answerer(self, base_name: str, base_digest: str) -> "Answerer":
        """Who answers where this candidate does; the base goes by its own name and digest."""
        if self.version is None:
            return Answerer(base_name, base_digest, self.role)
        return Answerer(self.version.name, self.version.digest, self.role)


@dataclass(frozen=True, slots=True)
class Answerer:
    """Who gave an answer. With `Role.BASE` the name and digest are the base's; else a version's."""

    version: str
    digest: str
    role: Role


BASE = Candidate(Role.BASE)


def position(salt: str, incident_id: str) -> int:
    """The incident's place in 0 .. `HASH_SPACE` - 1; another salt shuffles all places."""
    seed = f"{len(salt)}:{salt}{incident_id}".encode()
    return int.from_bytes(hashlib.sha256(seed).digest()[:8], "big")


def takes_canary(place: int, weight_percent: int) -> bool:
    """Whether `place` lies in the first `weight_percent` hundredths of the hash space."""
    return place * 100 < weight_percent * HASH_SPACE


def incident_of(alert: Alert) -> str:
    """The incident id of an alert that came without one: equal alerts are one incident."""
    return digest.of_json(alert.fields)


def candidates(route: ContextRoute, incident_id: str) -> tuple[Candidate, ...]:
    """The version that `incident_id` gets, then those that stand in when it fails, the base last."""
    in_turn = []
    if route.canary is not None and takes_canary(position(route.salt, incident_id), route.canary_weight_percent):
        in_turn.append(Candidate(Role.CANARY, route.canary))
    if route.stable is not None:
        in_turn.append(Candidate(Role.STABLE, route.stable))
    if route.previous is not None:
        in_turn.append(Candidate(Role.PREVIOUS, route.previous))
    unique: dict[str, Candidate] = {}
    for candidate in in_turn:
        unique.setdefault(candidate.name, candidate)
    return (*unique.values(), BASE)


def named(route: ContextRoute) -> tuple[Candidate, ...]:
    """Every version that the route names, each once, in its foremost role."""
    roles = (
        (Role.STABLE, route.stable),
        (Role.CANARY, route.canary),
        (Role.PREVIOUS, route.previous),
        (Role.SHADOW, route.shadow),
    )
    found: dict[str, Candidate] = {}
    for role, version in roles:
        if version is not None:
            found.setdefault(version.name, Candidate(role, version))
    return tuple(found.values())
