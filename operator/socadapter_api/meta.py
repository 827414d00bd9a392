"""The part of Kubernetes' ObjectMeta that a resource file may carry."""

from typing import Annotated

from pydantic import ConfigDict, Field

from socadapter_api.model import Contract, Name


class ObjectMeta(Contract):
    """Name, namespace and annotations; whatever else the API server adds is ignored."""

    model_config = ConfigDict(extra="ignore")

    name: Name
    namespace: Name = "default"
    uid: Annotated[str, Field(max_length=64)] = ""
    generation: int = Field(default=1, ge=0)
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class LocalRef(Contract):
    """Another resource of the same namespace."""

    name: Name = Field(description="Name of the resource.")
