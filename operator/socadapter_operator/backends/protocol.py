"""What every backend promises, so that one planner drives a cluster, a remote Ray and this machine alike."""

from collections.abc import Callable, Iterator
from typing import Protocol

from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ServingTable
from socadapter_api.training import RunSpec
from socadapter_operator.domain.observed import EndedRun, ServingView
from socadapter_operator.domain.state import BackendRun


class Backend(Protocol):
    """Where runs train and pools serve.

    The contract, which one suite checks on every implementation:

    * Every method is idempotent and returns soon; none waits for a run or for serving to become ready.
    * `start` of a run that is queued or running changes nothing: there are never two processes for one run id. `start`
      of one that failed resumes it: same id, same folder in the store. It fills in what only the backend knows:
      `RunSpec.scratch`, `RunSpec.signing_key`
      and, where the spec asks for it and there are enough verdicts, `RunSpec.feedback`.
    * `observe` of an id that was never started is `Absent`. It says what became of the process, never whether the run
      counts: that is the store's word, and `domain.state.settle` joins the two. A process that died without a word is
      `Failed` and retryable.
    * `stop` lets the run write a checkpoint; what was stopped so is `Failed` with reason `RunInterrupted`. A run that
      only waited for its turn stops at once, and may be `Absent` then.
    * `apply_table` starts serving where it is not running, and again where the pool's spec changed. A table reaches
      replicas without a restart.
    * `serving` tells the table last applied, whatever the replicas hold so far, and never raises for a pool that is
      not served.
    * `delete` ends the pool's serving; after it the pool is `Absent`, and artifacts and feedback are still there.

    Raises:
        SpecError: what was asked for cannot be done as written (a missing secret, an insecure address).
        TransientError: the same call may succeed later.
    """

    def start(self, spec: RunSpec, pool: SocServingPool) -> None:
        """Starts or resumes a run."""

    def observe(self, run_id: str) -> BackendRun:
        """What is known about a run's process."""
        ...

    def stop(self, run_id: str) -> None:
        """Asks a run to write a checkpoint and end."""

    def ended(self, namespace: str, adapter: str) -> tuple[EndedRun, ...]:
        """The runs of an adapter that ended and of which something is still kept: a job, a folder."""
        ...

    def forget(self, run_id: str) -> None:
        """Removes what is kept of an ended run, but for what lies in the store; one that has not ended stays."""

    def logs(self, run_id: str, *, follow: bool = False) -> Iterator[str]:
        """The run's log, line by line; with `follow` until the run ends."""
        ...

    def pool_logs(self, pool: SocServingPool, *, follow: bool = False) -> Iterator[str]:
        """What the pool's service printed, line by line; with `follow` until it ends."""
        ...

    def apply_table(self, pool: SocServingPool, table: ServingTable) -> None:
        """Serves `pool` with `table`."""

    def serving(self, pool: SocServingPool) -> ServingView:
        """What is known about the pool's serving application."""
        ...

    def verdicts(self, pool: SocServingPool, context: str, window: str) -> int | None:
        """How many of the analysts' verdicts the last `window` holds for `context`; None while nobody can say."""
        ...

    def trusted_keys(self, pool: SocServingPool) -> tuple[str, ...]:
        """The PEM public keys whose signatures the pool accepts."""
        ...

    def delete(self, pool: SocServingPool) -> None:
        """Ends the pool's serving."""


BackendOf = Callable[[SocServingPool | None], Backend]
"""Names the backend of a pool, or of runs whose pool is gone (None)."""
