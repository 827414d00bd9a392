"""The operator under its own ServiceAccount: the API server's audit log shows every right used and none refused."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.chart.conftest import CHART, Helm
from tests.controlplane.cluster import wait_for
from tests.controlplane.plane import ControlPlane
from tests.life_cycle.conftest import Site

from socadapter_api import digest
from socadapter_api.errors import Forbidden
from socadapter_api.pool import SocServingPool
from socadapter_operator.backends.cluster import ClusterBackends
from socadapter_operator.backends.kuberay import KubeRayBackend
from socadapter_operator.builders.installation import Installation
from socadapter_operator.domain import course, pool_planner
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.credentials import Kubeconfig
from socadapter_operator.kube.resources import (
    ADAPTER,
    CONFIG_MAP,
    EVENT,
    NETWORK_POLICY,
    POOL,
    RAY_JOB,
    RAY_SERVICE,
    SECRET,
    Kind,
    Object,
    uid_of,
)
from socadapter_operator.shell import endings
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

    def client(self, account: str = ACCOUNT) -> Client:
        """A client that may do what a ServiceAccount may."""
        return Client(Kubeconfig(self.plane.service_account_kubeconfig(self.namespace, account)))

    def until_let(self, account: str, verb: str, kind: Kind, namespace: str) -> None:
        """Waits until the API server has heard of a right."""
        asked = ("auth", "can-i", verb, f"{kind.plural}.{kind.group}".rstrip("."))
        whom = ("--as", f"system:serviceaccount:{self.namespace}:{account}")
        wait_for(
            lambda: self.plane.try_kubectl(*asked, *whom, namespace=namespace).returncode == 0, f"{asked} is a yes"
        )

    def used(self, account: str = ACCOUNT) -> set[Right]:
        """What the operator did."""
        return {_right(event) for event in self._events(account) if not _lacks_a_right(event)}

    def refused(self, account: str = ACCOUNT) -> set[Right]:
        """What it was not let do."""
        return {_right(event) for event in self._events(account) if _lacks_a_right(event)}

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

    def _events(self, account: str) -> list[dict[str, Any]]:
        user = f"system:serviceaccount:{self.namespace}:{account}"
        return [event for event in self.plane.audit_events(user) if "resource" in event.get("objectRef", {})]


def _right(event: dict[str, Any]) -> Right:
    about = event["objectRef"]
    resource = "/".join(part for part in (about["resource"], about.get("subresource")) if part)
    return about.get("apiGroup", ""), resource, event["verb"]


def _lacks_a_right(event: dict[str, Any]) -> bool:
    """Whether a right was missing.

    The decision alone tells too little: a patch that would have to create is allowed as a patch, and refused on the
    way. Nor does the code: admission answers 403 as well, to whoever makes something where all is being deleted.
    """
    status = event["responseStatus"]
    if event["annotations"]["authorization.k8s.io/decision"] == "forbid":
        return True
    causes = (status.get("details") or {}).get("causes") or ()
    return status["code"] == 403 and all(cause.get("reason") != "NamespaceTerminating" for cause in causes)


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


HIDDEN_BY_PATCH: set[Right] = {
    ("events.k8s.io", "events", "create"),
    ("networking.k8s.io", "networkpolicies", "create"),
    ("ray.io", "rayservices", "create"),
}
"""Rights that a server-side apply of what is not there asks for besides: the log names the patch."""


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


def test_every_right_is_for_something(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a Ray cluster that exists, then on KubeRay: nothing is refused, and every right that is granted is used."""
    for module in (course, pool_planner, endings):
        # Nothing tells of a child process's end: whoever asks for it asks more often.
        monkeypatch.setattr(module, "POLL", timedelta(seconds=0.25))
    installed.install(watchNamespaces=[installed.namespace])
    _live_outside(installed)
    _live_on_kuberay(installed)
    needed = installed.granted() - HIDDEN_BY_PATCH
    wait_for(lambda: installed.used() >= needed, f"in the audit log: {needed - installed.used()}")
    assert installed.refused() == set()
    assert installed.used() - installed.granted() == set()


def _live_outside(installed: Installed) -> None:
    """Versions come and go, and what has finalizers ends."""
    site = installed.site
    installed.operate(lambda _client: lambda _pool: site.backend, installed.namespace)
    site.pool(ray={"address": "http://ray.example.test:8265"})
    for rank in (2, 4, 8):
        site.adapter(lora={"rank": rank}, history={"successful": 1})
        site.until(lambda: _serves_what_is_asked(site.get()), f"a version of rank {rank}")
    site.until(lambda: len(site.versions()) < 3, "an old version forgotten")
    for kind, name in ((ADAPTER, "cloud"), (POOL, "base")):
        site.client.delete(kind, installed.namespace, name, uid=uid_of(site.get(name, kind)))
        site.until(partial(_is_gone, site, kind, name), f"{name} is gone")
    installed.operators.pop().stop()


