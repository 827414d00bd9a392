"""The range's tools in this process, without a server: for tests, benchmarks and the expert.

`RangeToolbox` has the shape that the agent expects of a toolbox. The MCP server answers through the same `answer`.
"""

import sqlite3
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from socadapter_api.errors import SpecError
from socadapter_api.trajectory import CallOutcome
from socadapter_range.tools import ARGUMENT_OF, TOOL_SPECS, ToolSpec, ask


class Dated(Protocol):
    """Whatever carries the moment at which an alert was raised."""

    @property
    def observed_at(self) -> datetime | None: ...


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """What came back: the text for the model, how the call ended, and how long it took in seconds."""

    text: str
    outcome: CallOutcome = CallOutcome.OK
    seconds: float = 0.0


class RangeToolbox:
    """Answers the eight tools from a telemetry file; any number of threads may call it."""

    specs: tuple[ToolSpec, ...] = TOOL_SPECS

    def __init__(self, db_path: str | Path) -> None:
        if not Path(db_path).is_file():
            raise SpecError(f"no telemetry at {db_path}: make it with `python -m socadapter_range export`")
        self._uri = f"file:{Path(db_path).resolve()}?mode=ro&immutable=1"
        self._local = threading.local()
        self._all: list[sqlite3.Connection] = []

    def answer(self, tool: str, args: Mapping[str, Any], as_of: datetime | None) -> ToolAnswer:
        """The answer of `tool` as of `as_of`, or as of the end of all telemetry where that is None."""
        started = time.perf_counter()
        if tool not in ARGUMENT_OF:
            return ToolAnswer(f"error: no tool {tool}", CallOutcome.UNKNOWN_TOOL)
        if set(args) != {ARGUMENT_OF[tool]} or not isinstance(args[ARGUMENT_OF[tool]], str):
            return ToolAnswer(f"error: {tool} takes {ARGUMENT_OF[tool]}", CallOutcome.INVALID_ARGUMENTS)
        moment = datetime.max.replace(tzinfo=UTC) if as_of is None else as_of
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        text = ask(self._connection(), tool, args, int(moment.timestamp()))
        return ToolAnswer(text, CallOutcome.OK, time.perf_counter() - started)

    async def call(self, tool: str, args: Mapping[str, Any], alert: Dated) -> ToolAnswer:
        """The answer of `tool` as of the time of `alert`."""
        return self.answer(tool, args, alert.observed_at)

    def close(self) -> None:
        """Closes every thread's connection; the toolbox is not used afterwards."""
        while self._all:
            self._all.pop().close()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            # Only `close` touches it from another thread, when no call is under way.
            connection = sqlite3.connect(self._uri, uri=True, check_same_thread=False)
            self._local.connection = connection
            self._all.append(connection)
        return connection
