"""What of a recorded alert and its evidence is shown: named keys hidden, absolute times made relative to the alert.

A date, or how long a recording has been running, often betrays the label in recorded data, because attacks were staged
at its end. Relative times do not. Pure; called by the importers.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from socadapter_agent.replay import ISO_TIME, read_time, relative


def parse_time(text: object) -> datetime | None:
    """An ISO 8601 time, in UTC where it names no zone; None for anything else."""
    if not isinstance(text, str) or not ISO_TIME.match(text):
        return None
    try:
        at = read_time(text)
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def with_relative_times(value: Any, reference: datetime | None) -> Any:
    """`value` with every absolute time told from `reference`; without a reference such values are left out."""
    if isinstance(value, Mapping):
        shown = {key: with_relative_times(inner, reference) for key, inner in value.items()}
        return {key: inner for key, inner in shown.items() if inner is not None or value[key] is None}
    if isinstance(value, list):
        return [with_relative_times(inner, reference) for inner in value]
    at = parse_time(value)
    if at is None:
        return value
    return None if reference is None else relative((at - reference).total_seconds())


def without(value: Any, hidden: frozenset[str], path: str = "") -> Any:
    """`value` without the keys in `hidden`: a plain name anywhere, a dotted one where it ends the path."""
    if isinstance(value, list):
        return [without(inner, hidden, path) for inner in value]
    if not isinstance(value, Mapping):
        return value
    shown: dict[str, Any] = {}
    for key, inner in value.items():
        below = f"{path}.{key}" if path else str(key)
        if not any(below == name or below.endswith(f".{name}") for name in hidden):
            shown[key] = without(inner, hidden, below)
    return shown


def at_path(row: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    value: Any = row
    for part in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value
