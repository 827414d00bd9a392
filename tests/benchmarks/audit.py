"""What one user asks of an API server, by its audit log."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_READS = frozenset({"get", "list", "watch"})


@dataclass(frozen=True, slots=True)
class Asked:
    """One answered request; `what` is the resource, with its subresource behind a slash."""

    verb: str
    what: str

    @property
    def is_write(self) -> bool:
        """Whether it was to change something."""
        return self.verb not in _READS


class Audit:
    """Requests of `username`, from now on."""

    def __init__(self, log: Path, username: str) -> None:
        self._log = log
        self._marker = f'"user":{{"username":"{username}"'.encode()
        self._offset = log.stat().st_size

    def read(self) -> list[Asked]:
        """What was asked since the last time, Leases apart."""
        if self._log.stat().st_size < self._offset:  # a full log is set aside, and a new one begun
            self._offset = 0
        with self._log.open("rb") as log:
            log.seek(self._offset)
            whole, ended, _ = log.read().rpartition(b"\n")
        self._offset += len(whole) + len(ended)
        asked = (_asked(line) for line in whole.splitlines() if self._marker in line)
        return [one for one in asked if one.what != "leases"]


def by_verb(asked: Iterable[Asked]) -> dict[str, int]:
    """How often what was asked for, such as ``patch socadapters/status``."""
    return dict(Counter(f"{one.verb} {one.what}" for one in asked).most_common())


def _asked(line: bytes) -> Asked:
    event = json.loads(line)
    target = event.get("objectRef") or {}
    what = "/".join(part for part in (target.get("resource"), target.get("subresource")) if part)
    return Asked(event["verb"], what or event["requestURI"])
