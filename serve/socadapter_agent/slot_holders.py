"""Which conversation each slot of the cache holds, and what another may take over from it instead of reading it again.

The trajectories of a GRPO group begin with the same alert, and as long as they call the same tools they read the same
results; a chat that goes on begins with all that was said. Keys and values of a token depend on nothing but the tokens
before it and the adapter, so that one conversation reads them and the others copy. A closed conversation stays known
until its slot is given away. Used only by `transformers_engine`, from its worker thread.
"""

from collections.abc import Iterable

from socadapter_agent.slot_cache import SlotCache
from socadapter_agent.transformers_session import TransformersSession

_LEAST_TOKENS = 16
"""Fewer are read sooner than they are copied."""


class SlotHolders:
    """See the module."""

    def __init__(self, cache: SlotCache, slots: int) -> None:
        self._cache = cache
        self._holders: list[TransformersSession | None] = [None] * slots

    def give(self, session: TransformersSession, free: list[int]) -> None:
        """Takes a slot for `session` out of `free`: where one holds enough of what it will read, that one; else the
        lowest."""
        best, held = self._best(session, free)
        kept = held >= len(session.shared) + _LEAST_TOKENS
        session.slot, session.cached = (best, held) if kept else (min(free), 0)
        free.remove(session.slot)
        self._holders[session.slot] = session

    def forget(self, adapter: str | None = None) -> None:
        """Nothing is taken over any more from what was read with `adapter`; None: with any."""
        self._holders = [
            holder if holder is not None and adapter not in (None, holder.adapter) else None for holder in self._holders
        ]

    def take_over(self, session: TransformersSession) -> None:
        """Copies what the slots hold of what `session` has still to read; its last token is always left to be read."""
        source, reached = self._best(session, range(len(self._holders)))
        if session.slot is not None and reached - session.cached >= _LEAST_TOKENS:
            self._cache.copy(source, session.slot, session.cached, reached)
            session.cached = reached

    def worth_waiting_for(self, session: TransformersSession, others: Iterable[TransformersSession]) -> bool:
        """Whether one of `others`, which are about to be read, reads enough of what `session` would read as well."""
        alike = [other for other in others if other.adapter == session.adapter]
        if not alike:
            return False
        known = max(session.cached, len(session.shared), self._best(session, range(len(self._holders)))[1])
        ahead = session.ids[: known + _LEAST_TOKENS + 1]
        return len(ahead) > known + _LEAST_TOKENS and any(other.ids[: len(ahead)] == ahead for other in alike)

    def _best(self, session: TransformersSession, slots: Iterable[int]) -> tuple[int, int]:
        """The one of `slots` that holds most of `session`'s tokens, the lowest of several, and how many it holds."""
        held = {slot: self._held(session, slot) for slot in sorted(slots)}
        slot = max(held, key=held.__getitem__)
        return slot, held[slot]

    def _held(self, session: TransformersSession, slot: int) -> int:
        """How many of `session`'s first tokens `slot` holds, but for the last, whose logits are always asked for."""
        holder = self._holders[slot]
        if holder is None or holder.adapter != session.adapter:
            return 0
        return min(common_tokens(session.ids, holder.ids), holder.cached, len(session.ids) - 1)


def common_tokens(first: list[int], second: list[int]) -> int:
    """The length of the longest beginning that both have."""
    low, high = 0, min(len(first), len(second))
    while low < high:  # slices are compared much faster than items in a loop
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
