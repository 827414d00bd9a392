"""The error tree: one reason a class, drawn as it is, and explained in the runbook."""

import re

import pytest
from tests.runbook import SECTIONS

from socadapter_api import errors
from socadapter_api.errors import SocAdapterError

REASON = re.compile(r"[A-Z][A-Za-z]+")


def tree(root: type[SocAdapterError] = SocAdapterError) -> list[type[SocAdapterError]]:
    return [root, *(found for child in root.__subclasses__() for found in tree(child))]


CLASSES = [error for error in tree() if error.__module__ == errors.__name__]


def test_reasons_are_unique() -> None:
    """A reason names one class: an alert on a condition's reason is about one thing."""
    reasons = [error.reason for error in CLASSES]
    assert sorted(reasons) == sorted(set(reasons))


@pytest.mark.parametrize("error", [pytest.param(error, id=error.__name__) for error in CLASSES])
def test_reason_is_a_condition_reason(error: type[SocAdapterError]) -> None:
    """Every class carries a reason of its own, in the form that Kubernetes demands of a condition."""
    assert "reason" in vars(error)
    assert REASON.fullmatch(error.reason)


def test_drawing_shows_the_tree() -> None:
    """The drawing at the top of the module names every class below the one that it derives from."""
    drawn: dict[str, str] = {}
    parents: dict[int, str] = {}
    for depth, name in re.findall(r"^([│├└─ ]*)([A-Z][A-Za-z]+)", errors.__doc__ or "", flags=re.MULTILINE):
        level = len(depth)
        if name in vars(errors):
            parents[level] = name
            above = [key for key in parents if key < level]
            drawn[name] = parents[max(above)] if above else ""
    actual = {error.__name__: error.__bases__[0].__name__ for error in CLASSES}
    assert drawn == actual | {"SocAdapterError": ""}


@pytest.mark.parametrize("error", [pytest.param(error, id=error.reason) for error in CLASSES])
def test_runbook_explains(error: type[SocAdapterError]) -> None:
    """The runbook has a section headed by the reason."""
    assert error.reason in SECTIONS


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        pytest.param(errors.SpecError, False, id="a spec does not mend itself"),
        pytest.param(errors.DigestMismatch, False, id="tampered bytes stay tampered"),
        pytest.param(errors.StoreUnavailable, True, id="a store comes back"),
        pytest.param(errors.DiskFull, True, id="space can be made"),
        pytest.param(errors.RunInterrupted, True, id="a run resumes"),
        pytest.param(errors.ReplayMiss, False, id="what was not recorded stays so"),
    ],
)
def test_retry(error: type[SocAdapterError], retryable: bool) -> None:
    """Trying again is asked for only where it can help."""
    assert error.retryable is retryable
