"""Status conditions in the form of Kubernetes' metav1.Condition, and how a new observation changes a list of them."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from socadapter_api.model import Contract, keyed_by


class ConditionStatus(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Contract):
    """One observation about a resource."""

    type: Annotated[str, Field(max_length=316)] = Field(description="What is observed, such as Ready.")
    status: ConditionStatus = Field(description="True, False or Unknown.")
    reason: Annotated[
        str, Field(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
    ] = Field(description="Why, in one word; the runbook has a section of that name.")
    message: Annotated[str, Field(max_length=32768)] = Field(default="", description="Why, in words.")
    observed_generation: int = Field(default=0, ge=0, description="The generation that was observed.")
    last_transition_time: Annotated[str, Field(max_length=32)] = Field(
        default="", description="When the status last changed, in RFC 3339."
    )


Conditions = Annotated[tuple[Condition, ...], Field(max_length=32, json_schema_extra=keyed_by("type"))]
"""A resource's conditions, one of each type."""


def merge(current: Iterable[Condition], observed: Iterable[Condition], now: str) -> tuple[Condition, ...]:
    """`current` with `observed` written over it, sorted by type.

    `lastTransitionTime` becomes `now` (RFC 3339) only where the status changed; a condition that was not observed
    stays as it is.
    """
    merged = {condition.type: condition for condition in current}
    for condition in observed:
        before = merged.get(condition.type)
        since = now
        if before is not None and before.status is condition.status and before.last_transition_time:
            if _told(before) == _told(condition):
                continue
            since = before.last_transition_time
        merged[condition.type] = condition.model_copy(update={"last_transition_time": since})
    return tuple(merged[key] for key in sorted(merged))


def _told(condition: Condition) -> tuple[str, str, int]:
    return condition.reason, condition.message, condition.observed_generation
