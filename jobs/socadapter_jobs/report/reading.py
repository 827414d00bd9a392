"""Reads untyped JSON leniently: a part that is missing or of the wrong shape is absent, never an error.

The report must open for a run that broke half way and for evaluations of earlier versions. Keys are taken in
snake_case or camelCase, since parts of an evaluation are written by the contract's models. Called by all of the report.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic.alias_generators import to_camel


def get(mapping: Any, *keys: str) -> Any:
    """The value of the first of `keys` that `mapping` has, in either spelling; None where it has none."""
    if isinstance(mapping, Mapping):
        for key in keys:
            for spelling in (key, to_camel(key)):
                if mapping.get(spelling) is not None:
                    return mapping[spelling]
    return None


def part(mapping: Any, *keys: str) -> dict[str, Any]:
    """As `get`, where only a JSON object will do; empty otherwise."""
    value = get(mapping, *keys)
    return dict(value) if isinstance(value, Mapping) else {}


def rows(mapping: Any, *keys: str) -> list[dict[str, Any]]:
    """As `get`, where only a list will do; whatever in it is no JSON object is left out."""
    value = get(mapping, *keys)
    return [dict(row) for row in value if isinstance(row, Mapping)] if isinstance(value, list | tuple) else []


def number(mapping: Any, *keys: str) -> float | None:
    """As `get`, where only a finite number will do."""
    return finite(get(mapping, *keys))


def finite(value: Any) -> float | None:
    """`value` as a float where it is a finite number, else None. Truth values are not numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond all floats
        return None


def text(mapping: Any, *keys: str) -> str:
    """As `get`, as text; empty where there is nothing."""
    value = get(mapping, *keys)
    return "" if value is None else str(value)


def series(points: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """The points of `key` over ``step``, in the order of steps; a point without a step counts on from the last."""
    return sorted(_points(points, key), key=lambda point: point[0])


def _points(points: list[dict[str, Any]], key: str) -> Iterator[tuple[float, float]]:
    for index, point in enumerate(points):
        value, step = number(point, key), number(point, "step")
        if value is not None:
            yield (float(index) if step is None else step), value
