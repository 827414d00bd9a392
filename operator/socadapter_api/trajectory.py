"""The record of one investigation: its turns, its tool calls, its verdict and what went wrong on the way.

Written by the agent, read by training, evaluation, serving, the feedback store and the report. Expert
investigations for SFT use the same `Turn`s (`ExpertTrajectory`), so a served investigation that an analyst approves
is training data without conversion.
"""

from enum import StrEnum
from typing import Any

from pydantic import Field, field_validator

from socadapter_api.case import ANSWERS, Verdict
from socadapter_api.errors import UnknownLabel
from socadapter_api.model import Contract


class CallOutcome(StrEnum):
    """How one tool call ended."""

    OK = "ok"
    NO_DATA = "no_data"
    TIMEOUT = "timeout"
    OUTAGE = "outage"
    GARBAGE = "garbage"
    CIRCUIT_OPEN = "circuit_open"
    UNKNOWN_TOOL = "unknown_tool"
    INVALID_ARGUMENTS = "invalid_arguments"
    REPEATED = "repeated"
    REPLAY_MISS = "replay_miss"

    @property
    def answered(self) -> bool:
        """The tool said something, be it that it knows nothing."""
        return self in (CallOutcome.OK, CallOutcome.NO_DATA)

    @property
    def environment_failed(self) -> bool:
        """The model is not to blame: such a trajectory is unscorable, not bad."""
        return self in (CallOutcome.TIMEOUT, CallOutcome.OUTAGE, CallOutcome.GARBAGE, CallOutcome.CIRCUIT_OPEN)


class ToolCall(Contract):
    """One call that the model asked for, and what came back."""

    tool: str
    args: dict[str, Any] = Field(default_factory=dict)
    evidence_id: str = Field(default="", description="The id (e1, e2, ...) under which the answer may be cited.")
    outcome: CallOutcome = CallOutcome.OK
    result: str = Field(default="", description="The text that the model read.")
    seconds: float = 0.0


class Stop(StrEnum):
    """Why an investigation ended."""

    VERDICT = "verdict"
    TURNS = "turns"
    TOKENS = "tokens"
    CALLS = "calls"
    MALFORMED = "malformed"
    ENVIRONMENT = "environment"


class Trajectory(Contract):
    """One investigation from alert to verdict.

    `probabilities` are over `case.ANSWERS` (in that order), taken from the model at the verdict's first token;
    `confidence` is that of `true_positive`. Counters count what the model did wrong; nothing is hidden in the text.
    """

    verdict: Verdict = Verdict.INVALID
    probabilities: tuple[float, float, float, float] | None = None
    confidence: float | None = Field(default=None, description="Probability of true positive, before calibration.")
    summary: str = ""
    citations: tuple[str, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    stop: Stop = Stop.VERDICT
    turns: int = 0
    tokens_generated: int = 0
    tokens_read: int = Field(default=0, description="Prompt and tool-result tokens.")
    malformed: int = Field(default=0, description="Turns that parsed neither as a tool call nor as a verdict.")
    unknown_tools: int = 0
    repeats: int = Field(default=0, description="Calls identical to an earlier one.")
    ungrounded: int = Field(
        default=0,
        description="Citations of evidence that was never returned or of which the summary says nothing; and fields "
        "quoted from none.",
    )
    scorable: bool = Field(default=True, description="False where an outage, not the model, decided the outcome.")
    seconds: float = 0.0
    version: str = Field(default="", description="The adapter version that produced it; empty for the base.")

    @property
    def outage(self) -> bool:
        """Whether a tool failed in it. Asked again later it may not; what a replay never recorded stays missing."""
        return any(call.outcome.environment_failed for call in self.calls)


class ExpertTrajectory(Contract):
    """An investigation that an expert approved: the calls in order, then the verdict, summary and citations."""

    case_id: str
    alert: dict[str, Any]
    calls: tuple[ToolCall, ...]
    verdict: Verdict
    summary: str
    citations: tuple[str, ...] = ()
    observed_at: str | None = None
    entities: tuple[str, ...] = ()
    approved_by: str = ""

    @field_validator("verdict", mode="before")
    @classmethod
    def _answer(cls, value: object) -> object:
        """It is taught, so that it is one which a model may give: what could not be parsed teaches nothing."""
        if isinstance(value, str) and value not in ANSWERS:
            raise UnknownLabel(f"verdict {str(value)!r} is none of: {', '.join(ANSWERS)}")
        return value

    @property
    def evidence_ids(self) -> tuple[str, ...]:
        """The id of each call's answer: its own, or e1, e2, ... by its place where it names none."""
        return tuple(call.evidence_id or f"e{place}" for place, call in enumerate(self.calls, 1))
