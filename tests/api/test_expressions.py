"""What the contract says about a CEL expression without evaluating it."""

import pytest

from socadapter_api.expressions import MAX_SHOWN, fault


@pytest.mark.parametrize(
    "expression",
    [
        'alert.provider in ["aws", "gcp", "azure"]',
        'alert.host.startsWith("srv-") && !has(alert.user)',
        'alert.tags.exists(t, t == "dmz")',
        "true",
    ],
)
def test_what_can_be_compiled_has_no_fault(expression: str) -> None:
    """Operators, functions and macros of the language pass."""
    assert "" == fault(expression)


@pytest.mark.parametrize(
    ("expression", "place"),
    [
        pytest.param("alert.x ==", "line 1, column 9", id="operand missing"),
        pytest.param("1 +\n 2 2", "line 2, column 4", id="second line"),
        pytest.param('alert.provider in ["aws"', "line 1, column 20", id="list not closed"),
        pytest.param("", "line 1, column 1", id="empty"),
    ],
)
def test_a_fault_names_the_expression_and_the_place(expression: str, place: str) -> None:
    """A reader finds the character at which reading ended."""
    assert f"{expression!r} is not CEL: it cannot be read beyond {place}" == fault(expression)


def test_a_long_expression_is_not_repeated_whole() -> None:
    """An error stays readable whatever was put in."""
    assert len(fault("(" * 4096)) < MAX_SHOWN + 100
