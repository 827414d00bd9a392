"""From a reason in a result, a log or a condition back to the class of the error tree that it names."""

from collections.abc import Mapping
from types import MappingProxyType

from socadapter_api.errors import SocAdapterError, by_reason

BY_REASON: Mapping[str, type[SocAdapterError]] = MappingProxyType(by_reason())
