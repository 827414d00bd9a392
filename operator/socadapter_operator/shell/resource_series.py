"""Metrics about single resources, made when Prometheus asks from what was told last, and gone with the resource."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


class ResourceId(NamedTuple):
    """Which resource a series is about; also its labels."""

    kind: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class ResourceState:
    """What the metrics tell of one resource.

    `conditions`: status (True, False, Unknown) by type. `info`: values of `INFO_LABELS`. The rest are Unix times, None
    where there is none.
    """

    conditions: Mapping[str, str] = field(default_factory=dict)
    info: Mapping[str, str] = field(default_factory=dict)
    born_at: float | None = None
    ready_at: float | None = None
    stuck_since: float | None = None
    next_run_at: float | None = None


INFO_LABELS = ("context", "pool", "stable", "canary")
_IDENTITY = ("kind", "namespace", "name")


class ResourceSeries:
    """A collector of `socadapter_*` series by resource. Safe for threads."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._states: dict[ResourceId, ResourceState] = {}
        self._missed: dict[ResourceId, int] = {}

    def tell(self, resource: ResourceId, state: ResourceState) -> None:
        """What is known of `resource` from now on."""
        with self._lock:
            self._states[resource] = state

    def missed_ticks(self, resource: ResourceId, count: int = 1) -> None:
        """So many ticks of the schedule passed without a run."""
        with self._lock:
            self._missed[resource] = self._missed.get(resource, 0) + count

    def forget(self, resource: ResourceId) -> None:
        """`resource` is gone, and its series with it."""
        with self._lock:
            self._states.pop(resource, None)
            self._missed.pop(resource, None)

    def collect(self) -> Iterable[Metric]:
        """All series as of now."""
        with self._lock:
            states, missed = dict(self._states), dict(self._missed)
        yield self._info(states)
        yield self._conditions(states)
        now = self._clock()
        yield _gauge(
            "socadapter_time_to_ready_seconds",
            "From the creation of a resource until it was first ready.",
            {
                resource: state.ready_at - state.born_at
                for resource, state in states.items()
                if state.ready_at is not None and state.born_at is not None
            },
        )
        yield _gauge(
            "socadapter_stuck_seconds",
            "How long a resource has been stalled or degraded; 0 while it is neither.",
            {
                resource: 0.0 if state.stuck_since is None else max(0.0, now - state.stuck_since)
                for resource, state in states.items()
            },
        )
        yield _gauge(
            "socadapter_next_run_timestamp_seconds",
            "When the schedule starts the next run.",
            {resource: state.next_run_at for resource, state in states.items() if state.next_run_at is not None},
        )
        family = CounterMetricFamily(
            "socadapter_schedule_missed", "Ticks of the schedule that passed without a run.", labels=_IDENTITY
        )
        for resource in states:
            family.add_metric(resource, missed.get(resource, 0))
        yield family

    def describe(self) -> Iterable[Metric]:
        """Nothing ahead of time: a registry need not ask."""
        return ()

    def _info(self, states: Mapping[ResourceId, ResourceState]) -> Metric:
        family = GaugeMetricFamily(
            "socadapter_info", "1 for each resource, with what it is about.", labels=(*_IDENTITY, *INFO_LABELS)
        )
        for resource, state in states.items():
            family.add_metric([*resource, *(state.info.get(label, "") for label in INFO_LABELS)], 1.0)
        return family

    def _conditions(self, states: Mapping[ResourceId, ResourceState]) -> Metric:
        family = GaugeMetricFamily(
            "socadapter_condition", "1 for the status that a condition has.", labels=(*_IDENTITY, "type", "status")
        )
        # Zeros for the two statuses that it has not would be two thirds of all series.
        for resource, state in states.items():
            for condition, held in state.conditions.items():
                family.add_metric([*resource, condition, held], 1.0)
        return family


def _gauge(name: str, text: str, values: Mapping[ResourceId, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=_IDENTITY)
    for resource, value in values.items():
        family.add_metric(resource, value)
    return family
