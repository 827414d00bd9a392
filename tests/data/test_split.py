"""Splits: disjoint, seeded, and honest about what they could not do."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socadapter_api.case import Case, Verdict
from socadapter_api.errors import EmptyData, OneClass
from socadapter_jobs.data.split import (
    attack_share,
    dedupe,
    divide_beside,
    hold_out_group,
    sample,
    split_development,
    split_holdout,
)

START = datetime(2024, 1, 1, tzinfo=UTC)


def make(
    place: int, *, attack: bool, hours: float | None = None, entities: tuple[str, ...] = (), context: str = ""
) -> Case:
    return Case(
        id=str(place),
        context=context,
        alert={"title": "t", "n": place},
        label=Verdict.TRUE_POSITIVE if attack else Verdict.FALSE_POSITIVE,
        observed_at=None if hours is None else START + timedelta(hours=hours),
        entities=entities,
    )


def company(n: int = 600, users: int = 60) -> list[Case]:
    """Alerts of many users over time, each on one of their two machines."""
    return [
        make(i, attack=(i * 7) % 3 == 0, hours=i, entities=(f"u{i * 11 % users}", f"h{i * 11 % users}-{i % 2}"))
        for i in range(n)
    ]


def test_the_holdout_shares_neither_time_nor_entities() -> None:
    """Every holdout case is later than all of training and involves nobody that training knows."""
    split = split_holdout(company(), 20, seed=3)
    assert split.how == "time and entity"
    assert max(c.observed_at for c in split.kept if c.observed_at) < min(
        c.observed_at for c in split.held_out if c.observed_at
    )
    assert not {e for c in split.kept for e in c.entities} & {e for c in split.held_out for e in c.entities}
    share = len(split.held_out) / (len(split.held_out) + len(split.kept))
    assert 0.1 < share < 0.3


def test_every_case_is_on_one_side_or_named_as_dropped() -> None:
    """Nothing vanishes."""
    cases = company()
    split = split_holdout(cases, 20, seed=0, max_holdout=30)
    ids = [*(c.id for c in split.kept), *(c.id for c in split.held_out), *split.dropped]
    assert sorted(ids) == sorted(c.id for c in cases)
    assert len(split.held_out) <= 30


def test_a_seed_gives_one_split() -> None:
    """The same seed the same split, another seed another one."""
    cases = company()
    assert split_holdout(cases, 20, seed=1) == split_holdout(cases, 20, seed=1)
    assert split_holdout(cases, 20, seed=1) != split_holdout(cases, 20, seed=2)


def test_a_named_sides_order_is_that_of_the_source() -> None:
    """Training sees its data in a stable order."""
    split = split_holdout(company(), 20, seed=1)
    for side in (split.kept, split.held_out):
        places = [int(case.id) for case in side]
        assert places == sorted(places)


@pytest.mark.parametrize(
    ("cases", "how"),
    [
        pytest.param(
            [make(i, attack=i % 3 == 0, entities=(f"e{i % 20}",)) for i in range(200)], "entity", id="no-times"
        ),
        pytest.param([make(i, attack=i % 3 == 0, hours=i) for i in range(200)], "time", id="no-entities"),
        pytest.param([make(i, attack=i % 3 == 0) for i in range(200)], "label, at random", id="neither"),
        pytest.param(
            [make(i, attack=i > 100, hours=i) for i in range(200)], "label, at random", id="attacks-come-late"
        ),
        pytest.param(
            [make(i, attack=i % 3 == 0, hours=i, entities=("hub",)) for i in range(200)], "time", id="one-entity-in-all"
        ),
    ],
)
def test_a_weaker_split_is_taken_where_the_strict_one_is_impossible(cases: list[Case], how: str) -> None:
    """And says so; both sides hold both classes in every case."""
    split = split_holdout(cases, 20, seed=0)
    assert split.how == how
    for side in (split.kept, split.held_out):
        assert {case.is_attack for case in side} == {True, False}


def test_what_cannot_be_split_is_refused() -> None:
    """Too few attacks for two sides: an error that counts them."""
    with pytest.raises(OneClass, match="with 1 attacks"):
        split_holdout([make(i, attack=i == 0) for i in range(50)], 20, seed=0)


def test_development_cases_cost_no_training_case() -> None:
    """Whole users go where users form groups of their own, and none is lost."""
    cases = company()
    split = split_development(cases, 15, seed=0)
    assert split.how == "entity"
    assert len(split.kept) + len(split.held_out) == len(cases)
    assert not {e for c in split.kept for e in c.entities} & {e for c in split.held_out for e in c.entities}


def test_development_falls_back_to_chance_in_a_connected_company() -> None:
    """Where everyone shares a server, an entity split would lose cases: it is by label instead."""
    cases = [make(i, attack=i % 3 == 0, entities=(f"u{i % 20}", "server")) for i in range(200)]
    split = split_development(cases, 15, seed=0, max_development=20)
    assert split.how == "label, at random"
    assert len(split.held_out) <= 20


@pytest.mark.parametrize(
    ("attacks", "most", "held"),
    [
        pytest.param(200, 48, (24, 24), id="as-many-of-either"),
        pytest.param(60, 48, (9, 39), id="no-more-than-its-part-of-the-rare-class"),
        pytest.param(960, 48, (42, 6), id="attacks-may-be-the-common-class"),
        pytest.param(250, 400, (38, 112), id="in-proportion-where-there-is-room"),
    ],
)
@pytest.mark.parametrize("users", [pytest.param(0, id="at-random"), pytest.param(500, id="by-entity")])
def test_development_holds_both_classes(attacks: int, most: int, held: tuple[int, int], users: int) -> None:
    """Within its size the rarer class is drawn until both are as many, or 15 % of it are gone; no case is lost.

    Whole users come close to that only.
    """
    order = random.Random(1).sample(range(1000), 1000)
    cases = [make(i, attack=order[i] < attacks, entities=(f"u{i % users}",) if users else ()) for i in range(1000)]
    split = split_development(cases, 15, seed=0, max_development=most)
    found = sum(case.is_attack for case in split.held_out)
    assert split.how == ("entity" if users else "label, at random")
    assert (found, len(split.held_out) - found) == pytest.approx(held, abs=5 if users else 0)
    assert len(split.kept) + len(split.held_out) == 1000


def test_the_share_of_attacks_is_of_what_can_be_decided() -> None:
    """Undecidable alerts count for neither side, and no alert at all is no attack."""
    unclear = make(9, attack=False).model_copy(update={"label": Verdict.ESCALATE})
    assert attack_share([make(0, attack=True), *(make(i, attack=False) for i in range(1, 4)), unclear]) == 0.25
    assert attack_share([unclear]) == attack_share([]) == 0.0


def test_one_visible_alert_is_on_one_side_only() -> None:
    """Alerts that look alike do not leak over a random split, even where their evidence differs."""
    cases = [
        case.model_copy(update={"alert": {"title": f"t{place // 4}"}, "evidence": {"x": place}})
        for place, case in enumerate(make(i, attack=(i // 4) % 2 == 0) for i in range(200))
    ]
    split = split_development(cases, 20, seed=0)
    assert not {str(c.alert) for c in split.kept} & {str(c.alert) for c in split.held_out}


def test_an_organisation_is_held_out_by_prefix() -> None:
    """All of its cases, and no other."""
    cases = [make(i, attack=i % 2 == 0, context=f"net/{'ab'[i % 2]}") for i in range(10)]
    split = hold_out_group(cases, "net/a")
    assert {case.context for case in split.held_out} == {"net/a"}
    assert {case.context for case in split.kept} == {"net/b"}


@pytest.mark.parametrize("prefix", [pytest.param("other", id="none"), pytest.param("net", id="all")])
def test_a_prefix_that_divides_nothing_is_refused(prefix: str) -> None:
    """The message lists what there is."""
    with pytest.raises(EmptyData, match="net/a"):
        hold_out_group([make(i, attack=True, context="net/a") for i in range(3)], prefix)


def test_repeats_go_and_contradictions_go_altogether() -> None:
    """Content decides, not the id; equal content under two labels is noise."""
    a, b, c = (make(i, attack=True) for i in range(3))
    again = a.model_copy(update={"id": "again", "context": "other"})
    against = b.model_copy(update={"id": "against", "label": Verdict.FALSE_POSITIVE})
    found = dedupe([a, b, c, again, against])
    assert [case.id for case in found.cases] == ["0", "2"]
    assert found.repeats == ("again",)
    assert set(found.contradictory) == {"1", "against"}


@given(st.lists(st.sampled_from(list(Verdict)[:4]), min_size=1, max_size=60), st.integers(1, 60), st.integers(0, 99))
def test_a_sample_keeps_the_labels_in_proportion(labels: list[Verdict], most: int, seed: int) -> None:
    """Within one case of the exact share for every label, never more than asked, in order."""
    cases = [make(i, attack=False).model_copy(update={"label": label}) for i, label in enumerate(labels)]
    chosen = sample(cases, most, seed)
    assert len(chosen) == min(most, len(cases))
    assert [int(c.id) for c in chosen] == sorted(int(c.id) for c in chosen)
    for label in set(labels):
        exact = len(chosen) * labels.count(label) / len(labels)
        assert abs(sum(case.label is label for case in chosen) - exact) <= 1.5


@pytest.mark.parametrize("most", [pytest.param(None, id="a-part"), pytest.param(48, id="so-many")])
def test_cases_keep_their_side_while_the_data_grow(most: int | None) -> None:
    """Night after night: a run that goes on from an adapter must not be calibrated on what that one has learned."""
    cases = [make(i, attack=(i * 7) % 3 == 0) for i in range(700)]
    learned: set[str] = set()
    for night in range(5):
        split = split_development(cases[: 600 + 25 * night], 15, seed=0, max_development=most)
        known = learned & {case.id for case in split.held_out}
        assert len(known) <= 0.1 * len(split.held_out), "more than the part that grows with the data"
        learned |= {case.id for case in split.kept}


def test_what_comes_beside_a_split_moves_nothing_and_is_not_moved() -> None:
    """Each new case draws for itself, and one that looks like an older one goes where that is."""
    parts = split_development([make(i, attack=i % 3 == 0) for i in range(200)], 15, seed=0)
    new = [make(i, attack=i % 2 == 0) for i in range(1000, 1400)]
    held, kept = parts.held_out[0], parts.kept[0]
    again = [held.model_copy(update={"id": "held again"}), kept.model_copy(update={"id": "kept again"})]
    both = divide_beside(parts, [*again, *new], 15, seed=0)
    assert (parts.kept, parts.held_out) == (both.kept[: len(parts.kept)], both.held_out[: len(parts.held_out)])
    assert "held again" in {case.id for case in both.held_out}
    assert "kept again" in {case.id for case in both.kept}
    drawn = [case for case in both.held_out if case in new]
    assert 0.1 * len(new) < len(drawn) < 0.2 * len(new)
    alone = divide_beside(parts, new[:100], 15, seed=0)
    assert [case for case in drawn if case in new[:100]] == [case for case in alone.held_out if case in new]
    assert drawn != [case for case in divide_beside(parts, new, 15, seed=1).held_out if case in new]
    few = divide_beside(parts, new, 15, seed=0, most=20)
    assert (20, len(drawn) - 20) == (len(few.held_out) - len(parts.held_out), len(few.dropped) - len(parts.dropped))
    assert both.kept[len(parts.kept) + 1 :] == few.kept[len(parts.kept) :]
