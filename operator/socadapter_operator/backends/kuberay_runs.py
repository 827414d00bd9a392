"""Training runs as RayJobs: made once, never changed, deleted to be resumed.

A RayJob bears the run's id. To resume a run its ended RayJob is deleted, by uid, and made again under the same name: of
two operators that do so at once one creates it, and the other finds it. One that is still being removed holds the name;
the run is `Starting` until it is gone, then `Absent`, and is started by the next pass.
"""

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime

from socadapter_api.adapter import SocAdapter
from socadapter_api.errors import (
    AlreadyExists,
    BackendUnavailable,
    Conflict,
    Forbidden,
    KindNotInstalled,
    ObjectNotFound,
    SocAdapterError,
)
from socadapter_api.pool import SocServingPool
from socadapter_api.training import KeyRef, RunSpec
from socadapter_operator.backends import kuberay_states
from socadapter_operator.backends.cluster_objects import ClusterObjects
from socadapter_operator.backends.kuberay_states import Surroundings
from socadapter_operator.backends.ray_dashboard import RayDashboard
from socadapter_operator.builders import labels, objects
from socadapter_operator.builders.installation import Installation
from socadapter_operator.builders.secrets import TOKEN_KEY, token_name
from socadapter_operator.domain.observed import EndedRun
from socadapter_operator.domain.state import BackendRun, RunState
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import (
    ADAPTER,
    CONFIG_MAP,
    NETWORK_POLICY,
    POD,
    RAY_CLUSTER,
    RAY_JOB,
    SECRET,
    WORKLOAD,
    Kind,
    Object,
    key_of,
    metadata,
    uid_of,
)

_TOKEN_BYTES = 32
_OF_A_RUN = (CONFIG_MAP, SECRET, NETWORK_POLICY)
"""What a run has besides its RayJob; removed when it is forgotten."""


