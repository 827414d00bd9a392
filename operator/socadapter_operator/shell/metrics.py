"""What the operator measures, under controller-runtime's names where it has one, so that stock dashboards work.

Series about one resource are not counters of the client library but are made from what is known of the resource when
Prometheus asks (`resource_series`): with the resource they are gone.
"""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric

from socadapter_api.errors import SocAdapterError
from socadapter_operator.shell import run_ends
from socadapter_operator.shell.queue import Outcome
from socadapter_operator.shell.resource_series import ResourceSeries

_RECONCILE_S = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.15,
    0.2,
    0.25,
    0.3,
    0.4,
    0.5,
    0.75,
    1.0,
    1.5,
    2.0,
    3.0,
    5.0,
    10.0,
    30.0,
    60.0,
)
_QUEUE_S = (0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 300.0, 1000.0)
_REQUEST_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
_RUN_S = (60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0, 57600.0, 86400.0)


class Metrics:
    """Every metric of one process, in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the series
        self.registry = CollectorRegistry(auto_describe=False)
        self.resources = ResourceSeries()
        self.registry.register(self.resources)
        self._running = _Running()
        self.registry.register(self._running)
        self._reconciles = self._counter(
            "controller_runtime_reconcile", "Reconciliations by controller and result.", "controller", "result"
        )
        self._errors = self._counter(
            "controller_runtime_reconcile_errors", "Reconciliations that failed, by controller.", "controller"
        )
        self._terminal = self._counter(
            "controller_runtime_terminal_reconcile_errors", "Failures that trying again cannot help.", "controller"
        )
        self._panics = self._counter(
            "controller_runtime_reconcile_panics", "Reconciliations that raised what no code expected.", "controller"
        )
        self._seconds = Histogram(
            "controller_runtime_reconcile_time_seconds",
            "Time of one reconciliation.",
            ["controller"],
            buckets=_RECONCILE_S,
            registry=self.registry,
        )
        self._max_workers = self._gauge(
            "controller_runtime_max_concurrent_reconciles", "Threads that reconcile, by controller.", "controller"
        )
        self._depth = self._gauge("workqueue_depth", "Keys that wait to be worked on.", "name", "controller")
        self._adds = self._counter("workqueue_adds", "Keys that were added.", "name", "controller")
        self._retries = self._counter("workqueue_retries", "Keys that failed and come back.", "name", "controller")
        self._waits = self._queue_histogram(
            "workqueue_queue_duration_seconds", "How long a key waited once it was due."
        )
        self._works = self._queue_histogram("workqueue_work_duration_seconds", "How long a key was worked on.")
        self._leader = self._gauge(
            "leader_election_master_status", "1 while this process leads, by name of the lease.", "name"
        )
        self._requests = self._counter(
            "rest_client_requests",
            "Requests to the Kubernetes API by status, method and host.",
            "code",
            "method",
            "host",
        )
        self._request_s = Histogram(
            "rest_client_request_duration_seconds",
            "Time of one request to the Kubernetes API.",
            ["verb", "host"],
            buckets=_REQUEST_S,
            registry=self.registry,
        )
        self.watch_restarts = self._counter("socadapter_watch_restarts", "Times that the watch had to be started anew.")
        self.events_dropped = self._counter("socadapter_events_dropped", "Events that were not written.")
        self._cached = self._gauge("socadapter_cache_objects", "Objects in the cache, by kind.", "kind")
        self._stale = self._counter(
            "socadapter_cache_stale_objects", "Objects that a full list corrected, as no event had told.", "kind"
        )
        self._listed = self._gauge(
            "socadapter_last_list_timestamp_seconds", "When the last full list was read.", "kind"
        )
        self._runs = self._counter(
            "socadapter_runs", "Training runs that ended, by result and reason.", "result", "reason"
        )
        for end in run_ends.known():
            self._runs.labels(*end)
        self._run_s = Histogram(
            "socadapter_run_duration_seconds",
            "Time from the start of a run to its end.",
            ["result"],
            buckets=_RUN_S,
            registry=self.registry,
        )

    def controller(self, name: str, workers: int, running_s: Callable[[], Iterable[float]]) -> "QueueMetrics":
        """Measures the queue and workers of one controller; all its series begin at 0."""
        for outcome in (*Outcome, "requeue"):
            self._reconciles.labels(name, str(outcome))
        for counter in (self._errors, self._terminal, self._panics):
            counter.labels(name)
        self._max_workers.labels(name).set(workers)
        self._running.controllers[name] = running_s
        return QueueMetrics(
            self._adds.labels(name, name),
            self._depth.labels(name, name),
            self._waits.labels(name, name),
            self._works.labels(name, name),
            self._retries.labels(name, name),
        )

    def reconciled(self, controller: str, outcome: Outcome, error: BaseException | None, seconds: float) -> None:
        """One reconciliation ended."""
        self._reconciles.labels(controller, outcome.value).inc()
        self._seconds.labels(controller).observe(seconds)
        if error is None:
            return
        self._errors.labels(controller).inc()
        if not isinstance(error, SocAdapterError):
            self._panics.labels(controller).inc()
        elif not error.retryable:
            self._terminal.labels(controller).inc()

    def request_of(self, host: str) -> Callable[[str, str, float], None]:
        """The client's measure for requests to `host`."""

        def measure(method: str, status: str, seconds: float) -> None:
            self._requests.labels(status, method, host).inc()
            self._request_s.labels(method, host).observe(seconds)

        return measure

    def leads(self, lease: str, leading: bool) -> None:
        """Whether this process leads by `lease`."""
        self._leader.labels(lease).set(int(leading))

    def listed(self, kind: str, objects: int, corrected: int, at: float) -> None:
        """A full list of `kind` was read at Unix time `at`: so many objects; the cache was wrong about `corrected`."""
        self._cached.labels(kind).set(objects)
        self._stale.labels(kind).inc(corrected)
        self._listed.labels(kind).set(at)

    def run_ended(self, result: str, reason: str, seconds: float | None) -> None:
        """A training run ended: its outcome as in ``result.json``, the reason, and how long it took, if known."""
        self._runs.labels(result, reason).inc()
        if seconds is not None:
            self._run_s.labels(result).observe(seconds)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _queue_histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, ["name", "controller"], buckets=_QUEUE_S, registry=self.registry)


