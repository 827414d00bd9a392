"""What a training run is told: the parts of a `SocAdapter` that decide its outcome, and the run spec made from them.

The same blocks (`DataSpec`, `LoraSpec`, `SftSpec`, `GrpoSpec`, ...) appear in `SocAdapter.spec` and in `RunSpec`, the
document that a run finds in ``SOCADAPTER_RUN_SPEC``. `training_hash` covers data, lora, sft, grpo and the base's
digest and nothing else, so that a change of rollout or schedule never trains.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from socadapter_api import digest
from socadapter_api.model import ContextStr, Contract, DigestStr, Duration, Name, Uri


class DataSource(Contract):
    """One file or folder of JSON lines."""

    uri: Uri = Field(description="Path or fsspec URI of a .jsonl file, or of a folder of them.")
    digest: DigestStr | None = Field(default=None, description="Refuse the source when its content differs.")


class FeedbackSpec(Contract):
    """Which of the analysts' verdicts a nightly run takes up."""

    window: Duration = Field(default="24h", description="How far back verdicts are taken.")
    min_verdicts: int = Field(default=20, ge=1, le=100_000, description="Fewer verdicts than this: the run is skipped.")
    max_per_analyst_percent: int = Field(
        default=50, ge=1, le=100, description="Poisoning limit: no analyst may contribute more of a night's verdicts."
    )


class ReplayMiss(StrEnum):
    """What a recorded environment answers to a call that was never recorded."""

    UNSCORABLE = "Unscorable"
    NO_DATA = "NoData"


class DataSpec(Contract):
    """Where the run's examples come from."""

    trajectories: tuple[DataSource, ...] = Field(
        default=(), max_length=64, description="Expert-approved investigations, for SFT."
    )
    alerts: tuple[DataSource, ...] = Field(
        default=(),
        max_length=64,
        description="Alerts with human-verified verdicts, for GRPO and, if no holdout is named, the holdout.",
    )
    holdout: tuple[DataSource, ...] = Field(
        default=(), max_length=64, description="Alerts that training never sees. Empty: split off by time and entity."
    )
    holdout_percent: int = Field(
        default=20, ge=5, le=50, description="Share of alerts split off where no holdout is named."
    )
    max_holdout: int = Field(default=200, ge=10, le=10_000, description="Score a seeded sample of at most this many.")
    feedback: FeedbackSpec | None = None
    replay_miss: ReplayMiss = Field(default=ReplayMiss.NO_DATA, description="For alerts with recorded evidence.")


class LoraSpec(Contract):
    """The adapter's shape. Its share of the base's parameters is printed by every run."""

    rank: int = Field(default=8, ge=1, le=512)
    alpha: int = Field(default=16, ge=1, le=2048)
    target_modules: Literal["all-linear"] | tuple[Annotated[str, Field(min_length=1, max_length=128)], ...] = Field(
        default="all-linear", description="'all-linear', or the names of the linear modules that get an adapter."
    )
    top_layers: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Adapt only the last N layers; the rest stays shared and needs no backward pass.",
    )


class SftSpec(Contract):
    """Supervised fine-tuning on approved investigations."""

    epochs: float = Field(default=1.0, ge=0.0, le=100.0, description="0 skips the stage.")
    learning_rate: float = Field(default=2e-4, gt=0.0, le=1.0)
    batch_size: int = Field(default=8, ge=1, le=4096, description="Examples per optimizer step, over all workers.")
    max_length_tokens: int = Field(default=2048, ge=64, le=131_072)
    max_examples: int | None = Field(
        default=None, ge=1, le=10_000_000, description="Train on a seeded sample of this many."
    )


class RewardSpec(Contract):
    """The trajectory reward. Verdict first: shaping counts only when the verdict is right, penalties are capped."""

    correct: float = Field(default=1.0, ge=0.0, le=10.0)
    missed_attack: float = Field(
        default=-1.0, ge=-10.0, le=0.0, description="More negative than falseAlarm only for strong starts."
    )
    false_alarm: float = Field(default=-1.0, ge=-10.0, le=0.0)
    escalated: float = Field(
        default=-0.3, ge=-10.0, le=0.0, description="Escalated although the evidence decides the case."
    )
    invalid: float = Field(default=-1.0, ge=-10.0, le=0.0)
    evidence: float = Field(default=0.15, ge=0.0, le=1.0, description="Bonus: the verdict rests on evidence.")
    concise: float = Field(
        default=0.10, ge=0.0, le=1.0, description="Bonus relative to the correct peers of the group."
    )
    repeat_penalty: float = Field(default=0.1, ge=0.0, le=1.0)
    unknown_tool_penalty: float = Field(default=0.2, ge=0.0, le=1.0)
    malformed_penalty: float = Field(default=0.1, ge=0.0, le=1.0)
    ungrounded_penalty: float = Field(default=0.3, ge=0.0, le=1.0)
    budget_penalty: float = Field(default=0.3, ge=0.0, le=1.0)
    penalty_cap: float = Field(default=0.5, ge=0.0, le=0.99)
    class_balanced: bool = Field(default=True, description="Weigh verdict rewards by inverse class frequency.")


