"""`SocAdapter.spec.compute`: what a run may use, and how a cluster makes room for it."""

from typing import Annotated

from pydantic import Field, model_validator

from socadapter_api.model import Contract, rules
from socadapter_api.pods import DnsName, PodSettings, Quantity
from socadapter_api.training import ComputeSpec, Placement


class Scratch(Contract):
    """Where a run keeps checkpoints and prepared data while it trains."""

    model_config = rules(
        ("!(has(self.claimName) && has(self.sizeLimit))", "sizeLimit goes with a folder of the pod's own, not a claim"),
    )

    claim_name: DnsName | None = Field(
        default=None,
        description="PersistentVolumeClaim, one folder per run: a run whose pods are lost resumes from it. Empty: a "
        "folder of the pod's own, lost with it.",
    )
    size_limit: Quantity | None = Field(default=None, description="Of the pod's own folder; more evicts the pod.")

    @model_validator(mode="after")
    def _one_kind(self) -> "Scratch":
        if self.claim_name is not None and self.size_limit is not None:
            raise ValueError("scratch.sizeLimit goes with a folder of the pod's own, not with scratch.claimName")
        return self


class ClusterCompute(ComputeSpec, PodSettings):
    """What one run may use. Local mode and a Ray cluster that exists heed workers to maxFailures, and no more."""

    model_config = rules(
        (
            "self.placement != 'Spread' || (has(self.scratch) && has(self.scratch.claimName))",
            "placement Spread needs scratch.claimName: its pods must see the same folder",
        ),
        ("!has(self.queuePriorityClass) || has(self.queue)", "queuePriorityClass needs queue"),
        (
            "self.preRunningDeadlineSeconds <= self.activeDeadlineSeconds",
            "preRunningDeadlineSeconds is part of activeDeadlineSeconds and cannot be more",
        ),
    )

    memory_per_worker: Quantity = Field(default="8Gi", description="Memory of each worker, request and limit.")
    scratch: Scratch = Field(default=Scratch(), description="Where checkpoints and prepared data are kept.")
    queue_priority_class: DnsName | None = Field(default=None, description="Kueue WorkloadPriorityClass.")
    active_deadline_seconds: Annotated[int, Field(ge=60, le=2**31 - 1)] = Field(
        default=86_400, description="A run that was admitted and takes longer is ended, and fails."
    )
    pre_running_deadline_seconds: Annotated[int, Field(ge=10, le=2**31 - 1)] = Field(
        default=1_800, description="A run whose pods do not start so long fails. Time in the queue does not count."
    )
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(
        default=300, description="How long the pods of an ended run, and with them its log, stay."
    )

    @model_validator(mode="after")
    def _feasible(self) -> "ClusterCompute":
        if self.placement is Placement.SPREAD and self.scratch.claim_name is None:
            raise ValueError("compute.placement Spread needs compute.scratch.claimName: its pods must see one folder")
        if self.queue_priority_class is not None and self.queue is None:
            raise ValueError(f"compute.queuePriorityClass {self.queue_priority_class!r} needs compute.queue")
        if self.pre_running_deadline_seconds > self.active_deadline_seconds:
            raise ValueError(
                f"compute.preRunningDeadlineSeconds {self.pre_running_deadline_seconds} is part of "
                f"compute.activeDeadlineSeconds {self.active_deadline_seconds} and cannot be more"
            )
        return self

    def of_run(self) -> ComputeSpec:
        """The part that the run itself is told: no Kubernetes in it."""
        return ComputeSpec(**{name: getattr(self, name) for name in ComputeSpec.model_fields})
