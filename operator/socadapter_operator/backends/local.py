"""The backend of one machine without a cluster: training and serving as child processes, each with a Ray of its own.

Nothing here imports Ray. A run is ``python -m socadapter_jobs`` (`local_runs`), a pool's application
``python -m socadapter_serve`` (`local_serving`); both live on when the command that started them ends, and are found
again by their records. Runs survive nothing: one whose process died without a marker in the store is `Failed` and
retryable, and its next attempt resumes from its checkpoints.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from socadapter_api import errors
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ServingTable
from socadapter_api.training import BaseModelRef, RunSpec
from socadapter_operator.backends import local_runs, local_serving, pool_secrets, verdicts
from socadapter_operator.backends.credentials import Credentials
from socadapter_operator.backends.local_runs import LocalRuns
from socadapter_operator.backends.local_serving import LocalServing
from socadapter_operator.backends.run_inputs import keep_feedback, reopen
from socadapter_operator.domain.observed import EndedRun, ServingState, ServingView
from socadapter_operator.domain.state import BackendRun

_ASK_AGAIN_S = 60.0


class LocalBackend:
    """`Backend` on this machine.

    `base_digest` resolves a base and tells its digest; it raises `BaseNotFound` or `BaseMismatch`. `cache` is where
    bases and verified adapters are kept. `job` and `serve` are the commands that are started.
    """

    def __init__(
        self,
        state: Path,
        cache: Path,
        base_digest: Callable[[BaseModelRef], str],
        *,
        job: Sequence[str] = local_runs.JOB,
        serve: Sequence[str] = local_serving.SERVE,
        max_runs: int = 1,
        stop_grace_s: float = local_runs.STOP_GRACE_S,
    ) -> None:
        state = state.resolve()
        self.credentials = Credentials(state)
        environment = {
            "SOCADAPTER_CACHE": str(cache),
            "SOCADAPTER_SECRETS": str(self.credentials.secrets),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self.runs = LocalRuns(state / "runs", environment, job, max_runs, stop_grace_s)
        self.services = LocalServing(state / "serving", self.credentials, cache, environment, serve)
        self._base_digest = base_digest
        self._bases: dict[str, tuple[float, str | errors.SocAdapterError]] = {}

    def start(self, spec: RunSpec, pool: SocServingPool) -> None:
        """Starts or resumes a run, or queues it while another one trains."""
        if self.runs.alive(spec.run_id):
            return
        signing_key = str(self.credentials.signing_key(pool))
        reopen(spec)
        placed = spec.model_copy(
            update={
                "scratch": spec.scratch or str(self.runs.scratch(spec.run_id)),
                "signing_key": signing_key,
                "feedback": keep_feedback(spec, lambda window: self._verdicts(pool, spec.context, window)),
            }
        )
        self.runs.start(placed)

    def observe(self, run_id: str) -> BackendRun:
        """What is known about a run's process."""
        return self.runs.observe(run_id)

    def stop(self, run_id: str) -> None:
        """Interrupts a run, so that it writes a checkpoint; kills it when that takes too long."""
        self.runs.stop(run_id)

    def ended(self, namespace: str, adapter: str) -> tuple[EndedRun, ...]:
        """The adapter's runs that still have a folder here."""
        return self.runs.ended(namespace, adapter)

    def forget(self, run_id: str) -> None:
        """Removes the folder of an ended run, checkpoints and log included."""
        self.runs.forget(run_id)

    def logs(self, run_id: str, *, follow: bool = False) -> Iterator[str]:
        """What the run printed."""
        return self.runs.logs(run_id, follow=follow)

    def apply_table(self, pool: SocServingPool, table: ServingTable) -> None:
        """Serves `pool` with `table`."""
        self.services.apply_table(pool, table)

    def serving(self, pool: SocServingPool) -> ServingView:
        """What is known about the pool's application, and its base's digest."""
        view = self.services.serving(pool)
        base = self._resolved(pool.spec.base)
        if isinstance(base, str):
            return replace(view, base_digest=base)
        if view.state is ServingState.ABSENT:
            return ServingView(table=view.table, reason=base.reason, message=str(base), retryable=base.retryable)
        return view

    def verdicts(self, pool: SocServingPool, context: str, window: str) -> int | None:
        """How many verdicts the pool's service holds; None while it does not answer."""
        held = self._verdicts(pool, context, window)
        return None if held is None else len(held)

    def trusted_keys(self, pool: SocServingPool) -> tuple[str, ...]:
        """The public keys whose signatures the pool accepts."""
        return pool_secrets.trusted_keys(pool, self.credentials)

    def delete(self, pool: SocServingPool) -> None:
        """Ends the pool's application."""
        self.services.delete(pool)

    def tend(self) -> None:
        """What needs doing with nobody asking: queued runs, runs that would not stop, applications that died."""
        self.runs.tend()
        self.services.tend()

    def _verdicts(self, pool: SocServingPool, context: str, window: str) -> tuple[str, ...] | None:
        endpoint = self.services.serving(pool).endpoint
        return verdicts.fetch(pool, endpoint, context, window, self.credentials) if endpoint else None

    def _resolved(self, ref: BaseModelRef) -> str | errors.SocAdapterError:
        """The base's digest, or why there is none; a failure is asked about again after a while."""
        key = ref.model_dump_json()
        asked_at, known = self._bases.get(key, (0.0, ""))
        if isinstance(known, str) and known:
            return known
        if known and time.monotonic() - asked_at < _ASK_AGAIN_S:
            return known
        found: str | errors.SocAdapterError
        try:
            found = self._base_digest(ref)
        except errors.SocAdapterError as error:
            found = error
        self._bases[key] = (time.monotonic(), found)
        return found
