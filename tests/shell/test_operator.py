"""The whole operator on a real API server: what it measures, and what its probes say of its threads."""

import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.controlplane.cluster import Cluster, wait_for
from tests.shell.conftest import DEADLINE_S
from tests.shell.test_controllers import Still

from socadapter_operator.kube.attempts import Write, WriteHook
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.credentials import Kubeconfig
from socadapter_operator.kube.lease import LeaseTimes
from socadapter_operator.kube.resources import ADAPTER, LEASE, Object, ObjectKey, uid_of
from socadapter_operator.shell.listing import ListTimes
from socadapter_operator.shell.operator import LEASE as LEASE_NAME
from socadapter_operator.shell.operator import Operator, Settings
from socadapter_operator.shell.resource_series import ResourceId, ResourceState

pytestmark = pytest.mark.slow


@dataclass
class Site:
    """One namespace and the operators that were started for it."""

    cluster: Cluster
    namespace: str
    root: Path
    operators: list[Operator] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = Client(Kubeconfig(self.cluster.kubeconfig))

    def operate(self, *hooks: WriteHook, **settings: Any) -> Operator:
        """A new operator, started, that trains and serves nothing."""
        wanted = {
            "cache_folder": self.root / "cache",
            "identity": uuid.uuid4().hex,
            "namespaces": (self.namespace,),
            "lease_namespace": self.namespace,
            "lease_times": LeaseTimes(promised_s=4, renew_deadline_s=3, retry_s=0.5),
            "list_times": ListTimes(every=timedelta(seconds=5)),
        }
        backend: Any = Still()
        made = Operator(
            Kubeconfig(self.cluster.kubeconfig),
            Settings(**{**wanted, **settings}),
            lambda _client: lambda _pool: backend,
            hooks=hooks,
            on_lost=lambda: None,
        )
        self.operators.append(made)
        made.start()
        return made

    def adapter(self, name: str = "cloud") -> Object:
        """An adapter whose pool does not exist, which is all that there is to say of it."""
        spec = {"context": name, "servingPoolRef": {"name": "missing"}, "data": {"alerts": [{"uri": "alerts.jsonl"}]}}
        return self.client.create(ADAPTER, {"metadata": {"name": name, "namespace": self.namespace}, "spec": spec})

    def delete(self, adapter: Object) -> None:
        self.client.delete(ADAPTER, self.namespace, adapter["metadata"]["name"], uid=uid_of(adapter))

    def until(self, holds: Callable[[], object], what: str) -> None:
        wait_for(lambda: holds() or None, what, DEADLINE_S)

    def end(self) -> None:
        for operator in self.operators:
            operator.stop()
        self.client.close()


@pytest.fixture
def site(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[Site]:
    made = Site(cluster, namespace, tmp_path)
    yield made
    made.end()


def asked(operator: Operator, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{operator.health.port}{path}", trust_env=False)


def names(operator: Operator) -> set[str]:
    """The resources that some series is about."""
    families = text_string_to_metric_families(asked(operator, "/metrics").text)
    samples = (sample for family in families for sample in family.samples if "namespace" in sample.labels)
    return {str(sample.labels["name"]) for sample in samples}


def test_series_are_deleted_with_the_resource(site: Site) -> None:
    """They come with the first look at it, and go when it does; those of others stay."""
    operator = site.operate(elect=False)
    going, _ = site.adapter("going"), site.adapter("staying")
    site.until(lambda: names(operator) == {"going", "staying"}, "both have series")
    site.delete(going)
    site.until(lambda: names(operator) == {"staying"}, "the series of one are gone")


def test_a_resource_deleted_while_it_is_told_of_leaves_no_series(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its deletion arrives between the look at the cache and the word to the metrics."""
    operator = site.operate(elect=False)
    tell, key = operator.metrics.resources.tell, ObjectKey(site.namespace, "cloud")
    first, late = threading.Lock(), threading.Event()

    def tell_late(resource: ResourceId, state: ResourceState) -> None:
        if first.acquire(blocking=False):
            site.delete(site.client.get(ADAPTER, *key))
            site.until(lambda: operator.cache.get(ADAPTER, key) is None, "the cache has heard of it")
            tell(resource, state)
            late.set()
        else:
            tell(resource, state)

    monkeypatch.setattr(operator.metrics.resources, "tell", tell_late)
    site.adapter()
    assert late.wait(DEADLINE_S)
    site.until(lambda: operator.idle() and names(operator) == set(), "no series is left")


def test_every_request_is_measured(site: Site) -> None:
    """A standby writes nothing but leases, and those, its lists and their times are in the metrics."""
    operator = site.operate()
    site.until(lambda: operator.elector.leading and operator.lister.complete() is None, "it leads")
    families = list(text_string_to_metric_families(asked(operator, "/metrics").text))
    samples = [sample for family in families for sample in family.samples]
    methods = {s.labels["method"] for s in samples if s.name == "rest_client_requests_total" and s.value}
    timed = {s.labels["verb"] for s in samples if s.name == "rest_client_request_duration_seconds_count" and s.value}
    assert {"GET", "POST"} <= methods
    assert methods == timed


class Defect:
    """A write hook that lets nothing through."""

    def before(self, write: Write) -> None:
        raise ZeroDivisionError

    def after(self, write: Write) -> None: ...


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_probe_tells_of_a_recorder_that_ended(site: Site) -> None:
    """It is 200 while every thread lives; a defect that ends the recorder's makes it 503, with the reason."""
    operator = site.operate(Defect(), elect=False)
    site.until(lambda: operator.idle() and asked(operator, "/healthz").is_success, "it is well")
    site.adapter()
    site.until(lambda: not asked(operator, "/healthz").is_success, "it is not")
    assert "the event recorder's thread has ended" in asked(operator, "/healthz").text


def test_the_probe_tells_of_an_elector_that_ended(site: Site) -> None:
    """A process that lost its Lease and did not end with it is not well."""
    operator = site.operate()
    site.until(lambda: operator.elector.leading and asked(operator, "/healthz").is_success, "it leads")
    lease = site.client.get(LEASE, site.namespace, LEASE_NAME)
    site.client.apply(
        LEASE,
        {"metadata": {"namespace": site.namespace, "name": LEASE_NAME}, "spec": {"holderIdentity": "thief"}},
        manager="thief",
    )
    assert lease["spec"]["holderIdentity"] == operator.elector.identity
    site.until(lambda: not asked(operator, "/healthz").is_success, "it is not well")
    assert "the elector's thread has ended" in asked(operator, "/healthz").text
