"""From a reason in a result, a log or a condition back to the class of the error tree that it names."""

from collections.abc import Mapping
from types import MappingProxyType

from socadapter_api.errors import SocAdapterError


def _tree() -> dict[str, type[SocAdapterError]]:
    found: dict[str, type[SocAdapterError]] = {}
    waiting: list[type[SocAdapterError]] = [SocAdapterError]
    while waiting:
        kind = waiting.pop(0)
        found.setdefault(kind.reason, kind)
        waiting += kind.__subclasses__()
    return found


BY_REASON: Mapping[str, type[SocAdapterError]] = MappingProxyType(_tree())
