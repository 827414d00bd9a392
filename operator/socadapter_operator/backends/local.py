"""The backend of one machine without a cluster: training and serving as child processes, each with a Ray of its own.

Nothing here imports Ray. A run is ``python -m socadapter_jobs`` (`local_runs`), a pool's application
``python -m socadapter_serve`` (`local_serving`); both live on when the command that started them ends, and are found
again by their records. Runs survive nothing: one whose process died without a marker in the store is `Failed` and
retryable, and its next attempt resumes from its checkpoints.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from socadapter_api import errors
from socadapter_api.pool import SocServingPool
from socadapter_api.training import BaseModelRef, RunSpec
from socadapter_operator.backends import local_runs, local_serving
from socadapter_operator.backends.composed import ComposedBackend
from socadapter_operator.backends.credentials import Credentials
from socadapter_operator.backends.local_runs import LocalRuns
from socadapter_operator.backends.local_serving import LocalServing
from socadapter_operator.backends.run_inputs import keep_feedback, reopen
from socadapter_operator.domain.addresses import Address
from socadapter_operator.domain.observed import ServingState, ServingView

_ASK_AGAIN_S = 60.0


class LocalBackend(ComposedBackend[LocalRuns, LocalServing]):
    """`Backend` on this machine.

    `base_digest` resolves a base and tells its digest; it raises `BaseNotFound` or `BaseMismatch`. `cache` is where
    bases and verified adapters are kept. `job` and `serve` are the commands that are started, `cpus` the CPU cores that
    runs share, all where None.
    """

    def __init__(
        self,
        state: Path,
        cache: Path,
        base_digest: Callable[[BaseModelRef], str],
        *,
        job: Sequence[str] = local_runs.JOB,
        serve: Sequence[str] = local_serving.SERVE,
        cpus: float | None = None,
        stop_grace_s: float = local_runs.STOP_GRACE_S,
    ) -> None:
        state = state.resolve()
        self.credentials = Credentials(state)
        environment = {
            "SOCADAPTER_CACHE": str(cache),
            "SOCADAPTER_SECRETS": str(self.credentials.secrets),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        super().__init__(
            LocalRuns(state / "runs", environment, job, cpus, stop_grace_s),
            LocalServing(state / "serving", self.credentials, cache, environment, serve),
            self.credentials,
        )
        self._base_digest = base_digest
        self._bases: dict[str, tuple[float, str | errors.SocAdapterError]] = {}

    def start(self, spec: RunSpec, pool: SocServingPool) -> None:
        """Starts or resumes a run, or queues it while others leave it no room."""
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

    def serving(self, pool: SocServingPool) -> ServingView:
        """What is known about the pool's application, and its base's digest."""
        view = self.services.serving(pool)
        base = self._resolved(pool.spec.base)
        if isinstance(base, str):
            return replace(view, base_digest=base)
        if view.state is ServingState.ABSENT:
            return ServingView(table=view.table, reason=base.reason, message=str(base), retryable=base.retryable)
        return view

    def address(self, pool: SocServingPool) -> Address | None:
        """Where the pool's application answers, or is about to; None where it has no process."""
        return self.services.address(pool)

    def tend(self) -> None:
        """What needs doing with nobody asking: queued runs, runs that would not stop, applications that died."""
        self.runs.tend()
        self.services.tend()

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
