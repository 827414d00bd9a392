"""Objects of the API server as the contract's models, and statuses as what is applied.

A model takes several times the memory of its JSON text, and a pass over one resource reads a few of them several times:
those read last are kept, as long as the object's resourceVersion is the same.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import ValidationError

from socadapter_api.adapter import SocAdapter, SocAdapterVersion
from socadapter_api.errors import SpecError
from socadapter_api.model import Contract
from socadapter_api.pool import SocServingPool
from socadapter_operator.kube.resources import Object, key_of, metadata, uid_of

Resource = TypeVar("Resource", SocServingPool, SocAdapter, SocAdapterVersion)

_READ = ("apiVersion", "kind", "metadata", "spec", "status")
_TOLD = 3
_MAX_KEPT = 256


class Contracts:
    """Reads raw objects. Safe for threads: two that read the same object make equal models."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], tuple[str, Contract]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, kind: type[Resource], raw: Object) -> Resource:
        """`raw` as `kind`.

        Raises:
            SpecError: it does not fit the contract; the CRD that is installed is another than this operator's.
        """
        key, version = (kind.__name__, uid_of(raw)), str(metadata(raw).get("resourceVersion") or "")
        with self._lock:
            known = self._known.get(key)
            if known is not None and version and known[0] == version and isinstance(known[1], kind):
                self._known.move_to_end(key)
                return known[1]
        made = model_of(kind, raw)
        with self._lock:
            self._known[key] = (version, made)
            self._known.move_to_end(key)
            if len(self._known) > _MAX_KEPT:
                self._known.popitem(last=False)
        return made

    def read_all(self, kind: type[Resource], items: Iterable[Object]) -> tuple[Resource, ...]:
        """Those of `items` that fit the contract and are not being deleted; one that does not is told on its own."""
        found: list[Resource] = []
        for raw in items:
            with suppress(SpecError):
                if not being_deleted(raw):
                    found.append(self.read(kind, raw))
        return tuple(found)

    def forget(self, kind: type[Contract], uid: str) -> None:
        """Drops what is kept of an object that is gone."""
        with self._lock:
            self._known.pop((kind.__name__, uid), None)


def model_of(kind: type[Resource], raw: Object) -> Resource:
    """`raw` as `kind`, made anew.

    Raises:
        SpecError: it does not fit the contract.
    """
    try:
        return kind.model_validate({name: raw[name] for name in _READ if name in raw})
    except ValidationError as error:
        raise SpecError(_told(kind.__name__, raw, error)) from None


def status_of(resource: Contract, status: Contract, resource_version: str = "") -> Object:
    """What is applied so that `resource` has `status`: its identity, so that a namesake is never meant, and that."""
    held: Any = getattr(resource, "metadata")  # noqa: B009  every kind has it, and Contract does not name it
    identity = {"name": held.name, "namespace": held.namespace, "uid": held.uid}
    if resource_version:
        identity["resourceVersion"] = resource_version
    return {"metadata": identity, "status": _filled(status.model_dump(mode="json", exclude_none=True))}


def _filled(held: Object) -> Object:
    """`held` without empty objects: of one whose last field an apply takes away, the API server makes a null."""
    parts = {key: _filled(value) if isinstance(value, dict) else value for key, value in held.items()}
    return {key: value for key, value in parts.items() if value != {}}


def being_deleted(raw: Mapping[str, Any]) -> str:
    """When deletion of the object was asked for; empty if it was not."""
    return str(metadata(raw).get("deletionTimestamp") or "")


def _told(kind: str, raw: Object, error: ValidationError) -> str:
    problems = [
        f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_input=False)[:_TOLD]
    ]
    return (
        f"{kind} {key_of(raw)} does not fit the contract of this operator ({'; '.join(problems)}): mend the field, or "
        "install the CRDs and the operator of one release"
    )
