"""`SocServingPool`: one frozen base model being served, with every context's adapter on it."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from socadapter_api.conditions import Condition
from socadapter_api.meta import ObjectMeta
from socadapter_api.model import ContextStr, Contract, DigestStr, Duration, Uri
from socadapter_api.serving_table import ReplicaReport
from socadapter_api.training import BaseModelRef, KeyRef, SigningSpec, ToolServer


class EngineKind(StrEnum):
    TRANSFORMERS = "transformers"
    VLLM = "vllm"
    OPENAI = "openai"


class Engine(Contract):
    """What runs the model."""

    kind: EngineKind = EngineKind.TRANSFORMERS
    url: Annotated[str, Field(max_length=2048)] | None = Field(
        default=None, description="Of an OpenAI-compatible server, for kind openai."
    )
    max_batch: int = Field(default=16, ge=1, le=1024)


class RayCluster(Contract):
    """Where it runs."""

    address: Annotated[str, Field(max_length=2048)] | None = Field(
        default=None, description="Dashboard address of a Ray cluster that exists; empty: made by the operator."
    )
    token_secret_ref: KeyRef | None = Field(default=None, description="Ray's bearer token.")
    template: dict[str, Any] = Field(default_factory=dict, description="Overlay over the generated RayCluster spec.")


class Trust(Contract):
    """Who must have signed an adapter before it is loaded."""

    public_keys: tuple[Annotated[str, Field(max_length=4096)], ...] = Field(
        default=(), max_length=16, description="PEM public keys. Local mode adds the key that it made."
    )


class Caller(Contract):
    """One client of the gateway."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    token_secret_ref: KeyRef
    contexts: tuple[ContextStr, ...] = Field(default=(), max_length=256, description="Empty: every context.")


class FeedbackStore(Contract):
    """Where trajectories and verdicts are kept."""

    url_secret_ref: KeyRef | None = Field(
        default=None, description="Database URL; empty: SQLite beside the application."
    )
    retention: Duration = "2160h"


class PoolSpec(Contract):
    """What the pool's owner wants."""

    base: BaseModelRef = Field(description="Immutable.")
    engine: Engine = Engine()
    replicas: int = Field(default=1, ge=0, le=1000)
    max_loras: int = Field(default=8, ge=1, le=4096, description="Adapters resident at once per replica.")
    max_lora_rank: int = Field(default=64, ge=1, le=512)
    ray: RayCluster = RayCluster()
    store: Uri = Field(description="Adapter store: a folder or any fsspec URI.")
    feedback_store: FeedbackStore = FeedbackStore()
    tools: tuple[ToolServer, ...] = Field(default=(), max_length=32)
    signing: SigningSpec = SigningSpec()
    trust: Trust = Trust()
    host: Annotated[str, Field(max_length=253)] = Field(
        default="127.0.0.1", description="Any other than loopback needs callers."
    )
    port: int = Field(default=8000, ge=1, le=65535)
    callers: tuple[Caller, ...] = Field(default=(), max_length=256)

    @model_validator(mode="after")
    def _url_for_openai(self) -> "PoolSpec":
        if (self.engine.kind is EngineKind.OPENAI) != (self.engine.url is not None):
            raise ValueError("engine.url goes with engine.kind openai, and only with it")
        return self


class PoolStatus(Contract):
    observed_generation: int = -1
    conditions: tuple[Condition, ...] = Field(default=(), max_length=32)
    endpoint: Annotated[str, Field(max_length=2048)] = ""
    base_digest: DigestStr | None = None
    table_generation: int = 0
    replicas: tuple[ReplicaReport, ...] = Field(default=(), max_length=1000)


class SocServingPool(Contract):
    """One frozen base model being served."""

    api_version: Literal["socadapter.io/v1alpha1"] = "socadapter.io/v1alpha1"
    kind: Literal["SocServingPool"] = "SocServingPool"
    metadata: ObjectMeta
    spec: PoolSpec
    status: PoolStatus = PoolStatus()
