"""The figures mean what their definitions say."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from socadapter_api.case import Case, Verdict
from socadapter_api.manifest import Calibration
from socadapter_api.training import UtilityWeights
from socadapter_api.trajectory import CallOutcome, ToolCall, Trajectory
from socadapter_jobs.scoring.figures import FIGURES, utility_of
from socadapter_jobs.scoring.metrics import Metrics, ScoredCase, score, summarize, wilson

TP, BTP, FP, ESCALATE, INVALID = Verdict


def judged(*pairs: tuple[Verdict, Verdict], **fields: object) -> tuple[ScoredCase, ...]:
    """Cases from (label, verdict) pairs, all with the same other fields."""
    make: Callable[..., ScoredCase] = ScoredCase
    return tuple(
        make(id=str(place), label=label, verdict=verdict, **fields) for place, (label, verdict) in enumerate(pairs)
    )


def test_escalated_and_invalid_answers_count_as_wrong() -> None:
    """On an attack they count as missed, on anything else as neither right nor a false alarm."""
    metrics = summarize(
        judged((TP, TP), (TP, ESCALATE), (TP, INVALID), (TP, FP), (FP, FP), (BTP, FP), (FP, ESCALATE), (FP, TP))
    )
    assert metrics.n == 8
    assert metrics.fnr == pytest.approx(3 / 4)
    assert metrics.tnr == pytest.approx(2 / 4)
    assert metrics.fpr == pytest.approx(1 / 4)
    assert metrics.balanced_accuracy == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert metrics.abstained == pytest.approx(2 / 8)
    assert metrics.invalid_rate == pytest.approx(1 / 8)


def test_the_kind_of_closing_does_not_matter_to_binary_figures() -> None:
    """Benign true positive and false positive are one class against true positive."""
    metrics = summarize(judged((BTP, FP), (FP, BTP), (TP, TP)))
    assert metrics.balanced_accuracy == 1.0


def test_undecidable_cases_are_scored_apart() -> None:
    """They change no figure but their own: the share that was rightly escalated."""
    plain = judged((TP, TP), (FP, TP))
    extra = tuple(ScoredCase(id=f"u{place}", label=ESCALATE, verdict=v) for place, v in enumerate((ESCALATE, TP)))
    alone, together = summarize(plain), summarize((*plain, *extra))
    assert together.undecidable == 2
    assert together.undecidable_escalated == 0.5
    assert together.flat() == {**alone.flat(), "undecidable": 2.0}
    assert together.confusion["escalate"]["escalate"] == 1


def test_figures_hold_for_the_share_of_attacks_that_is_told() -> None:
    """Two attacks and two others that stand for one attack in five come to what eight others beside them would."""
    attacks, others = judged((TP, TP), (TP, FP)), judged((FP, FP), (FP, TP))
    told, stream = summarize((*attacks, *others), attack_share=0.2), summarize((*attacks, *others * 4))
    for name in ("utility", "balanced_accuracy", "fnr", "closing_precision", "closed_rate"):
        assert getattr(told, name) == pytest.approx(getattr(stream, name)), name
    assert told.n == 4


@pytest.mark.parametrize("cases", [pytest.param(judged((TP, TP)), id="one-class"), pytest.param((), id="nothing")])
def test_a_share_cannot_be_told_of_one_class(cases: tuple[ScoredCase, ...]) -> None:
    """There is nothing to weigh against: the figures are those of the cases."""
    assert summarize(cases, attack_share=0.2) == summarize(cases)


def test_unscorable_cases_are_left_out_and_counted() -> None:
    """An outage is not the model's fault, and not its merit."""
    good = judged((TP, TP), (FP, FP))
    out = (ScoredCase(id="x", label=TP, verdict=FP, scorable=False),)
    assert summarize((*good, *out)).flat() == {**summarize(good).flat(), "unscorable": 1.0}


def test_nothing_to_measure_is_none_and_not_zero() -> None:
    """A figure without cases that define it is absent, so that no gate can pass on it."""
    metrics = summarize(judged((FP, FP)))
    assert metrics.fnr is None
    assert metrics.fnr_interval is None
    assert metrics.balanced_accuracy is None
    assert metrics.auc is None
    assert metrics.grounded_rate is None
    assert "fnr" not in metrics.flat()
    assert summarize(()).n == 0


