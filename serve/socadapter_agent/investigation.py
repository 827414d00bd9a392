"""One investigation: alert in, tool calls, verdict out. Used unchanged by training, evaluation and serving.

The loop owns budgets, parsing and bookkeeping. Batching over investigations is the engine's, time-outs and circuit
breakers are the toolbox's; run many investigations at once with `asyncio.gather` and both overlap.
"""

import random
import time
from dataclasses import dataclass, field, replace
from typing import Any

from socadapter_agent import protocol
from socadapter_agent.engine import Engine, Sampling, Session, TokenRecord, Turn
from socadapter_agent.grounding import ungrounded
from socadapter_agent.protocol import Answer, Malformed, ToolRequest
from socadapter_agent.tools import Toolbox, ToolSpec, argument_problem
from socadapter_api import digest
from socadapter_api.case import Alert, Verdict
from socadapter_api.trajectory import CallOutcome, Stop, ToolCall, Trajectory

_SEED_BITS = 63

MAX_MALFORMED = 2
"""So many turns that parse as nothing end an investigation as invalid."""

_NO_CALLS_LEFT = "error: no calls left, give the verdict"


@dataclass(frozen=True, slots=True)
class Budgets:
    """What one investigation may spend."""

    max_turns: int = 6
    max_calls: int = 5
    max_turn_tokens: int = 96
    max_context_tokens: int = 2048


@dataclass(frozen=True, slots=True)
class Investigation:
    """What came of it, and the tokens for training on it (None from engines that do not show them)."""

    trajectory: Trajectory
    tokens: TokenRecord | None = None


@dataclass(slots=True)
class _Notes:
    """What the loop counts on the way."""

    calls: list[ToolCall] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    turns: int = 0
    generated: int = 0
    read: int = 0
    malformed: int = 0
    unknown: int = 0
    repeats: int = 0
    probabilities: tuple[float, float, float, float] | None = None


async def investigate(
    alert: Alert,
    toolbox: Toolbox,
    engine: Engine,
    *,
    adapter: str | None = None,
    budgets: Budgets = Budgets(),
    sampling: Sampling = Sampling(),  # noqa: B008  frozen
    version: str = "",
) -> Investigation:
    """Investigates `alert` with `adapter` on the engine's base.

    Never raises for what the model or a tool does; an alert that is too large raises `AlertTooLarge` before anything
    is sampled. The trajectory's `scorable` is False where an outage kept a tool from answering.
    """
    started = time.perf_counter()
    user = protocol.render_alert(alert)
    session = engine.open(protocol.system_prompt(toolbox.specs), user, adapter)
    notes = _Notes()
    try:
        answer, stop = await _converse(alert, toolbox, session, budgets, sampling, notes)
        tokens = session.record()
    finally:
        session.close()
    scorable = not any(
        call.outcome.environment_failed or call.outcome is CallOutcome.REPLAY_MISS for call in notes.calls
    )
    return Investigation(
        trajectory=Trajectory(
            verdict=answer.verdict if answer else Verdict.INVALID,
            probabilities=notes.probabilities,
            confidence=notes.probabilities[0] if notes.probabilities else None,
            summary=answer.summary if answer else "",
            citations=answer.citations if answer else (),
            calls=tuple(notes.calls),
            stop=stop,
            turns=notes.turns,
            tokens_generated=notes.generated,
            tokens_read=notes.read,
            malformed=notes.malformed,
            unknown_tools=notes.unknown,
            repeats=notes.repeats,
            ungrounded=ungrounded(answer, notes.calls) if answer else 0,
            scorable=scorable,
            seconds=time.perf_counter() - started,
            version=version,
        ),
        tokens=tokens,
    )


