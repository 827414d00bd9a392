"""`SocAdapter`: one business context, its training, its gates and its rollout; and `SocAdapterVersion`, one result."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, model_validator

from socadapter_api.compute import ClusterCompute
from socadapter_api.conditions import Conditions
from socadapter_api.manifest import GateResult, GrpoOutcome, Progress
from socadapter_api.meta import LocalRef, ObjectMeta
from socadapter_api.model import (
    ContextStr,
    Contract,
    DigestStr,
    Duration,
    Message,
    Metrics,
    Time,
    Uri,
    VersionStr,
    Word,
    rules,
)
from socadapter_api.names import version_name
from socadapter_api.training import (
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

    cron: Annotated[str, Field(min_length=9, max_length=128)] = Field(description="Five fields, such as '0 2 * * *'.")
    time_zone: Annotated[str, Field(max_length=64)] = Field(default="UTC", description="IANA name of the cron's zone.")
    concurrency_policy: ConcurrencyPolicy = Field(
        default=ConcurrencyPolicy.FORBID, description="What a run that is due does to one that still runs."
    )
    starting_deadline: Duration = Field(default="2h", description="A run that is late by more is left out.")


class RolloutMode(StrEnum):
    AUTOMATIC = "Automatic"
    GITOPS = "GitOps"
    MANUAL = "Manual"


class Shadow(Contract):
    """The candidate answers beside the stable version; nobody sees its answers."""

    min_samples: int = Field(default=50, ge=1, le=1_000_000, description="Alerts to answer before the next step.")


class RolloutStep(Contract):
    """One step from candidate to stable."""

    model_config = rules(
        ("has(self.shadow) != has(self.weightPercent)", "set exactly one of shadow and weightPercent"),
    )

    shadow: Shadow | None = Field(default=None, description="Answer unseen, beside the stable version.")
    weight_percent: int | None = Field(default=None, ge=0, le=100, description="Share of the context's alerts.")
    min_samples: int = Field(default=0, ge=0, le=1_000_000, description="Alerts to answer before the next step.")
    pause: Duration | None = Field(default=None, description="Time to stay in this step, at least.")

    @model_validator(mode="after")
    def _one_kind(self) -> "RolloutStep":
        if (self.shadow is None) == (self.weight_percent is None):
            raise ValueError("a rollout step needs exactly one of shadow and weightPercent")
        return self


class Pin(Contract):
    """The version that Git, or a person, wants served."""

    model_config = rules(
        ("self.version.endsWith('-' + self.digest.substring(7, 15))", "version does not name this digest"),
    )

    version: VersionStr = Field(description="Name of the version.")
    digest: DigestStr = Field(description="Its digest.")

    @model_validator(mode="after")
    def _same_version(self) -> "Pin":
        if not self.version.endswith(f"-{self.digest.removeprefix('sha256:')[:8]}"):
            raise ValueError(f"version {self.version!r} does not name digest {self.digest!r}")
        return self


class Rollout(Contract):
    """How a new version comes to serve."""

    mode: RolloutMode = Field(default=RolloutMode.AUTOMATIC, description="Who decides which version serves.")
    pin: Pin | None = Field(default=None, description="The version to serve, in any mode; newer ones wait.")
    steps: tuple[RolloutStep, ...] = Field(default=(), max_length=32, description="Not walked yet: straight to stable.")


class History(Contract):
    """How many finished runs are kept."""

    successful: int = Field(default=10, ge=1, le=1000, description="Published versions.")
    failed: int = Field(default=5, ge=0, le=1000, description="Runs that published nothing.")


class AdapterSpec(Contract):
    """What the context's owner wants."""

    model_config = rules(
        ("self.context == oldSelf.context", "context is immutable: make another SocAdapter"),
    )

    context: ContextStr = Field(description="The business context. Immutable.")
    match: Annotated[str, Field(max_length=4096)] = Field(
        default="", description="CEL over `alert`: which alerts are this context's."
    )
    serving_pool_ref: LocalRef = Field(description="The SocServingPool that serves it.")
    data: DataSpec = Field(description="Where the examples come from.")
    lora: LoraSpec = Field(default=LoraSpec(), description="The adapter's shape.")
    sft: SftSpec = Field(default=SftSpec(), description="Supervised fine-tuning on approved investigations.")
    grpo: GrpoSpec = Field(default=GrpoSpec(), description="Reinforcement on alerts with verified verdicts.")
    compute: ClusterCompute = Field(default=ClusterCompute(), description="What one run may use.")
    schedule: Schedule | None = Field(default=None, description="When the context learns by itself; empty: on request.")
    evaluation: EvaluationSpec = Field(default=EvaluationSpec(), description="What a candidate must reach.")
    rollout: Rollout = Field(default=Rollout(), description="How a new version comes to serve.")
    history: History = Field(default=History(), description="How many finished runs are kept.")
    continue_from: Continuation = Field(
        default=Continuation.BASE, description="Start each run from the base, or from the last version."
    )
    suspend: bool = Field(default=False, description="Stops new runs and leaves serving alone.")
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="Of sampling, splits and initial weights.")


