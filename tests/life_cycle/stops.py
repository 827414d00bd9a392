"""How a test ends an operator at a chosen write, and counts what all operators have written."""

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from socadapter_operator.kube.attempts import Write
from socadapter_operator.kube.resources import Kind


class Stopped(BaseException):
    """The process ends here: no handler of errors sees it, and the thread that was writing is gone."""


@dataclass
class Tally:
    """The writes that the API server carried out, for whichever operator; goes before `StopAt` among the hooks."""

    _done: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def before(self, write: Write) -> None:
        """What is about to be sent does not count."""

    def after(self, write: Write) -> None:
        if not write.subresource:
            with self._lock:
                self._done[write.verb, write.kind.plural, write.name] += 1

    def names(self, verb: str, kind: Kind) -> dict[str, int]:
        """How often `verb` was carried out on each object of `kind`."""
        with self._lock:
            return {
                name: count for (did, plural, name), count in self._done.items() if (did, plural) == (verb, kind.plural)
            }


@dataclass
class StopAt:
    """Ends an operator at its `number`-th write (from 1): before it is sent, or once it was carried out.

    From then on no thread of that operator writes.
    """

    number: int
    after_it: bool
    stopped: threading.Event = field(default_factory=threading.Event)
    told: str = ""
    _seen: int = 0
    _mine: threading.local = field(default_factory=threading.local)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def before(self, write: Write) -> None:
        with self._lock:
            if self.stopped.is_set():
                raise Stopped(str(write))
            self._seen += 1
            self._mine.number = self._seen
            if self._seen == self.number and not self.after_it:
                self._stop(write)

    def after(self, write: Write) -> None:
        with self._lock:
            if self.stopped.is_set() or (self.after_it and self._mine.number >= self.number):
                self._stop(write)

    def _stop(self, write: Write) -> None:
        if not self.stopped.is_set():
            what = f"{write.kind.plural}/{write.subresource}" if write.subresource else write.kind.plural
            self.told = f"{'after' if self.after_it else 'before'} {write.verb} {what}"
        self.stopped.set()
        raise Stopped(str(write))


class Severed:
    """A backend that an operator which was stopped reaches no more: a process that ended starts nothing."""

    def __init__(self, backend: Any, stopped: threading.Event) -> None:
        self._backend = backend
        self._stopped = stopped

    def __getattr__(self, name: str) -> Any:
        if self._stopped.is_set():
            raise Stopped(name)
        return getattr(self._backend, name)
