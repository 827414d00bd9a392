"""Whether an executive summary stands on the evidence that it cites. Called by `investigation`; the counts go into
penalties, figures and the gate on the grounded rate."""

import re
from collections.abc import Sequence

from socadapter_agent.protocol import Answer
from socadapter_api.trajectory import CallOutcome, ToolCall

_FIELD = re.compile(r"\b([A-Za-z_][A-Za-z0-9_]*)=")
_WORD = re.compile(r"[a-z0-9]{3,}")


def ungrounded(answer: Answer, calls: Sequence[ToolCall]) -> int:
    """How many claims of `answer` no tool bears out.

    A claim is a citation or a ``field=`` in the summary. A citation fails if its evidence was never returned, or if a
    summary was written that has not one word of it: who cites "3 rows: remote desktop" says something of it. Evidence
    without a word of three letters or digits cannot be told so, nor can a tool's "no data"; both pass.
    """
    returned = {call.evidence_id: call for call in calls if call.outcome.answered and call.evidence_id}
    seen = {name for call in calls for name in _FIELD.findall(call.result)}
    invented = [name for name in _FIELD.findall(answer.summary) if name not in seen]
    said = _words(answer.summary)
    unsupported = [
        citation
        for citation in answer.citations
        if citation not in returned or (answer.summary and not _is_told(returned[citation], said))
    ]
    return len(unsupported) + len(invented)


def _is_told(call: ToolCall, said: set[str]) -> bool:
    shown = _words(call.result) if call.outcome is CallOutcome.OK else set()
    return not shown or bool(shown & said)


def _words(text: str) -> set[str]:
    """The words and numbers of `text`, names of fields among them: ``known=yes`` may be told as "known"."""
    return set(_WORD.findall(text.casefold()))
