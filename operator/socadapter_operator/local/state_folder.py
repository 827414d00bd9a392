"""The state folder of local mode: resources with their status, and what people ask for, as files.

::

    <state>/lock                                  who drives this folder: one process at a time
    <state>/<namespace>/<Kind>/<name>.json        the resource, as ``kubectl get -o json`` would show it
    <state>/<namespace>/requests/<name>           a time at which a run was asked for
    <state>/runs/ serving/ secrets/ keys/         the backend's, see `backends`

Readers need no lock: every file is replaced whole.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from socadapter_api.adapter import SocAdapter, SocAdapterVersion
from socadapter_api.errors import BackendUnavailable, SpecError
from socadapter_api.pool import SocServingPool
from socadapter_operator.backends import process
from socadapter_operator.backends.process import Process
from socadapter_operator.domain.timestamps import stamp

Resource = SocServingPool | SocAdapter | SocAdapterVersion
Kind = TypeVar("Kind", SocServingPool, SocAdapter, SocAdapterVersion)

DEFAULT = ".socadapter"


def default() -> Path:
    """``$SOCADAPTER_HOME``, or ``.socadapter`` in the current folder."""
    return Path(os.environ.get("SOCADAPTER_HOME") or DEFAULT)


class StateFolder:
    """One state folder. It need not exist until something is written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, kind: type[Kind], namespace: str, name: str) -> Kind | None:
        """The resource, or None where there is none.

        Raises:
            SpecError: the file is there and is not such a resource.
        """
        path = self._file(kind.__name__, namespace, name)
        try:
            return kind.model_validate(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, ValidationError) as error:
            raise SpecError(
                f"{path} is not a {kind.__name__}: {error}; bring it back from a copy, or remove it: `up` then makes a "
                "pool or an adapter anew from the files that it is given, without what this file alone knew"
            ) from error

    def list(self, kind: type[Kind]) -> tuple[Kind, ...]:
        """Every resource of `kind`, by namespace and name. Raises as `read`."""
        found, unreadable = self.readable(kind)
        for error in unreadable:
            raise error
        return found

    def readable(self, kind: type[Kind]) -> tuple[tuple[Kind, ...], tuple[SpecError, ...]]:
        """Every resource of `kind` that can be read, by namespace and name; and why the others cannot be."""
        found: list[Kind] = []
        unreadable: list[SpecError] = []
        for path in sorted(self.path.glob(f"*/{kind.__name__}/*.json")):
            try:
                resource = self.read(kind, path.parent.parent.name, path.stem)
            except SpecError as error:
                unreadable.append(error)
            else:
                found += [resource] if resource is not None else []
        return tuple(found), tuple(unreadable)

    def write(self, resource: Resource) -> bool:
        """Writes the resource; False, and nothing written, where the file already says the same."""
        path = self._file(resource.kind, resource.metadata.namespace, resource.metadata.name)
        value = resource.model_dump(mode="json")
        if process.read_json(path) == value:
            return False
        process.write_json(path, value)
        return True

    def delete(self, kind: type[Kind], namespace: str, name: str) -> None:
        """Removes the resource; one that is not there is no error."""
        self._file(kind.__name__, namespace, name).unlink(missing_ok=True)

    def request(self, namespace: str, name: str, at: datetime) -> None:
        """Asks for a run of the adapter."""
        path = self._request(namespace, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(stamp(at))

    def requested(self, namespace: str, name: str) -> str:
        """When a run of the adapter was last asked for; empty if never."""
        try:
            return self._request(namespace, name).read_text().strip()
        except OSError:
            return ""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for this process.

        Raises:
            BackendUnavailable: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                owner = self.owner()
                raise BackendUnavailable(
                    f"state folder {self.path} is driven by process {owner.pid if owner else '(unknown)'}: "
                    "wait for it, stop it with `socadapter down`, or name another folder with --state"
                ) from None
            process.write_json(
                self.path / "owner.json", {"pid": os.getpid(), "started": process.started_at(os.getpid()) or ""}
            )
            try:
                yield
            finally:
                (self.path / "owner.json").unlink(missing_ok=True)

    def owner(self) -> Process | None:
        """The process that drives the folder at this moment."""
        found = Process.read(self.path / "owner.json")
        return found if found is not None and found.alive else None

    def _file(self, kind: str, namespace: str, name: str) -> Path:
        return self.path / namespace / kind / f"{name}.json"

    def _request(self, namespace: str, name: str) -> Path:
        return self.path / namespace / "requests" / name
