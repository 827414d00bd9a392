"""The guard around tools: no call hangs, none raises, and a tool that keeps failing is left alone for a while."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from socadapter_agent.tools import (
    MAX_RESULT_CHARACTERS,
    GuardedToolbox,
    JoinedToolbox,
    ToolAnswer,
    ToolSpec,
    argument_problem,
    tools_digest,
)
from socadapter_api.case import Alert
from socadapter_api.errors import ReplayMiss, ToolGarbage, ToolOutage, ToolTimeout
from socadapter_api.trajectory import CallOutcome

ALERT = Alert({})


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _raising(error: Exception) -> Callable[[Mapping[str, Any]], str]:
    def fail(_: Mapping[str, Any]) -> str:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        pytest.param(ToolOutage("x"), CallOutcome.OUTAGE, id="outage"),
        pytest.param(ToolTimeout("x"), CallOutcome.TIMEOUT, id="time-out"),
        pytest.param(ToolGarbage("x"), CallOutcome.GARBAGE, id="garbage"),
        pytest.param(ReplayMiss("x"), CallOutcome.REPLAY_MISS, id="miss"),
        pytest.param(TimeoutError(), CallOutcome.TIMEOUT, id="the tool's own time-out"),
        pytest.param(KeyError("x"), CallOutcome.OUTAGE, id="fault of the tool"),
    ],
)
async def test_failures_are_outcomes(answers: Any, error: Exception, outcome: CallOutcome) -> None:
    """Whatever a tool raises is an answer with an outcome, and its words are not shown to the model."""
    answer = await GuardedToolbox(answers(dns=_raising(error))).call("dns", {"user": "a"}, ALERT)
    assert answer.outcome is outcome
    assert answer.text.startswith("error: ")


async def test_a_hanging_tool_ends_at_its_time_out(answers: Any) -> None:
    """A tool that never answers costs one time-out and is cancelled; others go on meanwhile."""
    cancelled = asyncio.Event()

    async def hang() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return ""

    toolbox = GuardedToolbox(answers(slow=lambda _: hang(), quick=lambda _: "fine"), timeout_s=0.02)
    slow, quick = await asyncio.gather(*(toolbox.call(name, {"user": "a"}, ALERT) for name in ("slow", "quick")))
    assert slow.outcome is CallOutcome.TIMEOUT
    assert cancelled.is_set()
    assert quick.text == "fine"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("A" * 10_000_000, id="10 MB"),
        pytest.param("A" * (MAX_RESULT_CHARACTERS + 1), id="one too many"),
        pytest.param("a\0b", id="NUL"),
        pytest.param("\ufffd\x01\x02" * 9 + "text", id="bytes read as text"),
        pytest.param("fine \ud800", id="half a surrogate"),
    ],
)
async def test_garbage_is_not_shown(answers: Any, text: str) -> None:
    """What is too long or no text counts as the tool's failure and is not passed on."""
    answer = await GuardedToolbox(answers(dns=lambda _: text)).call("dns", {"user": "a"}, ALERT)
    assert answer.outcome is CallOutcome.GARBAGE
    assert len(answer.text) < 100


@pytest.mark.parametrize("text", ["", "a\tb\n", "Zürich ✓", "A" * MAX_RESULT_CHARACTERS])
async def test_text_passes_unchanged(answers: Any, text: str) -> None:
    """Readable answers within the limit are passed on byte for byte."""
    answer = await GuardedToolbox(answers(dns=lambda _: text)).call("dns", {"user": "a"}, ALERT)
    assert (answer.text, answer.outcome) == (text, CallOutcome.OK)


async def test_seconds_are_measured(answers: Any) -> None:
    """An answer says how long it took by the guard's clock."""
    clock = Clock()

    async def take() -> str:
        clock.now += 3.5
        return "x"

    assert (await GuardedToolbox(answers(dns=lambda _: take()), clock=clock).call("dns", {}, ALERT)).seconds == 3.5


async def test_the_circuit_opens_probes_and_closes(answers: Any) -> None:
    """After so many failures in a row a tool is not asked; later one call probes it; a success closes the circuit."""
    clock, down = Clock(), True

    def dns(_: Mapping[str, Any]) -> str:
        if down:
            raise ToolOutage("away")
        return "fine"

    inner = answers(dns=dns, mail=lambda _: "fine")
    toolbox = GuardedToolbox(inner, failures_to_open=3, open_s=30.0, clock=clock)

    async def ask(tool: str = "dns") -> CallOutcome:
        return (await toolbox.call(tool, {"user": "a"}, ALERT)).outcome

    assert [await ask() for _ in range(5)] == [CallOutcome.OUTAGE] * 3 + [CallOutcome.CIRCUIT_OPEN] * 2
    assert await ask("mail") is CallOutcome.OK
    assert len(inner.calls) == 4

    clock.now += 29.9
    assert await ask() is CallOutcome.CIRCUIT_OPEN
    clock.now += 0.2
    assert [await ask(), await ask()] == [CallOutcome.OUTAGE, CallOutcome.CIRCUIT_OPEN]  # the probe failed

    clock.now += 30.1
    down = False
    assert [await ask(), await ask()] == [CallOutcome.OK] * 2
    down = True
    assert [await ask() for _ in range(4)] == [CallOutcome.OUTAGE] * 3 + [CallOutcome.CIRCUIT_OPEN]


