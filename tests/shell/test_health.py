"""Probes and metrics over real HTTP."""

from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from socadapter_api.errors import ClusterUnavailable, ObjectInvalid
from socadapter_operator.shell.health import HealthServer
from socadapter_operator.shell.metrics import Metrics
from socadapter_operator.shell.queue import Outcome, WorkQueue
from socadapter_operator.shell.resource_series import ResourceId, ResourceState


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def told() -> dict[str, str | None]:
    """What the checks say."""
    return {"workers": None, "cache": None}


@pytest.fixture
def url(metrics: Metrics, told: dict[str, str | None]) -> Iterator[str]:
    def broken() -> str | None:
        if told.get("broken"):
            raise RuntimeError("s3cret")
        return None

    server = HealthServer(
        metrics.registry,
        live={"workers": lambda: told["workers"], "broken": broken},
        ready={"cache": lambda: told["cache"]},
    )
    server.start()
    yield f"http://127.0.0.1:{server.port}"
    server.stop()


def get(address: str) -> httpx.Response:
    return httpx.get(address, trust_env=False)


def test_probes_say_what_is_wrong(url: str, told: dict[str, str | None]) -> None:
    """A probe is 200 while all its checks are well, and 503 with the reason otherwise; the other probe is untouched."""
    assert (200, 200) == (get(f"{url}/healthz").status_code, get(f"{url}/readyz?verbose").status_code)
    told["cache"] = "SocAdapter was not listed yet"
    answer = get(f"{url}/readyz")
    assert 503 == answer.status_code
    assert "[-]cache SocAdapter was not listed yet" in answer.text
    assert 200 == get(f"{url}/healthz").status_code


def test_check_that_raises_has_failed(url: str, told: dict[str, str | None]) -> None:
    """A broken check is a failed one, at once, without its message."""
    told["broken"] = "yes"
    answer = get(f"{url}/healthz")
    assert 503 == answer.status_code
    assert "s3cret" not in answer.text


def test_nothing_else_is_served(url: str) -> None:
    """Other paths are not found, other methods not known."""
    assert 404 == get(f"{url}/").status_code
    assert 501 == httpx.post(f"{url}/metrics", trust_env=False).status_code


def samples(url: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels; a name that appears in two blocks would be refused by Prometheus."""
    families = list(text_string_to_metric_families(get(f"{url}/metrics").text))
    names = [family.name for family in families]
    assert sorted(set(names)) == sorted(names)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_controller_runtimes_names(url: str, metrics: Metrics) -> None:
    """Dashboards for controller-runtime find their series, at 0 before anything happened, for every controller."""
    queues: list[WorkQueue[str]] = []
    for controller in ("SocAdapter", "SocServingPool"):
        queue: WorkQueue[str] = WorkQueue(meter=metrics.controller(controller, 2, lambda: queues[0].running_s()))
        queues.append(queue)
    found = samples(url)
    for controller in ("SocAdapter", "SocServingPool"):
        named, both = (("controller", controller),), (("controller", controller), ("name", controller))
        for result in ("success", "error", "requeue", "requeue_after"):
            assert 0 == found["controller_runtime_reconcile_total", (*named, ("result", result))]
        for name in (
            "controller_runtime_reconcile_errors_total",
            "controller_runtime_terminal_reconcile_errors_total",
            "controller_runtime_reconcile_panics_total",
            "controller_runtime_active_workers",
        ):
            assert 0 == found[name, named]
        assert 2 == found["controller_runtime_max_concurrent_reconciles", named]
        for name in ("workqueue_depth", "workqueue_adds_total", "workqueue_retries_total"):
            assert 0 == found[name, both]
        assert 0 == found["workqueue_longest_running_processor_seconds", both]


def test_queue_is_measured(url: str, metrics: Metrics) -> None:
    """What happens in a queue and its workers shows up."""
    queue: WorkQueue[str] = WorkQueue(meter=metrics.controller("SocAdapter", 2, lambda: queue.running_s()))
    for key in ("a", "a", "b"):
        queue.add(key)
    queue.take(timeout_s=0)
    metrics.reconciled("SocAdapter", Outcome.ERROR, ClusterUnavailable("no answer"), 0.1)
    metrics.reconciled("SocAdapter", Outcome.ERROR, ObjectInvalid("wrong"), 0.1)
    metrics.reconciled("SocAdapter", Outcome.ERROR, ZeroDivisionError(), 0.1)
    metrics.reconciled("SocAdapter", Outcome.SUCCESS, None, 0.1)
    found = samples(url)
    named, both = (("controller", "SocAdapter"),), (("controller", "SocAdapter"), ("name", "SocAdapter"))
    assert (2, 1, 1) == (
        found["workqueue_adds_total", both],
        found["workqueue_depth", both],
        found["controller_runtime_active_workers", named],
    )
    assert (3, 1, 1) == (
        found["controller_runtime_reconcile_errors_total", named],
        found["controller_runtime_terminal_reconcile_errors_total", named],
        found["controller_runtime_reconcile_panics_total", named],
    )
    assert 4 == found["controller_runtime_reconcile_time_seconds_count", named]


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        pytest.param("Published", "Published", id="good"),
        pytest.param("GateFailed", "GateFailed", id="a gate"),
        pytest.param("Failed", "OneClass", id="what the run says"),
        pytest.param("Failed", "RunLost", id="nothing was left"),
        pytest.param("Failed", "DigestMismatch", id="what was left is not right"),
        pytest.param("Failed", "DeadlineExceeded", id="KubeRay ended it"),
        pytest.param("Failed", "RuntimeEnvFailed", id="Ray ended it"),
    ],
)
def test_the_first_end_of_a_run_is_an_increase(url: str, metrics: Metrics, result: str, reason: str) -> None:
    """The series is there at 0 before, so that `increase` sees the first failure of a kind."""
    series = "socadapter_runs_total", (("reason", reason), ("result", result))
    assert 0 == samples(url)[series]
    metrics.run_ended(result, reason, 60.0)
    assert 1 == samples(url)[series]


def test_series_of_a_resource_go_with_it(url: str, metrics: Metrics) -> None:
    """What is told of a resource is there until the resource is deleted, and then no series names it."""
    resource = ResourceId("SocAdapter", "soc", "cloud")
    state = ResourceState({"Ready": "True"}, {"context": "cloud", "pool": "base"}, born_at=10.0, ready_at=25.0)
    metrics.resources.tell(resource, state)
    metrics.resources.missed_ticks(resource, 2)
    found = samples(url)
    identity = (("kind", "SocAdapter"), ("name", "cloud"), ("namespace", "soc"))
    assert 15 == found["socadapter_time_to_ready_seconds", identity]
    assert 2 == found["socadapter_schedule_missed_total", identity]
    ready = {dict(labels)["status"]: value for (name, labels), value in found.items() if name == "socadapter_condition"}
    assert {"True": 1} == ready
    metrics.resources.forget(resource)
    assert "cloud" not in get(f"{url}/metrics").text
