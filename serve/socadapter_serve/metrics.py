"""What the gateway counts, in Prometheus' text form. Labels hold contexts and versions of the table, never input.

Called by the gateway and the endpoints; each gateway process has its own registry.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from socadapter_api.trajectory import Trajectory
from socadapter_serve.decision import Decision
from socadapter_serve.routing import Answerer, Candidate

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
_VERSION = ("context", "version", "role")


class GatewayMetrics:
    """The counters of one gateway."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # twice the series, and nothing reads them
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"socadapter_{name}", text, labels, registry=self.registry)

        self._requests = counter("requests", "Requests by endpoint and status code.", "endpoint", "code")
        self._investigations = counter("investigations", "Investigations by verdict.", *_VERSION, "verdict")
        self._invalid = counter("invalid_answers", "Investigations that ended without a readable verdict.", *_VERSION)
        self._unscorable = counter("unscorable", "Investigations in which a tool's outage decided.", *_VERSION)
        self._calls = counter("tool_calls", "Tool calls by how they ended.", *_VERSION, "outcome")
        self._tokens = counter("tokens", "Tokens read and generated.", *_VERSION, "kind")
        self._escalations = counter("escalations", "Verdicts raised, by cause.", "context", "version", "cause")
        self._fallbacks = counter("fallbacks", "Answers by another version.", "context", "intended", "role")
        self._feedback = counter("feedback", "Analysts' verdicts received.", "verdict")
        self.shadows_skipped = counter("shadows_skipped", "Shadow investigations not made for want of room.")
        self.shadows_failed = counter("shadows_failed", "Shadow investigations that failed.")
        self.trajectories_lost = counter("trajectories_lost", "Investigations that could not be kept.")
        self._seconds = Histogram(
            "socadapter_investigation_seconds", "Duration.", _VERSION, buckets=_SECONDS, registry=self.registry
        )
        self.in_flight = Gauge("socadapter_requests_in_flight", "Requests in work.", registry=self.registry)
        self._table = Gauge("socadapter_table_generation", "Of the serving table in use.", registry=self.registry)
        self._refused = Gauge(
            "socadapter_match_refused", "1: the match expression is no CEL.", ("context",), registry=self.registry
        )

    def text(self) -> bytes:
        """Everything, in the text form."""
        return bytes(generate_latest(self.registry))

    def answered(self, endpoint: str, code: int) -> None:
        """One HTTP answer."""
        self._requests.labels(endpoint, str(code)).inc()

    def table_applied(self, generation: int, refused: Iterable[str]) -> None:
        """A new table is in use."""
        self._table.set(generation)
        self._refused.clear()
        for context in refused:
            self._refused.labels(context).set(1)

    def investigated(self, context: str, answerer: Answerer, trajectory: Trajectory, decision: Decision) -> None:
        """One investigation, shadow ones included (by their role)."""
        labels = (context, answerer.version, answerer.role.value)
        self._investigations.labels(*labels, decision.verdict.value).inc()
        self._seconds.labels(*labels).observe(trajectory.seconds)
        self._tokens.labels(*labels, "read").inc(trajectory.tokens_read)
        self._tokens.labels(*labels, "generated").inc(trajectory.tokens_generated)
        for call in trajectory.calls:
            self._calls.labels(*labels, call.outcome.value).inc()
        if trajectory.verdict != decision.verdict:
            cause = decision.reason.partition(":")[0]
            self._escalations.labels(context, answerer.version, cause).inc()
            if trajectory.verdict.value == "invalid":
                self._invalid.labels(*labels).inc()
        if not trajectory.scorable:
            self._unscorable.labels(*labels).inc()

    def fell_back(self, context: str, intended: Candidate, answered: Candidate) -> None:
        """Another version than the intended one answered."""
        self._fallbacks.labels(context, intended.name, answered.role.value).inc()

    def feedback_given(self, verdict: str) -> None:
        """One analyst's verdict."""
        self._feedback.labels(verdict).inc()