async def test_successes_in_between_keep_the_circuit_closed(answers: Any) -> None:
    """Only failures in a row count."""
    turns = iter([False, False, True] * 5)

    def dns(_: Mapping[str, Any]) -> str:
        if not next(turns):
            raise ToolOutage("flaky")
        return "fine"

    toolbox = GuardedToolbox(answers(dns=dns), failures_to_open=3)
    outcomes = [(await toolbox.call("dns", {}, ALERT)).outcome for _ in range(15)]
    assert CallOutcome.CIRCUIT_OPEN not in outcomes


async def test_one_call_probes_at_a_time(answers: Any) -> None:
    """When the pause is over, a crowd of waiting investigations sends one call, not all of them."""
    clock, gate = Clock(), asyncio.Event()
    gate.set()

    async def fail() -> str:
        await gate.wait()
        raise ToolOutage("away")

    inner = answers(dns=lambda _: fail())
    toolbox = GuardedToolbox(inner, failures_to_open=1, open_s=30.0, clock=clock)
    await toolbox.call("dns", {}, ALERT)
    clock.now += 31
    gate.clear()
    crowd = [asyncio.create_task(toolbox.call("dns", {}, ALERT)) for _ in range(8)]
    done, _ = await asyncio.wait(crowd, return_when=asyncio.FIRST_COMPLETED, timeout=10)
    gate.set()
    outcomes = [answer.outcome for answer in await asyncio.gather(*crowd)]
    assert len(done) == 7
    assert sorted(outcomes) == [CallOutcome.CIRCUIT_OPEN] * 7 + [CallOutcome.OUTAGE]
    assert len(inner.calls) == 2


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        pytest.param({"user": "a"}, None, id="fits"),
        pytest.param({"user": "a", "days": 3, "ratio": 1, "deep": {}, "any": object()}, None, id="every kind"),
        pytest.param({}, "missing argument user", id="missing"),
        pytest.param({"user": "a", "host": "b"}, "no argument host", id="unknown"),
        pytest.param({"user": 3}, "user has the wrong type", id="number for text"),
        pytest.param({"user": "a", "days": True}, "days has the wrong type", id="truth value for number"),
        pytest.param({"user": "a", "days": 1.5}, "days has the wrong type", id="fraction for integer"),
        pytest.param({"user": None}, "user has the wrong type", id="null"),
    ],
)
def test_arguments_are_checked_against_the_schema(args: dict[str, Any], problem: str | None) -> None:
    """What does not fit is told in one short line."""
    properties = {
        "user": {"type": "string"},
        "days": {"type": "integer"},
        "ratio": {"type": "number"},
        "deep": {"type": "object"},
        "any": {},
    }
    found = argument_problem(ToolSpec("dns", "", {"properties": properties, "required": ["user"]}), args)
    assert found is None if problem is None else problem in (found or "")


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        pytest.param({"user": "a", "host": 3}, None, id="one that it does not name"),
        pytest.param({"user": 3, "host": "b"}, "argument user has the wrong type", id="a wrong one that it names"),
        pytest.param({"host": "b"}, "missing argument user", id="missing"),
    ],
)
def test_a_schema_may_let_further_arguments_pass(args: dict[str, Any], problem: str | None) -> None:
    """Those that it names must fit all the same."""
    properties = {"user": {"type": "string"}}
    schema = {"properties": properties, "required": ["user"], "additionalProperties": True}
    assert problem == argument_problem(ToolSpec("dns", "", schema), args)


def test_the_digest_sees_every_change_and_no_order() -> None:
    """Equal tools in any order have one digest; a name, a line or a schema that differs changes it."""
    dns, mail = ToolSpec("dns", "a", {"type": "object"}), ToolSpec("mail", "b", {"type": "object"})
    assert tools_digest((dns, mail)) == tools_digest((mail, dns))
    others = [(dns,), (dns, ToolSpec("mail", "c", {"type": "object"})), (dns, ToolSpec("mail", "b", {"type": "array"}))]
    assert len({tools_digest(specs) for specs in [(dns, mail), *others]}) == 4


async def test_answers_keep_their_own_outcome(answers: Any) -> None:
    """An inner toolbox may say "no data", and the guard leaves it at that."""
    toolbox = GuardedToolbox(answers(dns=lambda _: ToolAnswer("no data", CallOutcome.NO_DATA)))
    assert (await toolbox.call("dns", {}, ALERT)).outcome is CallOutcome.NO_DATA


class Gated:
    """A tool that notes what it is asked and answers when it is let."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gate = asyncio.Event()

    async def __call__(self, args: Mapping[str, Any]) -> str:
        self.asked.append(args["user"])
        await self.gate.wait()
        return f"about {args['user']}"


async def test_the_same_at_the_same_time_is_asked_once(answers: Any) -> None:
    """One call for all who wait for it, be the first of them cancelled; anew for whoever asks later, or otherwise."""
    tool = Gated()
    joined = JoinedToolbox(GuardedToolbox(answers(dns=tool)))
    users = ("a", "a", "b", "a")
    calls = [asyncio.create_task(joined.call("dns", {"user": user}, ALERT)) for user in users]
    calls.append(asyncio.create_task(joined.call("dns", {"user": "a"}, Alert({"title": "another"}))))
    await asyncio.sleep(0)
    calls[0].cancel()
    await asyncio.gather(calls[0], return_exceptions=True)
    tool.gate.set()
    assert ["about a", "about b", "about a", "about a"] == [(await call).text for call in calls[1:]]
    assert ["a", "b", "a"] == tool.asked
    await joined.call("dns", {"user": "a"}, ALERT)
    assert ["a", "b", "a", "a"] == tool.asked
