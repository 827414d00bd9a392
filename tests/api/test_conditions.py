"""Conditions: a list of observations that changes only where something changed."""

from hypothesis import given
from hypothesis import strategies as st

from socadapter_api.conditions import Condition, ConditionStatus, merge

conditions = st.builds(
    Condition,
    type=st.sampled_from(["Ready", "Trained", "Degraded", "Stalled"]),
    status=st.sampled_from(ConditionStatus),
    reason=st.sampled_from(["Serving", "GateFailed", "ZeroSteps"]),
    message=st.text(max_size=10),
)
THEN, NOW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def ready(status: ConditionStatus, reason: str = "Serving") -> Condition:
    return Condition(type="Ready", status=status, reason=reason)


def test_time_moves_with_status() -> None:
    """`lastTransitionTime` is when the status became what it is, whatever happened to reason and message since."""
    (before,) = merge([], [ready(ConditionStatus.TRUE)], THEN)
    (same,) = merge([before], [ready(ConditionStatus.TRUE, "Promoted")], NOW)
    (other,) = merge([same], [ready(ConditionStatus.FALSE)], NOW)
    assert [before.last_transition_time, same.last_transition_time, other.last_transition_time] == [THEN, THEN, NOW]
    assert same.reason == "Promoted"


def test_condition_without_a_time_gets_one() -> None:
    """A condition that was written without a time, by whatever wrote it, has one after the next observation."""
    (merged,) = merge([ready(ConditionStatus.TRUE)], [ready(ConditionStatus.TRUE)], NOW)
    assert merged.last_transition_time == NOW


@given(current=st.lists(conditions), observed=st.lists(conditions))
def test_one_of_each_type_in_order(current: list[Condition], observed: list[Condition]) -> None:
    """The result holds each type once, sorted, and nothing that was not there or observed."""
    types = [condition.type for condition in merge(current, observed, NOW)]
    assert types == sorted({condition.type for condition in current + observed})


@given(current=st.lists(conditions), observed=st.lists(conditions))
def test_second_merge_changes_nothing(current: list[Condition], observed: list[Condition]) -> None:
    """Observing the same again, later, leaves the list as it is: no write is due."""
    latest = list({condition.type: condition for condition in observed}.values())
    once = merge(current, latest, THEN)
    assert merge(once, latest, NOW) == once or any(not condition.last_transition_time for condition in current)
