"""Tools as the agent sees them, and the guard that stands between an investigation and a failing tool.

A `Toolbox` answers calls; where the answers come from (MCP servers, a recording) is its own affair. `GuardedToolbox`
adds what every unattended caller needs: a time-out per call, a size limit, and a circuit breaker per tool. It turns
failures into answers with an outcome, so that an outage makes a trajectory unscorable instead of wrong.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from socadapter_api import digest
from socadapter_api.case import Alert
from socadapter_api.errors import ReplayMiss, ToolError, ToolGarbage, ToolOutage, ToolTimeout
from socadapter_api.names import Digest
from socadapter_api.trajectory import CallOutcome

MAX_RESULT_CHARACTERS = 4_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """One tool: its name, one short line, and the JSON schema of the arguments that the model gives."""

    name: str
    description: str
    parameters: dict[str, Any]

    @property
    def required(self) -> tuple[str, ...]:
        """Arguments that a call must name."""
        return tuple(self.parameters.get("required", ()))


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """What came back: the text for the model, how the call ended, and how long it took in seconds."""

    text: str
    outcome: CallOutcome = CallOutcome.OK
    seconds: float = 0.0


class Toolbox(Protocol):
    """Something that answers tool calls about one enterprise."""

    @property
    def specs(self) -> tuple[ToolSpec, ...]: ...

    async def call(self, tool: str, args: Mapping[str, Any], alert: Alert) -> ToolAnswer:
        """The answer of `tool`. Raises a `ToolError` where there is none; `alert` freezes the time."""
        ...


def tools_digest(specs: tuple[ToolSpec, ...]) -> Digest:
    """The digest of all tool schemas: what training offered and what serving must offer."""
    return digest.of_json(sorted([spec.name, spec.description, spec.parameters] for spec in specs))


def argument_problem(spec: ToolSpec, args: Mapping[str, Any]) -> str | None:
    """Why `args` do not fit the tool's schema, in one short line for the model; None where they do."""
    known = spec.parameters.get("properties", {})
    if missing := [name for name in spec.required if name not in args]:
        return f"missing argument {', '.join(missing)}"
    unknown = [name for name in args if name not in known]
    if unknown and spec.parameters.get("additionalProperties") is not True:
        return f"no argument {', '.join(unknown)}; known: {', '.join(known)}"
    if wrong := [name for name, value in args.items() if not _fits(known.get(name, {}), value)]:
        return f"argument {', '.join(wrong)} has the wrong type"
    return None


def _fits(schema: Mapping[str, Any], value: Any) -> bool:
    kinds: dict[str, type | tuple[type, ...]] = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "array": list,
        "object": dict,
    }
    kind = kinds.get(str(schema.get("type", "")))
    if kind is None:
        return True
    if isinstance(value, bool) and kind is not bool:
        return False
    return isinstance(value, kind)


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    open_until: float = 0.0


@dataclass(slots=True)
class GuardedToolbox:
    """A toolbox whose calls never raise and never hang.

    A tool that failed `failures_to_open` times in a row is not asked for `open_s` seconds; then one call probes it,
    and the others wait for what comes of that as if it had failed again.
    """

    inner: Toolbox
    timeout_s: float = 10.0
    failures_to_open: int = 5
    open_s: float = 30.0
    clock: Callable[[], float] = time.monotonic
    _circuits: dict[str, _Circuit] = field(default_factory=dict)

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        return self.inner.specs

    async def call(self, tool: str, args: Mapping[str, Any], alert: Alert) -> ToolAnswer:
        circuit = self._circuits.setdefault(tool, _Circuit())
        started = self.clock()
        if started < circuit.open_until:
            return ToolAnswer("error: tool unavailable", CallOutcome.CIRCUIT_OPEN)
        if circuit.failures >= self.failures_to_open:
            circuit.open_until = started + self.open_s
        try:
            answer = await self._ask(tool, args, alert)
        except ToolError as error:
            return self._failed(circuit, error, self.clock() - started)
        except Exception as error:  # noqa: BLE001  the rim of one call: a fault of one tool must not end a batch
            _log.error("tool_failed tool=%s error=%s", tool, type(error).__name__)
            return self._failed(circuit, ToolOutage(f"tool {tool!r} raised"), self.clock() - started)
        circuit.failures, circuit.open_until = 0, 0.0
        return ToolAnswer(answer.text, answer.outcome, self.clock() - started)

    async def _ask(self, tool: str, args: Mapping[str, Any], alert: Alert) -> ToolAnswer:
        try:
            async with asyncio.timeout(self.timeout_s):
                answer = await self.inner.call(tool, args, alert)
        except TimeoutError:
            raise ToolTimeout(f"tool {tool!r} gave no answer in {self.timeout_s} s") from None
        if len(answer.text) > MAX_RESULT_CHARACTERS or not _readable(answer.text):
            raise ToolGarbage(f"tool {tool!r} answered {len(answer.text)} characters that are too many or not text")
        return answer

    def _failed(self, circuit: _Circuit, error: ToolError, seconds: float) -> ToolAnswer:
        outcome = _OUTCOMES.get(type(error), CallOutcome.OUTAGE)
        if outcome.environment_failed:
            circuit.failures += 1
            if circuit.failures >= self.failures_to_open:
                circuit.open_until = self.clock() + self.open_s
        return ToolAnswer(f"error: {outcome.value.replace('_', ' ')}", outcome, seconds)


@dataclass(slots=True)
class JoinedToolbox:
    """A toolbox that is asked once by all who ask the same at the same time, as the trajectories of a group do.

    They also get their answers together, so that the engine can go on reading them as one. `inner` is a guarded one: a
    call goes on for the others when one of those who wait for it is cancelled, and must end by itself.
    """

    inner: GuardedToolbox
    _open: dict[tuple[object, ...], "asyncio.Task[ToolAnswer]"] = field(default_factory=dict)

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        return self.inner.specs

    async def call(self, tool: str, args: Mapping[str, Any], alert: Alert) -> ToolAnswer:
        asked = json.dumps([args, alert.fields], sort_keys=True, default=str)
        key = (tool, alert.observed_at, asked)
        if key not in self._open:
            task = asyncio.create_task(self.inner.call(tool, args, alert))
            self._open[key] = task
            task.add_done_callback(lambda _: self._open.pop(key, None))
        return await asyncio.shield(self._open[key])


_OUTCOMES: dict[type[ToolError], CallOutcome] = {
    ToolTimeout: CallOutcome.TIMEOUT,
    ToolOutage: CallOutcome.OUTAGE,
    ToolGarbage: CallOutcome.GARBAGE,
    ReplayMiss: CallOutcome.REPLAY_MISS,
}


def _readable(text: str) -> bool:
    """Whether `text` is text: no NUL, no half surrogates, and nearly no control or replacement characters."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        return False
    strange = sum(1 for character in text if character == "\ufffd" or (character < " " and character not in "\n\t\r"))
    return strange * 20 <= len(text)
