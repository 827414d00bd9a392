"""Which backend a pool of a Kubernetes cluster has: KubeRay, or the Ray cluster that it names."""

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from socadapter_api.pool import SocServingPool
from socadapter_operator.backends.cluster_secrets import ClusterSecrets
from socadapter_operator.backends.kuberay import KubeRayBackend
from socadapter_operator.backends.protocol import Backend
from socadapter_operator.backends.rayjobs import WORKDIR, RayJobsBackend
from socadapter_operator.builders.installation import Installation
from socadapter_operator.kube.client import Client

UNUSED_S = 3600.0
"""A pool that is there is looked at much more often, and no call of a backend takes so long."""


@dataclass(slots=True)
class _Kept:
    """A backend, and when it was asked for last."""

    backend: KubeRayBackend | RayJobsBackend
    asked_at: float


class ClusterBackends:
    """`BackendOf` of an operator: one backend per namespace and per Ray cluster, kept while a pool asks for it.

    `workdir` is the folder on the nodes of Ray clusters that pools name, see `rayjobs`; `namespaces` are those in which
    a run may be whose pool is gone, none: all of them. Safe to share between threads.
    """

    def __init__(
        self,
        client: Client,
        installation: Installation,
        workdir: str = WORKDIR,
        namespaces: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._installation = installation
        self._workdir = workdir
        self._namespaces = tuple(namespaces)
        self._secrets = ClusterSecrets(client)
        self._clock = clock
        self._kept: dict[Hashable, _Kept] = {}
        self._lock = threading.Lock()

    def __call__(self, pool: SocServingPool | None) -> Backend:
        """The backend of `pool`; None: that of runs whose pool is gone, as far as KubeRay has them.

        Raises:
            SpecError: `ray.address` is no address of a dashboard.
        """
        if pool is None or pool.spec.ray.address is None:
            namespace = pool.metadata.namespace if pool else ""
            return self._of(namespace, lambda: self._of_namespace(namespace))
        ray, held = pool.spec.ray, pool.metadata
        return self._of(
            (held.namespace, held.name, ray.address, ray.token_secret_ref), lambda: self._of_ray_cluster(pool)
        )

    def close(self) -> None:
        """Closes the connections."""
        with self._lock:
            for kept in self._kept.values():
                kept.backend.close()

    def _of(self, key: Hashable, make: Callable[[], KubeRayBackend | RayJobsBackend]) -> Backend:
        with self._lock:
            if key not in self._kept:
                self._let_go()
                self._kept[key] = _Kept(make(), self._clock())
            kept = self._kept[key]
            kept.asked_at = self._clock()
            return kept.backend

    def _let_go(self) -> None:
        """Closes what nobody asks for any more, so that there never is more than what lately was needed."""
        unused = [key for key, kept in self._kept.items() if self._clock() - kept.asked_at > UNUSED_S]
        for key in unused:
            self._kept.pop(key).backend.close()

    def _of_ray_cluster(self, pool: SocServingPool) -> RayJobsBackend:
        return RayJobsBackend.of(pool, self._secrets, workdir=self._workdir, fence=self._client.fence)

    def _of_namespace(self, namespace: str) -> KubeRayBackend:
        return KubeRayBackend(self._client, namespace, self._installation, among=self._namespaces)
