"""The backend of a Ray cluster that exists: everything through the REST API of its dashboard.

Nothing here imports Ray. A run is a job (`ray_runs`), a pool's application is deployed by Serve (`ray_serving`). The
cluster's nodes have SocAdapter installed and reach the adapter store; ``workdir`` is a folder of theirs, and one that
they share where runs have several workers on several nodes.
"""

from typing import Self

from socadapter_api.errors import SpecError
from socadapter_api.pool import SocServingPool
from socadapter_api.training import RunSpec
from socadapter_operator.backends import pool_secrets
from socadapter_operator.backends.composed import ComposedBackend
from socadapter_operator.backends.pool_secrets import PoolSecrets
from socadapter_operator.backends.ray_dashboard import RayDashboard, ReadToken
from socadapter_operator.backends.ray_runs import RayRuns
from socadapter_operator.backends.ray_serving import RayServing
from socadapter_operator.backends.run_inputs import keep_feedback, reopen
from socadapter_operator.builders.rayjob import ENTRYPOINT, STOP_GRACE_S
from socadapter_operator.kube.attempts import Fence

WORKDIR = "~/.socadapter"
"""On the cluster's nodes, in the home folder of whoever runs Ray there."""

_SIGNING_KEY = "signing-key.pem"


class RayJobsBackend(ComposedBackend[RayRuns, RayServing]):
    """`Backend` on the Ray cluster whose dashboard is at `address`. Safe to share between threads.

    `read_token` gives the cluster's token as it is now. `job` is the shell command that runs one run. Checkpoints of
    runs that are forgotten, and the feedback of pools that are deleted, stay on the cluster's nodes.

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
        fence: Fence = lambda: None,
    ) -> None:
        self._workdir = workdir.rstrip("/")
        self._dashboard = RayDashboard(address, read_token, fence=fence)
        super().__init__(
            RayRuns(self._dashboard, job, stop_grace_s), RayServing(self._dashboard, secrets, workdir), secrets
        )

    @classmethod
    def of(
        cls,
        pool: SocServingPool,
        secrets: PoolSecrets,
        *,
        workdir: str = WORKDIR,
        fence: Fence = lambda: None,
    ) -> Self:
        """The backend of a pool that names a cluster.

        Raises:
            SpecError: it names none, or no address of a dashboard.
        """
        ray = pool.spec.ray
        if ray.address is None:
            raise SpecError(f"pool {pool.metadata.name!r} names no Ray cluster in ray.address")
        ref = ray.token_secret_ref
        return cls(
            ray.address, lambda: secrets.value(pool, ref) if ref else None, secrets, workdir=workdir, fence=fence
        )

    def start(self, spec: RunSpec, pool: SocServingPool) -> None:
        """Submits or resumes a run; its secrets go along."""
        if self.runs.active(spec.run_id):
            return
        self._secrets.signing_key(pool)
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

    def close(self) -> None:
        """Closes the connections."""
        self.services.close()
        self._dashboard.close()
