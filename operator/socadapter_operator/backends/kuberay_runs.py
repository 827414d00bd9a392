"""Training runs as RayJobs: made once, never changed, deleted to be resumed.

A RayJob bears the run's id. To resume a run its ended RayJob is deleted, by uid, and made again under the same name: of
two operators that do so at once one creates it, and the other finds it. One that is still being removed holds the name;
the run is `Starting` until it is gone, then `Absent`, and is started by the next pass.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from socadapter_api.adapter import SocAdapter
from socadapter_api.errors import (
    AlreadyExists,
    BackendUnavailable,
    Conflict,
    Forbidden,
    KindNotInstalled,
    ObjectNotFound,
    SecretNotFound,
    SocAdapterError,
)
from socadapter_api.pool import SocServingPool
from socadapter_api.training import KeyRef, RunSpec
from socadapter_operator import evidence
from socadapter_operator.backends import kuberay_states
from socadapter_operator.backends.cluster_objects import ClusterObjects
from socadapter_operator.backends.kuberay_states import Surroundings
from socadapter_operator.backends.ray_dashboard import RayDashboard
from socadapter_operator.builders import labels, objects
from socadapter_operator.builders.installation import Installation
from socadapter_operator.builders.secrets import TOKEN_KEY
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
    WORKLOAD,
    Kind,
    Object,
    key_of,
    metadata,
    uid_of,
)

_TOKEN_VARIABLE = "RAY_AUTH_TOKEN"  # noqa: S105  a variable's name
_OF_A_RUN = (CONFIG_MAP, NETWORK_POLICY)
"""What a run has besides its RayJob; removed when it is forgotten."""


class KubeRayRuns:
    """The runs of one namespace; of several, or of all where `namespaces` names none, found by their label."""

    def __init__(self, client: Client, namespaces: Sequence[str], installation: Installation) -> None:
        self._client = client
        self._namespaces = tuple(namespaces) or ("",)
        self._installation = installation
        self._objects = ClusterObjects(client)

    def active(self, run_id: str) -> bool:
        """Whether there is a RayJob of the run that KubeRay is not done with; raises as `Client.get`."""
        found = self._own(run_id)
        return found is not None and kuberay_states.run(found).state not in (RunState.SUCCEEDED, RunState.FAILED)

    def start(self, spec: RunSpec, pool: SocServingPool, signing_key: KeyRef) -> None:
        """Makes the run's objects, or leaves them alone while its RayJob has not ended, or where its result is there.

        Raises:
            ForeignObject: a name is taken by an object of another owner.
            OverlayRefused, SpecError: as `objects.of_run`.
            BackendUnavailable: the RayJob of the attempt before is still being removed.
            StoreUnavailable: it cannot be told whether the result is there.
            ClusterError, ClusterUnavailable: as `Client`.
        """
        adapter = self._adapter(spec)
        made = objects.of_run(spec, adapter, pool, self._installation, signing_key=signing_key)
        found = self._find(spec.run_id)
        if found is not None:
            self._objects.refuse_foreign(RAY_JOB, found, adapter.metadata.uid)
            if kuberay_states.run(found).state not in (RunState.SUCCEEDED, RunState.FAILED):
                return
            # It may have ended since it was planned for, or have been started by a request whose answer was lost.
            if evidence.is_finished(spec):
                return
            self._delete(RAY_JOB, found)
        self._objects.apply(NETWORK_POLICY, made.policy)
        self._objects.create(CONFIG_MAP, made.config)
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
            found = self._own(run_id)
            seen = kuberay_states.run(found)
            waits = seen.state in (RunState.QUEUED, RunState.STARTING) or seen.reason == "PreRunningDeadlineExceeded"
            return kuberay_states.run(found, self._around(found)) if found is not None and waits else seen
        except SocAdapterError as error:
            return BackendRun(RunState.UNKNOWN, error.reason, str(error), error.retryable)

    def stop(self, run_id: str) -> None:
        """Asks a run that works to write a checkpoint and end; one that has not begun is deleted.

        So is one whose dashboard cannot be asked: its last checkpoint is then the one that it wrote by itself.
        """
        found = self._own(run_id)
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
        for kind in _OF_A_RUN:
            for item in self._labelled(kind, f"{labels.RUN}={run_id}"):
                self._delete(kind, item)
        # Last: it is by its RayJob that a run is found again whose forgetting was cut short.
        if (found := self._own(run_id)) is not None:
            self._delete(RAY_JOB, found)

    def logs(self, run_id: str, *, follow: bool = False) -> Iterator[str]:
        """What the run printed, by the pod that handed it to Ray and follows it."""
        found = self._labelled(POD, f"batch.kubernetes.io/job-name={run_id}")
        newest = max(found, key=lambda pod: str(metadata(pod).get("creationTimestamp")), default=None)
        if newest is not None:
            yield from self._client.log_lines(*key_of(newest), follow=follow)

    def _adapter(self, spec: RunSpec) -> SocAdapter:
        return SocAdapter.model_validate(self._client.get(ADAPTER, spec.namespace, spec.adapter))

    def _own(self, run_id: str) -> Object | None:
        """The run's RayJob. One of that name that no SocAdapter controls is nobody's run: `start` tells of it."""
        found = self._find(run_id)
        owners = metadata(found or {}).get("ownerReferences") or ()
        ours = any(owner.get("controller") and owner.get("kind") == ADAPTER.kind for owner in owners)
        return found if ours else None

    def _find(self, run_id: str) -> Object | None:
        if len(self._namespaces) == 1 and self._namespaces[0]:
            found = self._client.find(RAY_JOB, self._namespaces[0], run_id)
            if found is not None:
                return found
        # That there is none, only a list is believed: it says as of when, and is refused where that is too long ago.
        return next(iter(self._labelled(RAY_JOB, f"{labels.RUN}={run_id}")), None)

    def _labelled(self, kind: Kind, selector: str) -> tuple[Object, ...]:
        """One list for each namespace: a role in namespaces allows no other."""
        lists = (self._client.list(kind, namespace, labels=selector) for namespace in self._namespaces)
        return tuple(item for listed in lists for item in listed.items)

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
            return self._objects.secret(namespace, self._token_name(rayjob), TOKEN_KEY)

        dashboard = RayDashboard(f"http://{url}", read_token, fence=self._client.fence)
        try:
            return dashboard.send("POST", f"/api/jobs/{name}/stop").is_success
        except SocAdapterError:
            return False
        finally:
            dashboard.close()

    def _token_name(self, rayjob: Object) -> str:
        """The Secret with Ray's token, by what KubeRay told the head pod."""
        cluster, namespace = str(rayjob["status"].get("rayClusterName")), key_of(rayjob).namespace
        for pod in self._client.list(POD, namespace, labels=f"ray.io/cluster={cluster},ray.io/node-type=head").items:
            for variable in pod["spec"]["containers"][0].get("env") or ():
                if variable.get("name") == _TOKEN_VARIABLE:
                    return str(variable["valueFrom"]["secretKeyRef"]["name"])
        raise SecretNotFound(f"no head pod of RayCluster {namespace}/{cluster} has the variable {_TOKEN_VARIABLE}")

    def _around(self, rayjob: Object) -> Surroundings:
        """Kueue's Workload, the RayCluster and the run's pods; what is not installed, or not to be read, is not there.

        The run's pods are more than its cluster's: one of them hands the run over to Ray.
        """
        cluster, namespace = str((rayjob.get("status") or {}).get("rayClusterName") or ""), key_of(rayjob).namespace
        workloads = self._listed(WORKLOAD, namespace, f"kueue.x-k8s.io/job-uid={uid_of(rayjob)}")
        try:
            raycluster = self._client.find(RAY_CLUSTER, namespace, cluster) if cluster else None
        except (KindNotInstalled, Forbidden):
            raycluster = None
        pods = self._listed(POD, namespace, f"{labels.RUN}={key_of(rayjob).name}")
        return Surroundings(workloads[0] if workloads else None, raycluster, pods)

    def _listed(self, kind: Kind, namespace: str, selector: str) -> tuple[Object, ...]:
        try:
            return self._client.list(kind, namespace, labels=selector).items
        except (KindNotInstalled, Forbidden):
            return ()


def _ended_at(rayjob: Object) -> datetime:
    told = (rayjob.get("status") or {}).get("endTime") or metadata(rayjob).get("creationTimestamp")
    return datetime.fromisoformat(str(told)) if told else datetime.fromtimestamp(0, UTC)
