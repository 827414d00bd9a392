"""The part of Kubernetes' ObjectMeta that a resource file may carry."""

from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field

from socadapter_api.model import Contract, Name


def _as_text(value: object) -> str:
    """A file's time may have been read as one, and tools write `null` for none; neither is worth a refusal."""
    return value if isinstance(value, str) else ""


class ObjectMeta(Contract):
    """Identity, age, labels and annotations; whatever else the API server adds is ignored."""

    model_config = ConfigDict(extra="ignore")

    name: Name
    namespace: Name = "default"
    uid: Annotated[str, Field(max_length=64)] = ""
    generation: int = Field(default=1, ge=0)
    creation_timestamp: Annotated[str, BeforeValidator(_as_text), Field(max_length=64)] = ""
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class LocalRef(Contract):
    """Another resource of the same namespace."""

    name: Name = Field(description="Name of the resource.")
