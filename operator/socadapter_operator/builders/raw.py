"""Reading raw JSON whose form nobody has checked yet: what is no map or no list is taken for an empty one."""

from collections.abc import Iterator, Mapping
from typing import Any

Part = Mapping[str, Any]


def map_at(of: Part, key: str) -> Part:
    """The map at `key`; empty where there is none."""
    found = of.get(key)
    return found if isinstance(found, Mapping) else {}


def maps_at(of: Part, key: str) -> Iterator[Part]:
    """The maps in the list at `key`."""
    found = of.get(key)
    return (item for item in found if isinstance(item, Mapping)) if isinstance(found, list) else iter(())


def list_at(of: Part, key: str) -> list[Any]:
    """The list at `key`; empty where there is none."""
    found = of.get(key)
    return found if isinstance(found, list) else []
