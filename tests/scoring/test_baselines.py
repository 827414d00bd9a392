"""The cheap baselines that an adapter is measured against."""

import random

import pytest

from socadapter_api.case import Case
from socadapter_api.errors import EmptyData
from socadapter_jobs.scoring.baselines import alert_text, case_text, run_baselines
from socadapter_jobs.scoring.metrics import summarize


def cases(n: int, seed: int) -> list[Case]:
    """Alerts whose title helps a little and whose evidence decides."""
    rng = random.Random(seed)
    made = []
    for place in range(n):
        attack = place % 2 == 0
        title = rng.choice(["Odd login", "Odd login", "New process" if attack else "New flow"])
        count = rng.randint(200, 900) if attack else rng.randint(1, 20)
        made.append(
            Case.model_validate(
                {
                    "id": f"{seed}-{place}",
                    "alert": {"title": title, "first_seen": "2024-01-01T00:00:00Z"},
                    "evidence": {"history": {"failures": count, "note": rng.choice(["quiet", "busy"])}},
                    "label": "TP" if attack else "FP",
                }
            )
        )
    return made


def test_the_baselines_rank_as_they_should() -> None:
    """Majority is chance, titles help some, and the words and magnitudes of the evidence decide."""
    found = {name: summarize(rows) for name, rows in run_baselines(cases(120, 0), cases(80, 1)).items()}
    assert found["majority"].balanced_accuracy == 0.5
    title, words = found["title look-up"].balanced_accuracy, found["logistic regression"].balanced_accuracy
    assert title is not None
    assert words is not None
    assert 0.55 < title < 0.85
    assert words > 0.95


def test_undecidable_training_cases_teach_no_baseline() -> None:
    """Without any decidable case there is nothing to learn, and that is said."""
    open_question = Case.model_validate({"id": "u", "alert": {}, "label": "UNDECIDABLE"})
    with pytest.raises(EmptyData):
        run_baselines([open_question], cases(4, 1))


def test_one_class_is_learned_as_a_constant() -> None:
    """A one-class training set is no crash; `check` is where it is refused."""
    only = [case for case in cases(20, 0) if case.is_attack]
    for rows in run_baselines(only, cases(10, 1)).values():
        assert summarize(rows).fnr == 0.0


def test_numbers_of_any_length_are_read() -> None:
    """An integer that no float holds has a magnitude like any other."""
    case = Case.model_validate({"id": "a", "alert": {"modulus": -(2**2047), "one": 1, "zero": 0}, "label": "TP"})
    assert {"alert.modulus~-2^2047", "alert.one~2^0", "alert.zero~0"} <= set(alert_text(case).split())


def test_absolute_times_are_not_read() -> None:
    """A date that betrays the label must not make the bar unfairly high."""
    text = case_text(cases(1, 0)[0])
    assert "2024" not in text
    assert "history.failures~2^" in text
    assert "history" not in alert_text(cases(1, 0)[0])