async def _converse(
    alert: Alert, toolbox: Toolbox, session: Session, budgets: Budgets, sampling: Sampling, notes: _Notes
) -> tuple[Answer | None, Stop]:
    specs = {spec.name: spec for spec in toolbox.specs}
    seeds = random.Random(sampling.seed)
    unreadable = 0
    while notes.turns < budgets.max_turns:
        room = budgets.max_context_tokens - session.context_tokens
        if room < 1:
            return None, Stop.TOKENS
        turn = await session.turn(_for_a_turn(sampling, min(room, budgets.max_turn_tokens), seeds))
        _note_turn(notes, turn)
        said = protocol.parse_turn(turn.text)
        if isinstance(said, Malformed) and sampling.stop_at_verdict:
            said = protocol.parse_head(turn.text) or said
        if isinstance(said, Answer):
            notes.probabilities = turn.probabilities
            return said, Stop.VERDICT
        if isinstance(said, Malformed):
            notes.malformed += 1
            unreadable += 1
            if unreadable >= MAX_MALFORMED:
                return None, Stop.MALFORMED
            session.add_result(f"error: {said.problem}")
            continue
        spent = sum(call.outcome is not CallOutcome.UNKNOWN_TOOL for call in notes.calls) >= budgets.max_calls
        refusal = _refusal(said, specs, notes, spent)
        if spent and notes.turns >= budgets.max_turns:
            return None, Stop.CALLS
        session.add_result(refusal or await _ask(said, alert, toolbox, notes))
    return None, Stop.TURNS


def _for_a_turn(sampling: Sampling, max_turn_tokens: int, seeds: random.Random) -> Sampling:
    """Each turn has random numbers of its own: turns begin alike, and with the same ones would choose alike."""
    seed = None if sampling.seed is None else seeds.getrandbits(_SEED_BITS)
    return replace(sampling, max_turn_tokens=max_turn_tokens, stop_when_hopeless=True, seed=seed)


def _note_turn(notes: _Notes, turn: Turn) -> None:
    notes.turns += 1
    notes.generated += len(turn.token_ids) or turn.tokens_sampled
    notes.read += turn.tokens_read


def _refusal(request: ToolRequest, specs: dict[str, ToolSpec], notes: _Notes, spent: bool) -> str | None:
    """What the model reads where its call is not made; None where it is. A fault is noted even if no calls are left."""
    told = _NO_CALLS_LEFT if spent else None
    if fault := _fault(request, specs, notes):
        outcome, problem = fault
        told = told or f"error: {problem}"
        notes.calls.append(ToolCall(tool=request.tool[:128], args=request.args, outcome=outcome, result=told))
    return told


def _fault(request: ToolRequest, specs: dict[str, ToolSpec], notes: _Notes) -> tuple[CallOutcome, str] | None:
    """What is wrong with a call, counted; where nothing is, the question is noted."""
    spec = specs.get(request.tool)
    if spec is None:
        notes.unknown += 1
        return CallOutcome.UNKNOWN_TOOL, f"no tool {request.tool[:40]}"
    if problem := argument_problem(spec, request.args):
        notes.malformed += 1
        return CallOutcome.INVALID_ARGUMENTS, problem
    key = digest.of_json([request.tool, normalised(request.args)])
    if key in notes.asked:
        notes.repeats += 1
        return CallOutcome.REPEATED, "already asked"
    notes.asked.add(key)
    return None


async def _ask(request: ToolRequest, alert: Alert, toolbox: Toolbox, notes: _Notes) -> str:
    """Answers one call, the question last noted, and notes the answer; returns what the model reads."""
    evidence_id = f"e{len(notes.asked)}"
    answer = await toolbox.call(request.tool, request.args, alert)
    notes.calls.append(
        ToolCall(
            tool=request.tool,
            args=request.args,
            evidence_id=evidence_id,
            outcome=answer.outcome,
            result=answer.text,
            seconds=answer.seconds,
        )
    )
    return protocol.render_result(evidence_id, answer.text)


def normalised(args: dict[str, Any]) -> dict[str, Any]:
    """Arguments with case and surrounding space removed, so that a loop in disguise is still a repeat."""
    return {key: value.strip().lower() if isinstance(value, str) else value for key, value in args.items()}
