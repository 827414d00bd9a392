"""The RayClusterSpec in a RayJob or RayService: token authentication, a head group, worker groups, no autoscaler."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from socadapter_operator.builders import pods

_OBJECT_STORE_BYTES = 128 * 2**20
"""Nothing large travels through Ray here: data and adapters go by files, gradients by torch."""

HEAD_PORTS = {"gcs-server": pods.GCS_PORT, "dashboard": pods.DASHBOARD_PORT, "client": pods.CLIENT_PORT}
METRICS_PORTS = {"metrics": pods.METRICS_PORT}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """`replicas` pods of one `template`."""

    name: str
    replicas: int
    template: Json
    start: Mapping[str, str]

    def as_json(self) -> Json:
        return {
            "groupName": self.name,
            "replicas": self.replicas,
            "minReplicas": self.replicas,
            "maxReplicas": self.replicas,
            "rayStartParams": dict(self.start),
            "template": self.template,
        }


def spec(
    version: str,
    token_secret: str | None,
    head: Json,
    head_start: Mapping[str, str],
    groups: tuple[WorkerGroup, ...] = (),
) -> Json:
    """The RayClusterSpec. KubeRay wants `version` to know that the token is understood.

    Its token is the one in `token_secret`; None: KubeRay makes one, in a Secret that lives as long as the RayCluster.
    """
    return {
        "rayVersion": version,
        "authOptions": {"mode": "token"} | ({"secretName": token_secret} if token_secret else {}),
        "enableInTreeAutoscaling": False,
        "headGroupSpec": {"serviceType": "ClusterIP", "rayStartParams": dict(head_start), "template": head},
        "workerGroupSpecs": [group.as_json() for group in groups],
    }


def start(cpus: float, gpus: int = 0, **resources: int) -> dict[str, str]:
    """The arguments of ``ray start``: the logical cores and GPUs, and custom `resources` that place actors.

    They are told, and not left to KubeRay, which would take the cores from the container's limit, and knows only such
    GPUs as are called so.
    """
    made = {"num-cpus": str(ceil(cpus)), "object-store-memory": str(_OBJECT_STORE_BYTES)}
    if gpus:
        made["num-gpus"] = str(gpus)
    if resources:
        # KubeRay writes the value into a shell's command line as it is.
        made["resources"] = f"'{json.dumps(resources)}'"
    return made
