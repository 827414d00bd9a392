"""Which contexts claim an alert, by CEL, whatever the expression or the alert."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socadapter_api.serving_table import ContextRoute
from socadapter_serve.matching import ContextMatcher

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


def matcher(**expressions: str) -> ContextMatcher:
    return ContextMatcher.compiled([ContextRoute(context=name, match=text) for name, text in expressions.items()])


@pytest.mark.parametrize(
    ("expression", "alert", "claimed"),
    [
        pytest.param('alert.provider in ["aws", "gcp"]', {"provider": "aws"}, True, id="in a list"),
        pytest.param('alert.provider in ["aws", "gcp"]', {"provider": "on-prem"}, False, id="not in the list"),
        pytest.param('alert.provider == "aws"', {"title": "x"}, False, id="a field that the alert lacks"),
        pytest.param('alert.severity > "high"', {"severity": 3}, False, id="a type that does not fit"),
        pytest.param("alert.provider", {"provider": "aws"}, False, id="no boolean"),
        pytest.param("alert.tags.exists(t, t == 'iam')", {"tags": ["vm", "iam"]}, True, id="a macro"),
        pytest.param("alert.tags.exists(t, t == 'iam')", {"tags": None}, False, id="a macro over null"),
        pytest.param("alert.tags.all(t, t == 'iam')", {"tags": 5}, False, id="a macro over a number"),
        pytest.param(
            'has(alert.cloud) && alert.cloud.account.startsWith("1")', {"cloud": {"account": "12"}}, True, id="has"
        ),
        pytest.param('!("cloud" in alert)', {"host": "h"}, True, id="absence"),
        pytest.param('alert.host.matches("^db-[0-9]+$")', {"host": "db-17"}, True, id="a pattern"),
        pytest.param("1 / 0 == 1", {}, False, id="division by zero"),
    ],
)
def test_an_expression_decides(expression: str, alert: dict[str, Any], claimed: bool) -> None:
    """A context claims an alert where its expression is true, and nowhere else."""
    assert (("cloud",) if claimed else ()) == matcher(cloud=expression).match(alert).contexts


def test_several_contexts_may_claim_one_alert() -> None:
    """All of them are named; choosing is not the matcher's."""
    found = matcher(cloud='alert.provider == "aws"', iam='alert.title == "t"', net="false")
    assert found.match({"provider": "aws", "title": "t"}).contexts == ("cloud", "iam")


@pytest.mark.parametrize("broken", ["alert.", "a ==", "((", '"x', "alert.x ? 1"])
def test_an_invalid_expression_is_reported_and_the_others_work(broken: str) -> None:
    """It matches nothing, says why, and disturbs no one."""
    found = matcher(broken=broken, cloud='alert.provider == "aws"')
    assert list(found.problems) == ["broken"]
    assert "is not CEL" in found.problems["broken"]
    assert found.match({"provider": "aws"}).contexts == ("cloud",)


def test_an_empty_expression_claims_nothing() -> None:
    """Such a context is only chosen by its name."""
    assert matcher(cloud="").match({"provider": "aws"}).contexts == ()


def test_a_costly_expression_is_stopped() -> None:
    """Nested loops over a long list end after so many steps, and are named as undecided."""
    found = matcher(slow="alert.l.all(a, alert.l.all(b, alert.l.all(c, a + b + c < 10000000)))", cloud="true")
    matched = found.match({"l": list(range(60))})
    assert (matched.contexts, matched.exceeded) == (("cloud",), ("slow",))


def test_a_deep_alert_is_undecided_not_fatal() -> None:
    """An alert nested deeper than any evaluator goes is claimed by no one."""
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}
    assert matcher(cloud="alert.a.a == 1").match(deep).contexts == ()


@given(st.dictionaries(st.sampled_from(["x", "y", "z"]) | st.text(max_size=6), JSON, max_size=4))
def test_no_alert_makes_matching_fail(alert: dict[str, Any]) -> None:
    """Whatever an alert holds, the answer is a match or none."""
    found = matcher(
        a="alert.x > 1", b='alert.y.z == "q"', c="size(alert) > 1", d='alert.x in ["1", 2]', e="alert.x.all(t, t > 1)"
    )
    assert set(found.match(alert).contexts) <= {"a", "b", "c", "d", "e"}
