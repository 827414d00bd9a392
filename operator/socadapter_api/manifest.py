"""What a finished run leaves in the adapter store, besides the adapter's own files.

Layout of ``<store>/<namespace>/<context>/<run-id>/``::

    progress.json                 the only channel of progress
    feedback.jsonl                the night's verdicts, put there before the run starts
    stages/<stage>.json           marker of each finished stage
    adapter/                      adapter_config.json, adapter_model.safetensors, README.md (model card)
    manifest.json                 AdapterManifest
    manifest.sig                  OpenSSF model signature over adapter/ and manifest.json
    evaluation.json  report.html  evidence for the gates
    result.json                   RunResult
    _SUCCESS | _FAILED            written last
"""

import math
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from socadapter_api.case import Verdict
from socadapter_api.model import Contract, DigestStr, Message, Word
from socadapter_api.training import Precision


class Stage(StrEnum):
    """The five stages of a run, in order."""

    PREPARE = "prepare"
    SFT = "sft"
    GRPO = "grpo"
    EVALUATE = "evaluate"
    PUBLISH = "publish"


STAGES: tuple[Stage, ...] = tuple(Stage)


class Progress(Contract):
    """Where a run is. Written to ``progress.json`` at most every few seconds."""

    stage: Stage = Field(description="The stage that is running.")
    step: int = Field(default=0, description="Steps done in this stage.")
    steps: int = Field(default=0, description="Steps that this stage has in all; 0: not known.")
    reward: float | None = Field(default=None, description="Mean reward of the last step.")
    loss: float | None = Field(default=None, description="Loss of the last step.")
    eta_s: float | None = Field(default=None, description="Seconds that are likely left.")
    message: Message = Field(default="", description="What it does just now.")
    at: float = Field(description="Seconds since the epoch.")


class Outcome(StrEnum):
    """How a run ended. A failed gate is a finished run, not a crash."""

    PUBLISHED = "Published"
    GATE_FAILED = "GateFailed"
    SKIPPED = "Skipped"
    FAILED = "Failed"


class GrpoOutcome(Contract):
    """What became of the GRPO stage."""

    status: Literal["Completed", "Refused", "Aborted", "Skipped", "TimeLimit"] = Field(description="How it ended.")
    reason: Word = Field(default="", description="Why, in one word.")
    message: Message = Field(default="", description="Why, in words.")
    steps: int = Field(default=0, description="Optimizer steps taken.")
    best_step: int = Field(default=0, description="0: the adapter that GRPO started from was kept.")


class GateResult(Contract):
    """One gate, what it measured, and whether it passed. No figure means not passed."""

    metric: Word = Field(description="What was measured.")
    rule: Message = Field(description="The bound in words, such as 'min 0.85'.")
    value: float | None = Field(description="The figure; empty: there is none.")
    passed: bool = Field(description="Whether the figure meets the bound.")
    message: Message = Field(default="", description="Why it passed or not, in words.")


class RunResult(Contract):
    """``result.json``: the only word on a run that counts."""

    run_id: str
    context: str
    outcome: Outcome
    reason: Word = ""
    message: Message = ""
    retryable: bool = False
    version: str = ""
    digest: DigestStr | None = None
    uri: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)
    gates: tuple[GateResult, ...] = ()
    grpo: GrpoOutcome | None = None
    inputs: dict[str, DigestStr] = Field(default_factory=dict, description="Digest of every input by name.")
    seconds: float = 0.0


CONFIDENCE_EPSILON = 1e-6
"""Confidences are kept this far from 0 and 1, where the logit has no value."""


class Calibration(Contract):
    """Maps the model's probability of true positive to a calibrated one, and holds serving's threshold.

    p' = sigmoid(slope * logit(p) + intercept), fitted on the development split. An alert that the model would close
    (benign or false positive) is escalated instead when p' >= `escalate_at`. Where nothing could be fitted that is 0.
    """

    slope: float = 1.0
    intercept: float = 0.0
    escalate_at: float = Field(default=1.0, description="1.0: never escalate by threshold; 0.0: close no alert.")
    fitted_on: int = 0

    def calibrated(self, confidence: float) -> float:
        """The calibrated probability of true positive; `confidence` is the model's own, in 0..1."""
        p = min(max(confidence, CONFIDENCE_EPSILON), 1.0 - CONFIDENCE_EPSILON)
        z = self.slope * math.log(p / (1.0 - p)) + self.intercept
        return 1.0 / (1.0 + math.exp(-z)) if z >= 0 else math.exp(z) / (1.0 + math.exp(z))

    def decide(self, verdict: Verdict, confidence: float | None) -> Verdict:
        """What is done with the model's `verdict`: itself, or `escalate` where closing would be too bold.

        Only verdicts that close an alert are ever changed. Without a confidence nothing speaks for closing, so that a
        threshold below 1.0 escalates.
        """
        if not verdict.closes or self.escalate_at >= 1.0:
            return verdict
        sure = confidence is not None and self.calibrated(confidence) < self.escalate_at
        return verdict if sure else Verdict.ESCALATE


class AdapterManifest(Contract):
    """``manifest.json``: everything a loader must know and check before it opens a file."""

    schema_version: Literal[1] = 1
    version: str
    context: str
    namespace: str
    run_id: str
    number: int
    files: dict[str, DigestStr] = Field(description="POSIX path below adapter/ to digest; nothing else may be there.")
    adapter_digest: DigestStr = Field(description="`digest.of_files(files)`; the version's digest.")
    base_uri: str
    base_digest: DigestStr
    base_parameters: int
    precision: Literal[Precision.FLOAT32, Precision.BFLOAT16] | None = Field(
        default=None, description="Format of the base's weights when it was trained and judged; empty: not recorded."
    )
    adapter_parameters: int
    rank: int
    alpha: int
    target_modules: tuple[str, ...]
    template_digest: DigestStr = Field(description="Of the chat format: serving must render the same.")
    tools_digest: DigestStr = Field(description="Of the tool schemas: serving must offer the same.")
    calibration: Calibration = Calibration()
    budgets: dict[str, int] = Field(default_factory=dict)
    parent: str = Field(default="", description="The version that the run continued from; empty: the base.")
    parent_digest: DigestStr | None = None
    inputs: dict[str, DigestStr] = Field(default_factory=dict)
    config_digest: DigestStr
    code_digest: DigestStr
    metrics: dict[str, float] = Field(default_factory=dict)
    grpo: GrpoOutcome | None = None
    created_at: str
    provenance: dict[str, Any] = Field(default_factory=dict, description="Library versions, seed, hardware, durations.")
