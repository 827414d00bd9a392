"""The operator under its own ServiceAccount: the API server's audit log shows nothing refused."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.chart.conftest import CHART, Helm
from tests.controlplane.cluster import wait_for
from tests.controlplane.plane import ControlPlane
from tests.life_cycle.conftest import Site

from socadapter_api import digest
from socadapter_api.pool import SocServingPool
from socadapter_operator.backends.cluster import ClusterBackends
from socadapter_operator.backends.kuberay import KubeRayBackend
from socadapter_operator.builders.installation import Installation
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.credentials import Kubeconfig
from socadapter_operator.kube.resources import ADAPTER, POOL, RAY_JOB, RAY_SERVICE, SECRET
from socadapter_operator.shell.operator import Backends, Operator, Settings
from socadapter_operator.shell.queue import Backoff

pytestmark = pytest.mark.slow

ACCOUNT = "soc-socadapter"
INSTALLATION = Installation("registry.example/ray:1", "registry.example/ray:1")

Right = tuple[str, str, str]
"""Group, resource and verb."""


@dataclass
class Installed:
    """The chart's roles in a namespace, and a place where an operator works under them."""

    plane: ControlPlane
    namespace: str
    helm: Helm
    site: Site
    operators: list[Operator] = field(default_factory=list)

    def install(self, **values: Any) -> None:
        """Installs the chart; no pod of it ever runs here."""
        where = ("--kubeconfig", self.plane.kubeconfig_of(), "--namespace", self.namespace)
        self.helm("install", "soc", CHART, *where, values={"crds": {"enabled": False}, **values})

    def operate(self, backends: Backends, *namespaces: str) -> None:
        """Starts an operator under the chart's ServiceAccount, with its Lease."""
        settings = Settings(
            cache_folder=self.site.root / "cache",
            identity=uuid.uuid4().hex,
            namespaces=namespaces,
            lease_namespace=self.namespace,
            backoff=Backoff(first_s=0.05, cap_s=1.0),
        )
        credentials = Kubeconfig(self.plane.service_account_kubeconfig(self.namespace, ACCOUNT))
        operator = Operator(credentials, settings, backends, on_lost=lambda: None)
        self.operators.append(operator)
        operator.start()

    def end(self) -> None:
        """Ends the operators and uninstalls the chart."""
        for operator in self.operators:
            operator.stop()
        self.helm("uninstall", "soc", "--kubeconfig", self.plane.kubeconfig_of(), "--namespace", self.namespace)

    def used(self) -> set[Right]:
        """What the operator did."""
        return {_right(event) for event in self._events() if event["responseStatus"]["code"] != 403}

    def refused(self) -> set[Right]:
        """What it was not let do."""
        return {_right(event) for event in self._events() if event["responseStatus"]["code"] == 403}

    def granted(self) -> set[Right]:
        """What the chart's roles let it do."""
        objects = [
            found
            for found in self.helm.render({"watchNamespaces": [self.namespace]}, namespace=self.namespace)
            if found["kind"] == "Role"
        ]
        return {
            (group, resource, verb)
            for found in objects
            for rule in found["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }

    def _events(self) -> list[dict[str, Any]]:
        account = f"system:serviceaccount:{self.namespace}:{ACCOUNT}"
        return [event for event in self.plane.audit_events(account) if "resource" in event.get("objectRef", {})]


def _right(event: dict[str, Any]) -> Right:
    about = event["objectRef"]
    resource = "/".join(part for part in (about["resource"], about.get("subresource")) if part)
    return about.get("apiGroup", ""), resource, event["verb"]


@pytest.fixture
def installed(control_plane: ControlPlane, namespace: str, helm: Helm, tmp_path: Path) -> Iterator[Installed]:
    site = Site(control_plane, namespace, tmp_path)
    made = Installed(control_plane, namespace, helm, site)
    yield made
    made.end()
    site.end()


LIFE_OF_A_VERSION: set[Right] = {
    ("socadapter.io", "socadapters", "list"),
    ("socadapter.io", "socadapters", "watch"),
    ("socadapter.io", "socadapters", "get"),
    ("socadapter.io", "socadapters/status", "patch"),
    ("socadapter.io", "socservingpools/status", "patch"),
    ("socadapter.io", "socadapterversions", "create"),
    ("socadapter.io", "socadapterversions/status", "patch"),
    ("events.k8s.io", "events", "patch"),
    ("coordination.k8s.io", "leases", "create"),
    ("coordination.k8s.io", "leases", "update"),
    ("ray.io", "rayjobs", "watch"),
    ("ray.io", "rayservices", "watch"),
}


NOT_SEEN_HERE: set[Right] = {
    # A server-side apply of what is not there asks for both; the log names the patch.
    ("events.k8s.io", "events", "create"),
    ("networking.k8s.io", "networkpolicies", "create"),
    ("ray.io", "rayservices", "create"),
    # What is there already is looked at, to see whose it is.
    ("", "configmaps", "get"),
    # Finalizers, for Ray clusters that exist.
    ("socadapter.io", "socadapters", "patch"),
    ("socadapter.io", "socservingpools", "patch"),
    # The life of a version.
    ("socadapter.io", "socadapterversions", "get"),
    ("socadapter.io", "socadapterversions", "create"),
    ("socadapter.io", "socadapterversions", "delete"),
    ("socadapter.io", "socadapterversions/status", "patch"),
}
"""Rights that runs and services of KubeRay do without in this test, and what they are for."""


@pytest.mark.parametrize("everywhere", [pytest.param(True, id="cluster"), pytest.param(False, id="namespaces")])
def test_a_version_comes_to_serve(installed: Installed, everywhere: bool) -> None:
    """From two resources to a version that serves, nothing is refused and nothing done that is not granted."""
    site, namespaces = installed.site, () if everywhere else (installed.namespace,)
    installed.install(watchNamespaces=list(namespaces))
    installed.operate(lambda _client: lambda _pool: site.backend, *namespaces)
    site.pool()
    site.adapter()
    site.until_ready()
    wait_for(lambda: installed.used() >= LIFE_OF_A_VERSION, "what the operator did in the audit log")
    assert installed.refused() == set()
    assert installed.used() - installed.granted() == set()


def test_runs_and_services_of_kuberay(installed: Installed) -> None:
    """RayJob and RayService come and go with what is theirs: nothing is refused, and every right is for something."""
    site, namespace = installed.site, installed.namespace
    installed.install(watchNamespaces=[namespace])
    site.client.create(
        SECRET, {"metadata": {"name": "soar", "namespace": namespace}, "stringData": {"token": "of-a-caller"}}
    )
    installed.operate(lambda client: ClusterBackends(client, INSTALLATION), namespace)
    caller = {"name": "soar", "tokenSecretRef": {"name": "soar", "key": "token"}}
    site.pool(base={"uri": "builtin://tiny", "digest": digest.of_bytes(b"base")}, host="0.0.0.0", callers=[caller])
    site.adapter()
    site.until(lambda: site.client.list(RAY_JOB, namespace).items, "a RayJob")
    site.until(lambda: site.client.list(RAY_SERVICE, namespace).items, "a RayService")
    (job,) = site.client.list(RAY_JOB, namespace).items
    run_id = job["metadata"]["name"]
    client = Client(Kubeconfig(installed.plane.service_account_kubeconfig(namespace, ACCOUNT)))
    backend = KubeRayBackend(client, namespace, INSTALLATION)
    for operator in installed.operators:
        operator.stop()
    identity = {"name": run_id, "namespace": namespace}
    for status in ({"jobDeploymentStatus": "Initializing", "rayClusterName": "ray"}, {"jobDeploymentStatus": "Failed"}):
        site.client.apply_status(RAY_JOB, {"metadata": identity, "status": status}, manager="kuberay")
        backend.observe(run_id)
    backend.forget(run_id)
    backend.delete(SocServingPool.model_validate(site.get("base", POOL)))
    backend.close()
    client.close()
    for kind, name in ((ADAPTER, "cloud"), (POOL, "base")):
        site.client.delete(kind, namespace, name, uid=str(site.get(name, kind)["metadata"]["uid"]))
    needed = installed.granted() - NOT_SEEN_HERE
    wait_for(lambda: installed.used() >= needed, "every right that a run and a service need in the audit log")
    assert installed.refused() == set()
    assert installed.used() - installed.granted() == set()
