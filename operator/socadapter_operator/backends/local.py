"""The backend of one machine without a cluster: training and serving as child processes, each with a Ray of its own.

Nothing here imports Ray. A run is ``python -m socadapter_jobs`` (`local_runs`), a pool's application
``python -m socadapter_serve`` (`local_serving`); both live on when the command that started them ends, and are found
again by their records. Runs survive nothing: one whose process died without a marker in the store is `Failed` and
retryable, and its next attempt resumes from its checkpoints.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from socadapter_api.errors import SocAdapterError
from socadapter_api.pool import SocServingPool
from socadapter_api.training import BaseModelRef, RunSpec
from socadapter_operator.backends import local_runs, local_serving
from socadapter_operator.backends.bases import Bases
from socadapter_operator.backends.composed import ComposedBackend
from socadapter_operator.backends.credentials import Credentials
from socadapter_operator.backends.local_runs import LocalRuns
from socadapter_operator.backends.local_serving import LocalServing
from socadapter_operator.backends.run_inputs import keep_feedback, reopen
from socadapter_operator.domain.addresses import Address
from socadapter_operator.domain.observed import ServingState, ServingView
from socadapter_operator.domain.problems import BASE_UNRESOLVED

_BASE_WAIT_S = 1.0
"""As long as it takes where the base is here."""


class LocalBackend(ComposedBackend[LocalRuns, LocalServing]):
    """`Backend` on this machine.

    `base_digest` resolves a base, in a thread, and tells its digest or raises an error of the tree. `cache` is where
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
        self._bases = Bases(base_digest)

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
        base = self._bases.find(pool.spec.base, _BASE_WAIT_S)
        if isinstance(base, str):
            return replace(view, base_digest=base)
        if view.state is not ServingState.ABSENT:
            return view
        if base is None:
            message = f"base {pool.spec.base.uri!r} is being fetched or unpacked"
            return ServingView(table=view.table, reason=BASE_UNRESOLVED, message=message)
        if not isinstance(base, SocAdapterError):
            raise base
        return ServingView(table=view.table, reason=base.reason, message=str(base), retryable=base.retryable)

    def await_base(self, pool: SocServingPool, wait_s: float) -> bool:
        """Waits until the pool's base is here or cannot be had; False where that takes longer than `wait_s`."""
        return self._bases.find(pool.spec.base, wait_s) is not None

    def address(self, pool: SocServingPool) -> Address | None:
        """Where the pool's application answers, or is about to; None where it has no process."""
        return self.services.address(pool)

    def tend(self) -> None:
        """What needs doing with nobody asking: queued runs, runs that would not stop, applications that died."""
        self.runs.tend()
        self.services.tend()
