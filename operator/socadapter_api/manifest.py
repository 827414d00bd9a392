"""What a finished run leaves in the adapter store, besides the adapter's own files.

Layout of ``<store>/<namespace>/<context>/<run-id>/``::

    progress.json                 the only channel of progress
    stages/<stage>.json           marker of each finished stage
    adapter/                      adapter_config.json, adapter_model.safetensors, README.md (model card)
    manifest.json                 AdapterManifest
    manifest.sig                  OpenSSF model signature over adapter/ and manifest.json
    evaluation.json  report.html  evidence for the gates
    result.json                   RunResult
    _SUCCESS | _FAILED            written last
"""

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from socadapter_api.model import Contract, DigestStr


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

    stage: Stage
    step: int = 0
    steps: int = 0
    reward: float | None = None
    loss: float | None = None
    eta_s: float | None = None
    message: str = ""
    at: float = Field(description="Seconds since the epoch.")


class Outcome(StrEnum):
    """How a run ended. A failed gate is a finished run, not a crash."""

    PUBLISHED = "Published"
    GATE_FAILED = "GateFailed"
    SKIPPED = "Skipped"
    FAILED = "Failed"


class GrpoOutcome(Contract):
    """What became of the GRPO stage."""

    status: Literal["Completed", "Refused", "Aborted", "Skipped", "TimeLimit"]
    reason: str = ""
    message: str = ""
    steps: int = 0
    best_step: int = Field(default=0, description="0: the adapter that GRPO started from was kept.")


class GateResult(Contract):
    """One gate, what it measured, and whether it passed. No figure means not passed."""

    metric: str
    rule: str = Field(description="The bound in words, such as 'min 0.85'.")
    value: float | None
    passed: bool
    message: str = ""


class RunResult(Contract):
    """``result.json``: the only word on a run that counts."""

    run_id: str
    context: str
    outcome: Outcome
    reason: str = ""
    message: str = ""
    retryable: bool = False
    version: str = ""
    digest: DigestStr | None = None
    uri: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)
    gates: tuple[GateResult, ...] = ()
    grpo: GrpoOutcome | None = None
    inputs: dict[str, DigestStr] = Field(default_factory=dict, description="Digest of every input by name.")
    seconds: float = 0.0


class Calibration(Contract):
    """Maps the model's probability of true positive to a calibrated one, and holds serving's threshold.

    p' = sigmoid(slope * logit(p) + intercept), fitted on the development split. An alert that the model would close
    (benign or false positive) is escalated instead when p' >= `escalate_at`.
    """

    slope: float = 1.0
    intercept: float = 0.0
    escalate_at: float = Field(default=1.0, description="1.0: never escalate by threshold.")
    fitted_on: int = 0


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
    adapter_parameters: int
    rank: int
    alpha: int
    target_modules: tuple[str, ...]
    template_digest: DigestStr = Field(description="Of the chat format: serving must render the same.")
    tools_digest: DigestStr = Field(description="Of the tool schemas: serving must offer the same.")
    calibration: Calibration = Calibration()
    budgets: dict[str, int] = Field(default_factory=dict)
    parent: str = ""
    parent_digest: DigestStr | None = None
    inputs: dict[str, DigestStr] = Field(default_factory=dict)
    config_digest: DigestStr
    code_digest: DigestStr
    metrics: dict[str, float] = Field(default_factory=dict)
    grpo: GrpoOutcome | None = None
    created_at: str
    provenance: dict[str, Any] = Field(default_factory=dict, description="Library versions, seed, hardware, durations.")
