"""From what the model said to what is done with the alert. Pure; called by the gateway for every investigation.

Three safeguards stand above calibration: an answer that could not be parsed, a closing verdict that was reached while a
tool was away, and one from a base that no one calibrated for the context, all go to a person.
"""

from dataclasses import dataclass

from socadapter_api.case import Verdict
from socadapter_api.manifest import Calibration
from socadapter_api.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict to act on, the calibrated probability of true positive, and why the model's own was not kept."""

    verdict: Verdict
    confidence: float | None
    by_threshold: bool = False
    reason: str = ""


def decide(trajectory: Trajectory, calibration: Calibration | None, override: str = "") -> Decision:
    """What is done after `trajectory`; no `calibration` means that the base answered.

    `override` is a reason to escalate whatever the model says, such as that no context claims the alert.
    """
    own = trajectory.confidence
    confidence = calibration.calibrated(own) if calibration is not None and own is not None else own
    said = trajectory.verdict
    if override:
        return Decision(Verdict.ESCALATE, confidence, reason=override)
    if said is Verdict.INVALID:
        ended = f"InvalidAnswer: the investigation ended by {trajectory.stop.value}"
        return Decision(Verdict.ESCALATE, confidence, reason=ended)
    if said.closes and not trajectory.scorable:
        reason = "Unscorable: a tool was away, and what it would have told is not known"
        return Decision(Verdict.ESCALATE, confidence, reason=reason)
    if calibration is None:
        if said.closes:
            return Decision(Verdict.ESCALATE, confidence, reason="UncalibratedBase: the base alone closes no alert")
        return Decision(said, confidence)
    decided = calibration.decide(said, own)
    if decided is not said:
        why = "Threshold: too likely an attack to be closed"
        if calibration.escalate_at <= 0.0:
            why = "Uncalibrated: the version closes no alert, for want of cases to calibrate it by"
        return Decision(decided, confidence, by_threshold=True, reason=why)
    return Decision(decided, confidence)