class GrpoSpec(Contract):
    """Group-relative policy optimization on whole investigations."""

    steps: int = Field(default=40, ge=0, le=100_000, description="Optimizer steps; 0 skips the stage.")
    group_size: int = Field(default=8, ge=4, le=256, description="Trajectories per alert.")
    alerts_per_step: int = Field(default=8, ge=1, le=4096, description="Alerts per optimizer step, over all workers.")
    max_turns: int = Field(default=6, ge=1, le=64)
    max_calls: int = Field(default=5, ge=1, le=64)
    max_turn_tokens: int = Field(default=96, ge=8, le=8192)
    max_context_tokens: int = Field(default=2048, ge=64, le=131_072)
    learning_rate: float = Field(default=5e-5, gt=0.0, le=1.0)
    temperature: float = Field(default=1.0, gt=0.0, le=2.0)
    entropy_coefficient: float = Field(default=0.05, ge=0.0, le=1.0)
    kl_coefficient: float = Field(default=0.0, ge=0.0, le=10.0, description="KL to the adapter the run continued from.")
    refill_rounds: int = Field(default=1, ge=0, le=16, description="Extra sampling rounds for groups that all agree.")
    start_auc: float = Field(default=0.7, ge=0.0, le=1.0, description="Start gate on the development split.")
    start_valid_percent: float = Field(default=95.0, ge=0.0, le=100.0)
    eval_every: int = Field(default=5, ge=1, le=10_000, description="Steps between development-set evaluations.")
    time_limit: Duration | None = Field(default=None, description="Stop after this long, keeping the best checkpoint.")
    reward: RewardSpec = RewardSpec()


class Strategy(StrEnum):
    """How several workers share one run."""

    AUTO = "Auto"
    DDP = "DDP"
    ZERO2 = "DeepSpeedZero2"
    ZERO3 = "DeepSpeedZero3"


class ComputeSpec(Contract):
    """What one run may use."""

    workers: int = Field(default=1, ge=1, le=1024)
    gpus_per_worker: int = Field(default=0, ge=0, le=16)
    cpus_per_worker: float = Field(default=1.0, gt=0.0, le=1024.0)
    strategy: Strategy = Strategy.AUTO
    queue: Annotated[str, Field(max_length=63)] | None = Field(default=None, description="Kueue LocalQueue.")
    max_failures: int = Field(default=1, ge=0, le=100, description="Worker failures that a stage survives.")


class Metric(StrEnum):
    """A figure that a gate may look at. All are of the model's own verdict except `costWeightedUtility`."""

    BALANCED_ACCURACY = "balancedAccuracy"
    FALSE_NEGATIVE_RATE = "falseNegativeRate"
    AUC = "auc"
    UTILITY = "costWeightedUtility"
    GROUNDED_RATE = "groundedRate"
    INVALID_RATE = "invalidRate"


class Comparison(Contract):
    """The candidate is not worse than another by more than `margin`, with 95 % confidence of the paired difference."""

    to: Literal["Champion", "Base"] = "Champion"
    margin: float = Field(default=0.02, ge=0.0, le=1.0)


class Gate(Contract):
    """One condition that a candidate must meet before it is published."""

    metric: Metric
    min: float | None = Field(default=None, ge=-10.0, le=10.0)
    max: float | None = Field(default=None, ge=-10.0, le=10.0)
    non_inferiority: Comparison | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> "Gate":
        if self.min is None and self.max is None and self.non_inferiority is None:
            raise ValueError(f"gate on {self.metric.value} sets none of min, max, nonInferiority")
        return self


class UtilityWeights(Contract):
    """Cost-weighted utility per case, taken after the escalation threshold."""

    right: float = Field(default=1.0, ge=-10.0, le=10.0)
    missed_attack: float = Field(default=-2.0, ge=-10.0, le=10.0)
    false_alarm: float = Field(default=-1.0, ge=-10.0, le=10.0)
    invalid: float = Field(default=-1.0, ge=-10.0, le=10.0)
    needless_escalation: float = Field(default=-0.3, ge=-10.0, le=10.0)


