"""The backend of a Kubernetes cluster with KubeRay: a RayJob per run, a RayService per pool, in one namespace."""

from collections.abc import Iterator

from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ServingTable
from socadapter_api.training import RunSpec
from socadapter_operator.backends import pool_secrets, verdicts
from socadapter_operator.backends.cluster_secrets import ClusterSecrets
from socadapter_operator.backends.kuberay_runs import KubeRayRuns
from socadapter_operator.backends.kuberay_serving import KubeRayServing
from socadapter_operator.backends.run_inputs import keep_feedback, reopen
from socadapter_operator.builders.installation import Installation
from socadapter_operator.domain.observed import EndedRun, ServingView
from socadapter_operator.domain.state import BackendRun
from socadapter_operator.kube.client import Client


class KubeRayBackend:
    """`Backend` in one namespace, or for runs of all of them where it is empty. Safe to share between threads.

    A run that is stopped before it works, or whose Ray cannot be asked, is deleted, and `Absent` then.
    """

    def __init__(self, client: Client, namespace: str, installation: Installation) -> None:
        self._secrets = ClusterSecrets(client)
        self.runs = KubeRayRuns(client, namespace, installation)
        self.services = KubeRayServing(client, self._secrets, installation)

    def start(self, spec: RunSpec, pool: SocServingPool) -> None:
        """Makes or resumes a run."""
        if self.runs.active(spec.run_id):
            return
        signing_key = self._secrets.signing_key(pool)
        reopen(spec)
        feedback = keep_feedback(spec, lambda window: self._verdicts(pool, spec.context, window))
        self.runs.start(spec.model_copy(update={"feedback": feedback}), pool, signing_key)

    def observe(self, run_id: str) -> BackendRun:
        """What KubeRay says about the run, and why it does not run."""
        return self.runs.observe(run_id)

    def stop(self, run_id: str) -> None:
        """Asks the run to write a checkpoint and end."""
        self.runs.stop(run_id)

    def ended(self, namespace: str, adapter: str) -> tuple[EndedRun, ...]:
        """The adapter's runs whose RayJob is still there."""
        return self.runs.ended(namespace, adapter)

    def forget(self, run_id: str) -> None:
        """Deletes an ended run's objects."""
        self.runs.forget(run_id)

    def logs(self, run_id: str, *, follow: bool = False) -> Iterator[str]:
        """What the run printed."""
        return self.runs.logs(run_id, follow=follow)

    def apply_table(self, pool: SocServingPool, table: ServingTable) -> None:
        """Serves `pool` with `table`."""
        self.services.apply_table(pool, table)

    def serving(self, pool: SocServingPool) -> ServingView:
        """What is known about the pool's service."""
        return self.services.serving(pool)

    def verdicts(self, pool: SocServingPool, context: str, window: str) -> int | None:
        """How many verdicts the pool's service holds; None while it does not answer."""
        held = self._verdicts(pool, context, window)
        return None if held is None else len(held)

    def trusted_keys(self, pool: SocServingPool) -> tuple[str, ...]:
        """The public keys whose signatures the pool accepts."""
        return pool_secrets.trusted_keys(pool, self._secrets)

    def delete(self, pool: SocServingPool) -> None:
        """Deletes the pool's service."""
        self.services.delete(pool)

    def close(self) -> None:
        """Closes the connections to gateways; the client is its maker's."""
        self.services.close()

    def _verdicts(self, pool: SocServingPool, context: str, window: str) -> tuple[str, ...] | None:
        endpoint = self.services.serving(pool).endpoint
        return verdicts.fetch(pool, endpoint, context, window, self._secrets) if endpoint else None