class KubeRayRuns:
    """The runs of one namespace; of all of them where `namespace` is empty, found by their label."""

    def __init__(self, client: Client, namespace: str, installation: Installation) -> None:
        self._client = client
        self._namespace = namespace
        self._installation = installation
        self._objects = ClusterObjects(client)

    def active(self, run_id: str) -> bool:
        """Whether there is a RayJob of the run that KubeRay is not done with; raises as `Client.get`."""
        found = self._find(run_id)
        return found is not None and kuberay_states.run(found).state not in (RunState.SUCCEEDED, RunState.FAILED)

    def start(self, spec: RunSpec, pool: SocServingPool, signing_key: KeyRef) -> None:
        """Makes the run's objects, or leaves them alone while its RayJob has not ended.

        Raises:
            ForeignObject: a name is taken by an object of another owner.
            OverlayRefused, SpecError: as `objects.of_run`.
            BackendUnavailable: the RayJob of the attempt before is still being removed.
            ClusterError, ClusterUnavailable: as `Client`.
        """
        adapter = self._adapter(spec)
        token = secrets.token_hex(_TOKEN_BYTES)
        made = objects.of_run(spec, adapter, pool, self._installation, token=token, signing_key=signing_key)
        found = self._find(spec.run_id)
        if found is not None:
            self._objects.refuse_foreign(RAY_JOB, found, adapter.metadata.uid)
            if kuberay_states.run(found).state not in (RunState.SUCCEEDED, RunState.FAILED):
                return
            self._delete(RAY_JOB, found)
        self._objects.apply(NETWORK_POLICY, made.policy)
        for kind, item in ((SECRET, made.token), (CONFIG_MAP, made.config)):
            self._objects.create(kind, item)
        try:
            self._client.create(RAY_JOB, made.job)
        except AlreadyExists:
            there = self._find(spec.run_id)
            if there is None or metadata(there).get("deletionTimestamp"):
                raise BackendUnavailable(
                    f"RayJob {spec.namespace}/{spec.run_id} of the attempt before is still being removed"
                ) from None
            self._objects.refuse_foreign(RAY_JOB, there, adapter.metadata.uid)

    def observe(self, run_id: str) -> BackendRun:
        """What KubeRay says about the run, and why it does not run; `Unknown` while the API server cannot be asked."""
        try:
            found = self._find(run_id)
            seen = kuberay_states.run(found)
            waits = seen.state in (RunState.QUEUED, RunState.STARTING) or seen.reason == "PreRunningDeadlineExceeded"
            return kuberay_states.run(found, self._around(found)) if found is not None and waits else seen
        except SocAdapterError as error:
            return BackendRun(RunState.UNKNOWN, error.reason, str(error), error.retryable)

    def stop(self, run_id: str) -> None:
        """Asks a run that works to write a checkpoint and end; one that has not begun is deleted.

        So is one whose dashboard cannot be asked: its last checkpoint is then the one that it wrote by itself.
        """
        found = self._find(run_id)
        if found is None or metadata(found).get("deletionTimestamp"):
            return
        state = kuberay_states.run(found).state
        if state is RunState.RUNNING and self._stopped_by_ray(found):
            return
        if state not in (RunState.SUCCEEDED, RunState.FAILED):
            self._delete(RAY_JOB, found)

    def ended(self, namespace: str, adapter: str) -> tuple[EndedRun, ...]:
        """The adapter's RayJobs that KubeRay is done with; empty while the API server cannot be asked."""
        try:
            listed = self._client.list(RAY_JOB, namespace, labels=f"{labels.ADAPTER}={adapter}").items
        except SocAdapterError:
            return ()
        over = (job for job in listed if kuberay_states.run(job).state in (RunState.SUCCEEDED, RunState.FAILED))
        return tuple(EndedRun(key_of(job).name, _ended_at(job)) for job in over)

    def forget(self, run_id: str) -> None:
        """Deletes an ended run's objects; one that has not ended stays."""
        if self.active(run_id):
            return
        found = self._find(run_id)
        if found is not None:
            self._delete(RAY_JOB, found)
        for kind in _OF_A_RUN:
            for item in self._client.list(kind, self._namespace, labels=f"{labels.RUN}={run_id}").items:
                self._delete(kind, item)

    def logs(self, run_id: str, *, follow: bool = False) -> Iterator[str]:
        """What the run printed, by the pod that handed it to Ray and follows it."""
        found = self._client.list(POD, self._namespace, labels=f"batch.kubernetes.io/job-name={run_id}").items
        newest = max(found, key=lambda pod: str(metadata(pod).get("creationTimestamp")), default=None)
        if newest is not None:
            yield from self._client.log_lines(*key_of(newest), follow=follow)

    def _adapter(self, spec: RunSpec) -> SocAdapter:
        return SocAdapter.model_validate(self._client.get(ADAPTER, spec.namespace, spec.adapter))

    def _find(self, run_id: str) -> Object | None:
        if self._namespace:
            return self._client.find(RAY_JOB, self._namespace, run_id)
        return next(iter(self._client.list(RAY_JOB, labels=f"{labels.RUN}={run_id}").items), None)

    def _delete(self, kind: Kind, item: Object) -> None:
        try:
            self._client.delete(kind, *key_of(item), uid=uid_of(item))
        except (ObjectNotFound, Conflict):
            return  # gone, or made anew by another operator meanwhile

    def _stopped_by_ray(self, rayjob: Object) -> bool:
        url, (namespace, name) = (rayjob.get("status") or {}).get("dashboardURL"), key_of(rayjob)
        if not url:
            return False

        def read_token() -> str:
            return self._objects.secret(namespace, token_name(name), TOKEN_KEY)

        dashboard = RayDashboard(f"http://{url}", read_token)
        try:
            return dashboard.send("POST", f"/api/jobs/{name}/stop").is_success
        except SocAdapterError:
            return False
        finally:
            dashboard.close()

    def _around(self, rayjob: Object) -> Surroundings:
        """Kueue's Workload, the RayCluster and its pods; what is not installed, or not to be read, is not there."""
        cluster, namespace = str((rayjob.get("status") or {}).get("rayClusterName") or ""), key_of(rayjob).namespace
        workloads = self._listed(WORKLOAD, namespace, f"kueue.x-k8s.io/job-uid={uid_of(rayjob)}")
        try:
            raycluster = self._client.find(RAY_CLUSTER, namespace, cluster) if cluster else None
        except (KindNotInstalled, Forbidden):
            raycluster = None
        pods = self._listed(POD, namespace, f"ray.io/cluster={cluster}") if cluster else ()
        return Surroundings(workloads[0] if workloads else None, raycluster, pods)

    def _listed(self, kind: Kind, namespace: str, selector: str) -> tuple[Object, ...]:
        try:
            return self._client.list(kind, namespace, labels=selector).items
        except (KindNotInstalled, Forbidden):
            return ()


def _ended_at(rayjob: Object) -> datetime:
    told = (rayjob.get("status") or {}).get("endTime") or metadata(rayjob).get("creationTimestamp")
    return datetime.fromisoformat(str(told)) if told else datetime.fromtimestamp(0, UTC)
