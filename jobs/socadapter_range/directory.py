"""Who and what exists in the enterprise: people with their machines, and domain names.

Names carry no role, context or truth: `mlee` on `amber-otter` may be anybody. People and machines of the holdout
are others than those of the training period. Called by `world`.
"""

import random
from dataclasses import dataclass
from typing import Final

from socadapter_range.vocabulary import Policy

_SURNAMES: Final = (
    "lee", "khan", "silva", "meyer", "rossi", "novak", "tanaka", "brown", "diaz", "patel", "larsen", "weber",
    "moreau", "walsh", "reid", "cohen", "petrov", "santos", "young", "clark", "baker", "turner", "fischer", "wood",
    "adams", "parker", "evans", "morris", "cook", "bell", "ward", "gray", "price", "ross", "foster", "hayes",
    "jordan", "palmer", "mills", "grant", "stone", "hunt", "black", "mason", "dixon", "hart", "cruz", "lopez",
    "kelly", "murphy", "olsen", "berg",
)  # fmt: skip
_ADJECTIVES: Final = (
    "amber", "blue", "calm", "dark", "early", "fast", "green", "happy", "iron", "jolly", "keen", "light", "mild",
    "noble", "old", "pale", "quiet", "red", "silver", "tall", "urban", "vivid", "white", "young", "bright", "cold",
    "deep", "dry", "fresh", "grand", "hidden", "little", "proud", "round", "sharp", "soft", "warm", "wild",
)  # fmt: skip
_NOUNS: Final = (
    "otter", "river", "stone", "maple", "falcon", "harbor", "meadow", "pine", "raven", "summit", "tiger", "valley",
    "willow", "zebra", "badger", "canyon", "delta", "eagle", "forest", "garden", "hill", "island", "jungle", "lake",
    "moon", "ocean", "planet", "rabbit", "sun", "tower", "bridge", "cloud", "dragon", "field",
)  # fmt: skip
_ENDINGS: Final = ("net", "com", "org", "info")

TRAIN_PAIRS: Final = 320
HOLDOUT_PAIRS: Final = 200


@dataclass(frozen=True, slots=True)
class Entity:
    """One person and the machine that this person uses; `role` is the machine's, as the inventory knows it."""

    user: str
    host: str
    role: str
    owner: str
    system: str


class Names:
    """Draws names without replacement, so that no two entities or indicators of a world share one."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._users = [f"{letter}{name}" for letter in "abcdefghijklmnoprstvwz" for name in _SURNAMES]
        self._hosts = [f"{adjective}-{noun}" for adjective in _ADJECTIVES for noun in _NOUNS]
        self._domains = [f"{one}-{two}.{end}" for one in _NOUNS for two in _NOUNS if one != two for end in _ENDINGS]
        for names in (self._users, self._hosts, self._domains):
            rng.shuffle(names)

    def entity(self, role: str) -> Entity:
        """A new person on a new machine."""
        owner = self._rng.choice(("platform", "network", "data", "office"))
        return Entity(self._users.pop(), self._hosts.pop(), role, owner, self._rng.choice(("linux", "windows")))

    def domain(self) -> str:
        """A domain name that no other alert mentions."""
        return self._domains.pop()


def staff(names: Names, rng: random.Random, policy: Policy, size: int) -> list[Entity]:
    """`size` entities of one context with the mix of machine roles that its stories need."""
    covering_both, covering_own = policy.good("asset")
    other_both, other_own = policy.bad("asset")
    weights = ((covering_both, 0.14), (covering_own, 0.14), (other_both, 0.42), (other_own, 0.30))
    roles: list[str] = []
    for words, share in weights:
        roles.extend(words[i % len(words)] for i in range(round(share * size)))
    roles = (roles + [other_both[0]] * size)[:size]
    rng.shuffle(roles)
    return [names.entity(role) for role in roles]
