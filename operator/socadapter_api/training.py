"""What a training run is told: the parts of a `SocAdapter` that decide its outcome, and the run spec made from them.

The same blocks (`DataSpec`, `LoraSpec`, `SftSpec`, `GrpoSpec`, ...) appear in `SocAdapter.spec` and in `RunSpec`, the
document that a run finds in ``SOCADAPTER_RUN_SPEC``. `training_hash` covers data, lora, sft, grpo and the base's
digest and nothing else, so that a change of rollout or schedule never trains.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from socadapter_api import digest
from socadapter_api.errors import SpecError, UnsupportedStrategy
from socadapter_api.model import ContextStr, Contract, DigestStr, Duration, Name, Uri, rules

MAX_OTHER_CONTEXTS = 64
"""On as many other contexts' holdouts a candidate is measured: each costs a run the time of its alerts."""


class DataSource(Contract):
    """One file or folder of JSON lines."""

    uri: Uri = Field(description="Path or fsspec URI of a .jsonl file, or of a folder of them.")
    digest: DigestStr | None = Field(default=None, description="Refuse the source when its content differs.")


class FeedbackSpec(Contract):
    """Which of the analysts' verdicts a nightly run takes up."""

    window: Duration = Field(default="24h", description="How far back verdicts are taken.")
    min_verdicts: int = Field(default=20, ge=1, le=100_000, description="Fewer verdicts than this: the run is skipped.")
    max_per_analyst_percent: int = Field(
        default=50,
        ge=1,
        le=100,
        description="Poisoning limit: no analyst, and no caller but by an equal share, may contribute more of a night.",
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
    feedback: FeedbackSpec | None = Field(default=None, description="Learn from the analysts' verdicts, too.")
    replay_miss: ReplayMiss = Field(default=ReplayMiss.NO_DATA, description="For alerts with recorded evidence.")


ModuleNames = Annotated[tuple[Annotated[str, Field(max_length=128)], ...], Field(min_length=1, max_length=128)]


class LoraSpec(Contract):
    """The adapter's shape. Its share of the base's parameters is printed by every run."""

    rank: int = Field(default=8, ge=1, le=512, description="Rank of the update; at most the pool's maxLoraRank.")
    alpha: int = Field(default=16, ge=1, le=2048, description="Scale of the update; it counts as alpha / rank.")
    target_modules: Literal["all-linear"] | ModuleNames = Field(
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
    learning_rate: float = Field(default=2e-4, gt=0.0, le=1.0, description="Peak learning rate.")
    batch_size: int = Field(default=8, ge=1, le=4096, description="Examples per optimizer step, over all workers.")
    max_length_tokens: int = Field(
        default=2048, ge=64, le=131_072, description="Longest example; one that would lose its verdict fails the run."
    )
    verdict_weight: float = Field(
        default=10.0,
        ge=0.0,
        le=1000.0,
        description="Weight of the verdict's first token in the loss: one token among a hundred, and the decision.",
    )
    tool_weight: float = Field(
        default=10.0, ge=0.0, le=1000.0, description="Weight of the tokens that choose a tool, or to conclude."
    )
    summary_weight: float = Field(
        default=0.3, ge=0.0, le=1000.0, description="Weight of each token after the verdict, relative to a tool call's."
    )
    summary_percent: int = Field(
        default=100,
        ge=1,
        le=100,
        description="Share of the examples that teach the summary too; the others end at their verdict, and cost less.",
    )
    max_examples: int | None = Field(
        default=None, ge=1, le=10_000_000, description="Train on a seeded sample of this many."
    )


class RewardSpec(Contract):
    """The trajectory reward. Verdict first: shaping counts only when the verdict is right, penalties are capped."""

    correct: float = Field(default=1.0, ge=0.0, le=10.0, description="The right verdict.")
    missed_attack: float = Field(
        default=-1.0, ge=-10.0, le=0.0, description="More negative than falseAlarm only for strong starts."
    )
    false_alarm: float = Field(default=-1.0, ge=-10.0, le=0.0, description="Called an attack, and is none.")
    escalated: float = Field(
        default=-0.3, ge=-10.0, le=0.0, description="Escalated although the evidence decides the case."
    )
    invalid: float = Field(default=-1.0, ge=-10.0, le=0.0, description="No verdict that could be read.")
    evidence: float = Field(default=0.15, ge=0.0, le=1.0, description="Bonus: the verdict rests on evidence.")
    concise: float = Field(
        default=0.10, ge=0.0, le=1.0, description="Bonus relative to the correct peers of the group."
    )
    repeat_penalty: float = Field(default=0.1, ge=0.0, le=1.0, description="Per call identical to an earlier one.")
    unknown_tool_penalty: float = Field(
        default=0.2, ge=0.0, le=1.0, description="Per call of a tool that is not there."
    )
    malformed_penalty: float = Field(default=0.1, ge=0.0, le=1.0, description="Per turn that could not be read.")
    ungrounded_penalty: float = Field(default=0.3, ge=0.0, le=1.0, description="Per citation that no tool returned.")
    budget_penalty: float = Field(default=0.3, ge=0.0, le=1.0, description="For running out of turns, calls or tokens.")
    penalty_cap: float = Field(default=0.5, ge=0.0, le=0.99, description="All penalties together cost at most this.")
    class_balanced: bool = Field(default=True, description="Weigh verdict rewards by inverse class frequency.")


class GrpoSpec(Contract):
    """Group-relative policy optimization on whole investigations."""

    steps: int = Field(default=40, ge=0, le=100_000, description="Optimizer steps; 0 skips the stage.")
    group_size: int = Field(default=8, ge=4, le=256, description="Trajectories per alert.")
    alerts_per_step: int = Field(default=8, ge=1, le=4096, description="Alerts per optimizer step, over all workers.")
    max_turns: int = Field(default=6, ge=1, le=64, description="Turns per investigation, in training and serving.")
    max_calls: int = Field(default=5, ge=1, le=64, description="Tool calls per investigation.")
    max_turn_tokens: int = Field(default=96, ge=8, le=8192, description="Tokens that the model may write in one turn.")
    max_summary_tokens: int = Field(
        default=96, ge=0, le=8192, description="Room for the executive summary, where one is written."
    )
    max_context_tokens: int = Field(default=2048, ge=64, le=131_072, description="Tokens of a whole investigation.")
    learning_rate: float = Field(default=5e-5, gt=0.0, le=1.0, description="Peak learning rate.")
    temperature: float = Field(default=1.0, gt=0.0, le=2.0, description="Sampling temperature of the group.")
    entropy_coefficient: float = Field(default=0.05, ge=0.0, le=1.0, description="Weight of the entropy bonus.")
    kl_coefficient: float = Field(default=0.0, ge=0.0, le=10.0, description="KL to the adapter the run continued from.")
    candidates_per_alert: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Alerts looked at, once each, for every alert of a step; the least certain ones are sampled.",
    )
    refill_rounds: int = Field(default=1, ge=0, le=16, description="Extra sampling rounds for groups that all agree.")
    start_auc: float = Field(default=0.7, ge=0.0, le=1.0, description="Start gate on the development split.")
    start_valid_percent: float = Field(
        default=95.0,
        ge=0.0,
        le=100.0,
        description="Start gate: share of investigations that end in a readable verdict.",
    )
    eval_every: int = Field(default=5, ge=1, le=10_000, description="Steps between development-set evaluations.")
    time_limit: Duration | None = Field(default=None, description="Stop after this long, keeping the best checkpoint.")
    reward: RewardSpec = Field(default=RewardSpec(), description="What an investigation is worth.")


class Strategy(StrEnum):
    """How several workers share one run."""

    AUTO = "Auto"
    DDP = "DDP"
    ZERO2 = "DeepSpeedZero2"
    ZERO3 = "DeepSpeedZero3"


class Precision(StrEnum):
    """Number format of the frozen base's weights."""

    AUTO = "Auto"
    FLOAT32 = "Float32"
    BFLOAT16 = "BFloat16"


class Placement(StrEnum):
    """Where a run's workers are."""

    TOGETHER = "Together"
    SPREAD = "Spread"


class ComputeSpec(Contract):
    """What one run may use."""

    workers: int = Field(default=1, ge=1, le=1024, description="Processes that share the run.")
    gpus_per_worker: int = Field(default=0, ge=0, le=16, description="0: the run needs no GPU.")
    cpus_per_worker: float = Field(default=1.0, gt=0.0, le=1024.0, description="CPU cores of each worker.")
    strategy: Strategy = Field(default=Strategy.AUTO, description="How several workers share the run.")
    placement: Placement = Field(
        default=Placement.TOGETHER,
        description="Together: all workers on one machine. Spread: on several, which share the scratch folder.",
    )
    queue: Annotated[str, Field(max_length=63)] | None = Field(default=None, description="Kueue LocalQueue.")
    precision: Precision = Field(
        default=Precision.AUTO,
        description="Of the frozen base; adapters stay in float32. Auto: the pool's engine.precision, and where that "
        "is Auto, too, what the machine is fast in.",
    )
    max_failures: int = Field(default=1, ge=0, le=100, description="Worker failures that a stage survives.")


def refuse_unshared(sft: SftSpec, grpo: GrpoSpec, compute: ComputeSpec) -> None:
    """Refuses what the workers of a run cannot share.

    Raises:
        UnsupportedStrategy: ZeRO-3.
        SpecError: a step's examples or alerts are no multiple of the workers.
    """
    if compute.strategy is Strategy.ZERO3:
        raise UnsupportedStrategy(
            "compute.strategy DeepSpeedZero3 cannot run with tools: workers take different numbers of turns, and "
            "ZeRO-3's gathers then wait for each other for ever. Use DeepSpeedZero2 or DDP"
        )
    shared = (
        ("sft.batchSize", sft.batch_size, sft.epochs > 0),
        ("grpo.alertsPerStep", grpo.alerts_per_step, grpo.steps > 0),
    )
    for name, count, trained in shared:
        if trained and count % compute.workers:
            raise SpecError(
                f"{name} is {count} and compute.workers {compute.workers}: a step would not be shared evenly, nor "
                "a group kept whole; make the first a multiple of the second"
            )


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

    to: Literal["Champion", "Base"] = Field(default="Champion", description="The version that serves, or the base.")
    margin: float = Field(default=0.02, ge=0.0, le=1.0, description="The loss that is accepted.")


class Gate(Contract):
    """One condition that a candidate must meet before it is published."""

    model_config = rules(
        ("has(self.min) || has(self.max) || has(self.nonInferiority)", "set one of min, max and nonInferiority"),
    )

    metric: Metric = Field(description="The figure.")
    min: float | None = Field(default=None, ge=-10.0, le=10.0, description="It must be at least this.")
    max: float | None = Field(default=None, ge=-10.0, le=10.0, description="It must be at most this.")
    non_inferiority: Comparison | None = Field(default=None, description="It must not be worse than another's.")

    @model_validator(mode="after")
    def _one_bound(self) -> "Gate":
        if self.min is None and self.max is None and self.non_inferiority is None:
            raise ValueError(f"gate on {self.metric.value} sets none of min, max, nonInferiority")
        return self


class UtilityWeights(Contract):
    """Cost-weighted utility per case, taken after the escalation threshold."""

    right: float = Field(default=1.0, ge=-10.0, le=10.0, description="The right verdict.")
    missed_attack: float = Field(default=-2.0, ge=-10.0, le=10.0, description="An attack that was closed.")
    false_alarm: float = Field(default=-1.0, ge=-10.0, le=10.0, description="Called an attack, and is none.")
    invalid: float = Field(default=-1.0, ge=-10.0, le=10.0, description="No verdict that could be read.")
    needless_escalation: float = Field(
        default=-0.3, ge=-10.0, le=10.0, description="Escalated although the evidence decides the case."
    )


class EvaluationSpec(Contract):
    """What is measured, and what a candidate must reach."""

    gates: tuple[Gate, ...] = Field(default=(), max_length=32, description="A candidate must pass all of them.")
    utility: UtilityWeights = Field(default=UtilityWeights(), description="What each kind of outcome is worth.")
    miss_budget: float = Field(
        default=0.05,
        ge=0.0,
        le=1.0,
        description="Share of attacks that automatic closing may miss; sets the escalation threshold.",
    )
    max_unscorable_percent: int = Field(
        default=10,
        ge=0,
        le=100,
        description="Cases of the holdout, or of the development split, that may end without the answer of a tool. "
        "More, and where tools failed nothing is decided and it is tried again; where a replay lacks the answers, no "
        "candidate passes.",
    )
    summaries: int = Field(
        default=8, ge=0, le=10_000, description="Cases, by seed, on which summaries and grounding are scored."
    )
    development_percent: int = Field(
        default=15, ge=5, le=50, description="Share of training alerts kept for calibration and checkpoints."
    )
    max_development: int = Field(default=64, ge=8, le=10_000, description="Alerts in that share, at most.")


class KeyRef(Contract):
    """A key in a Secret; in local mode a file of that name under the state folder's `secrets/`."""

    name: Name = Field(description="Name of the Secret.")
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")] = Field(
        default="key.pem", description="Key in the Secret."
    )


