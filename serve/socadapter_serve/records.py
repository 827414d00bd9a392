"""One investigation in its two lasting forms: the row that is kept, and the answer that is given. Pure."""

from socadapter_api.case import ANSWERS
from socadapter_api.trajectory import ToolCall, Trajectory
from socadapter_serve.decision import Decision
from socadapter_serve.feedback import Kept
from socadapter_serve.messages import CallRecord, Fallback, TriageAnswer, TriageOutcome, TriageRequest
from socadapter_serve.routing import Answerer


def kept_row(
    identifier: str,
    at: float,
    request: TriageRequest,
    caller: str,
    incident_id: str,
    context: str,
    answerer: Answerer,
    outcome: TriageOutcome,
    decision: Decision,
) -> Kept:
    """The row of one investigation."""
    return Kept(
        id=identifier,
        at=at,
        context=context,
        version=answerer.version,
        digest=answerer.digest,
        role=answerer.role.value,
        incident_id=incident_id,
        caller=caller,
        verdict=decision.verdict.value,
        confidence=decision.confidence,
        alert=request.alert,
        observed_at=request.observed_at.isoformat() if request.observed_at else "",
        trajectory=outcome.trajectory,
    )


def triage_answer(kept: Kept, decision: Decision, fallback: Fallback | None, seconds: float) -> TriageAnswer:
    """What the caller reads of the investigation in `kept`."""
    trajectory = kept.trajectory
    return TriageAnswer(
        verdict=decision.verdict,
        model_verdict=trajectory.verdict,
        reason=decision.reason,
        probabilities=named_probabilities(trajectory),
        confidence=decision.confidence,
        escalated_by_threshold=decision.by_threshold,
        summary=trajectory.summary,
        citations=trajectory.citations,
        calls=tuple(call_record(call) for call in trajectory.calls),
        scorable=trajectory.scorable,
        context=kept.context,
        version=kept.version,
        digest=kept.digest,
        role=kept.role,
        trajectory_id=kept.id,
        incident_id=kept.incident_id,
        fallback=fallback,
        seconds=seconds,
    )


def named_probabilities(trajectory: Trajectory) -> dict[str, float] | None:
    """The model's probability of each verdict, by name; None where it never reached one."""
    if trajectory.probabilities is None:
        return None
    return {verdict.value: p for verdict, p in zip(ANSWERS, trajectory.probabilities, strict=True)}


def call_record(call: ToolCall) -> CallRecord:
    """A tool call in the form of the API."""
    return CallRecord(
        tool=call.tool,
        args=call.args,
        evidence_id=call.evidence_id,
        outcome=call.outcome.value,
        result=call.result,
        seconds=call.seconds,
    )
