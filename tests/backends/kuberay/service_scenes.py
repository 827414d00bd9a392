"""What is done to a service, and what its pods and its Ray do meanwhile. A docstring goes into a scene's transcript."""

import json

from tests.backends.kuberay.played_pods import until
from tests.backends.kuberay.stage import DEADLINE_S, Stage

from socadapter_operator.kube.resources import RAY_SERVICE, Object

ACTIVE = "activeServiceStatus"
PENDING = "pendingServiceStatus"


def serves(stage: Stage) -> None:
    """A service comes up, gets another table, other pods, and is deleted."""
    stage.apply(1)
    stage.until_ready()
    stage.apply(2)
    until(lambda: _has_table(stage, 2), "table 2 is deployed", DEADLINE_S)
    stage.until_service(lambda held: _app(held, ACTIVE) == "RUNNING", "it runs again")
    first = (stage.find(RAY_SERVICE, "base") or {})["status"][ACTIVE]["rayClusterName"]
    stage.apply(2, maxLoras=3)
    stage.until_service(
        lambda held: (held.get(ACTIVE) or {}).get("rayClusterName") not in ("", None, first), "another cluster serves"
    )
    stage.until_ready()
    stage.delete(RAY_SERVICE, "base")
    stage.until_gone(RAY_SERVICE, "base")


def deploy_fails(stage: Stage) -> None:
    """The application cannot be deployed; a table that can mends it."""
    stage.scene.serve = "DEPLOY_FAILED"
    stage.apply(1)
    stage.until_service(lambda held: _app(held, PENDING) == "DEPLOY_FAILED", "it has failed")
    stage.scene.serve = "RUNNING"
    stage.apply(2)
    stage.until_ready()


def update_fails(stage: Stage) -> None:
    """A service that answers gets a table that cannot be deployed, and then its old one again."""
    stage.apply(1)
    stage.until_ready()
    stage.scene.serve = "DEPLOY_FAILED"
    stage.apply(2)
    stage.until_service(lambda held: _app(held, ACTIVE) == "DEPLOY_FAILED", "the update has failed")
    stage.scene.serve = "RUNNING"
    stage.apply(1)
    stage.until_service(lambda held: _app(held, ACTIVE) == "RUNNING", "it runs again")


def service_suspended(stage: Stage) -> None:
    """A pool without replicas, and with one again."""
    stage.apply(1)
    stage.until_ready()
    stage.apply(1, replicas=0)
    stage.until_service(lambda held: _holds(held, "Suspended"), "it is suspended")
    stage.apply(1, replicas=1)
    stage.until_ready()


def service_head_dies(stage: Stage) -> None:
    """The head pod of a service ends; another one comes."""
    stage.apply(1)
    stage.until_ready()
    before = stage.cluster().head
    stage.tell("the head pod fails")
    stage.scene.roles["head"] = "fail"
    until(lambda: _is_on_another_head(stage, before), "it is deployed on another head", DEADLINE_S)
    stage.until_service(lambda held: _app(held, ACTIVE) == "RUNNING", "it runs again")


def _is_on_another_head(stage: Stage, before: str) -> bool:
    return any(found.head != before and found.applications for found in stage.ray_clusters())


def service_no_image(stage: Stage) -> None:
    """No image, until KubeRay gives the service up; then there is one."""
    stage.scene.roles["head"] = "no-image"
    stage.apply(1)
    _give_15_s(stage)
    stage.until_ready("False", "InitializingTimeout")
    stage.scene.roles["head"] = "run"
    stage.apply(1)
    stage.until_gone(RAY_SERVICE, "base")
    stage.apply(1)
    stage.until_ready()


def _give_15_s(stage: Stage) -> None:
    patch: Object = {"metadata": {"name": "base", "namespace": stage.namespace}}
    patch["metadata"]["annotations"] = {"ray.io/initializing-timeout": "15s"}
    stage.tell("it is given 15 s")
    stage.client.apply(RAY_SERVICE, patch, manager="somebody")


def service_refused(stage: Stage) -> None:
    """A service that answers is told to be one without a Ray version, which KubeRay refuses; then it is mended."""
    stage.apply(1)
    stage.until_ready()
    held = stage.client.get(RAY_SERVICE, stage.namespace, "base")
    bad = json.loads(json.dumps(held["spec"]["rayClusterConfig"]))
    bad.pop("rayVersion")
    stage.change(RAY_SERVICE, "base", "the Ray version is taken away", rayClusterConfig=bad)
    stage.until_ready("False", "ValidationFailed")
    stage.apply(2)
    until(lambda: _has_table(stage, 2), "table 2 is deployed", DEADLINE_S)
    stage.a_minute(lambda: not _is_refused(stage))


def _is_refused(stage: Stage) -> bool:
    listed = (stage.find(RAY_SERVICE, "base") or {}).get("status", {}).get("conditions") or ()
    return any(one["reason"] == "ValidationFailed" for one in listed)


def _has_table(stage: Stage, table: int) -> bool:
    return any(cluster.table == table for cluster in stage.ray_clusters())


def _app(held: Object, which: str) -> str:
    return str((((held.get(which) or {}).get("applicationStatuses") or {}).get("socadapter") or {}).get("status", ""))


def _holds(held: Object, kind: str) -> bool:
    return any(one["type"] == kind and one["status"] == "True" for one in held.get("conditions") or ())


SCENES = (
    serves, deploy_fails, update_fails, service_suspended, service_head_dies, service_no_image, service_refused,
)  # fmt: skip
