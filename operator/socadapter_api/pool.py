"""`SocServingPool`: one frozen base model being served, with every context's adapter on it."""

from enum import StrEnum
from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import Field, model_validator

from socadapter_api.conditions import Conditions
from socadapter_api.errors import InsecureBind
from socadapter_api.meta import LocalRef, ObjectMeta
from socadapter_api.model import ContextStr, Contract, DigestStr, Duration, Name, Uri, keyed_by, rules
from socadapter_api.pods import DnsName, PodSettings, Quantity
from socadapter_api.serving_table import ReplicaReport
from socadapter_api.training import BaseModelRef, KeyRef, Precision, SigningSpec, ToolServer


class EngineKind(StrEnum):
    TRANSFORMERS = "transformers"
    VLLM = "vllm"
    OPENAI = "openai"


class Engine(Contract):
    """What runs the model."""

    model_config = rules(
        ("(self.kind == 'openai') == has(self.url)", "url goes with kind openai, and only with it"),
    )

    kind: EngineKind = Field(default=EngineKind.TRANSFORMERS, description="What runs the model.")
    url: Annotated[str, Field(max_length=2048)] | None = Field(
        default=None, description="Of an OpenAI-compatible server, for kind openai."
    )
    max_batch: int = Field(default=16, ge=1, le=1024, description="Investigations that one replica generates at once.")
    precision: Precision = Field(
        default=Precision.AUTO,
        description="Of the base, for kind transformers; runs whose compute.precision is Auto train in it. Auto: the "
        "format in which the versions that are served were judged.",
    )


class UpgradeStrategy(StrEnum):
    NEW_CLUSTER = "NewCluster"
    NONE = "None"


