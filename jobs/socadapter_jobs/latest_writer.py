"""Writes the newest of what it is given in a thread of its own: who gives it never waits, however long a write takes.

For what is read by onlookers and replaced every few seconds, a run's progress. Called by `workspace.LiveMetrics`.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class LatestWriter(Generic[Item]):
    """Hands items to `write` one at a time and in order, but those that were overtaken while one was being written."""

    def __init__(self, write: Callable[[Item], None]) -> None:
        self._write_one = write
        self._changed = threading.Condition()
        self._next: list[Item] = []
        self._busy = False
        self._error: Exception | None = None

    def put(self, item: Item) -> None:
        """Has `item` written soon, unless a newer one comes first.

        Raises whatever an earlier write raised, once.
        """
        with self._changed:
            self._raise()
            self._next = [item]
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._write, name="latest-writer", daemon=True).start()

    def settle(self, timeout_s: float) -> bool:
        """Waits until everything is written, at most so long; whether it is. Raises as `put`."""
        with self._changed:
            idle = self._changed.wait_for(lambda: not self._busy, timeout_s)
            self._raise()
        return idle

    def _write(self) -> None:
        while (item := self._take()) is not None:
            try:
                self._write_one(item[0])
            except Exception as error:  # noqa: BLE001 raised where the next is given
                with self._changed:
                    self._error = error

    def _take(self) -> list[Item] | None:
        with self._changed:
            found, self._next = self._next, []
            if not found:
                self._busy = False
                self._changed.notify_all()
            return found or None

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
