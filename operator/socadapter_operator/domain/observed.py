"""What the planner is shown: everything it may look at besides the resource itself, read beforehand by others."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from socadapter_api.adapter import VersionSpec
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ReplicaReport, ServingTable
from socadapter_operator.domain.claim import Claim
from socadapter_operator.domain.state import RunView


@dataclass(frozen=True, slots=True)
class RecordedVersion:
    """A `SocAdapterVersion` of this adapter."""

    spec: VersionSpec
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run of this adapter that a backend still keeps something of: a job, a folder."""

    run_id: str
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class Observed:
    """What is seen around one `SocAdapter`.

    `pools` are those of its namespace, by name; `claims` those of all adapters there, its own included; `runs` those
    that `triggers.run_ids` asked for, by id; `verdicts` how many the feedback window holds, counted when a tick is due;
    None while they cannot be counted. `ended`: what is left of earlier runs, looked at while a run is under way, due,
    or ends.
    """

    pools: Mapping[str, SocServingPool] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    runs: Mapping[str, RunView] = field(default_factory=dict)
    versions: tuple[RecordedVersion, ...] = ()
    verdicts: int | None = None
    ended: tuple[EndedRun, ...] = ()


class ServingState(StrEnum):
    """Where a pool's serving application is."""

    ABSENT = "Absent"
    STARTING = "Starting"
    RUNNING = "Running"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class ServingView:
    """What a backend knows about one pool's serving application.

    `outdated`: it runs with another pool spec than the present one, or the present one cannot be applied. `Absent` with
    a reason: it cannot be started. `unseen`: the gateway answers, and nothing else can be asked, for `reason`.
    """

    state: ServingState = ServingState.ABSENT
    endpoint: str = ""
    reports: tuple[ReplicaReport, ...] = ()
    table: ServingTable | None = None
    base_digest: str | None = None
    outdated: bool = False
    failures: int = 0
    failed_at: datetime | None = None
    reason: str = ""
    message: str = ""
    retryable: bool = True
    unseen: bool = False


@dataclass(frozen=True, slots=True)
class PoolObserved:
    """What is seen around one `SocServingPool`.

    `hold`: the machine has no room to serve before a version exists. `unreadable`: contexts of adapters of its
    namespace that do not fit the contract. `rival`: the other pool of this machine that keeps the address that this
    one names; empty where none does.
    """

    serving: ServingView = ServingView()
    hold: bool = False
    unreadable: frozenset[str] = frozenset()
    rival: str = ""
