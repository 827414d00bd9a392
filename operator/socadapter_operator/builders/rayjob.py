"""The RayJob of a run.

*One pod or several.* With placement Together the head pod is the only one: the run's driver, its workers and their
scratch folder are on one machine, as in local mode. With Spread each worker has a pod, and all of them mount the claim
that holds the scratch folder.

*K8sJobMode.* KubeRay can submit by a Kubernetes Job, by a container beside the head, or by itself over HTTP. The
container beside the head has no security context and takes none: a restricted namespace refuses the head pod. A Job's
template is ours to write; the Job looks first whether the id was submitted already, and its pod follows the run's log,
where `kubectl logs` finds it while the pods of an ended run stay.

*The token is KubeRay's.* Before it lets go of a RayJob that is deleted in mid-run, KubeRay asks Ray to stop, and waits
for ever for the Secret with Ray's token where that is gone. The garbage collector deletes what an adapter owned in no
order, and a Secret among it would often go first: the run would go on. KubeRay's own goes with the RayCluster.

*No retries by KubeRay.* It would start the run anew under an id of its own; whether and when a run resumes is the
planner's decision, and a resumed run keeps its id.

A queue hands the job over to Kueue: it starts suspended, and from then on `suspend` and the pod templates are Kueue's.
A RayJob is created once and never applied again.
"""

import re
from fractions import Fraction
from typing import Any

from socadapter_api.adapter import SocAdapter
from socadapter_api.compute import ClusterCompute
from socadapter_api.errors import SpecError
from socadapter_api.pool import SocServingPool
from socadapter_api.training import KeyRef, Placement, RunSpec
from socadapter_operator.builders import labels, pods, quantities, raycluster, run_config
from socadapter_operator.builders.installation import Installation, refuse_large
from socadapter_operator.builders.pods import RayPod, Resources
from socadapter_operator.builders.raycluster import WorkerGroup

ENTRYPOINT = "exec python -m socadapter_jobs"
"""`exec`: Ray signals the shell and its children alike, and a run that is told twice to stop writes no checkpoint."""

STOP_GRACE_S = 120
"""How long a run may take for its checkpoint before it is killed."""

MAX_NAME_LENGTH = 47
"""KubeRay's limit: it appends five characters for the cluster, and more for its pods and Services."""

QUEUE = "kueue.x-k8s.io/queue-name"
QUEUE_PRIORITY = "kueue.x-k8s.io/priority-class"
QUEUE_MAX_SECONDS = "kueue.x-k8s.io/max-exec-time-seconds"

WHERE = "spec.compute"
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBMITTER_ATTEMPTS = 2
_GIB = 2**30
_RAY_ITSELF = Resources(Fraction(1, 2), Fraction(2 * _GIB))
"""What Ray and the run's driver take beside the workers in one pod."""
_HEAD_ALONE = Resources(Fraction(1), Fraction(4 * _GIB))
_AGENTS = Resources(Fraction(1, 2), Fraction(1 * _GIB))
"""What Ray takes beside a worker in a pod of its own."""

Json = dict[str, Any]


def build(
    spec: RunSpec,
    adapter: SocAdapter,
    pool: SocServingPool,
    installation: Installation,
    *,
    config_map: str,
    signing_key: KeyRef,
) -> Json:
    """The RayJob of `spec`, whose file is in `config_map`; its name and its Ray submission id are the run's id.

    Raises:
        OverlayRefused: as `pods.template`.
        SpecError: the run's id is no name for a RayJob, or the object is too large.
    """
    if len(spec.run_id) > MAX_NAME_LENGTH or not _NAME.fullmatch(spec.run_id):
        raise SpecError(
            f"run id {spec.run_id!r} is no name for a RayJob: a DNS-1035 label of at most {MAX_NAME_LENGTH} characters"
        )
    compute = adapter.spec.compute
    image = compute.image or installation.training_image
    own = labels.of_run(adapter, spec.run_id)
    # First: of an overlay that is refused, all of it is told for Ray's pods, and the submitter's take a part of it.
    cluster = _cluster(spec, compute, pool, image, own, config_map, signing_key)
    made: Json = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": dict(labels.metadata(spec.run_id, adapter, own | _of_queue(compute))),
        "spec": {
            "entrypoint": ENTRYPOINT,
            "jobId": spec.run_id,
            "metadata": {"run_id": spec.run_id, "namespace": spec.namespace, "adapter": spec.adapter},
            "submissionMode": "K8sJobMode",
            "submitterConfig": {"backoffLimit": _SUBMITTER_ATTEMPTS},
            "submitterPodTemplate": pods.submitter(image, own, compute, WHERE),
            "backoffLimit": 0,
            "activeDeadlineSeconds": compute.active_deadline_seconds,
            "preRunningDeadlineSeconds": compute.pre_running_deadline_seconds,
            # The deadline alone ends nothing: KubeRay stops a run by deleting its cluster.
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": compute.ttl_seconds_after_finished,
            "rayClusterSpec": cluster,
        },
    }
    if compute.queue:
        # Kueue's webhook does the same; without Kueue the run waits instead of passing the queue by.
        made["spec"]["suspend"] = True
    refuse_large(made, f"the RayJob of run {spec.run_id!r}")
    return made


