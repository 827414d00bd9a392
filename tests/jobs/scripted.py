"""The scripted engines of these tests, which have no adapters to load and no chats, and tools that fail."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from socadapter_agent import protocol
from socadapter_agent.engine import Sampling, TokenRecord, Turn
from socadapter_agent.tools import ToolAnswer, Toolbox, ToolSpec
from socadapter_api.case import Alert, Verdict
from socadapter_api.errors import EngineUnavailable
from socadapter_api.trajectory import CallOutcome

TP, FP = Verdict.TRUE_POSITIVE, Verdict.FALSE_POSITIVE
ANSWER = {TP: 101, FP: 102}


class EngineWithoutModel:
    """All of an engine but its conversations."""

    base_digest = template_digest = ""
    adapters: frozenset[str] = frozenset()
    precision = None

    async def start(self) -> None:
        return

    async def stop(self) -> None:
        return

    async def load_adapter(self, name: str, directory: Path) -> None:
        raise EngineUnavailable(name)

    async def unload_adapter(self, name: str) -> None:
        raise EngineUnavailable(name)

    async def chat(self, messages: list[dict[str, str]], adapter: str | None, sampling: Sampling) -> Turn:
        raise EngineUnavailable("not for chats")


@dataclass
class ScriptedSession:
    """Asks for the sign-ins, then concludes what the script says of its alert and its place in the group."""

    verdict: Verdict
    attack: float = 0.5
    """The odds that it gives an attack."""
    ids: list[int] = field(default_factory=lambda: [7])
    mask: list[int] = field(default_factory=list)

    async def turn(self, sampling: Sampling) -> Turn:
        first = len(self.ids) == 1
        text = protocol.render_call("signins", {}) if first else protocol.render_answer(self.verdict, "", [])
        self._append(100 if first else ANSWER[self.verdict], 1)
        odds = None if first else (self.attack, 0.0, 1.0 - self.attack, 0.0)
        return Turn(text, (self.ids[-1],), (-0.5,), odds)

    def add_result(self, text: str) -> None:
        self._append(200, 0)

    def _append(self, token: int, mask: int) -> None:
        self.ids.append(token)
        self.mask.append(mask)

    @property
    def context_tokens(self) -> int:
        return len(self.ids)

    def record(self) -> TokenRecord:
        return TokenRecord((5, 6, 7), tuple(self.ids[1:]), tuple(self.mask), tuple(-0.5 * m for m in self.mask))

    def close(self) -> None:
        return


@dataclass
class ScriptedEngine(EngineWithoutModel):
    """Verdicts by alert number: one word for the whole group, or one per place in it; the odds of an attack."""

    script: Mapping[int, Verdict | tuple[Verdict, ...]]
    odds: Mapping[int, float] = field(default_factory=dict)
    opened: dict[int, int] = field(default_factory=dict)
    forgotten: int = 0

    adapters = frozenset({"default"})

    def forget(self) -> None:
        self.forgotten += 1

    def open(self, system: str, user: str, adapter: str | None = None) -> ScriptedSession:
        number = int(user.rpartition("count: ")[2])
        place = self.opened.get(number, 0)
        self.opened[number] = place + 1
        said = self.script.get(number, TP)
        verdict = said if isinstance(said, Verdict) else said[place % len(said)]
        return ScriptedSession(verdict, self.odds.get(number, 0.5))


class Outage:
    """Tools that fail for some alerts."""

    def __init__(self, inner: Toolbox, broken: bool) -> None:
        self._inner, self._broken = inner, broken

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        return self._inner.specs

    async def call(self, tool: str, args: Mapping[str, Any], alert: Alert) -> ToolAnswer:
        if self._broken:
            return ToolAnswer("error: outage", CallOutcome.OUTAGE)
        return await self._inner.call(tool, args, alert)
