"""What is done to a run, and what its pods and its Ray do meanwhile. A docstring goes into its scene's transcript."""

import json

from tests.backends.kuberay.played_pods import until
from tests.backends.kuberay.stage import DEADLINE_S, RUN, Stage

from socadapter_api.errors import SocAdapterError
from socadapter_operator.kube.resources import ADAPTER, RAY_JOB, SECRET, Kind, metadata

QUOTA = Kind("", "v1", "ResourceQuota", "resourcequotas")
WELL = "Job finished successfully."
ENDED = "Job entrypoint command failed with exit code {}, last available logs (truncated to 20,000 chars):\n"


def succeeds(stage: Stage) -> None:
    """A run in one pod that succeeds; its cluster goes when its time is up."""
    stage.start()
    stage.until_run("Running", "RUNNING")
    stage.job("SUCCEEDED", WELL)
    stage.until_run("Complete")
    stage.until_cluster_gone()


def entrypoint_fails(stage: Stage) -> None:
    """The run's command ends with code 1."""
    stage.start()
    stage.until_run("Running", "RUNNING")
    log = (
        "loading the base\n" * 100 + "Traceback (most recent call last):\n  ...\nRuntimeError: no space left on device"
    )
    stage.job("FAILED", ENDED.format(1) + log, error_type="JOB_ENTRYPOINT_COMMAND_ERROR", driver_exit_code=1)
    stage.until_run("Failed")
    stage.until_cluster_gone()


def interrupted(stage: Stage) -> None:
    """The run's command ends with code 130: it was told to stop, and wrote a checkpoint."""
    stage.start()
    stage.until_run("Running", "RUNNING")
    said = ENDED.format(130) + "told to stop: the checkpoint is written"
    stage.job("FAILED", said, error_type="JOB_ENTRYPOINT_COMMAND_ERROR", driver_exit_code=130)
    stage.until_run("Failed")


def stopped(stage: Stage) -> None:
    """Somebody stops the job at Ray's API."""
    stage.start()
    stage.until_run("Running", "RUNNING")
    stage.job("STOPPED", "Job was intentionally stopped.")
    stage.until_run("Complete")


def head_dies(stage: Stage) -> None:
    """The head pod ends in mid-run; another one comes, and the run begins anew on it."""
    stage.start()
    stage.until_run("Running", "RUNNING")
    before = stage.cluster().head
    stage.tell("the head pod fails")
    stage.scene.roles["head"] = "fail"
    until(lambda: _is_on_another_head(stage, before), "the job is there again", DEADLINE_S)
    stage.until_run("Running", "RUNNING")
    stage.job("SUCCEEDED", WELL)
    stage.until_run("Complete")


def _is_on_another_head(stage: Stage, before: str) -> bool:
    return any(
        found.head != before and job["status"] == "RUNNING"
        for found in stage.ray_clusters()
        for job in found.jobs.values()
    )


def no_image(stage: Stage) -> None:
    """The image cannot be pulled; the deadline before running passes."""
    stage.scene.roles["head"] = "no-image"
    stage.start(preRunningDeadlineSeconds=15)
    stage.until_run("Failed")
    stage.until_cluster_gone()


def unschedulable(stage: Stage) -> None:
    """One pod for each worker, and no node for them; the deadline before running passes."""
    stage.scene.roles["worker"] = "unschedulable"
    stage.start(workers=2, placement="Spread", scratch={"claimName": "scratch"}, preRunningDeadlineSeconds=15)
    stage.until_run("Failed")
    stage.until_cluster_gone()


def over_quota(stage: Stage) -> None:
    """A quota of the namespace forbids the head pod."""
    quota = {"metadata": {"name": "none", "namespace": stage.namespace}, "spec": {"hard": {"pods": "0"}}}
    stage.client.create(QUOTA, quota)
    until(lambda: (stage.find(QUOTA, "none") or {}).get("status", {}).get("hard"), "the quota counts", DEADLINE_S)
    stage.start(preRunningDeadlineSeconds=15)
    stage.until_run("Failed")


def suspended(stage: Stage) -> None:
    """Suspended from the beginning as Kueue has it, admitted, taken away in mid-run, admitted again."""
    stage.start(queue="soc")
    stage.until_run("Suspended")
    stage.change(RAY_JOB, RUN, "Kueue admits it", suspend=False)
    stage.until_run("Running", "RUNNING")
    stage.change(RAY_JOB, RUN, "Kueue takes its place away", suspend=True)
    stage.until_run("Suspended")
    stage.change(RAY_JOB, RUN, "Kueue admits it again", suspend=False)
    stage.until_run("Running", "RUNNING")
    stage.job("SUCCEEDED", WELL)
    stage.until_run("Complete")


def deleted(stage: Stage) -> None:
    """The RayJob is deleted in mid-run."""
    stage.start()
    stage.until_run("Running", "RUNNING")
    stage.delete(RAY_JOB, RUN)
    stage.until_gone(RAY_JOB, RUN)
    stage.until_cluster_gone()


def adapter_deleted(stage: Stage) -> None:
    """The adapter is deleted in mid-run, and everything that it owns with it."""
    stage.start()
    stage.until_run("Running", "RUNNING")
    stage.delete(ADAPTER, "cloud")
    until(lambda: _is_leaving(stage), "it is being deleted", DEADLINE_S)
    stage.a_minute(lambda: stage.find(RAY_JOB, RUN) is None and not stage.clusters())


def _is_leaving(stage: Stage) -> bool:
    held = stage.find(RAY_JOB, RUN)
    return held is None or "deletionTimestamp" in metadata(held)


