"""The controllers without an operator around them: plans by live reads, for ``kubectl socadapter plan``."""

from pathlib import Path

from socadapter_api.adapter import SocAdapter
from socadapter_api.pool import SocServingPool
from socadapter_operator.backends.protocol import BackendOf
from socadapter_operator.domain.actions import Plan, PoolPlan
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.recorder import Recorder
from socadapter_operator.kube.resources import ADAPTER, ObjectKey
from socadapter_operator.observation import Observer
from socadapter_operator.shell.adapters import AdapterController
from socadapter_operator.shell.cache import Cache
from socadapter_operator.shell.claims import Claims
from socadapter_operator.shell.contracts import Contracts
from socadapter_operator.shell.pools import PoolController


class Looking:
    """Plans for what is in a cluster. `folder` is where published adapters are checked."""

    def __init__(self, client: Client, backend_of: BackendOf, folder: Path) -> None:
        self._client = client
        self._cache = Cache()
        shared = (Recorder(client, "looking"), Contracts(), Claims())  # a recorder that is not started writes nothing
        self._adapters = AdapterController(client, self._cache, backend_of, Observer(backend_of, folder), *shared)
        self._pools = PoolController(client, self._cache, backend_of, *shared)

    def plan_pool(self, pool: SocServingPool) -> PoolPlan | None:
        """What the operator would do about `pool` now; None where it is gone."""
        return self._pools.plan(ObjectKey(pool.metadata.namespace, pool.metadata.name))

    def plan_adapter(self, adapter: SocAdapter) -> Plan | None:
        """What the operator would do about `adapter` now, with its namespace as it is; None where it is gone."""
        namespace = adapter.metadata.namespace
        listed = self._client.list(ADAPTER, namespace)
        self._cache.replace(ADAPTER, listed.items, listed.resource_version, namespace=namespace)
        return self._adapters.plan(ObjectKey(namespace, adapter.metadata.name))
