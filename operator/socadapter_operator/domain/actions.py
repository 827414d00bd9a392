"""What a plan may ask for. Each action is idempotent: carrying it out twice is carrying it out once."""

from dataclasses import dataclass
from datetime import timedelta

from socadapter_api.adapter import AdapterStatus, VersionSpec
from socadapter_api.pool import PoolStatus, SocServingPool
from socadapter_api.serving_table import ServingTable
from socadapter_api.training import RunSpec


@dataclass(frozen=True, slots=True)
class StartRun:
    """Start, or resume, the run that `spec` describes. `attempt` counts the resumptions."""

    spec: RunSpec
    pool: SocServingPool
    attempt: int


@dataclass(frozen=True, slots=True)
class StopRun:
    """Ask the run to write a checkpoint and end."""

    run_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class RecordVersion:
    """Make the immutable `SocAdapterVersion` of a published run."""

    version: VersionSpec


@dataclass(frozen=True, slots=True)
class ForgetVersion:
    """Delete the `SocAdapterVersion` of that name; its artifact stays in the store."""

    name: str


@dataclass(frozen=True, slots=True)
class ForgetRun:
    """Delete what the backend keeps of an ended run: its job or folder, its log. The store is not touched."""

    run_id: str


@dataclass(frozen=True, slots=True)
class ApplyTable:
    """Serve the pool with this table, starting its application where it is not running."""

    table: ServingTable


Action = StartRun | StopRun | RecordVersion | ForgetVersion | ForgetRun | ApplyTable


@dataclass(frozen=True, slots=True)
class Note:
    """Something that happened and that a person may want to know: an event, a log line."""

    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do about one `SocAdapter` and what its status says when that is done.

    `intent` is what its status has to say before a run starts that it does not name yet: whoever comes next finds each
    run there that was ever started, also when this process ends in between and the spec is another by then.
    """

    actions: tuple[Action, ...]
    status: AdapterStatus
    requeue_after: timedelta | None = None
    notes: tuple[Note, ...] = ()
    intent: AdapterStatus | None = None

    @property
    def before_status(self) -> tuple[Action, ...]:
        """What is done before status says so: nothing is told that is not true."""
        return tuple(action for action in self.actions if not isinstance(action, ForgetVersion))

    @property
    def after_status(self) -> tuple[Action, ...]:
        """What waits until status names it no more: a version that is gone is no version's predecessor."""
        return tuple(action for action in self.actions if isinstance(action, ForgetVersion))

    def before(self, action: Action) -> AdapterStatus | None:
        """The status to write before `action` is carried out, if any."""
        return self.intent if isinstance(action, StartRun) else None


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What to do about one `SocServingPool` and what its status says when that is done."""

    actions: tuple[ApplyTable, ...]
    status: PoolStatus
    requeue_after: timedelta | None = None
    notes: tuple[Note, ...] = ()
