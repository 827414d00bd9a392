"""From what a model said to what is done with the alert."""

import pytest

from socadapter_api.case import Verdict
from socadapter_api.manifest import Calibration
from socadapter_api.trajectory import Trajectory
from socadapter_serve.decision import decide

CALIBRATION = Calibration(slope=1.0, intercept=0.0, escalate_at=0.2)
UNFITTED = Calibration(escalate_at=0.0)


def concluded(verdict: Verdict, confidence: float | None) -> Trajectory:
    return Trajectory(verdict=verdict, confidence=confidence)


@pytest.mark.parametrize(
    ("verdict", "confidence", "calibration", "expected", "by_threshold"),
    [
        pytest.param(Verdict.FALSE_POSITIVE, 0.05, CALIBRATION, Verdict.FALSE_POSITIVE, False, id="sure enough"),
        pytest.param(Verdict.FALSE_POSITIVE, 0.3, CALIBRATION, Verdict.ESCALATE, True, id="too likely an attack"),
        pytest.param(Verdict.BENIGN_TRUE_POSITIVE, 0.3, CALIBRATION, Verdict.ESCALATE, True, id="benign closes too"),
        pytest.param(Verdict.TRUE_POSITIVE, 0.3, CALIBRATION, Verdict.TRUE_POSITIVE, False, id="an attack stays one"),
        pytest.param(Verdict.ESCALATE, 0.0, CALIBRATION, Verdict.ESCALATE, False, id="escalated by itself"),
        pytest.param(Verdict.INVALID, None, CALIBRATION, Verdict.ESCALATE, False, id="no readable answer"),
        pytest.param(Verdict.FALSE_POSITIVE, 0.0, None, Verdict.ESCALATE, False, id="the base closes nothing"),
        pytest.param(Verdict.TRUE_POSITIVE, 0.9, None, Verdict.TRUE_POSITIVE, False, id="the base may raise an alarm"),
        pytest.param(Verdict.FALSE_POSITIVE, 0.99, Calibration(), Verdict.FALSE_POSITIVE, False, id="no threshold"),
        pytest.param(Verdict.FALSE_POSITIVE, 0.0, UNFITTED, Verdict.ESCALATE, True, id="nothing was fitted"),
        pytest.param(Verdict.TRUE_POSITIVE, 0.9, UNFITTED, Verdict.TRUE_POSITIVE, False, id="and an attack stays one"),
    ],
)
def test_a_verdict_becomes_a_decision(
    verdict: Verdict, confidence: float | None, calibration: Calibration | None, expected: Verdict, by_threshold: bool
) -> None:
    """Only closing verdicts are ever raised, and the reason is given whenever one is."""
    decision = decide(concluded(verdict, confidence), calibration)
    assert (expected, by_threshold) == (decision.verdict, decision.by_threshold)
    assert (expected is verdict) == (decision.reason == "")


@pytest.mark.parametrize("calibration", [CALIBRATION, Calibration(), None])
@pytest.mark.parametrize("said", list(Verdict))
def test_an_unscorable_answer_closes_no_alert(said: Verdict, calibration: Calibration | None) -> None:
    """Where a tool was away, however sure the model is: a closing verdict is escalated, an alarm stays one."""
    decision = decide(Trajectory(verdict=said, confidence=0.0, scorable=False), calibration)
    assert decision.verdict is (Verdict.TRUE_POSITIVE if said is Verdict.TRUE_POSITIVE else Verdict.ESCALATE)
    if said in (Verdict.BENIGN_TRUE_POSITIVE, Verdict.FALSE_POSITIVE):
        assert decision.reason.startswith("Unscorable: ")


@pytest.mark.parametrize(
    ("calibration", "reason"),
    [pytest.param(CALIBRATION, "Threshold", id="threshold"), pytest.param(UNFITTED, "Uncalibrated", id="unfitted")],
)
def test_a_threshold_is_told_from_none_that_could_be_set(calibration: Calibration, reason: str) -> None:
    """Nobody is told that an alert is too likely an attack where no one knows how likely it is."""
    assert reason == decide(concluded(Verdict.FALSE_POSITIVE, 0.5), calibration).reason.partition(":")[0]


def test_the_confidence_is_calibrated() -> None:
    """What is told is the calibrated probability, not the model's own."""
    steep = Calibration(slope=2.0, intercept=1.0)
    assert decide(concluded(Verdict.TRUE_POSITIVE, 0.7), steep).confidence == pytest.approx(steep.calibrated(0.7))


def test_an_unclaimed_alert_is_escalated_whatever_the_model_says() -> None:
    """The override stands above everything."""
    decision = decide(concluded(Verdict.TRUE_POSITIVE, 0.99), None, "NoContext: none")
    assert (decision.verdict, decision.reason) == (Verdict.ESCALATE, "NoContext: none")
