"""Fills an API server with a large installation at rest, and checks that nothing is left to do about any of it."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from tests.benchmarks import settled
from tests.benchmarks.ray_stand_in import RayStandIn

from socadapter_api.adapter import SocAdapter, SocAdapterVersion
from socadapter_api.pool import SocServingPool
from socadapter_operator.backends.cluster_secrets import ClusterSecrets
from socadapter_operator.domain import planner, triggers, version_conditions
from socadapter_operator.domain.claim import Claim
from socadapter_operator.domain.observed import Observed, RecordedVersion
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import ADAPTER, ADAPTER_VERSION, NAMESPACE, POOL
from socadapter_operator.shell.contracts import Contracts, status_of

_THREADS = 8
_SERVED = 2
"""Of each adapter's versions, the newest: the stable and the previous one."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large the installation is; `pools` in each namespace, `versions` of each adapter."""

    adapters: int
    namespaces: int
    pools: int
    versions: int

    @property
    def spaces(self) -> list[str]:
        """The names of the namespaces."""
        return [f"team-{number:02d}" for number in range(self.namespaces)]

    def shares(self) -> list[tuple[str, str, list[str]]]:
        """Namespace, pool, and the adapters that it serves."""
        places = [(space, f"pool-{number}") for space in self.spaces for number in range(self.pools)]
        names = [f"context-{number:05d}" for number in range(self.adapters)]
        return [(*place, names[number :: len(places)]) for number, place in enumerate(places)]


def seed(client: Client, clusters: RayStandIn, size: Size, say: Callable[[str], None]) -> None:
    """Makes everything, each object as its owner or the operator would have written it."""
    now = datetime.now(UTC)
    for space in size.spaces:
        client.create(NAMESPACE, {"metadata": {"name": space}})
    shares = size.shares()
    with ThreadPoolExecutor(_THREADS) as pool:
        made = pool.map(partial(_share, client, clusters, size.versions, now), shares)
        for done, _ in enumerate(made, start=1):
            if done % max(1, len(shares) // 5) == 0:
                say(f"{done} of {len(shares)} pools are filled")


def verify(client: Client, size: Size) -> int:
    """How many adapters were planned for, as the API server has them.

    Raises:
        AssertionError: the plan for one is not empty.
    """
    now, planned = datetime.now(UTC), 0
    for space in size.spaces:
        contracts = Contracts()
        pools = {
            pool.metadata.name: pool for pool in contracts.read_all(SocServingPool, client.list(POOL, space).items)
        }
        versions: dict[str, list[SocAdapterVersion]] = {}
        for version in contracts.read_all(SocAdapterVersion, client.list(ADAPTER_VERSION, space).items):
            versions.setdefault(version.spec.context, []).append(version)
        for adapter in contracts.read_all(SocAdapter, client.list(ADAPTER, space).items):
            _verify_one(adapter, pools, versions[adapter.spec.context], now)
            planned += 1
    return planned


def _verify_one(
    adapter: SocAdapter, pools: dict[str, SocServingPool], versions: Sequence[SocAdapterVersion], now: datetime
) -> None:
    recorded = tuple(RecordedVersion(version.spec) for version in versions)
    observed = Observed(pools=pools, claims=(Claim.of(adapter),), versions=recorded)
    plan = planner.plan(adapter, observed, now)
    assert not triggers.run_ids(adapter, observed, now), f"{adapter.metadata.name} has a run to look at"
    assert (plan.actions, plan.status) == ((), adapter.status), f"{adapter.metadata.name} is not settled: {plan}"
    for version in versions:
        assert version.status == version_conditions.status(version, adapter.status, now), version.metadata.name


def _share(client: Client, clusters: RayStandIn, count: int, now: datetime, share: tuple[str, str, list[str]]) -> None:
    """One pool and all that it serves."""
    space, name, names = share
    address = clusters.address(space, name)
    serving = SocServingPool.model_validate(client.create(POOL, settled.pool(name, space, address)))
    ClusterSecrets(client).signing_key(serving)
    cron = settled.never_soon(now)
    applied = [
        SocAdapter.model_validate(client.create(ADAPTER, settled.adapter(one, space, name, cron))) for one in names
    ]
    versions = [settled.versions_of(adapter, serving, count) for adapter in applied]
    serving = settled.with_replicas(serving, [version for own in versions for version in own[-_SERVED:]])
    adapters = []
    for adapter, own in zip(applied, versions, strict=True):
        one = settled.settle(adapter, serving, own, now)
        client.apply_status(ADAPTER, status_of(one.adapter, one.adapter.status))
        for body in one.version_bodies():
            held, status = one.version_status(client.create(ADAPTER_VERSION, body), now)
            client.apply_status(ADAPTER_VERSION, status_of(held, status))
        adapters.append(one.adapter)
    serving, table = settled.settle_pool(serving, adapters, address, now)
    client.apply_status(POOL, status_of(serving, serving.status))
    clusters.serve(serving, table)
