"""Which backend a pool of a Kubernetes cluster has: KubeRay, or the Ray cluster that it names."""

import threading
from collections.abc import Sequence

from socadapter_api.pool import SocServingPool
from socadapter_api.training import KeyRef
from socadapter_operator.backends.cluster_secrets import ClusterSecrets
from socadapter_operator.backends.kuberay import KubeRayBackend
from socadapter_operator.backends.protocol import Backend
from socadapter_operator.backends.rayjobs import WORKDIR, RayJobsBackend
from socadapter_operator.builders.installation import Installation
from socadapter_operator.kube.client import Client

_Named = tuple[str, str, str | None, KeyRef | None]


class ClusterBackends:
    """`BackendOf` of an operator: one backend per namespace and per Ray cluster, kept. Safe to share between threads.

    `workdir` is the folder on the nodes of Ray clusters that pools name, see `rayjobs`; `namespaces` are those in which
    a run may be whose pool is gone, none: all of them.
    """

    def __init__(
        self, client: Client, installation: Installation, workdir: str = WORKDIR, namespaces: Sequence[str] = ()
    ) -> None:
        self._client = client
        self._installation = installation
        self._workdir = workdir
        self._namespaces = tuple(namespaces)
        self._secrets = ClusterSecrets(client)
        self._kuberay: dict[str, KubeRayBackend] = {}
        self._rayjobs: dict[_Named, RayJobsBackend] = {}
        self._lock = threading.Lock()

    def __call__(self, pool: SocServingPool | None) -> Backend:
        """The backend of `pool`; None: that of runs whose pool is gone, as far as KubeRay has them.

        Raises:
            SpecError: `ray.address` is no address of a dashboard.
        """
        with self._lock:
            if pool is None or pool.spec.ray.address is None:
                return self._of_namespace(pool.metadata.namespace if pool else "")
            ray, held = pool.spec.ray, pool.metadata
            key = (held.namespace, held.name, ray.address, ray.token_secret_ref)
            if key not in self._rayjobs:
                self._rayjobs[key] = RayJobsBackend.of(
                    pool, self._secrets, workdir=self._workdir, fence=self._client.fence
                )
            return self._rayjobs[key]

    def close(self) -> None:
        """Closes the connections."""
        with self._lock:
            for kuberay in self._kuberay.values():
                kuberay.close()
            for rayjobs in self._rayjobs.values():
                rayjobs.close()

    def _of_namespace(self, namespace: str) -> KubeRayBackend:
        if namespace not in self._kuberay:
            made = KubeRayBackend(self._client, namespace, self._installation, among=self._namespaces)
            self._kuberay[namespace] = made
        return self._kuberay[namespace]
