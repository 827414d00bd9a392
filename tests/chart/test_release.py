"""A release's life on a real API server: installed, upgraded, rolled back, uninstalled."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.conftest import CHART, Helm, HelmFailed, Manifest
from tests.controlplane import plane
from tests.controlplane.cluster import Cluster, wait_for
from tests.controlplane.fixtures import program

pytestmark = pytest.mark.slow

RELEASE = "soc"
NAME = "soc-socadapter"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@dataclass(frozen=True, slots=True)
class Release:
    """The chart in a namespace of its own."""

    helm: Helm
    cluster: Cluster
    namespace: str

    def do(self, *arguments: str | Path, values: Manifest | None = None) -> str:
        """What Helm prints, at this cluster and namespace."""
        where = ("--kubeconfig", self.cluster.kubeconfig_of(), "--namespace", self.namespace)
        return self.helm(*arguments, *where, values=values)

    def deployment(self) -> Manifest | None:
        """The operator's Deployment, as it is now."""
        return self.cluster.get(f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{NAME}")

    def image(self) -> Any:
        """What its pods run."""
        found = self.deployment()
        assert found is not None
        return found["spec"]["template"]["spec"]["containers"][0]["image"]

    def pods(self) -> list[Manifest]:
        """The operator's pods that the API server has let in."""
        path = f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=app.kubernetes.io/component%3Doperator"
        found: list[Manifest] = (self.cluster.get(path) or {})["items"]
        return found


@pytest.fixture
def release(helm: Helm, cluster: Cluster, namespace: str) -> Iterator[Release]:
    made = Release(helm, cluster, namespace)
    yield made
    if RELEASE in made.do("list", "--short").split():
        made.do("uninstall", RELEASE)


def test_install_upgrade_roll_back_uninstall(release: Release) -> None:
    """Its pods are let in, image and count follow the values and go back; definitions and resources outlive it."""
    told = release.do("install", RELEASE, CHART, "--take-ownership")
    assert "works in every namespace" in told
    wait_for(lambda: len(release.pods()) == 2, "two pods that the restricted namespace let in")
    first = release.image()

    release.do("upgrade", RELEASE, CHART, values={"image": {"tag": "next"}, "replicas": 3})
    wait_for(lambda: len(release.pods()) >= 3, "the third pod")
    assert release.image() == "socadapter-operator:next"

    release.do("rollback", RELEASE, "1")
    assert release.image() == first
    assert (release.deployment() or {})["spec"]["replicas"] == 2

    adapter = {
        "apiVersion": "socadapter.io/v1alpha1",
        "kind": "SocAdapter",
        "metadata": {"name": "cloud", "namespace": release.namespace},
        "spec": {
            "context": "cloud",
            "servingPoolRef": {"name": "base"},
            "data": {"alerts": [{"uri": "alerts.jsonl"}]},
        },
    }
    path = f"/apis/socadapter.io/v1alpha1/namespaces/{release.namespace}/socadapters/cloud"
    release.cluster.apply(adapter, path)
    release.do("uninstall", RELEASE)
    assert release.deployment() is None
    assert release.cluster.get(f"{CRDS}/socadapters.socadapter.io") is not None
    assert release.cluster.get(path) is not None


@pytest.fixture
def bare(helm: Helm) -> Iterator[Release]:
    """The same on an API server of its own, whose definitions nobody else needs."""
    for name in plane.PROGRAMS:
        program(name)
    with plane.control_plane() as started, started.namespace("release") as namespace:
        yield Release(helm, started, namespace)


def test_definitions_come_change_and_go_with_the_release(bare: Release, tmp_path: Path) -> None:
    """Not over those of another; with the release they are made, follow its upgrade, and go if not to be kept."""
    with pytest.raises(HelmFailed, match="invalid ownership metadata"):
        bare.do("install", RELEASE, CHART)
    bare.cluster.kubectl("delete", "--filename", CHART / "files" / "crds")

    bare.do("install", RELEASE, CHART)
    path = f"{CRDS}/socservingpools.socadapter.io"
    assert bare.cluster.get(path) is not None

    newer = tmp_path / "newer"
    shutil.copytree(CHART, newer)
    definition = newer / "files" / "crds" / "socadapter.io_socservingpools.yaml"
    text = definition.read_text("utf-8")
    definition.write_text(text.replace("    - socpool\n", "    - socpool\n    - sp\n"))
    bare.do("upgrade", RELEASE, newer, values={"crds": {"keep": False}})
    assert (bare.cluster.get(path) or {})["spec"]["names"]["shortNames"] == ["socpool", "sp"]

    bare.do("uninstall", RELEASE)
    wait_for(lambda: bare.cluster.get(path) is None, "the definition gone with the release")


def test_bad_values_install_nothing(release: Release) -> None:
    """An unknown value is refused before anything is made."""
    with pytest.raises(HelmFailed, match="replicaCount"):
        release.do("install", RELEASE, CHART, values={"replicaCount": 1})
    assert release.do("list", "--short").split() == []
    assert release.deployment() is None


def test_users_see_and_edit_what_they_may(release: Release) -> None:
    """Whoever may edit a namespace edits resources in it, but no version; whoever may view it only looks."""
    release.do("install", RELEASE, CHART, values={"crds": {"enabled": False}})
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{release.namespace}/rolebindings"
    for role in ("edit", "view"):
        body = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "name": f"some-{role}er", "apiGroup": "rbac.authorization.k8s.io"}],
        }
        release.cluster.apply(body, f"{path}/{role}")

    def may(user: str, verb: str, resource: str) -> bool:
        asked = release.cluster.try_kubectl("auth", "can-i", verb, resource, "--as", user, namespace=release.namespace)
        return asked.stdout.strip() == "yes"

    wait_for(lambda: may("some-editer", "patch", "socadapters.socadapter.io"), "the roles aggregated")
    wait_for(lambda: may("some-viewer", "list", "socadapterversions.socadapter.io"), "the roles aggregated")
    assert not may("some-editer", "create", "socadapterversions.socadapter.io")
    assert not may("some-viewer", "patch", "socadapters.socadapter.io")


def test_manifests_for_kustomize_are_taken(cluster: Cluster, namespace: str) -> None:
    """The API server takes what `kubectl kustomize manifests/operator` makes, as a dry run."""
    folder = CHART.parents[1] / "manifests" / "operator"
    text = cluster.kubectl("kustomize", folder)
    kinds = {found["kind"] for found in yaml.safe_load_all(text)}
    assert {"Namespace", "CustomResourceDefinition", "Deployment"} <= kinds
    # A dry run makes no namespace that the rest could be in.
    moved = text.replace("namespace: socadapter-system", f"namespace: {namespace}")
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--filename", "-", stdin=moved)