class SigningSpec(Contract):
    """Who signs what the run publishes."""

    key_secret_ref: KeyRef | None = Field(
        default=None, description="Private key (PEM, EC P-256). Local mode makes one where none is named."
    )


class BaseModelRef(Contract):
    """The frozen base."""

    uri: Uri = Field(description="A folder, a Hugging Face id, or 'builtin://smollm2-135m-instruct'.")
    revision: Annotated[str, Field(max_length=128)] | None = Field(default=None, description="Of a Hugging Face id.")
    digest: DigestStr | None = Field(default=None, description="Refuse a base whose files have another digest.")


class ToolServer(Contract):
    """One MCP server whose tools the agent may call."""

    model_config = rules(
        ("has(self.url) != (has(self.command) && size(self.command) > 0)", "set exactly one of url and command"),
    )

    name: Name = Field(description="Name of the server, for logs and metrics.")
    url: Annotated[str, Field(max_length=2048)] | None = Field(default=None, description="Streamable HTTP endpoint.")
    command: tuple[Annotated[str, Field(max_length=1024)], ...] = Field(
        default=(), max_length=32, description="A stdio server's command line; local mode only."
    )
    allow: tuple[Annotated[str, Field(max_length=128)], ...] = Field(
        default=(), max_length=128, description="Tools to offer; empty: all."
    )
    bind: dict[Annotated[str, Field(max_length=63)], Literal["alert.observedAt"]] = Field(
        default_factory=dict,
        max_length=16,
        description="Arguments that the agent fills in and the model never sees, such as the time to answer as of.",
    )
    timeout: Duration = Field(default="10s", description="For one call.")
    token_secret_ref: KeyRef | None = Field(default=None, description="Bearer token that the server asks for.")

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
    feedback: Uri | None = Field(
        default=None,
        description="The pool's feedback as JSON lines, where `data.feedback` asks for it. All of it counts: who "
        "exports it keeps to the window.",
    )
    other_contexts: dict[ContextStr, DataSource] = Field(
        default_factory=dict,
        max_length=MAX_OTHER_CONTEXTS,
        description="Other contexts' holdouts, for the context x adapter matrix.",
    )
    other_runs: tuple[Uri, ...] = Field(
        default=(),
        max_length=MAX_OTHER_CONTEXTS,
        description="Folders of the runs that made what serves those contexts: the matrix shows their adapters.",
    )
    tools: tuple[ToolServer, ...] = Field(default=(), max_length=32)
    lora: LoraSpec = LoraSpec()
    sft: SftSpec = SftSpec()
    grpo: GrpoSpec = GrpoSpec()
    compute: ComputeSpec = ComputeSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    signing_key: Annotated[str, Field(max_length=4096)] | None = Field(
        default=None,
        description="Path of the private key inside the run; one that is not absolute lies below $SOCADAPTER_SECRETS.",
    )
    trusted_keys: tuple[Annotated[str, Field(max_length=4096)], ...] = Field(
        default=(),
        max_length=16,
        description="The pool's trust.publicKeys: the parent is signed with one of them, or with the run's own.",
    )
    parent: ParentRef | None = None
    continue_from: Continuation = Continuation.BASE
    seed: int = Field(default=0, ge=0, le=2**31 - 1)


def training_hash(data: DataSpec, lora: LoraSpec, sft: SftSpec, grpo: GrpoSpec, base_digest: str) -> str:
    """The digest of all that decides what a run learns.

    Defaults are left out, so that a field that the contract gains later trains nothing anew.
    """
    blocks: dict[str, Any] = {"base": base_digest}
    for key, block in (("data", data), ("lora", lora), ("sft", sft), ("grpo", grpo)):
        blocks[key] = block.model_dump(mode="json", exclude_defaults=True)
    return digest.of_json(blocks)
