"""Recorded evidence as a toolbox: what a tool returned for this alert, whatever arguments it is called with.

Makes investigations repeatable: all trajectories of a group read the same evidence, so that their rewards compare.
Used for data sets that come with evidence, and for the analysts' verdicts of the day.
"""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from socadapter_agent.tools import ToolAnswer, ToolSpec
from socadapter_api.case import Alert, Case
from socadapter_api.errors import ReplayMiss as ReplayMissError
from socadapter_api.training import ReplayMiss
from socadapter_api.trajectory import CallOutcome

MAX_RENDERED_CHARACTERS = 900
MAX_LIST_ITEMS = 6
_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60))

ISO_TIME = re.compile(r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?(\.\d+)?\s*(Z|UTC|[+-]\d\d:?\d\d)?)?$")
"""How recorded data write an absolute time, or a date, which is its midnight."""


def specs_of_cases(cases: Iterable[Case]) -> tuple[ToolSpec, ...]:
    """A tool for each kind of evidence that the cases hold, sorted by name. It names no argument, and takes any."""
    names = sorted({name for case in cases for name in case.evidence})
    schema = {"type": "object", "properties": {}, "additionalProperties": True}
    return tuple(ToolSpec(name, "", dict(schema)) for name in names)


class ReplayToolbox:
    """Answers from one case's evidence. `miss` says what a call that was never recorded means."""

    def __init__(self, evidence: Mapping[str, Any], specs: tuple[ToolSpec, ...], miss: ReplayMiss) -> None:
        self._evidence = evidence
        self._specs = specs
        self._miss = miss

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        return self._specs

    async def call(self, tool: str, args: Mapping[str, Any], alert: Alert) -> ToolAnswer:
        if tool not in self._evidence:
            if self._miss is ReplayMiss.UNSCORABLE:
                raise ReplayMissError(f"tool {tool!r} was not recorded for this alert")
            return ToolAnswer("no data", CallOutcome.NO_DATA)
        return ToolAnswer(render_evidence(self._evidence[tool], alert.observed_at))


def render_evidence(value: Any, observed_at: datetime | None = None) -> str:
    """Recorded evidence as short text: text as it is, JSON flattened to ``key=value``, times relative to the alert.

    Absolute times are made relative (``-5m``) where the alert's own time is known and dropped where it is not: in
    recorded data sets the date alone often betrays the label.
    """
    text = value if isinstance(value, str) else "; ".join(_flatten(value, "", observed_at))
    text = text or "no data"
    return text if len(text) <= MAX_RENDERED_CHARACTERS else text[: MAX_RENDERED_CHARACTERS - 4] + " ..."


def _flatten(value: Any, key: str, observed_at: datetime | None) -> list[str]:
    if isinstance(value, Mapping):
        return [part for name, inner in value.items() for part in _flatten(inner, str(name), observed_at)]
    if isinstance(value, list):
        if all(not isinstance(item, (Mapping, list)) for item in value):
            joined = ",".join(filter(None, (_scalar(item, observed_at) for item in value[:MAX_LIST_ITEMS])))
            return _named(key, "=", joined)
        rows = (" ".join(_flatten(item, "", observed_at)) for item in value[:MAX_LIST_ITEMS])
        return _named(key, ": ", " | ".join(filter(None, rows)))
    if value is None or value == "":
        return []
    return _named(key, "=", _scalar(value, observed_at))


def _named(key: str, sign: str, text: str) -> list[str]:
    return [f"{key}{sign}{text}" if key else text] if text else []


def _scalar(value: Any, observed_at: datetime | None) -> str:
    if isinstance(value, str) and ISO_TIME.match(value):
        return _relative(value, observed_at)
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _relative(text: str, observed_at: datetime | None) -> str:
    if observed_at is None:
        return ""
    try:
        at = read_time(text)
    except ValueError:
        return ""  # the form of a time, and none: the 31st of June
    if observed_at.tzinfo is None:
        observed_at = observed_at.replace(tzinfo=UTC)
    if at.tzinfo is None:
        at = at.replace(tzinfo=observed_at.tzinfo)
    return relative((at - observed_at).total_seconds())


def read_time(text: str) -> datetime:
    """A time that `ISO_TIME` matches, without a zone where it names none. Raises ValueError on the 31st of June."""
    return datetime.fromisoformat(re.sub(r"\s*(Z|UTC)$", "+00:00", text))


def relative(seconds: float) -> str:
    """A span from the alert in its largest unit, such as ``-5m`` or ``+2d``."""
    sign, size = ("-" if seconds < 0 else "+"), abs(seconds)
    for unit, length in _UNITS:
        if size >= length:
            return f"{sign}{size / length:.0f}{unit}"
    return f"{sign}{size:.0f}s"