@pytest.mark.parametrize(
    ("attack", "verdict", "worth"),
    [
        pytest.param(True, TP, 1.0, id="attack-found"),
        pytest.param(True, FP, -2.0, id="attack-closed"),
        pytest.param(True, BTP, -2.0, id="attack-called-benign"),
        pytest.param(True, ESCALATE, -0.3, id="attack-escalated"),
        pytest.param(True, INVALID, -1.0, id="attack-invalid"),
        pytest.param(False, TP, -1.0, id="false-alarm"),
        pytest.param(False, FP, 1.0, id="closed"),
        pytest.param(False, BTP, 1.0, id="closed-as-benign"),
        pytest.param(False, ESCALATE, -0.3, id="needlessly-escalated"),
        pytest.param(False, INVALID, -1.0, id="invalid"),
    ],
)
def test_utility_by_outcome(attack: bool, verdict: Verdict, worth: float) -> None:
    """Every outcome has the weight that the spec's defaults give it."""
    assert utility_of(attack, verdict, UtilityWeights()) == worth


def test_utility_is_taken_after_the_threshold_and_accuracy_before_it() -> None:
    """Escalating a bold closing turns a missed attack into an escalation; the model's own verdict stays missed."""
    cases = (
        ScoredCase(id="a", label=TP, verdict=FP, confidence=0.4),
        ScoredCase(id="b", label=FP, verdict=FP, confidence=0.1),
        ScoredCase(id="c", label=TP, verdict=TP, confidence=0.9),
    )
    careful = Calibration(escalate_at=0.3)
    before, after = summarize(cases), summarize(cases, calibration=careful)
    assert after.balanced_accuracy == before.balanced_accuracy
    assert before.utility == pytest.approx((-2 + 1 + 1) / 3)
    assert after.utility == pytest.approx((-0.3 + 1 + 1) / 3)
    assert before.closing_precision == pytest.approx(1 / 2)
    assert after.closing_precision == 1.0
    assert after.closed_rate == pytest.approx(1 / 3)


def test_auc_counts_ties_half_and_a_missing_confidence_in_the_middle() -> None:
    """An answer that could not be parsed must not flatter the ranking by being left out."""
    cases = (
        ScoredCase(id="a", label=TP, verdict=TP, confidence=0.9),
        ScoredCase(id="b", label=TP, verdict=INVALID, confidence=None),
        ScoredCase(id="c", label=FP, verdict=FP, confidence=0.9),
        ScoredCase(id="d", label=FP, verdict=FP, confidence=0.1),
    )
    assert summarize(cases).auc == pytest.approx((0.5 + 1 + 0 + 1) / 4)


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=4, max_size=40).filter(
        lambda rows: 0 < sum(attack for attack, _ in rows) < len(rows)
    )
)
def test_auc_is_the_chance_that_an_attack_ranks_above_another(rows: list[tuple[bool, float]]) -> None:
    """The sorted, weighted computation agrees with counting all pairs."""
    cases = [ScoredCase(id=str(i), label=TP if a else FP, verdict=FP, confidence=p) for i, (a, p) in enumerate(rows)]
    ups = [p for a, p in rows if a]
    downs = [p for a, p in rows if not a]
    wins = sum((up > down) + 0.5 * (up == down) for up in ups for down in downs)
    assert summarize(cases).auc == pytest.approx(wins / (len(ups) * len(downs)))


@given(
    st.lists(
        st.tuples(st.sampled_from([TP, BTP, FP]), st.sampled_from(list(Verdict)), st.floats(0, 1)),
        min_size=1,
        max_size=30,
    )
)
def test_shares_are_shares(rows: list[tuple[Verdict, Verdict, float]]) -> None:
    """Every rate lies between 0 and 1, whatever was judged, and the confusion matrix counts every case once."""
    cases = [ScoredCase(id=str(i), label=a, verdict=b, confidence=p) for i, (a, b, p) in enumerate(rows)]
    metrics = summarize(cases)
    rates = [
        "balanced_accuracy",
        "fnr",
        "fpr",
        "tnr",
        "auc",
        "abstained",
        "closing_precision",
        "ece",
        "brier",
        "invalid_rate",
    ]
    for name in rates:
        value = getattr(metrics, name)
        assert value is None or -1e-12 <= value <= 1 + 1e-12, name
    assert sum(sum(row.values()) for row in metrics.confusion.values()) == len(rows)


def test_calibration_error_is_zero_for_a_calibrated_model_and_one_for_a_liar() -> None:
    """ECE and Brier score look at the calibrated probability."""
    honest = [ScoredCase(id=str(i), label=TP if i % 2 else FP, verdict=FP, confidence=0.5) for i in range(20)]
    liar = [
        ScoredCase(id=str(i), label=TP if i % 2 else FP, verdict=FP, confidence=0.0 if i % 2 else 1.0)
        for i in range(20)
    ]
    assert summarize(honest).ece == pytest.approx(0.0, abs=1e-9)
    assert summarize(honest).brier == pytest.approx(0.25)
    assert summarize(liar).ece == pytest.approx(1.0, abs=1e-5)


