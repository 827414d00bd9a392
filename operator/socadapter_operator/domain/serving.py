"""What replicas' reports say about a version: held by enough of them, loading, or refused."""

from dataclasses import dataclass

from socadapter_api.adapter import VersionRef
from socadapter_api.pool import SocServingPool


@dataclass(frozen=True, slots=True)
class Held:
    """How far a pool holds one version. `reason`: why a replica refused it, or why the pool itself is stalled."""

    ready: int = 0
    needed: int = 1
    reason: str = ""
    message: str = ""

    @property
    def enough(self) -> bool:
        """A majority of the pool's replicas answers with it."""
        return self.ready >= self.needed


def majority(replicas: int) -> int:
    """How many of `replicas` must hold a version before traffic moves to it."""
    return replicas // 2 + 1


def held(pool: SocServingPool | None, version: VersionRef | None) -> Held:
    """How far `pool` holds `version`, by the reports in its status."""
    if pool is None or version is None:
        return Held()
    loads = [
        load
        for report in pool.status.replicas
        for load in report.loaded
        if load.name == version.name and load.digest == version.digest
    ]
    refused = next((load for load in loads if load.refused), None)
    stalled = next((c for c in pool.status.conditions if c.type == "Stalled" and c.status == "True"), None)
    why = refused or stalled
    return Held(
        ready=sum(load.ready for load in loads),
        needed=majority(pool.spec.replicas),
        reason=why.reason if why else "",
        message=why.message if why else "",
    )
