"""The backend of a Ray cluster that exists: everything through the REST API of its dashboard.

Nothing here imports Ray. A run is a job (`ray_runs`), a pool's application is deployed by Serve (`ray_serving`). The
cluster's nodes have SocAdapter installed and reach the adapter store; ``workdir`` is a folder of theirs, and one that
they share where runs have several workers on several nodes.
"""

from collections.abc import Iterator
from typing import Self

from socadapter_api.errors import SpecError
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ServingTable
from socadapter_api.training import RunSpec
from socadapter_operator.backends import pool_secrets, verdicts
from socadapter_operator.backends.pool_secrets import PoolSecrets
from socadapter_operator.backends.ray_dashboard import RayDashboard, ReadToken
from socadapter_operator.backends.ray_runs import RayRuns
from socadapter_operator.backends.ray_serving import RayServing
from socadapter_operator.backends.run_inputs import keep_feedback, reopen
from socadapter_operator.builders.rayjob import ENTRYPOINT, STOP_GRACE_S
from socadapter_operator.domain.observed import EndedRun, ServingView
from socadapter_operator.domain.state import BackendRun

WORKDIR = "~/.socadapter"
"""On the cluster's nodes, in the home folder of whoever runs Ray there."""

_SIGNING_KEY = "signing-key.pem"


class RayJobsBackend:
    """`Backend` on the Ray cluster whose dashboard is at `address`. Safe to share between threads.

    `read_token` gives the cluster's token as it is now. `job` is the shell command that runs one run.

    Raises:
        SpecError: `address` is no address of a dashboard.
    """

    def __init__(
        self,
        address: str,
        read_token: ReadToken,
        secrets: PoolSecrets,
        *,
        workdir: str = WORKDIR,
        job: str = ENTRYPOINT,
        stop_grace_s: int = STOP_GRACE_S,
    ) -> None:
        self._secrets = secrets
        self._workdir = workdir.rstrip("/")
        self._dashboard = RayDashboard(address, read_token)
        self.runs = RayRuns(self._dashboard, job, stop_grace_s)
        self.services = RayServing(self._dashboard, secrets, workdir)

    @classmethod
    def of(cls, pool: SocServingPool, secrets: PoolSecrets, *, workdir: str = WORKDIR) -> Self:
        """The backend of a pool that names a cluster.

        Raises:
            SpecError: it names none, or no address of a dashboard.
        """
        ray = pool.spec.ray
        if ray.address is None:
            raise SpecError(f"pool {pool.metadata.name!r} names no Ray cluster in ray.address")
        ref = ray.token_secret_ref
        return cls(ray.address, lambda: secrets.value(pool, ref) if ref else None, secrets, workdir=workdir)

    def start(self, spec: RunSpec, pool: SocServingPool) -> None:
        """Submits or resumes a run; its secrets go along."""
        if self.runs.active(spec.run_id):
            return
        secrets = pool_secrets.tool_tokens(pool, self._secrets)
        secrets[_SIGNING_KEY] = self._secrets.private_key(pool)
        reopen(spec)
        placed = spec.model_copy(
            update={
                "scratch": spec.scratch or f"{self._workdir}/runs/{spec.run_id}",
                "signing_key": _SIGNING_KEY,
                "feedback": keep_feedback(spec, lambda window: self._verdicts(pool, spec.context, window)),
            }
        )
        self.runs.start(placed, secrets)

    def observe(self, run_id: str) -> BackendRun:
        """What Ray says about the run; `Unknown` while Ray cannot be asked."""
        return self.runs.observe(run_id)

    def stop(self, run_id: str) -> None:
        """Asks the run to write a checkpoint and end; Ray kills it when that takes too long."""
        self.runs.stop(run_id)

    def ended(self, namespace: str, adapter: str) -> tuple[EndedRun, ...]:
        """The adapter's runs that Ray still has in its records."""
        return self.runs.ended(namespace, adapter)

    def forget(self, run_id: str) -> None:
        """Removes an ended run from Ray's records; its checkpoints stay on the cluster's nodes."""
        self.runs.forget(run_id)

    def logs(self, run_id: str, *, follow: bool = False) -> Iterator[str]:
        """What the run's newest attempt printed."""
        return self.runs.logs(run_id, follow=follow)

    def apply_table(self, pool: SocServingPool, table: ServingTable) -> None:
        """Serves `pool` with `table`."""
        self.services.apply_table(pool, table)

    def serving(self, pool: SocServingPool) -> ServingView:
        """What is known about the pool's application; its base's digest is what its replicas report."""
        return self.services.serving(pool)

    def verdicts(self, pool: SocServingPool, context: str, window: str) -> int | None:
        """How many verdicts the pool's service holds; None while it does not answer."""
        held = self._verdicts(pool, context, window)
        return None if held is None else len(held)

    def trusted_keys(self, pool: SocServingPool) -> tuple[str, ...]:
        """The public keys whose signatures the pool accepts."""
        return pool_secrets.trusted_keys(pool, self._secrets)

    def delete(self, pool: SocServingPool) -> None:
        """Takes the pool's application away; its feedback stays on the cluster's nodes."""
        self.services.delete(pool)

    def close(self) -> None:
        """Closes the connections."""
        self.services.close()
        self._dashboard.close()

    def _verdicts(self, pool: SocServingPool, context: str, window: str) -> tuple[str, ...] | None:
        endpoint = self.services.serving(pool).endpoint
        return verdicts.fetch(pool, endpoint, context, window, self._secrets) if endpoint else None