class EvaluationSpec(Contract):
    """What is measured, and what a candidate must reach."""

    gates: tuple[Gate, ...] = Field(default=(), max_length=32)
    utility: UtilityWeights = UtilityWeights()
    miss_budget: float = Field(
        default=0.05,
        ge=0.0,
        le=1.0,
        description="Share of attacks that automatic closing may miss; sets the escalation threshold.",
    )
    summaries: int = Field(
        default=8, ge=0, le=10_000, description="Cases, by seed, on which summaries and grounding are scored."
    )
    development_percent: int = Field(
        default=15, ge=5, le=50, description="Share of training alerts kept for calibration and checkpoints."
    )
    max_development: int = Field(default=64, ge=8, le=10_000)


class KeyRef(Contract):
    """A key in a Secret; in local mode a file of that name under the state folder's `secrets/`."""

    name: Name
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")] = "key.pem"


class SigningSpec(Contract):
    """Who signs what the run publishes."""

    key_secret_ref: KeyRef | None = Field(
        default=None, description="Private key (PEM, EC P-256). Local mode makes one where none is named."
    )


class BaseModelRef(Contract):
    """The frozen base."""

    uri: Uri = Field(description="A folder, a Hugging Face id, or 'builtin://smollm2-135m-instruct'.")
    revision: Annotated[str, Field(max_length=128)] | None = None
    digest: DigestStr | None = Field(default=None, description="Refuse a base whose files have another digest.")


class ToolServer(Contract):
    """One MCP server whose tools the agent may call."""

    name: Name
    url: Annotated[str, Field(max_length=2048)] | None = Field(default=None, description="Streamable HTTP endpoint.")
    command: tuple[Annotated[str, Field(max_length=1024)], ...] = Field(
        default=(), max_length=32, description="A stdio server's command line; local mode only."
    )
    allow: tuple[Annotated[str, Field(max_length=128)], ...] = Field(
        default=(), max_length=128, description="Tools to offer; empty: all."
    )
    bind: dict[Annotated[str, Field(max_length=63)], Literal["alert.observedAt"]] = Field(
        default_factory=dict,
        description="Arguments that the agent fills in and the model never sees, such as the time to answer as of.",
    )
    timeout: Duration = "10s"
    token_secret_ref: KeyRef | None = None

    @model_validator(mode="after")
    def _one_transport(self) -> "ToolServer":
        if (self.url is None) == (not self.command):
            raise ValueError(f"tool server {self.name!r} needs exactly one of url and command")
        return self


class ParentRef(Contract):
    """The version that a run continues from and is compared with (the champion)."""

    name: str = Field(max_length=63)
    uri: Uri
    digest: DigestStr


class Continuation(StrEnum):
    """Where a run's adapter starts."""

    BASE = "Base"
    PARENT = "Parent"


class RunSpec(Contract):
    """Everything one run needs, with no Kubernetes in it. Entry point: ``python -m socadapter_jobs``."""

    api_version: Literal["socadapter.io/v1alpha1"] = "socadapter.io/v1alpha1"
    kind: Literal["RunSpec"] = "RunSpec"
    run_id: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    namespace: Name = "default"
    adapter: Name = Field(description="Name of the SocAdapter.")
    context: ContextStr
    version_number: int = Field(ge=1, le=10_000_000)
    training_hash: DigestStr
    base: BaseModelRef
    max_rank: int = Field(default=64, ge=1, le=512, description="The pool's maxLoraRank.")
    store: Uri = Field(description="Adapter store; the run's folder is <store>/<namespace>/<context>/<run-id>/.")
    scratch: Uri | None = Field(
        default=None, description="Folder for checkpoints; default: next to the store if local."
    )
    data: DataSpec
    other_contexts: dict[ContextStr, DataSource] = Field(
        default_factory=dict, max_length=64, description="Other contexts' holdouts, for the context x adapter matrix."
    )
    tools: tuple[ToolServer, ...] = Field(default=(), max_length=32)
    lora: LoraSpec = LoraSpec()
    sft: SftSpec = SftSpec()
    grpo: GrpoSpec = GrpoSpec()
    compute: ComputeSpec = ComputeSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    signing_key: Annotated[str, Field(max_length=4096)] | None = Field(
        default=None, description="Path of the private key inside the run."
    )
    parent: ParentRef | None = None
    continue_from: Continuation = Continuation.BASE
    seed: int = Field(default=0, ge=0, le=2**31 - 1)


def training_hash(data: DataSpec, lora: LoraSpec, sft: SftSpec, grpo: GrpoSpec, base_digest: str) -> str:
    """The digest of all that decides what a run learns."""
    blocks: dict[str, Any] = {"base": base_digest}
    for key, block in (("data", data), ("lora", lora), ("sft", sft), ("grpo", grpo)):
        blocks[key] = block.model_dump(mode="json")
    return digest.of_json(blocks)
