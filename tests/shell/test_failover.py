"""Operators as processes on a real API server, with the times of a release: one writes, and another one takes over."""

import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.controlplane.cluster import wait_for
from tests.controlplane.plane import ControlPlane
from tests.controlplane.processes import Child, free_port

from socadapter_operator.kube.client import Client
from socadapter_operator.kube.credentials import Kubeconfig
from socadapter_operator.kube.lease import LeaseTimes
from socadapter_operator.kube.resources import ADAPTER, LEASE
from socadapter_operator.shell.operator import LEASE as LEASE_NAME

pytestmark = pytest.mark.slow

TIMES = LeaseTimes()
BUSY_S = 10.0
"""What a machine that does other things may add to any time."""

IMAGES = ("--training-image", "registry.example/training:1", "--serving-image", "registry.example/serving:1")
_READS = ("get", "list", "watch")


@dataclass
class Replica:
    """One operator, known to the API server by a name of its own."""

    name: str
    child: Child
    port: int

    def ready(self) -> bool:
        self.child.require_running()
        try:
            return self._asked("/readyz").is_success
        except httpx.TransportError:
            return False

    def metric(self, name: str, /, **labels: str) -> float:
        """The sample of that name and those labels; 0 where there is none."""
        families = text_string_to_metric_families(self._asked("/metrics").text)
        samples = (sample for family in families for sample in family.samples if sample.name == name)
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    @property
    def leads(self) -> bool:
        return self.metric("leader_election_master_status", name=LEASE_NAME) == 1

    def send(self, number: signal.Signals) -> None:
        self.child.process.send_signal(number)

    def ended(self) -> int:
        """Waits for the process; its status."""
        return self.child.process.wait(TIMES.renew_deadline_s + BUSY_S)

    def _asked(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", trust_env=False, timeout=BUSY_S)


@dataclass
class Site:
    """One namespace and the replicas that work in it."""

    plane: ControlPlane
    namespace: str
    root: Path
    environment: pytest.MonkeyPatch
    replicas: list[Replica] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = Client(Kubeconfig(self.plane.kubeconfig))

    def start(self, name: str) -> Replica:
        """A process that begins; `warm` waits until it knows everything."""
        folder, port = self.root / name, free_port()
        folder.mkdir()
        login = self.plane.certificate_kubeconfig(f"{self.namespace}-{name}", "system:masters")
        self.environment.setenv("KUBECONFIG", str(login))
        where = ("--namespaces", self.namespace, "--pod-namespace", self.namespace, "--cache", str(folder / "cache"))
        options = (*IMAGES, *where, "--health-port", str(port))
        child = Child.start(Path(sys.executable), ["-P", "-m", "socadapter_operator", *options], folder)
        self.replicas.append(Replica(f"{self.namespace}-{name}", child, port))
        return self.replicas[-1]

    def warm(self, replica: Replica, adapters: int) -> None:
        wait_for(replica.ready, f"{replica.name} is ready")
        assert adapters == replica.metric("socadapter_cache_objects", kind=ADAPTER.kind)

    def adapter(self, name: str) -> None:
        """Applies an adapter without a pool: a status is all that an operator can write of it."""
        spec = {"context": name, "servingPoolRef": {"name": "missing"}, "data": {"alerts": [{"uri": "alerts.jsonl"}]}}
        self.client.create(ADAPTER, {"metadata": {"name": name, "namespace": self.namespace}, "spec": spec})

    def seconds_until_told(self, name: str) -> float:
        """How long it takes from now until somebody has written the adapter's status."""
        began = time.monotonic()
        wait_for(lambda: self._told(name), f"somebody looks after {name}")
        return time.monotonic() - began

    def writes_of(self, replica: Replica, since: datetime | None = None) -> list[str]:
        """What it changed, as the API server's audit log has it."""
        events = [event for event in self.plane.audit_events(replica.name) if event["verb"] not in _READS]
        return [
            f"{event['verb']} {event['requestURI']}"
            for event in events
            if event["responseStatus"]["code"] < httpx.codes.BAD_REQUEST
            if since is None or datetime.fromisoformat(event["requestReceivedTimestamp"]) >= since
        ]

    def leader_of(self, replicas: Sequence[Replica]) -> Replica:
        """The one that leads."""
        (found,) = [replica for replica in replicas if replica.leads]
        return found

    def holder(self) -> str:
        lease = self.client.get(LEASE, self.namespace, LEASE_NAME)
        return str(lease["spec"].get("holderIdentity") or "")

    def end(self) -> None:
        for replica in self.replicas:
            replica.child.kill()
        self.client.close()

    def _told(self, name: str) -> bool:
        held: Any = self.client.get(ADAPTER, self.namespace, name)
        return bool(held["status"]["observedGeneration"] == held["metadata"]["generation"])


@pytest.fixture
def site(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    made = Site(control_plane, namespace, tmp_path, monkeypatch)
    yield made
    made.end()


def test_replicas_take_over_from_one_another(site: Site) -> None:
    """From one that stood still, which ends by itself when it wakes; from one that was killed; from one that may stop.

    Those that wait keep their caches warm and write nothing.
    """
    longest_s = TIMES.promised_s + 1.2 * TIMES.retry_s + BUSY_S
    first = site.start("first")
    wait_for(lambda: first.ready() and first.leads, "the first leads")
    site.adapter("one")
    site.seconds_until_told("one")
    standbys = [site.start(name) for name in ("second", "third", "fourth")]
    for replica in standbys:
        site.warm(replica, adapters=1)
        assert ([], False) == (site.writes_of(replica), replica.leads)

    first.send(signal.SIGSTOP)
    site.adapter("two")
    assert site.seconds_until_told("two") < longest_s
    second = site.leader_of(standbys)
    woken = datetime.now(UTC)
    first.send(signal.SIGCONT)
    assert (1, []) == (first.ended(), site.writes_of(first, since=woken))

    second.send(signal.SIGKILL)
    standbys.remove(second)
    site.adapter("three")
    assert site.seconds_until_told("three") < longest_s
    third = site.leader_of(standbys)
    standbys.remove(third)
    (fourth,) = standbys
    assert [] == site.writes_of(fourth)

    third.send(signal.SIGTERM)
    site.adapter("four")
    assert site.seconds_until_told("four") < TIMES.renew_deadline_s
    assert (0, True) == (third.ended(), fourth.leads)
    fourth.send(signal.SIGTERM)
    assert (0, "") == (fourth.ended(), site.holder())


def test_one_that_waits_can_be_told_to_end(site: Site) -> None:
    """It has nothing to give back, and the leader keeps what it has."""
    first = site.start("first")
    wait_for(lambda: first.ready() and first.leads, "the first leads")
    second = site.start("second")
    wait_for(second.ready, "the second waits")
    held = site.holder()
    second.send(signal.SIGTERM)
    assert (0, held) == (second.ended(), site.holder())