class QueueMetrics:
    """The `QueueMeter` of one controller's queue."""

    def __init__(self, adds: Counter, depth: Gauge, waits: Histogram, works: Histogram, retries: Counter) -> None:
        self._adds = adds
        self._depth = depth
        self._waits = waits
        self._works = works
        self._retries = retries

    def added(self) -> None:
        """An item was added that did not wait already."""
        self._adds.inc()

    def depth(self, waiting: int) -> None:
        """So many items wait to be worked on at once."""
        self._depth.set(waiting)

    def taken(self, waited_s: float) -> None:
        """An item that was due for `waited_s` is worked on."""
        self._waits.observe(waited_s)

    def finished(self, worked_s: float) -> None:
        """Working on an item ended."""
        self._works.observe(worked_s)

    def retried(self) -> None:
        """An item failed and comes back."""
        self._retries.inc()


class _Running:
    """What is being worked on at the moment that Prometheus asks, for all controllers."""

    def __init__(self) -> None:
        self.controllers: dict[str, Callable[[], Iterable[float]]] = {}

    def collect(self) -> Iterable[Metric]:
        """The three metrics of keys in progress."""
        both = ("name", "controller")
        active = GaugeMetricFamily(
            "controller_runtime_active_workers", "Threads that are reconciling.", labels=["controller"]
        )
        total = GaugeMetricFamily(
            "workqueue_unfinished_work_seconds", "Sum of the time of all work in progress.", labels=both
        )
        longest = GaugeMetricFamily(
            "workqueue_longest_running_processor_seconds", "The longest work in progress.", labels=both
        )
        for controller, running_s in tuple(self.controllers.items()):
            running = tuple(running_s())
            active.add_metric([controller], len(running))
            total.add_metric([controller, controller], sum(running))
            longest.add_metric([controller, controller], max(running, default=0.0))
        return active, total, longest

    def describe(self) -> Iterable[Metric]:
        """Nothing ahead of time: a registry need not ask."""
        return ()
