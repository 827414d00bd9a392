"""An analyst's word on a served investigation: the seed of the next night's training."""

from typing import Annotated, Any

from pydantic import Field

from socadapter_api.case import Verdict
from socadapter_api.model import Contract, Moment


class Feedback(Contract):
    """What ``POST /v1/feedback`` takes."""

    trajectory_id: Annotated[str, Field(min_length=1, max_length=64)]
    verdict: Verdict = Field(description="The analyst's verdict.")
    analyst: Annotated[str, Field(min_length=1, max_length=253)]
    comment: Annotated[str, Field(max_length=4096)] = ""
    approved: bool = Field(default=False, description="The whole investigation may serve as an expert trajectory.")


class FeedbackRecord(Contract):
    """A verdict joined with what it is about, as training reads it."""

    feedback: Feedback
    caller: str = Field(default="", description="Whose token sent it; empty: not recorded.")
    context: str
    version: str = Field(description="What answered: the version's name, or, where `role` is base, the base's.")
    digest: str = ""
    role: str = Field(default="", description="What answered is to the context; empty: not recorded.")
    alert: dict[str, Any]
    given_at: float = Field(description="Seconds since the epoch.")
    observed_at: Moment | None = Field(
        default=None, description="When the alert was raised, so that tools answer training as they answered serving."
    )
    trajectory: dict[str, Any] = Field(default_factory=dict)