def token_lost(stage: Stage) -> None:
    """A RayJob made by hand, whose token is in a Secret of its own, is deleted in mid-run, the Secret just before."""
    stage.start(queue="soc")
    spec = json.loads(json.dumps(stage.client.get(RAY_JOB, stage.namespace, RUN)["spec"]))
    spec |= {"suspend": False, "jobId": "copy"}
    spec["rayClusterSpec"]["authOptions"]["secretName"] = "token"
    token = {"metadata": {"name": "token", "namespace": stage.namespace}, "stringData": {"auth_token": "t" * 32}}
    stage.client.create(SECRET, token)
    stage.tell("its copy is made, with a Secret for its token")
    stage.client.create(RAY_JOB, {"metadata": {"name": "copy", "namespace": stage.namespace}, "spec": spec})
    stage.until_run("Running", "RUNNING", "copy")
    stage.delete(SECRET, "token")
    stage.delete(RAY_JOB, "copy")
    stage.a_minute(lambda: stage.find(RAY_JOB, "copy") is None)
    stage.tell("the Secret is made again")
    stage.client.create(SECRET, token)
    stage.until_gone(RAY_JOB, "copy")


def deadline(stage: Stage) -> None:
    """The run takes longer than its active deadline."""
    stage.start(preRunningDeadlineSeconds=30, activeDeadlineSeconds=60)
    stage.until_run("Running", "RUNNING")
    stage.until_run("Failed")
    stage.until_cluster_gone()


def submitter_waits(stage: Stage) -> None:
    """The pod that hands the job to Ray finds no node; the deadline before running passes, and then the active one."""
    stage.scene.roles["submitter"] = "unschedulable"
    stage.start(preRunningDeadlineSeconds=15, activeDeadlineSeconds=60)
    stage.until_run("Failed")


def submitter_fails(stage: Stage) -> None:
    """The pod that hands the job to Ray fails three times."""
    stage.scene.roles["submitter"] = "fail"
    stage.start()
    until(lambda: _has_failed_again(stage), "it has failed for good", DEADLINE_S)


def _has_failed_again(stage: Stage) -> bool:
    stage.scene.roles["submitter"] = "fail"
    status = (stage.find(RAY_JOB, RUN) or {}).get("status") or {}
    return bool(status.get("jobDeploymentStatus") == "Failed")


def dashboard_silent(stage: Stage) -> None:
    """Ray's dashboard stops answering in mid-run, until KubeRay gives the run up."""
    stage.start()
    stage.until_run("Running", "RUNNING")
    stage.tell("the dashboard does not answer any more")
    stage.cluster().silent = True
    stage.until_run("Failed")


def name_too_long(stage: Stage) -> None:
    """A RayJob whose name is longer than KubeRay allows, made by hand."""
    stage.start()
    held = stage.client.get(RAY_JOB, stage.namespace, RUN)
    name = f"cloud-{'0' * 50}"
    stage.tell("its copy is made under a name of 56 characters")
    stage.client.create(RAY_JOB, {"metadata": {"name": name, "namespace": stage.namespace}, "spec": held["spec"]})
    until(lambda: (stage.find(RAY_JOB, name) or {}).get("status", {}).get("jobDeploymentStatus"), name, DEADLINE_S)
    stage.delete(RAY_JOB, name)
    stage.until_gone(RAY_JOB, name)


def spec_refused(stage: Stage) -> None:
    """A RayJob with token authentication and no Ray version, made by hand; then its version is added."""
    stage.start()
    spec = json.loads(json.dumps(stage.client.get(RAY_JOB, stage.namespace, RUN)["spec"]))
    version = spec["rayClusterSpec"].pop("rayVersion")
    stage.tell("its copy is made without a Ray version")
    stage.client.create(RAY_JOB, {"metadata": {"name": "copy", "namespace": stage.namespace}, "spec": spec})

    def says() -> str:
        return str((stage.find(RAY_JOB, "copy") or {}).get("status", {}).get("jobDeploymentStatus", ""))

    until(lambda: says() == "ValidationFailed", "it is refused", DEADLINE_S)
    mended = {**spec["rayClusterSpec"], "rayVersion": version}
    stage.change(RAY_JOB, "copy", "the version is added", rayClusterSpec=mended)
    stage.a_minute(lambda: says() != "ValidationFailed")


def forgotten(stage: Stage) -> None:
    """A run that was ended by its deadline is forgotten while its cluster is still there."""
    stage.start(preRunningDeadlineSeconds=30, activeDeadlineSeconds=60, ttlSecondsAfterFinished=600)
    stage.until_run("Running", "RUNNING")
    stage.until_run("Failed")
    stage.tell("the run is forgotten")
    stage.backend.forget(RUN)
    stage.a_minute(lambda: stage.find(RAY_JOB, RUN) is None and not stage.clusters())


def resumed(stage: Stage) -> None:
    """A run fails and is resumed under its name."""
    stage.start(ttlSecondsAfterFinished=600)
    stage.until_run("Running", "RUNNING")
    stage.job("FAILED", "Job entrypoint command failed with exit code 1. No logs available.")
    stage.until_run("Failed")
    until(lambda: _is_started(stage), "it is started again", DEADLINE_S)
    stage.until_run("Running", "RUNNING")
    stage.job("SUCCEEDED", WELL)
    stage.until_run("Complete")


def _is_started(stage: Stage) -> bool:
    try:
        stage.start()
    except SocAdapterError as error:
        stage.tell(error.reason)
        return False
    return True


SCENES = (
    succeeds, entrypoint_fails, interrupted, stopped, head_dies, no_image, unschedulable, over_quota, suspended,
    deleted, adapter_deleted, token_lost, deadline, submitter_waits, submitter_fails, dashboard_silent, name_too_long,
    spec_refused, forgotten, resumed,
)  # fmt: skip
