"""The text protocol between a model and its tools: one JSON object per assistant turn.

A turn is either a tool call, ``{"tool": "signins", "args": {"user": "mlee"}}``, or the answer,
``{"verdict": "false_positive", "summary": "...", "citations": ["e1"]}``. The same bytes are used whatever the base
model, so that an expert's investigation, a training rollout and a served investigation are one format. Parsing is
strict: what is not one of the two forms is malformed, and counted. Only what decides nothing may be left out (a call's
``args``, an answer's ``summary`` and ``citations``), since no verdict should be lost for want of it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from socadapter_agent.tools import ToolSpec
from socadapter_api.case import ANSWERS, Alert, Verdict
from socadapter_api.errors import AlertTooLarge

MAX_ALERT_CHARACTERS = 16_384
"""An alert that renders longer than this is refused; it would not fit any context that the pools are sized for."""

MAX_SUMMARY_CHARACTERS = 1_200

CALL_PREFIX = '{"tool": "'
"""What every tool call starts with; the next token chooses the tool."""

VERDICT_PREFIX = '{"verdict": "'
"""What every answer starts with; the next token is the decision."""

_VERDICT_HEAD = re.compile(r'^\s*\{\s*"verdict"\s*:\s*"(' + "|".join(ANSWERS) + r')(?:"|$)')
_CALL_KEYS = ("tool", "args")
_ANSWER_KEYS = ("verdict", "summary", "citations")
_SPACE_AT_START = re.compile(r"^[ \t\n\r]*(\{?)[ \t\n\r]*")
_OPENINGS = tuple(f'{{"{key}"' for key in (*_CALL_KEYS, *_ANSWER_KEYS))
_MAX_ARGUMENTS = 64
_MAX_ARGUMENT_DEPTH = 8


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """The model wants a tool called."""

    tool: str
    args: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """The model's conclusion. `complete` is False where generation was stopped at the verdict."""

    verdict: Verdict
    summary: str = ""
    citations: tuple[str, ...] = ()
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Malformed:
    """A turn that is neither."""

    problem: str


def system_prompt(specs: Sequence[ToolSpec]) -> str:
    """The instructions that open every conversation: the two forms, the verdicts, the tools."""
    verdicts = ", ".join(ANSWERS)
    tools = "\n".join(_signature(spec) for spec in specs)
    return (
        "You triage security alerts. Every turn is one JSON object: a tool call\n"
        '{"tool": NAME, "args": {}}\n'
        "or the conclusion\n"
        '{"verdict": VERDICT, "summary": TEXT, "citations": [IDS]}\n'
        f"Verdicts: {verdicts}.\n"
        f"Tools:\n{tools}"
    )


def _signature(spec: ToolSpec) -> str:
    arguments = ", ".join(spec.parameters.get("properties", {}))
    return f"{spec.name}({arguments}) {spec.description}".rstrip()


def render_alert(alert: Alert, limit: int = MAX_ALERT_CHARACTERS) -> str:
    """The alert as the model reads it: a line per field, nested values as compact JSON.

    A line break within a field is written as JSON would: what an attacker wrote into one must not read as another.
    Half surrogates, which JSON can carry and no encoding can, are shown as question marks.

    Raises:
        AlertTooLarge: the text is longer than `limit` characters.
    """
    lines = [
        _on_one_line(f"{key}: {value if isinstance(value, str) else compact_json(value)}")
        for key, value in alert.fields.items()
    ]
    text = "\n".join(lines).encode("utf-8", "replace").decode()
    if len(text) > limit:
        longest = max(alert.fields, key=lambda key: len(str(alert.fields[key])))
        raise AlertTooLarge(
            f"the alert renders to {len(text)} characters, more than {limit}; its longest field is {longest!r}. "
            "Shorten it at the source: nothing is cut silently"
        )
    return text


def compact_json(value: Any) -> str:
    """`value` as JSON in the spacing that the protocol uses everywhere."""
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "), default=str)


def render_call(tool: str, args: Mapping[str, Any]) -> str:
    """A tool call in the form that `parse_turn` reads."""
    return compact_json({"tool": tool, "args": dict(args)})


def render_answer(verdict: Verdict, summary: str, citations: Sequence[str]) -> str:
    """An answer in the form that `parse_turn` reads."""
    return compact_json({"verdict": verdict.value, "summary": summary, "citations": list(citations)})


def render_result(evidence_id: str, text: str) -> str:
    """A tool's answer as the model reads it, under the id by which it may be cited.

    Its further lines are indented, so that none of them can pass for an answer with an id of its own.
    """
    return "\n  ".join(f"[{evidence_id}] {text}".splitlines())


def _on_one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")


def is_hopeless(text: str) -> bool:
    """Whether no turn that `parse_turn` reads starts with `text`: it opens no object, or one with another key.

    An escape in a key is let pass.
    """
    said = _SPACE_AT_START.sub(r"\1", text)
    return "\\" not in said and not any(said.startswith(opening[: len(said)]) for opening in _OPENINGS)


def parse_head(text: str) -> Answer | None:
    """The verdict at the start of an answer that was stopped there; None where `text` is no such start."""
    found = _VERDICT_HEAD.match(text)
    return Answer(verdict=Verdict(found.group(1)), complete=False) if found else None


def parse_turn(text: str) -> ToolRequest | Answer | Malformed:
    """What one assistant turn says. Total: never raises."""
    try:
        value = json.loads(text, object_pairs_hook=_unique)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):  # no JSON; a key said twice; NaN, infinity or half a surrogate in it
        return Malformed("not one JSON object")
    if not isinstance(value, dict):
        return Malformed("not a JSON object")
    if "verdict" in value:
        return _parse_answer(value)
    if "tool" in value:
        return _parse_call(value)
    return Malformed("neither 'tool' nor 'verdict' is a key")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key is said twice")
    return value


def _parse_call(value: dict[str, Any]) -> ToolRequest | Malformed:
    tool, args = value["tool"], value.get("args", {})
    if extra := sorted(set(value) - set(_CALL_KEYS)):
        return Malformed(f"a tool call has no keys {extra}")
    if not isinstance(tool, str) or not tool:
        return Malformed("'tool' is not a name")
    if not isinstance(args, dict):
        return Malformed("'args' is not an object")
    if len(args) > _MAX_ARGUMENTS or _depth(args) > _MAX_ARGUMENT_DEPTH:
        return Malformed("'args' is too large")
    return ToolRequest(tool=tool, args=args)


def _depth(value: Any) -> int:
    """How many levels of objects and lists `value` has."""
    level, depth = [value], 0
    while level := [item for item in level if isinstance(item, (dict, list))]:
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
        depth += 1
    return depth


def _parse_answer(value: dict[str, Any]) -> Answer | Malformed:
    if extra := sorted(set(value) - set(_ANSWER_KEYS)):
        return Malformed(f"an answer has no keys {extra}")
    verdict, summary, citations = value["verdict"], value.get("summary", ""), value.get("citations", [])
    if not isinstance(verdict, str) or verdict not in ANSWERS:
        return Malformed("'verdict' is outside the vocabulary")
    if not isinstance(summary, str) or len(summary) > MAX_SUMMARY_CHARACTERS:
        return Malformed("'summary' is not a short text")
    if not isinstance(citations, list) or not all(isinstance(item, str) for item in citations):
        return Malformed("'citations' is not a list of ids")
    return Answer(verdict=Verdict(verdict), summary=summary, citations=tuple(citations))