def _serves_what_is_asked(adapter: Object) -> bool:
    status = adapter.get("status") or {}
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions") or ()}
    seen = status.get("observedGeneration") == adapter["metadata"]["generation"]
    return seen and (conditions.get("Ready"), conditions.get("Reconciling")) == ("True", "False")


def _is_gone(site: Site, kind: Kind, name: str) -> bool:
    return not site.get(name, kind)


def _live_on_kuberay(installed: Installed) -> None:
    """RayJob and RayService come and go with what is theirs."""
    site, namespace = installed.site, installed.namespace
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
    site.client.delete(RAY_JOB, namespace, run_id, uid=uid_of(job))
    site.until(lambda: uid_of(site.get(run_id, RAY_JOB)) not in ("", uid_of(job)), "the RayJob made again")
    client = installed.client()
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


HEAD = {"rayStartParams": {}, "template": {"spec": {"containers": [{"name": "head", "image": "ray"}]}}}
HAPPENED = {
    "action": "Test",
    "eventTime": "2026-01-01T00:00:00.000000Z",
    "reason": "Test",
    "reportingController": "test",
    "reportingInstance": "test",
    "type": "Normal",
}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        pytest.param(NETWORK_POLICY, {"spec": {"podSelector": {}}}, id="NetworkPolicy"),
        pytest.param(RAY_SERVICE, {"spec": {"rayClusterConfig": {"headGroupSpec": HEAD}}}, id="RayService"),
        pytest.param(EVENT, HAPPENED, id="Event"),
    ],
)
def test_apply_of_what_is_not_there_creates(installed: Installed, kind: Kind, body: Object) -> None:
    """Who may patch only is refused it, so the rights that no log shows are for something, too."""
    installed.install()
    rule = {"apiGroups": [kind.group], "resources": [kind.plural], "verbs": ["patch"]}
    role = {"kind": "Role", "apiGroup": "rbac.authorization.k8s.io", "name": "narrow"}
    subject = {"kind": "ServiceAccount", "name": "narrow", "namespace": installed.namespace}
    installed.plane.kubectl("create", "serviceaccount", "narrow", namespace=installed.namespace)
    for made in ({"kind": "Role", "rules": [rule]}, {"kind": "RoleBinding", "roleRef": role, "subjects": [subject]}):
        whole = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "narrow"}, **made}
        installed.plane.kubectl("apply", "--filename", "-", namespace=installed.namespace, stdin=whole)
    installed.until_let("narrow", "patch", kind, installed.namespace)
    item: Object = {"metadata": {"name": "new", "namespace": installed.namespace}, **body}
    if kind == EVENT:
        item["regarding"] = {"kind": "Namespace", "name": installed.namespace, "namespace": installed.namespace}
    client = installed.client("narrow")
    with pytest.raises(Forbidden, match="cannot create resource"):
        client.apply(kind, item)
    client.close()
    right = (kind.group, kind.plural, "patch")
    wait_for(lambda: installed.refused("narrow") == {right}, "what it lacked in the audit log")
    assert (kind.group, kind.plural, "create") in HIDDEN_BY_PATCH & installed.granted()


def test_what_admission_refuses_is_no_missing_right(installed: Installed) -> None:
    """In a namespace that is being deleted nothing can be made: that is no word about rights."""
    installed.install()
    client = installed.client()
    with installed.plane.namespace("going") as going:
        installed.until_let(ACCOUNT, "create", CONFIG_MAP, going)
        held = {"metadata": {"name": "holds", "namespace": going, "finalizers": ["example.test/held"]}}
        installed.site.client.create(CONFIG_MAP, held)
        installed.plane.kubectl("delete", "namespace", going, "--wait=false")
        with pytest.raises(Forbidden, match="being terminated"):
            client.create(CONFIG_MAP, {"metadata": {"name": "late", "namespace": going}})
        installed.site.client.merge(CONFIG_MAP, going, "holds", {"metadata": {"finalizers": None}}, manager="test")
    client.close()
    wait_for(lambda: installed.used() == {("", "configmaps", "create")}, "the attempt in the audit log")
    assert installed.refused() == set()
