"""The backend of a Kubernetes cluster with KubeRay: a RayJob per run, a RayService per pool, in one namespace."""

from collections.abc import Sequence

from socadapter_api.pool import SocServingPool
from socadapter_api.training import RunSpec
from socadapter_operator.backends.cluster_secrets import ClusterSecrets
from socadapter_operator.backends.composed import ComposedBackend
from socadapter_operator.backends.kuberay_runs import KubeRayRuns
from socadapter_operator.backends.kuberay_serving import KubeRayServing
from socadapter_operator.backends.run_inputs import keep_feedback, reopen
from socadapter_operator.builders.installation import Installation
from socadapter_operator.kube.client import Client


class KubeRayBackend(ComposedBackend[KubeRayRuns, KubeRayServing]):
    """`Backend` in one namespace; where it is empty, for runs `among` several, or all. Safe to share between threads.

    A run that is stopped before it works, or whose Ray cannot be asked, is deleted, and `Absent` then.
    """

    def __init__(
        self, client: Client, namespace: str, installation: Installation, *, among: Sequence[str] = ()
    ) -> None:
        self._keys = ClusterSecrets(client)
        runs = KubeRayRuns(client, (namespace,) if namespace else among, installation)
        super().__init__(runs, KubeRayServing(client, self._keys, installation), self._keys)

    def start(self, spec: RunSpec, pool: SocServingPool) -> None:
        """Makes or resumes a run."""
        if self.runs.active(spec.run_id):
            return
        signing_key = self._keys.signing_key(pool)
        reopen(spec)
        feedback = keep_feedback(spec, lambda window: self._verdicts(pool, spec.context, window))
        self.runs.start(spec.model_copy(update={"feedback": feedback}), pool, signing_key)

    def close(self) -> None:
        """Closes the connections to gateways; the client is its maker's."""
        self.services.close()
