"""What the HTTP API takes and gives, and what the gateway hands to an engine replica.

Names are snake_case on the wire, as in the OpenAI API beside which they live.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from socadapter_agent.engine import Sampling
from socadapter_api.case import Alert, Verdict
from socadapter_api.errors import EngineUnavailable, SocAdapterError, SpecError, by_reason
from socadapter_api.manifest import Calibration
from socadapter_api.model import ContextStr, Contract, Moment
from socadapter_api.serving_table import ServedVersion
from socadapter_api.trajectory import Trajectory


class Wire(Contract):
    """A boundary type whose names are snake_case outside, too."""

    model_config = ConfigDict(alias_generator=None)


class TriageRequest(Wire):
    """What ``POST /v1/triage`` takes."""

    alert: dict[str, Any] = Field(min_length=1, description="The alert's visible fields.")
    context: ContextStr | None = Field(default=None, description="Empty: found by the routes' expressions.")
    incident_id: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        default=None, description="Alerts of one incident get one version; empty: equal alerts are one incident."
    )
    observed_at: Moment | None = Field(default=None, description="When it was raised; tools answer as of then.")
    summary: bool = Field(default=True, description="False stops at the verdict, which is quicker.")

    def subject(self) -> Alert:
        """The alert in the agent's form."""
        return Alert(fields=self.alert, observed_at=self.observed_at)


class Fallback(Wire):
    """Which version should have answered, and why another one did."""

    intended: str
    role: str = Field(description="What the answering version is to the context: stable, previous or base.")
    reason: str


class CallRecord(Wire):
    """One tool call of an investigation."""

    tool: str
    args: dict[str, Any]
    evidence_id: str
    outcome: str
    result: str
    seconds: float


class TriageAnswer(Wire):
    """What ``POST /v1/triage`` gives."""

    verdict: Verdict = Field(description="What to do with the alert: never `invalid`.")
    model_verdict: Verdict = Field(description="The model's own, before threshold and safeguards.")
    reason: str = Field(default="", description="Why `verdict` is not the model's own; one word, then the details.")
    probabilities: dict[str, float] | None = None
    confidence: float | None = Field(default=None, description="Calibrated probability of true positive.")
    escalated_by_threshold: bool = False
    summary: str = ""
    citations: tuple[str, ...] = ()
    calls: tuple[CallRecord, ...] = ()
    scorable: bool = Field(default=True, description="False: a tool's outage decided the outcome.")
    context: str = ""
    version: str = Field(default="", description="The version that answered, or the base's name.")
    digest: str = Field(default="", description="Of that version, or of the base; empty: an engine's that tells none.")
    role: str = Field(description="What answered is to the context: stable, canary, previous; or `base`.")
    trajectory_id: str
    incident_id: str
    fallback: Fallback | None = None
    seconds: float


@dataclass(frozen=True, slots=True)
class TriageJob:
    """One investigation, bound to one version from its first turn to its verdict."""

    alert: Alert
    version: ServedVersion | None
    summary: bool = True


@dataclass(frozen=True, slots=True)
class TriageOutcome:
    """What a replica made of a `TriageJob`. No calibration: the base answered. `base_digest`: empty where not known."""

    trajectory: Trajectory
    calibration: Calibration | None
    replica: str
    base_digest: str = ""


@dataclass(frozen=True, slots=True)
class ChatJob:
    """One chat completion."""

    messages: tuple[dict[str, str], ...]
    version: ServedVersion | None
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class ChatOutcome:
    """What a replica answered. `base_digest`: empty where not known."""

    text: str
    truncated: bool
    tokens_read: int
    tokens_generated: int
    replica: str
    base_digest: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error of ours as a value: it crosses processes without its class."""

    reason: str
    message: str

    @classmethod
    def of(cls, error: SocAdapterError) -> "Failure":
        return cls(error.reason, str(error))

    def error(self) -> SocAdapterError:
        """The error again, of the class that has its reason; `EngineUnavailable` where none has."""
        kind = by_reason().get(self.reason)
        return kind(self.message) if kind else EngineUnavailable(f"{self.reason}: {self.message}")


class RequestRefused(SpecError):
    """An engine will not take the request, whichever version answers: its caller must change it."""

    reason = "RequestRefused"
