"""How an action that failed shows in conditions: what was refused, and whether waiting helps."""

from collections.abc import Iterable
from datetime import datetime

from socadapter_api.conditions import Condition, ConditionStatus, merge
from socadapter_api.errors import SocAdapterError
from socadapter_operator.domain.timestamps import stamp


def conditions(
    current: Iterable[Condition], generation: int, error: SocAdapterError, now: datetime
) -> tuple[Condition, ...]:
    """`current` with `error` told: `Reconciling` where a retry can help, `Stalled` where it cannot.

    `Ready` is never taken away. Where it was not reached yet, it says what is in its way.
    """
    current = tuple(current)
    told = {True: ("Reconciling", "Stalled"), False: ("Stalled", "Reconciling")}[error.retryable]
    made = [
        Condition(
            type=told[0],
            status=ConditionStatus.TRUE,
            reason=error.reason,
            message=str(error),
            observed_generation=generation,
        ),
        Condition(
            type=told[1],
            status=ConditionStatus.FALSE,
            reason="Retrying" if error.retryable else "Stalled",
            observed_generation=generation,
        ),
    ]
    if not holds(current, "Ready"):
        made.append(
            Condition(
                type="Ready",
                status=ConditionStatus.FALSE,
                reason=error.reason,
                message=str(error),
                observed_generation=generation,
            )
        )
    return merge(current, made, stamp(now))


def stopped(
    current: Iterable[Condition], kinds: Iterable[str], generation: int, now: datetime
) -> tuple[Condition, ...]:
    """`current` with each of `kinds` False because somebody stopped what it speaks of."""
    made = [
        Condition(type=kind, status=ConditionStatus.FALSE, reason="Stopped", observed_generation=generation)
        for kind in kinds
    ]
    return merge(current, made, stamp(now))


def holds(found: Iterable[Condition], kind: str, status: ConditionStatus = ConditionStatus.TRUE) -> bool:
    """Whether the condition `kind` was observed with `status`."""
    return any(condition.type == kind and condition.status is status for condition in found)
