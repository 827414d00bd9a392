"""What a cluster's pods are given: the part of a resource that Kubernetes understands and local mode ignores.

`PodSettings` is in `SocAdapter.spec.compute` for the pods of a training run and in `SocServingPool.spec.ray` for those
that serve. The fields bear Kubernetes' names and mean what they mean there. Nothing of it is in a run's own spec or in
its training hash.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from socadapter_api import digest
from socadapter_api.meta import LocalRef
from socadapter_api.model import Contract, Name, keyed_by, rules

FREE_FORM_LIMIT_BYTES = 32 * 1024
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]{1,3})?(m|[kMGTP]|[KMGTP]i)?$"

Quantity = Annotated[str, Field(min_length=1, max_length=20, pattern=QUANTITY_PATTERN)]
"""An amount as Kubernetes writes it, such as ``16Gi``."""

DnsName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")]
LabelKey = Annotated[str, Field(max_length=317)]
LabelValue = Annotated[str, Field(max_length=63)]
ResourceName = Annotated[str, Field(min_length=3, max_length=253, pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")]
MountPath = Annotated[str, Field(min_length=2, max_length=1024, pattern=r"^/[^:]+$")]


def _refuse_large(what: str, value: object) -> None:
    """Free-form fields have no bounds in a schema: this is theirs."""
    size = len(digest.canonical_json(value))
    if size > FREE_FORM_LIMIT_BYTES:
        raise ValueError(f"{what} takes {size} bytes, more than the {FREE_FORM_LIMIT_BYTES} that are allowed")


class PullPolicy(StrEnum):
    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class Toleration(Contract):
    """A taint that the pods put up with."""

    model_config = rules(
        ("self.operator != 'Exists' || !has(self.value)", "operator Exists takes no value"),
        ("self.operator == 'Exists' || has(self.key)", "operator Equal needs a key"),
        (
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "tolerationSeconds needs effect NoExecute",
        ),
    )

    key: LabelKey | None = Field(default=None, description="The taint's key; empty, with Exists: every taint.")
    operator: Literal["Equal", "Exists"] = Field(default="Equal", description="How key and value are compared.")
    value: LabelValue | None = Field(default=None, description="The taint's value.")
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(default="", description="Empty: all.")
    toleration_seconds: int | None = Field(default=None, ge=0, le=2**31 - 1, description="For NoExecute: how long.")

    @model_validator(mode="after")
    def _consistent(self) -> "Toleration":
        if self.operator == "Exists" and self.value is not None:
            raise ValueError(f"a toleration with operator Exists takes no value, and this one has {self.value!r}")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("a toleration with operator Equal needs a key")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError(f"tolerationSeconds needs effect NoExecute, not {self.effect!r}")
        return self


class Volume(Contract):
    """One more volume, as Kubernetes writes it: a name beside one of the kinds that are safe for a restricted pod."""

    model_config = ConfigDict(extra="allow")

    name: Name = Field(description="Name that volumeMounts refer to.")

    @model_validator(mode="after")
    def _one_source(self) -> "Volume":
        sources = sorted(self.model_extra or {})
        if len(sources) != 1:
            raise ValueError(f"volume {self.name!r} needs one source, such as persistentVolumeClaim, and has {sources}")
        _refuse_large(f"volume {self.name!r}", self.model_extra)
        return self


class VolumeMount(Contract):
    """Where a volume appears in the Ray container."""

    name: Name = Field(description="Name of the volume.")
    mount_path: MountPath = Field(description="Absolute path in the container.")
    sub_path: Annotated[str, Field(max_length=1024, pattern=r"^[^/]")] | None = Field(
        default=None, description="Path within the volume; empty: its root."
    )
    read_only: bool = Field(default=False, description="Mount it read-only.")


class PodTemplate(Contract):
    """A part of a pod template, merged over the generated one as `kubectl patch --type strategic` does.

    The Ray container's name is `ray`. What would break the restricted Pod Security Standard, or change what the
    operator relies on, is refused.
    """

    metadata: dict[str, Any] = Field(default_factory=dict, max_length=2, description="Labels and annotations to add.")
    spec: dict[str, Any] = Field(default_factory=dict, max_length=64, description="Part of a PodSpec.")

    @model_validator(mode="after")
    def _small(self) -> "PodTemplate":
        _refuse_large("podTemplate", [self.metadata, self.spec])
        return self


class PodSettings(Contract):
    """What every pod of one Ray cluster is given. Ignored in local mode and on a Ray cluster that exists."""

    image: Annotated[str, Field(min_length=1, max_length=512)] | None = Field(
        default=None,
        description="Container image, best by digest; empty: the one that the operator was installed with.",
    )
    image_pull_policy: PullPolicy = Field(default=PullPolicy.IF_NOT_PRESENT, description="When the image is pulled.")
    image_pull_secrets: tuple[LocalRef, ...] = Field(
        default=(), max_length=16, description="For a private registry.", json_schema_extra=keyed_by("name")
    )
    service_account_name: DnsName | None = Field(
        default=None, description="For a cloud's workload identity. No API token is mounted, whatever it says."
    )
    priority_class_name: DnsName | None = Field(default=None, description="PriorityClass of the pods.")
    node_selector: dict[LabelKey, LabelValue] = Field(
        default_factory=dict, max_length=32, description="Labels that a node must have."
    )
    tolerations: tuple[Toleration, ...] = Field(default=(), max_length=32, description="Taints to put up with.")
    volumes: tuple[Volume, ...] = Field(
        default=(),
        max_length=32,
        description="More volumes, as Kubernetes writes them.",
        json_schema_extra=keyed_by("name"),
    )
    volume_mounts: tuple[VolumeMount, ...] = Field(
        default=(),
        max_length=32,
        description="Where the Ray container sees them.",
        json_schema_extra=keyed_by("mountPath"),
    )
    gpu_resource_name: ResourceName = Field(
        default="nvidia.com/gpu", description="The extended resource that counts as a GPU."
    )
    pod_template: PodTemplate = Field(default=PodTemplate(), description="Merged over the generated pod templates.")

    @model_validator(mode="after")
    def _no_repeats(self) -> "PodSettings":
        refuse_repeats("imagePullSecrets", (ref.name for ref in self.image_pull_secrets))
        refuse_repeats("volumes", (volume.name for volume in self.volumes))
        refuse_repeats("volumeMounts", (mount.mount_path for mount in self.volume_mounts))
        return self


def refuse_repeats(field: str, keys: Iterable[str]) -> None:
    """Refuses two items of one key, as an API server does in a list that is keyed.

    Raises:
        ValueError: a key is there twice.
    """
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise ValueError(f"{field} names {key!r} more than once")
        seen.add(key)
