"""What kopf would keep of every object, replaced by nothing: handlers of `on.event` need none of it."""

from typing import Any

import kopf
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory  # kopf takes one, and exports no class of it


class NoDiffs(kopf.DiffBaseStorage):
    """Nothing is compared with what it was: kopf would copy each object twice, for nobody."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """No essence of an object."""
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        """No essence is kept."""

    def store(self, **_: Any) -> None:
        """None is kept."""


class NoProgress(kopf.ProgressStorage):
    """Handlers of `on.event` have no progress."""

    def fetch(self, **_: Any) -> None: ...

    def store(self, **_: Any) -> None: ...

    def purge(self, **_: Any) -> None: ...

    def touch(self, **_: Any) -> None: ...

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """What there is not cannot be cleared."""
        return essence


class NoMemories(ResourceMemories):
    """Each event is the first of its object. kopf's memory of one has room for daemons, indexes and memos."""

    async def recall(self, raw_body: Any, **options: Any) -> ResourceMemory:
        """A memory that is gone with the event."""
        return await super().recall(raw_body, **(options | {"ephemeral": True}))
