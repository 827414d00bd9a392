"""Guesses at the next tokens of a turn, so that one forward pass can read several and keep those that were right.

Turns repeat: the protocol fixes most of their characters, and the rest is mostly copied out of the alert. A guess costs
a little computation where it is wrong. It changes how many passes a turn takes and, but for how numbers round in a pass
of another size, not what is sampled.
"""

from collections.abc import Sequence

MAX_GUESSES = 6
"""So many tokens are guessed at once, at most."""
_USUAL = (3,)
_OWN = (2, 1)
_MAX_KEPT = 65536


class NextTokens:
    """For each run of tokens of the given lengths, the token that last followed it."""

    def __init__(self, lengths: tuple[int, ...]) -> None:
        self._lengths = lengths
        self._followers: dict[tuple[int, ...], int] = {}

    def read(self, ids: Sequence[int], start: int) -> None:
        """Notes what ``ids[start:]`` follow."""
        if len(self._followers) > _MAX_KEPT:
            self._followers.clear()
        for end in range(start, len(ids)):
            for length in self._lengths:
                if end >= length:
                    self._followers[tuple(ids[end - length : end])] = ids[end]

    def after(self, ids: Sequence[int]) -> int | None:
        """The token that last followed the longest known run at the end of `ids`; None after what is new."""
        for length in self._lengths:
            found = self._followers.get(tuple(ids[-length:]))
            if found is not None:
                return found
        return None


class Conversation:
    """What one conversation has said and read so far, to copy from."""

    def __init__(self) -> None:
        self._followers = NextTokens(_OWN)
        self._known = 0

    def read(self, ids: Sequence[int]) -> None:
        """Notes what `ids`, all of the conversation, has more than last time."""
        self._followers.read(ids, self._known)
        self._known = len(ids)

    def after(self, ids: Sequence[int]) -> int | None:
        """What last followed the end of `ids` in it; None after what is new."""
        return self._followers.after(ids)


class Drafts:
    """What turns of each adapter usually say."""

    def __init__(self) -> None:
        self._usual: dict[str, NextTokens] = {}

    def learn(self, adapter: str, ids: Sequence[int], start: int) -> None:
        """Notes a turn that was sampled with `adapter`: ``ids[start:]``, after what lies before."""
        self._usual.setdefault(adapter, NextTokens(_USUAL)).read(ids, start)

    def forget(self, adapter: str) -> None:
        """Drops what an adapter said."""
        self._usual.pop(adapter, None)

    def guess(self, adapter: str, ids: Sequence[int], own: Conversation, most: int) -> list[int]:
        """At most `most` tokens that may follow `ids`: what the adapter usually says there, else a copy of before."""
        own.read(ids)
        usual = self._usual.get(adapter)
        context = list(ids[-max(_USUAL) :])
        guessed: list[int] = []
        while len(guessed) < most:
            token = usual.after(context) if usual else None
            if token is None:
                token = own.after(context)
            if token is None:
                break
            guessed.append(token)
            context = [*context[-max(_USUAL) + 1 :], token]
        return guessed


def reach_after(reach: int, guessed: int, right: int) -> int:
    """How far to guess next in a turn of which `right` of `guessed` tokens were right, one after another, just now.

    A wrong guess takes as much of a pass as a right one: text that nobody can guess is guessed a token at a time. Fewer
    than `reach` were guessed where no more were known.
    """
    return max(reach, min(MAX_GUESSES, right + 2)) if right == guessed else right + 1
