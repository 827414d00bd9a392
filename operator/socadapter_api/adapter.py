"""`SocAdapter`: one business context, its training, its gates and its rollout; and `SocAdapterVersion`, one result."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from socadapter_api.conditions import Condition
from socadapter_api.manifest import GateResult, GrpoOutcome, Progress
from socadapter_api.meta import LocalRef, ObjectMeta
from socadapter_api.model import ContextStr, Contract, DigestStr, Duration, Uri
from socadapter_api.training import (
    ComputeSpec,
    Continuation,
    DataSpec,
    EvaluationSpec,
    GrpoSpec,
    LoraSpec,
    SftSpec,
)

TRAIN_REQUESTED_AT = "socadapter.io/train-requested-at"
"""Annotation that asks for a run now; its value is a time, echoed in status when taken up."""


class ConcurrencyPolicy(StrEnum):
    FORBID = "Forbid"
    REPLACE = "Replace"


class Schedule(Contract):
    """When the context learns by itself."""

    cron: Annotated[str, Field(min_length=9, max_length=128)]
    time_zone: Annotated[str, Field(max_length=64)] = "UTC"
    concurrency_policy: ConcurrencyPolicy = ConcurrencyPolicy.FORBID
    starting_deadline: Duration = "2h"


class RolloutMode(StrEnum):
    AUTOMATIC = "Automatic"
    GITOPS = "GitOps"
    MANUAL = "Manual"


class Shadow(Contract):
    min_samples: int = Field(default=50, ge=1, le=1_000_000)


class RolloutStep(Contract):
    """One step from candidate to stable."""

    shadow: Shadow | None = None
    weight_percent: int | None = Field(default=None, ge=0, le=100)
    min_samples: int = Field(default=0, ge=0, le=1_000_000)
    pause: Duration | None = None


class Pin(Contract):
    """The version that Git, or a person, wants served."""

    version: Annotated[str, Field(max_length=63)]
    digest: DigestStr


class Rollout(Contract):
    mode: RolloutMode = RolloutMode.AUTOMATIC
    pin: Pin | None = None
    steps: tuple[RolloutStep, ...] = Field(default=(), max_length=32)


class History(Contract):
    successful: int = Field(default=10, ge=1, le=1000)
    failed: int = Field(default=5, ge=0, le=1000)


class AdapterSpec(Contract):
    """What the context's owner wants."""

    context: ContextStr
    match: Annotated[str, Field(max_length=4096)] = Field(
        default="", description="CEL over `alert`: which alerts are this context's."
    )
    serving_pool_ref: LocalRef
    data: DataSpec
    lora: LoraSpec = LoraSpec()
    sft: SftSpec = SftSpec()
    grpo: GrpoSpec = GrpoSpec()
    compute: ComputeSpec = ComputeSpec()
    schedule: Schedule | None = None
    evaluation: EvaluationSpec = EvaluationSpec()
    rollout: Rollout = Rollout()
    history: History = History()
    continue_from: Continuation = Field(
        default=Continuation.BASE, description="Start each run from the base, or from the last version."
    )
    suspend: bool = Field(default=False, description="Stops new runs and leaves serving alone.")
    seed: int = Field(default=0, ge=0, le=2**31 - 1)


class RunStatus(Contract):
    """The run in progress, or the last one."""

    run_id: Annotated[str, Field(max_length=63)]
    state: Annotated[str, Field(max_length=32)]
    training_hash: DigestStr
    number: int
    attempt: int = 0
    started_at: Annotated[str, Field(max_length=32)] = ""
    finished_at: Annotated[str, Field(max_length=32)] = ""
    progress: Progress | None = None
    reason: Annotated[str, Field(max_length=128)] = ""
    message: Annotated[str, Field(max_length=4096)] = ""
    gates: tuple[GateResult, ...] = Field(default=(), max_length=32)
    grpo: GrpoOutcome | None = None


class VersionRef(Contract):
    name: Annotated[str, Field(max_length=63)]
    digest: DigestStr
    uri: Uri


class AdapterVersions(Contract):
    stable: VersionRef | None = None
    canary: VersionRef | None = None
    previous: VersionRef | None = None
    candidate: VersionRef | None = None


class AdapterStatus(Contract):
    observed_generation: int = -1
    conditions: tuple[Condition, ...] = Field(default=(), max_length=32)
    run: RunStatus | None = None
    last_run: RunStatus | None = None
    versions: AdapterVersions = AdapterVersions()
    metrics: dict[str, float] = Field(default_factory=dict)
    last_number: int = Field(default=0, ge=0)
    train_requested_at: Annotated[str, Field(max_length=64)] = Field(
        default="", description="The last request taken up."
    )
    last_schedule_time: Annotated[str, Field(max_length=32)] = ""
    next_schedule_time: Annotated[str, Field(max_length=32)] = ""


class SocAdapter(Contract):
    """One business context."""

    api_version: Literal["socadapter.io/v1alpha1"] = "socadapter.io/v1alpha1"
    kind: Literal["SocAdapter"] = "SocAdapter"
    metadata: ObjectMeta
    spec: AdapterSpec
    status: AdapterStatus = AdapterStatus()


class VersionSpec(Contract):
    """One trained adapter. Never changes."""

    version: Annotated[str, Field(max_length=63)]
    context: ContextStr
    number: int = Field(ge=1)
    digest: DigestStr
    uri: Uri
    run_id: Annotated[str, Field(max_length=63)]
    parent: Annotated[str, Field(max_length=63)] = ""
    base_digest: DigestStr
    training_hash: DigestStr
    inputs: dict[str, DigestStr] = Field(default_factory=dict)
    config_digest: DigestStr
    code_digest: DigestStr
    metrics: dict[str, float] = Field(default_factory=dict)
    signed_by: Annotated[str, Field(max_length=256)] = Field(
        default="", description="SHA-256 fingerprint of the public key."
    )


class VersionStatus(Contract):
    observed_generation: int = -1
    conditions: tuple[Condition, ...] = Field(default=(), max_length=32)


class SocAdapterVersion(Contract):
    """One immutable trained adapter, owned by its SocAdapter."""

    api_version: Literal["socadapter.io/v1alpha1"] = "socadapter.io/v1alpha1"
    kind: Literal["SocAdapterVersion"] = "SocAdapterVersion"
    metadata: ObjectMeta
    spec: VersionSpec
    status: VersionStatus = VersionStatus()