class RunStatus(Contract):
    """The run in progress, or the last one."""

    run_id: Word = Field(description="The run's id, and its folder in the store.")
    state: Word = Field(description="Absent, Queued, Starting, Running, Succeeded, Failed or Unknown.")
    training_hash: DigestStr = Field(description="Digest of all that decides what the run learns.")
    number: int = Field(description="Number of the version that it makes.")
    serving_pool: Word = Field(default="", description="The pool on whose cluster it trains.")
    attempt: int = Field(default=0, description="How often it was tried before.")
    started_at: Time = Field(default="", description="When it was started.")
    finished_at: Time = Field(default="", description="When it ended.")
    progress: Progress | None = Field(default=None, description="Where it is.")
    reason: Word = Field(default="", description="Why it ended as it did, in one word.")
    message: Message = Field(default="", description="Why it ended as it did, in words.")
    gates: tuple[GateResult, ...] = Field(default=(), max_length=32, description="The gates, and what they measured.")
    grpo: GrpoOutcome | None = Field(default=None, description="What became of the GRPO stage.")


class VersionRef(Contract):
    """One version in the adapter store."""

    name: Word = Field(description="Name of the version.")
    digest: DigestStr = Field(description="Its digest.")
    uri: Uri = Field(description="Its folder in the store.")


class AdapterVersions(Contract):
    """The context's versions by their part in serving."""

    stable: VersionRef | None = Field(default=None, description="Answers the context's alerts.")
    canary: VersionRef | None = Field(default=None, description="Answers a share of them.")
    previous: VersionRef | None = Field(default=None, description="Stays loaded; a rollback goes back to it.")
    candidate: VersionRef | None = Field(default=None, description="Published, and not yet serving.")


class AdapterStatus(Contract):
    """What the context's adapter is."""

    observed_generation: int = Field(default=-1, ge=-1, description="The generation that this status is about.")
    conditions: Conditions = Field(default=(), description="Ready judges serving; Trained judges the last run.")
    run: RunStatus | None = Field(default=None, description="The run in progress.")
    last_run: RunStatus | None = Field(default=None, description="The last run that ended.")
    versions: AdapterVersions = Field(default=AdapterVersions(), description="The versions by their part in serving.")
    metrics: Metrics = Field(default_factory=dict, description="The stable version's evaluation.")
    last_number: int = Field(default=0, ge=0, description="Number of the newest version.")
    train_requested_at: Annotated[str, Field(max_length=64)] = Field(
        default="", description="The last request taken up."
    )
    last_schedule_time: Time = Field(default="", description="The last tick of the schedule that was taken up.")
    next_schedule_time: Time = Field(default="", description="The next tick.")
    observed_schedule: Annotated[str, Field(max_length=256)] = Field(
        default="", description="The schedule that nextScheduleTime was computed from; ticks of an older one are void."
    )
    serving_pool: Annotated[str, Field(max_length=63)] = Field(
        default="", description="The pool that serves the context; differs from servingPoolRef while bases mismatch."
    )


class SocAdapter(Contract):
    """One business context."""

    api_version: Literal["socadapter.io/v1alpha1"] = "socadapter.io/v1alpha1"
    kind: Literal["SocAdapter"] = "SocAdapter"
    metadata: ObjectMeta
    spec: AdapterSpec = Field(description="What the context's owner wants.")
    status: AdapterStatus = Field(default=AdapterStatus(), description="What is; written by the operator.")


class VersionSpec(Contract):
    """One trained adapter. Never changes."""

    model_config = rules(
        ("self == oldSelf", "spec is immutable: a new version has a new name"),
        (
            "self.version.startsWith(self.context + '-v') && self.version.endsWith('-' + self.digest.substring(7, 15))",
            "version is not <context>-v<number>-<first 8 hex of digest>",
        ),
    )

    version: VersionStr = Field(description="<context>-v<number>-<first 8 hex of digest>; also the resource's name.")
    context: ContextStr = Field(description="The business context.")
    number: int = Field(ge=1, le=10_000_000, description="Counts the context's versions.")
    digest: DigestStr = Field(description="Digest of the adapter's files.")
    uri: Uri = Field(description="The run's folder in the store.")
    run_id: Word = Field(description="The run that made it.")
    parent: Word = Field(default="", description="The version that it continued from; empty: the base.")
    base_digest: DigestStr = Field(description="Digest of the base's files.")
    training_hash: DigestStr = Field(description="Digest of all that decided what it learned.")
    inputs: dict[str, DigestStr] = Field(default_factory=dict, max_length=256, description="Digest of each input.")
    config_digest: DigestStr = Field(description="Digest of the run's spec.")
    code_digest: DigestStr = Field(description="Digest of the code that trained it.")
    metrics: Metrics = Field(default_factory=dict, description="Its evaluation.")
    signed_by: Annotated[str, Field(max_length=256)] = Field(
        default="", description="SHA-256 fingerprint of the public key."
    )

    @model_validator(mode="after")
    def _own_name(self) -> "VersionSpec":
        if self.version != (own := version_name(self.context, self.number, self.digest)):
            raise ValueError(f"version {self.version!r} must be named {own!r} after its context, number and digest")
        return self


class VersionStatus(Contract):
    """What became of the version."""

    observed_generation: int = Field(default=-1, ge=-1, description="The generation that this status is about.")
    conditions: Conditions = Field(default=(), description="Verified, Evaluated, Serving and Revoked.")


class SocAdapterVersion(Contract):
    """One immutable trained adapter, owned by its SocAdapter."""

    api_version: Literal["socadapter.io/v1alpha1"] = "socadapter.io/v1alpha1"
    kind: Literal["SocAdapterVersion"] = "SocAdapterVersion"
    model_config = rules(
        ("self.metadata.name == self.spec.version", "metadata.name must be spec.version"),
    )

    metadata: ObjectMeta
    spec: VersionSpec = Field(description="The trained adapter. Immutable.")
    status: VersionStatus = Field(default=VersionStatus(), description="What became of it; written by the operator.")
