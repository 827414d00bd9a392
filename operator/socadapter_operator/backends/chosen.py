"""Which backend a pool of a cluster has: KubeRay's resources, or the Ray cluster that it names."""

import threading
from collections.abc import Callable

from socadapter_api.pool import SocServingPool
from socadapter_operator.backends.cluster_secrets import ClusterSecrets
from socadapter_operator.backends.kuberay import KubeRayBackend
from socadapter_operator.backends.protocol import Backend
from socadapter_operator.backends.rayjobs import RayJobsBackend
from socadapter_operator.builders.installation import Installation
from socadapter_operator.kube.client import Client


class ChosenBackends:
    """A `BackendOf`. Keeps one backend per namespace for KubeRay and one per Ray cluster; safe for threads."""

    def __init__(self, client: Client, installation: Installation) -> None:
        self._client = client
        self._installation = installation
        self._secrets = ClusterSecrets(client)
        self._made: dict[tuple[str, ...], Backend] = {}
        self._lock = threading.Lock()

    def __call__(self, pool: SocServingPool | None) -> Backend:
        """The backend of `pool`; KubeRay's for runs whose pool is gone.

        Raises:
            SpecError: `ray.address` is no address of a dashboard.
        """
        if pool is None:
            return self._kept(("kuberay", ""), lambda: KubeRayBackend(self._client, "", self._installation))
        ray, namespace = pool.spec.ray, pool.metadata.namespace
        if ray.address is None:
            return self._kept(
                ("kuberay", namespace), lambda: KubeRayBackend(self._client, namespace, self._installation)
            )
        token = (ray.token_secret_ref.name, ray.token_secret_ref.key) if ray.token_secret_ref else ()
        key = ("rayjobs", namespace, pool.metadata.name, ray.address, *token)
        return self._kept(key, lambda: RayJobsBackend.of(pool, self._secrets))

    def _kept(self, key: tuple[str, ...], make: Callable[[], Backend]) -> Backend:
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
            return self._made[key]