class RayCluster(PodSettings):
    """Where it runs: on a Ray cluster that exists, or on one that the operator makes with KubeRay."""

    model_config = rules(
        ("!has(self.tokenSecretRef) || has(self.address)", "tokenSecretRef goes with address: others get a new token"),
    )

    address: Annotated[str, Field(max_length=2048)] | None = Field(
        default=None,
        description="Dashboard address of a Ray cluster that exists, as http://HOST:8265; the fields below are then "
        "ignored. Empty: made by the operator.",
    )
    token_secret_ref: KeyRef | None = Field(default=None, description="Bearer token of the cluster at `address`.")
    version: Annotated[str, Field(max_length=32, pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")] = Field(
        default="2.60.0", description="The Ray version in the images, for training and serving; 2.53.0 or later."
    )
    cpus_per_replica: float = Field(default=1.0, gt=0.0, le=1024.0, description="CPU cores of an engine replica.")
    memory_per_replica: Quantity = Field(default="8Gi", description="Memory of an engine replica, request and limit.")
    gpus_per_replica: int = Field(default=0, ge=0, le=16, description="0: the engine needs no GPU.")
    upgrade_strategy: UpgradeStrategy = Field(
        default=UpgradeStrategy.NEW_CLUSTER,
        description="What a change of the pool does. NewCluster: a second cluster takes over once it serves, and needs "
        "the same again meanwhile. None: it waits until the RayService is deleted. Tables and replicas need neither.",
    )

    @model_validator(mode="after")
    def _own_token(self) -> "RayCluster":
        if self.token_secret_ref is not None and self.address is None:
            raise ValueError(
                "ray.tokenSecretRef goes with ray.address: a cluster that the operator makes gets a new token"
            )
        return self


RAY_PORTS = (6379, 8080, 8265, 10001, 52365)
"""GCS, metrics, dashboard, client and dashboard agent of a Ray cluster that the operator makes."""
_PORTS_TOLD = ", ".join(map(str, RAY_PORTS))
_ADDRESS = "has(self.ray) && has(self.ray.address) ? self.ray.address : ''"


class Access(Contract):
    """Who may reach the service's pods. Their namespace's own pods always reach the gateway."""

    gateway_namespaces: tuple[Name, ...] = Field(
        default=(), max_length=64, description="Other namespaces whose pods may reach the gateway."
    )
    metrics_namespaces: tuple[Name, ...] = Field(
        default=(), max_length=64, description="Namespaces whose pods may read the metrics of Ray's pods."
    )


class Trust(Contract):
    """Who must have signed an adapter before it is loaded."""

    public_keys: tuple[Annotated[str, Field(max_length=4096)], ...] = Field(
        default=(), max_length=16, description="PEM public keys. Local mode adds the key that it made."
    )


class Caller(Contract):
    """One client of the gateway."""

    name: Annotated[str, Field(min_length=1, max_length=253)] = Field(description="Name in logs and metrics.")
    token_secret_ref: KeyRef = Field(description="Bearer token that the client sends.")
    contexts: tuple[ContextStr, ...] = Field(default=(), max_length=256, description="Empty: every context.")


class FeedbackStore(Contract):
    """Where trajectories and verdicts are kept."""

    url_secret_ref: KeyRef | None = Field(
        default=None, description="Database URL; empty: SQLite beside the application."
    )
    claim_name: DnsName | None = Field(
        default=None,
        description="PersistentVolumeClaim for the SQLite file, mounted in the gateway's pod. Empty: the file is lost "
        "with that pod. Local mode keeps it in the state folder.",
    )
    retention: Duration = Field(default="2160h", description="Older trajectories and verdicts are deleted.")


class PoolSpec(Contract):
    """What the pool's owner wants."""

    model_config = rules(
        ("self.base == oldSelf.base", "base is immutable: make another pool, and point the adapters at it"),
        (
            f"({_ADDRESS}) == ({_ADDRESS.replace('self', 'oldSelf')})",
            "ray.address is immutable, since runs and services would stay behind: make another pool, and point the "
            "adapters at it",
        ),
        (
            f"({_ADDRESS}) != '' || !(self.port in [{_PORTS_TOLD}])",
            f"port must be none of Ray's own ({_PORTS_TOLD}), where callers would get in, unless ray.address is set",
        ),
    )

    base: BaseModelRef = Field(description="The frozen base model. Immutable.")
    engine: Engine = Field(default=Engine(), description="What runs the model.")
    replicas: int = Field(default=1, ge=0, le=1000, description="Engine replicas, each with every resident adapter.")
    max_loras: int = Field(default=8, ge=1, le=4096, description="Adapters resident at once per replica.")
    max_lora_rank: int = Field(
        default=64, ge=1, le=512, description="No adapter of a higher rank is trained or loaded."
    )
    ray: RayCluster = Field(default=RayCluster(), description="Where it runs.")
    store: Uri = Field(description="Adapter store: a folder or any fsspec URI.")
    store_secret_ref: LocalRef | None = Field(
        default=None,
        description="Secret whose keys become environment variables of all pods, such as AWS_ACCESS_KEY_ID, and files "
        "below /etc/socadapter/store. Local mode has its own environment.",
    )
    feedback_store: FeedbackStore = Field(
        default=FeedbackStore(), description="Where trajectories and verdicts are kept."
    )
    tools: tuple[ToolServer, ...] = Field(
        default=(), max_length=32, description="MCP servers for the agent.", json_schema_extra=keyed_by("name")
    )
    signing: SigningSpec = Field(default=SigningSpec(), description="Who signs what a run publishes.")
    trust: Trust = Field(default=Trust(), description="Who must have signed an adapter before it is loaded.")
    host: Annotated[str, Field(max_length=253)] = Field(
        default="127.0.0.1",
        description="Any other than loopback needs callers. In a cluster the gateway is behind a Service and always "
        "needs them; host is then ignored.",
    )
    port: int = Field(default=8000, ge=1, le=65535, description="Port of the gateway, none of Ray's own.")
    callers: tuple[Caller, ...] = Field(
        default=(), max_length=256, description="Clients of the gateway.", json_schema_extra=keyed_by("name")
    )
    access: Access = Field(default=Access(), description="Who reaches the pods, where the network heeds policies.")

    @model_validator(mode="after")
    def _url_for_openai(self) -> "PoolSpec":
        if (self.engine.kind is EngineKind.OPENAI) != (self.engine.url is not None):
            raise ValueError("engine.url goes with engine.kind openai, and only with it")
        return self

    @model_validator(mode="after")
    def _port_of_its_own(self) -> "PoolSpec":
        if self.port in RAY_PORTS and not self.ray.address:
            raise ValueError(
                f"port {self.port} is one of Ray's own ({_PORTS_TOLD}), where callers would get in: choose "
                "another, such as 8000, or set ray.address"
            )
        return self

    @model_validator(mode="after")
    def _unique_names(self) -> "PoolSpec":
        for what, named in (("tool server", self.tools), ("caller", self.callers)):
            names = [entry.name for entry in named]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{what} {', '.join(map(repr, twice))} is named more than once")
        return self


class PoolStatus(Contract):
    """What the pool is."""

    observed_generation: int = Field(default=-1, ge=-1, description="The generation that this status is about.")
    conditions: Conditions = Field(default=(), description="Ready, Reconciling, Stalled and the pool's own.")
    endpoint: Annotated[str, Field(max_length=2048)] = Field(default="", description="URL of the gateway.")
    base_digest: DigestStr | None = Field(default=None, description="Digest of the base's files.")
    table_generation: int = Field(default=0, ge=0, description="Generation of the serving table last sent.")
    replicas: tuple[ReplicaReport, ...] = Field(
        default=(), max_length=1000, description="What each replica holds.", json_schema_extra=keyed_by("replica")
    )


class SocServingPool(Contract):
    """One frozen base model being served, with every business context's adapter on it."""

    api_version: Literal["socadapter.io/v1alpha1"] = "socadapter.io/v1alpha1"
    kind: Literal["SocServingPool"] = "SocServingPool"
    metadata: ObjectMeta
    spec: PoolSpec = Field(description="What the pool's owner wants.")
    status: PoolStatus = Field(default=PoolStatus(), description="What the pool is; written by the operator.")


def refuse_insecure_bind(spec: PoolSpec) -> None:
    """Refuses an address that others can reach when no caller needs a token.

    Raises:
        InsecureBind: `spec.host` is not loopback and `spec.callers` is empty.
    """
    if not spec.callers and not is_loopback(spec.host):
        raise InsecureBind(
            f"host {spec.host!r} is reachable from other machines and the pool names no callers: "
            "name at least one caller with a token, or bind to 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
