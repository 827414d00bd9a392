"""The expert: solves an alert with the tools, and concludes from nothing but what they returned.

`next_call` says what to ask, `decide` what it means; both see the alert's type, the context and the answers so far,
never the story. So an expert's trajectory always holds the evidence for its verdict. Called by `dataset`; tests
recompute every verdict from the recorded answers.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Protocol

from socadapter_api.case import Case, Verdict
from socadapter_api.trajectory import ExpertTrajectory, ToolCall
from socadapter_range.toolbox import ToolAnswer
from socadapter_range.tools import ARGUMENT_OF, LOG_MISSING
from socadapter_range.vocabulary import BY_KEY, BY_TITLE, MISSING, ORDINARY, STANDING, Policy, policy_of

FIELD_OF: Final = {
    "signins": "user",
    "cloud_api": "user",
    "processes": "host",
    "flows": "host",
    "dns": "host",
    "asset": "host",
    "tickets": "host",
    "intel": "indicator",
}
"""Which visible field of the alert each tool is asked about."""

_PHRASE: Final = re.compile(r"^\d+ rows?(?:, .*)?: (.+)$")
_SUMMARY: Final = {
    "ordinary": "ordinary rows only",
    "missing": "a missing log",
}


class Answers(Protocol):
    """Something that answers tool calls as of a moment."""

    def answer(self, tool: str, args: Mapping[str, Any], as_of: datetime | None) -> ToolAnswer: ...


def phrase_of(text: str) -> str:
    """What stands out in a tool's answer."""
    if text == LOG_MISSING:
        return MISSING
    found = _PHRASE.match(text)
    return found.group(1) if found else ORDINARY


def next_call(policy: Policy, alert_type: str, results: Mapping[str, str]) -> str | None:
    """The tool to ask next after `results` (tool to answer), or None where they decide."""
    kind = BY_KEY[alert_type]
    seen = {tool: phrase_of(text) for tool, text in results.items()}
    if MISSING in seen.values() or seen.get(kind.first) == ORDINARY:
        return None
    if kind.first not in seen:
        return kind.first
    if (kind.first, seen[kind.first]) not in policy.suspicious:
        if kind.second not in seen:
            return kind.second
        if (kind.second, seen[kind.second]) not in policy.suspicious:
            return None
    if kind.cover not in seen:
        return kind.cover
    return "asset" if seen[kind.cover] == STANDING and "asset" not in seen else None


def decide(context: str, alert_type: str, results: Mapping[str, str], policy: Policy | None = None) -> Verdict:
    """The verdict that `results` (tool to answer) bear, `ESCALATE` where they leave it open.

    `policy` replaces the context's own where the world has drifted.
    """
    policy = policy or policy_of(context)
    kind = BY_KEY[alert_type]
    seen = {tool: phrase_of(text) for tool, text in results.items()}
    if MISSING in seen.values() or next_call(policy, alert_type, results) is not None:
        return Verdict.ESCALATE
    if not any((tool, seen[tool]) in policy.suspicious for tool in (kind.first, kind.second) if tool in seen):
        return Verdict.FALSE_POSITIVE
    cover = "asset" if seen[kind.cover] == STANDING else kind.cover
    return Verdict.BENIGN_TRUE_POSITIVE if (cover, seen[cover]) in policy.covering else Verdict.TRUE_POSITIVE


def expert(case: Case, tools: Answers, policy: Policy | None = None) -> ExpertTrajectory:
    """The expert's investigation of `case`. Only its visible fields, its time and its context are used."""
    policy = policy or policy_of(case.context)
    alert = case.visible()
    alert_type = BY_TITLE[alert.fields["title"]].key
    results: dict[str, str] = {}
    calls: list[ToolCall] = []
    while (tool := next_call(policy, alert_type, results)) is not None:
        args = {ARGUMENT_OF[tool]: alert.fields[FIELD_OF[tool]]}
        answer = tools.answer(tool, args, alert.observed_at)
        results[tool] = answer.text
        calls.append(
            ToolCall(tool=tool, args=args, evidence_id=f"e{len(calls) + 1}", outcome=answer.outcome, result=answer.text)
        )
    verdict = decide(case.context, alert_type, results, policy)
    cited = _cited(verdict, policy, calls)
    return ExpertTrajectory(
        case_id=case.id,
        alert=alert.fields,
        calls=tuple(calls),
        verdict=verdict,
        summary=_summary(verdict, cited),
        citations=tuple(call.evidence_id for call in cited),
        observed_at=alert.observed_at.isoformat() if alert.observed_at else None,
        entities=case.entities,
        approved_by="range-expert",
    )


def _cited(verdict: Verdict, policy: Policy, calls: list[ToolCall]) -> list[ToolCall]:
    """The calls that the verdict rests on, in the order in which they were made; at most two."""
    if verdict is Verdict.ESCALATE:
        return calls[-1:]
    if verdict is Verdict.FALSE_POSITIVE:
        return calls
    acts = [call for call in calls if (call.tool, phrase_of(call.result)) in policy.suspicious]
    return [acts[0], calls[-1]]


def _summary(verdict: Verdict, cited: list[ToolCall]) -> str:
    found = [f"{call.tool} shows {_SUMMARY.get(phrase_of(call.result), phrase_of(call.result))}" for call in cited]
    if verdict is Verdict.TRUE_POSITIVE:
        return f"Attack: {found[0]}; {found[1]}, which does not cover it."
    if verdict is Verdict.BENIGN_TRUE_POSITIVE:
        return f"Allowed activity: {found[0]}; {found[1]}, which covers it."
    if verdict is Verdict.FALSE_POSITIVE:
        return f"Harmless: {'; '.join(found)}."
    return f"Undecided: {found[0]}."
