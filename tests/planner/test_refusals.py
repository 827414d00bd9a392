"""What the conditions say of a resource whose plan could not be carried out."""

from datetime import UTC, datetime

import pytest

from socadapter_api.conditions import Condition, ConditionStatus
from socadapter_api.errors import BackendUnavailable, SecretNotFound, SocAdapterError
from socadapter_operator.domain import refusal

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def told(error: SocAdapterError, *before: Condition) -> dict[str, tuple[str, str]]:
    return {c.type: (c.status.value, c.reason) for c in refusal.conditions(before, 1, error, NOW)}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(SecretNotFound("no such Secret"), ("True", "SecretNotFound"), id="a person has to act"),
        pytest.param(BackendUnavailable("no answer"), ("False", "Retrying"), id="waiting helps"),
    ],
)
def test_what_was_never_ready_says_so(error: SocAdapterError, expected: tuple[str, str]) -> None:
    """The first table of a pool is refused: `Ready` is there, False, with the reason."""
    found = told(error)
    assert (expected, ("False", error.reason)) == (found["Stalled"], found["Ready"])


def test_ready_is_never_taken_away() -> None:
    """What serves goes on although a later table is refused; what was not ready says what is in its way now."""
    serving = Condition(type="Ready", status=ConditionStatus.TRUE, reason="Serving")
    loading = Condition(type="Ready", status=ConditionStatus.FALSE, reason="Starting")
    error = SecretNotFound("no such Secret")
    assert (("True", "Serving"), ("False", "SecretNotFound")) == (
        told(error, serving)["Ready"],
        told(error, loading)["Ready"],
    )
