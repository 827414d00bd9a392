"""The digests of bases, each looked for in a thread of its own: fetching one may take an hour, and a pass must not.

The threads are daemons: none keeps its process from ending. Called by the local backend.
"""

import threading
import time
from collections.abc import Callable

from socadapter_api.training import BaseModelRef

_ASK_AGAIN_S = 60.0


class Bases:
    """What `digest` says of each base that was asked for; it raises an error of the tree where there is none."""

    def __init__(self, digest: Callable[[BaseModelRef], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._digest = digest
        self._clock = clock
        self._lookups: dict[str, _Lookup] = {}

    def find(self, ref: BaseModelRef, wait_s: float) -> str | Exception | None:
        """The base's digest, or why there is none; None where it is still looked for after `wait_s`.

        A failure is looked into again after a while, and stands until something else is found.
        """
        key = ref.model_dump_json()
        lookup = self._lookups.get(key)
        if lookup is None or lookup.failed_before(self._clock() - _ASK_AGAIN_S):
            lookup = self._lookups[key] = _Lookup(lookup.found if lookup else None)
            threading.Thread(target=self._look, args=(ref, lookup), name=f"base {ref.uri}", daemon=True).start()
        if lookup.found is None:
            lookup.ended.wait(wait_s)
        return lookup.found

    def _look(self, ref: BaseModelRef, lookup: "_Lookup") -> None:
        found: str | Exception
        try:
            found = self._digest(ref)
        except Exception as error:  # noqa: BLE001  the rim of the thread: whoever asks is told
            found = error
        lookup.end(found, self._clock())


class _Lookup:
    """One base that is looked for. `found` is what an earlier lookup found, until this one ends."""

    def __init__(self, found: str | Exception | None) -> None:
        self.found = found
        self.ended = threading.Event()
        self._ended_at = 0.0

    def end(self, found: str | Exception, at: float) -> None:
        self.found, self._ended_at = found, at
        self.ended.set()

    def failed_before(self, moment: float) -> bool:
        return self.ended.is_set() and isinstance(self.found, Exception) and self._ended_at <= moment
