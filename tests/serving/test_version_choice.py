"""Which version answers: exact over the hash space, sticky, and with stand-ins in order."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socadapter_api.case import Alert
from socadapter_api.serving_table import ContextRoute, ServedVersion
from socadapter_serve.routing import (
    HASH_SPACE,
    Role,
    candidates,
    incident_of,
    named,
    position,
    takes_canary,
)


def served(number: int) -> ServedVersion:
    digest = f"sha256:{number:064x}"
    return ServedVersion(name=f"cloud-v{number}-{digest[7:15]}", uri=f"/store/{number}", digest=digest)


STABLE, CANARY, PREVIOUS, SHADOW = (served(number) for number in range(1, 5))


@given(st.integers(0, 100))
def test_the_canary_gets_exactly_its_share_of_the_space(weight: int) -> None:
    """The places that go to the canary are the first `weight` hundredths, to the place."""
    edge = -(-weight * HASH_SPACE // 100)
    assert weight == 0 or takes_canary(edge - 1, weight)
    assert weight == 100 or not takes_canary(edge, weight)


@given(st.text(max_size=20), st.text(max_size=40))
def test_an_incident_keeps_its_place(salt: str, incident: str) -> None:
    """The place follows from salt and incident alone, and lies in the space."""
    assert position(salt, incident) == position(salt, incident)
    assert 0 <= position(salt, incident) < HASH_SPACE


@given(st.integers(0, HASH_SPACE - 1), st.integers(0, 100), st.integers(0, 100))
def test_a_growing_weight_only_moves_incidents_to_the_canary(place: int, one: int, other: int) -> None:
    """No incident leaves the canary because more of them go there."""
    low, high = sorted((one, other))
    assert takes_canary(place, high) or not takes_canary(place, low)


@pytest.mark.parametrize("weight", [0, 10, 50, 100])
def test_real_incidents_are_split_as_the_weight_says(weight: int) -> None:
    """Of many incident ids the canary's share is the weight, within what chance allows."""
    route = ContextRoute(context="cloud", stable=STABLE, canary=CANARY, canary_weight_percent=weight, salt="s")
    taken = sum(candidates(route, f"INC-{n}")[0].role is Role.CANARY for n in range(4000))
    assert abs(taken / 4000 - weight / 100) < 0.025


def test_another_salt_gives_another_split() -> None:
    """The incidents of one canary are not those of the next."""
    first = [takes_canary(position("a", f"INC-{n}"), 50) for n in range(200)]
    second = [takes_canary(position("b", f"INC-{n}"), 50) for n in range(200)]
    assert first != second


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        pytest.param(
            {"stable": STABLE, "canary": CANARY, "canary_weight_percent": 100, "previous": PREVIOUS, "shadow": SHADOW},
            [Role.CANARY, Role.STABLE, Role.PREVIOUS, Role.BASE],
            id="canary first, shadow never",
        ),
        pytest.param(
            {"stable": STABLE, "canary": CANARY, "previous": PREVIOUS},
            [Role.STABLE, Role.PREVIOUS, Role.BASE],
            id="a canary without weight stands in for no one",
        ),
        pytest.param({"stable": STABLE, "previous": STABLE}, [Role.STABLE, Role.BASE], id="each version once"),
        pytest.param({}, [Role.BASE], id="nothing but the base"),
    ],
)
def test_stand_ins_come_in_order(route: dict[str, Any], expected: list[Role]) -> None:
    """Canary, stable, previous, base."""
    assert expected == [candidate.role for candidate in candidates(ContextRoute(context="cloud", **route), "INC-1")]


def test_equal_alerts_are_one_incident() -> None:
    """Without an incident id the alert's content decides, whatever the order of its fields."""
    assert incident_of(Alert({"a": 1, "b": 2})) == incident_of(Alert({"b": 2, "a": 1}))
    assert incident_of(Alert({"a": 1})) != incident_of(Alert({"a": 2}))


def test_a_version_is_listed_once_in_its_foremost_role() -> None:
    """A version that is stable and previous is stable."""
    route = ContextRoute(context="cloud", stable=STABLE, previous=STABLE, shadow=SHADOW)
    assert [(c.role, c.version) for c in named(route)] == [(Role.STABLE, STABLE), (Role.SHADOW, SHADOW)]