def test_grounding_is_judged_only_where_something_was_written() -> None:
    """None says that no summary was asked for; 0 that every citation held."""
    cases = (
        ScoredCase(id="a", label=TP, verdict=TP, ungrounded=0),
        ScoredCase(id="b", label=FP, verdict=FP, ungrounded=2),
        ScoredCase(id="c", label=FP, verdict=FP, ungrounded=None),
    )
    assert summarize(cases).grounded_rate == 0.5


def test_counters_are_per_hundred_cases_and_effort_per_case() -> None:
    """Loops, unknown tools and malformed turns per 100; calls and tokens per case."""
    metrics = summarize(judged((TP, TP), (FP, FP), calls=3, tokens=40, repeats=1, unknown_tools=2, malformed=3))
    assert metrics.repeats_per_100 == 100
    assert metrics.unknown_tools_per_100 == 200
    assert metrics.malformed_per_100 == 300
    assert (metrics.calls_per_case, metrics.tokens_per_case) == (3, 40)


def test_slices_and_ambiguous_cases_are_reported_apart() -> None:
    """A group's figures are those of its cases alone, and so are those of the ambiguous ones."""
    cases = (
        ScoredCase(id="a", label=TP, verdict=TP, group="dns"),
        ScoredCase(id="b", label=FP, verdict=FP, group="dns", ambiguous=True),
        ScoredCase(id="c", label=TP, verdict=FP, group="web", ambiguous=True),
        ScoredCase(id="d", label=FP, verdict=FP, group="web"),
    )
    metrics = summarize(cases)
    assert list(metrics.slices) == ["dns", "web"]
    assert metrics.slices["dns"].balanced_accuracy == 1.0
    assert metrics.slices["web"].fnr == 1.0
    assert metrics.ambiguous is not None
    assert (metrics.ambiguous.n, metrics.ambiguous.balanced_accuracy) == (2, 0.5)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        pytest.param(0, 10, 0.0, 0.2775, id="none"),
        pytest.param(10, 10, 0.7225, 1.0, id="all"),
        pytest.param(5, 10, 0.2366, 0.7634, id="half"),
        pytest.param(81, 263, 0.2553, 0.3662, id="newcombe-1998"),
    ],
)
def test_wilson_interval(hits: int, n: int, low: float, high: float) -> None:
    """Equal to published values (Newcombe 1998, table I, method 3 for 81 of 263)."""
    found = wilson(hits, n)
    assert found is not None
    assert found == pytest.approx((low, high), abs=2e-4)


def test_metrics_survive_json_in_snake_case() -> None:
    """What a champion left behind can be read back and compared."""
    metrics = summarize(judged((TP, TP), (FP, TP), group="g", confidence=0.7, ungrounded=0))
    text = metrics.model_dump_json()
    assert '"balanced_accuracy"' in text
    assert Metrics.model_validate_json(text) == metrics


def test_every_figure_reads_weights_as_repetition() -> None:
    """A case of weight two is worth two cases, which is what makes a bootstrap resample a figure."""
    cases = [
        ScoredCase(id="a", label=TP, verdict=TP, confidence=0.8, ungrounded=0, calls=2, tokens=9, seconds=1.0),
        ScoredCase(id="b", label=TP, verdict=FP, confidence=0.3, ungrounded=1, calls=1, tokens=5, repeats=1),
        ScoredCase(id="c", label=FP, verdict=FP, confidence=0.2, ungrounded=0, unknown_tools=1),
        ScoredCase(id="d", label=FP, verdict=TP, confidence=0.6, ungrounded=0, malformed=1),
    ]
    from socadapter_jobs.scoring.figures import columns

    def values(chosen: list[ScoredCase], weight: list[float]) -> dict[str, float]:
        made = columns(chosen, Calibration(), UtilityWeights())
        return {name: float(figure(made, np.array([weight]))[0]) for name, figure in FIGURES.items()}

    weighted = values(cases, [2, 1, 1, 3])
    repeated = values([cases[0], *cases, cases[3], cases[3]], [1] * 7)
    assert weighted == pytest.approx(repeated)


def test_a_trajectory_is_scored_against_its_case() -> None:
    """Counters, confidence and slices arrive unchanged, and calls are counted."""
    case = Case.model_validate({"id": "a", "alert": {}, "label": "TP", "group": "dns", "ambiguous": True})
    trajectory = Trajectory(
        verdict=TP,
        confidence=0.9,
        calls=(ToolCall(tool="x"), ToolCall(tool="y", outcome=CallOutcome.NO_DATA)),
        tokens_generated=30,
        ungrounded=1,
    )
    found = score(case, trajectory)
    assert (found.calls, found.tokens, found.ungrounded, found.group, found.ambiguous) == (2, 30, 1, "dns", True)
    assert score(case, trajectory, grounding=False).ungrounded is None
