"""What every backend passes on to its parts: one that knows runs, one that knows services, and the pools' secrets."""

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ServingTable
from socadapter_operator.backends import pool_secrets, verdicts
from socadapter_operator.backends.pool_secrets import PoolSecrets
from socadapter_operator.domain.observed import EndedRun, ServingView
from socadapter_operator.domain.state import BackendRun


class Runs(Protocol):
    """The runs of a backend; see `Backend` for what each method promises."""

    def observe(self, run_id: str) -> BackendRun: ...

    def stop(self, run_id: str) -> None: ...

    def ended(self, namespace: str, adapter: str) -> tuple[EndedRun, ...]: ...

    def forget(self, run_id: str) -> None: ...

    def logs(self, run_id: str, *, follow: bool = False) -> Iterator[str]: ...


class Services(Protocol):
    """The services of a backend; see `Backend` for what each method promises."""

    def apply_table(self, pool: SocServingPool, table: ServingTable) -> None: ...

    def serving(self, pool: SocServingPool) -> ServingView: ...

    def delete(self, pool: SocServingPool) -> None: ...

    def logs(self, pool: SocServingPool, *, follow: bool = False) -> Iterator[str]: ...


RunsT = TypeVar("RunsT", bound=Runs)
ServicesT = TypeVar("ServicesT", bound=Services)


class ComposedBackend(Generic[RunsT, ServicesT]):
    """A `Backend` but for `start`, which is where backends differ."""

    def __init__(self, runs: RunsT, services: ServicesT, secrets: PoolSecrets) -> None:
        self.runs = runs
        self.services = services
        self._secrets = secrets

    def observe(self, run_id: str) -> BackendRun:
        """What is known about a run's process."""
        return self.runs.observe(run_id)

    def stop(self, run_id: str) -> None:
        """Asks a run to write a checkpoint and end."""
        self.runs.stop(run_id)

    def ended(self, namespace: str, adapter: str) -> tuple[EndedRun, ...]:
        """The adapter's runs that ended and of which something is still kept."""
        return self.runs.ended(namespace, adapter)

    def forget(self, run_id: str) -> None:
        """Removes what is kept of an ended run, but for what lies in the store."""
        self.runs.forget(run_id)

    def logs(self, run_id: str, *, follow: bool = False) -> Iterator[str]:
        """What the run printed."""
        return self.runs.logs(run_id, follow=follow)

    def pool_logs(self, pool: SocServingPool, *, follow: bool = False) -> Iterator[str]:
        """What the pool's service printed."""
        return self.services.logs(pool, follow=follow)

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
        """Ends the pool's service."""
        self.services.delete(pool)

    def _verdicts(self, pool: SocServingPool, context: str, window: str) -> tuple[str, ...] | None:
        endpoint = self.services.serving(pool).endpoint
        return verdicts.fetch(pool, endpoint, context, window, self._secrets) if endpoint else None