def _of_queue(compute: ClusterCompute) -> dict[str, str]:
    if not compute.queue:
        return {}
    made = {QUEUE: compute.queue, QUEUE_MAX_SECONDS: str(compute.active_deadline_seconds)}
    return made | ({QUEUE_PRIORITY: compute.queue_priority_class} if compute.queue_priority_class else {})


def _cluster(
    spec: RunSpec,
    compute: ClusterCompute,
    pool: SocServingPool,
    image: str,
    own: dict[str, str],
    config_map: str,
    signing_key: KeyRef,
) -> Json:
    keys = [signing_key, *(server.token_secret_ref for server in pool.spec.tools if server.token_secret_ref)]
    files = (
        pods.config_files("run-spec", pods.config_map(config_map), run_config.FOLDER),
        pods.secret_files(keys),
        _scratch(compute),
    )

    def template(resources: Resources, ports: dict[str, int]) -> Json:
        pod = RayPod(
            image=image,
            labels=own,
            resources=resources,
            variables=_VARIABLES,
            ports=ports | raycluster.METRICS_PORTS,
            volumes=tuple(volume for volumes, _ in files for volume in volumes),
            mounts=tuple(mount for _, mounts in files for mount in mounts),
            store_secret=pool.spec.store_secret_ref.name if pool.spec.store_secret_ref else None,
            grace_s=STOP_GRACE_S,
        )
        return pods.template(pod, compute, WHERE)

    head_resources, head_cpus = _of_head(compute)
    groups: tuple[WorkerGroup, ...] = ()
    if compute.placement is Placement.SPREAD:
        workers = template(_plus(_of_workers(compute, 1), _AGENTS), {})
        start = raycluster.start(compute.cpus_per_worker, compute.gpus_per_worker)
        groups = (WorkerGroup("workers", compute.workers, workers, start),)
    head = template(head_resources, raycluster.HEAD_PORTS)
    head_start = raycluster.start(head_cpus, head_resources.gpus)
    return raycluster.spec(pool.spec.ray.version, None, head, head_start, groups)


_VARIABLES = {
    "SOCADAPTER_RUN_SPEC": f"{run_config.FOLDER}/{run_config.FILE}",
    "SOCADAPTER_SECRETS": pods.SECRETS,
    "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_GRACE_S),
}


def _of_head(compute: ClusterCompute) -> tuple[Resources, float]:
    """What the head pod gets, and the logical cores that Ray hands out on it."""
    if compute.placement is Placement.SPREAD:
        return _HEAD_ALONE, 0
    # One core more than the workers' own, as in local mode, for what Ray Train starts beside them.
    return _plus(_of_workers(compute, compute.workers), _RAY_ITSELF), compute.cpus_per_worker * compute.workers + 1


def _of_workers(compute: ClusterCompute, count: int) -> Resources:
    return Resources(
        cpus=Fraction(str(compute.cpus_per_worker)) * count,
        memory=quantities.parse(compute.memory_per_worker) * count,
        gpus=compute.gpus_per_worker * count,
        gpu_name=compute.gpu_resource_name,
    )


def _plus(workers: Resources, more: Resources) -> Resources:
    return Resources(workers.cpus + more.cpus, workers.memory + more.memory, workers.gpus, workers.gpu_name)


def _scratch(compute: ClusterCompute) -> tuple[tuple[Json, ...], tuple[pods.Mount, ...]]:
    claim, limit = compute.scratch.claim_name, compute.scratch.size_limit
    source: Json = {"emptyDir": {"sizeLimit": limit} if limit else {}}
    if claim:
        source = {"persistentVolumeClaim": {"claimName": claim}}
    return ({"name": "scratch", **source},), (pods.Mount(name="scratch", mountPath=run_config.SCRATCH),)
