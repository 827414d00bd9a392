"""Which operators the policies let in: the pods that the operator's own options name, as it is installed."""

import inspect
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from tests.builders.resources import make_adapter, make_pool
from tests.builders.test_network import admits

from socadapter_operator.__main__ import installation, main
from socadapter_operator.builders import network, pods
from socadapter_operator.builders.installation import Installation

INSTALLED = Path(__file__).parents[2] / "manifests" / "operator" / "operator.yaml"
OWN_NAMESPACE = "socadapter-system"
IMAGES = ("--training-image", "ray:1", "--serving-image", "ray:1", "--cache", "/var/cache/socadapter")
BY_CHART = {
    "app.kubernetes.io/name": "kuberay-operator",
    "app.kubernetes.io/instance": "kuberay",
    "app.kubernetes.io/component": "kuberay-operator",
}
BY_KUSTOMIZE = {"app.kubernetes.io/name": "kuberay", "app.kubernetes.io/component": "kuberay-operator"}
RAY_HEAD = {"app.kubernetes.io/name": "kuberay", "app.kubernetes.io/created-by": "kuberay-operator"}
NEIGHBOUR = {"app.kubernetes.io/name": "prometheus", "app.kubernetes.io/component": "server"}


def installed(*arguments: str) -> Installation:
    """What `main` makes of its options and its environment."""
    with main.make_context("socadapter-operator", [*arguments]) as context:
        return installation(**{name: context.params[name] for name in inspect.signature(installation).parameters})


def policies(made: Installation) -> list[dict[str, Any]]:
    return [
        network.of_run("cloud-0123456789", make_adapter(), make_pool(), made),
        network.of_pool("soc-base", make_pool(), made),
    ]


def reach(made: Installation, labels: dict[str, str], namespace: str) -> set[bool]:
    """Whether a pod reaches the dashboards of a run and of a pool."""
    return {admits(policy, pods.DASHBOARD_PORT, labels, namespace) for policy in policies(made)}


@pytest.mark.parametrize(
    ("labels", "namespace", "expected"),
    [
        pytest.param(BY_CHART, "kuberay", True, id="KubeRay by its chart"),
        pytest.param(BY_KUSTOMIZE, "kuberay", True, id="KubeRay by kustomize"),
        pytest.param(RAY_HEAD, "kuberay", False, id="Ray cluster beside KubeRay"),
        pytest.param(NEIGHBOUR, "kuberay", False, id="neighbour of KubeRay"),
        pytest.param(NEIGHBOUR, OWN_NAMESPACE, False, id="neighbour of the operator"),
        pytest.param({}, OWN_NAMESPACE, False, id="pod without labels"),
        pytest.param(BY_CHART, "elsewhere", False, id="KubeRay's labels in another namespace"),
    ],
)
def test_operators_alone_are_let_in(labels: dict[str, str], namespace: str, expected: bool) -> None:
    """Of the operators' namespaces only the operators' pods reach a dashboard, and none of them GCS."""
    made = installed(*IMAGES, "--pod-namespace", OWN_NAMESPACE, "--kuberay-namespace", "kuberay")
    assert {expected} == reach(made, labels, namespace)
    assert not any(admits(policy, pods.GCS_PORT, labels, namespace) for policy in policies(made))


def test_operator_as_installed_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The labels and the environment that the manifests give the operator's pods let these pods in, and no others."""
    (deployment,) = (item for item in yaml.safe_load_all(INSTALLED.read_text("utf-8")) if item["kind"] == "Deployment")
    pod = deployment["spec"]["template"]
    for variable in pod["spec"]["containers"][0]["env"]:
        monkeypatch.setenv(variable["name"], variable.get("value", OWN_NAMESPACE))
    assert {True} == reach(installed(), pod["metadata"]["labels"], OWN_NAMESPACE)
    assert {False} == reach(installed(), NEIGHBOUR, OWN_NAMESPACE)


def test_labels_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other labels are taken from options and from the environment; an empty variable leaves them as they are."""
    monkeypatch.setenv("SOCADAPTER_OPERATOR_POD_LABELS", "app=soc, tier=ops")
    monkeypatch.setenv("SOCADAPTER_OPERATOR_KUBERAY_LABELS", "")
    made = installed(*IMAGES, "--kuberay-namespace", "kuberay")
    assert [{"app": "soc", "tier": "ops"}, {"app.kubernetes.io/component": "kuberay-operator"}] == [
        peer.labels for peer in made.operators
    ]
    told = installed(*IMAGES, "--kuberay-namespace", "kuberay", "--kuberay-labels", "app=kuberay")
    assert {"app": "kuberay"} == told.operators[1].labels


@pytest.mark.parametrize("labels", ["", "app", "app=", "=x", "a=b,"])
def test_no_labels_are_refused(labels: str) -> None:
    """What names no labels would let whole namespaces in, and the operator does not start with it."""
    with pytest.raises(click.BadParameter, match="is no KEY=VALUE"):
        installed(*IMAGES, "--kuberay-labels", labels)


def test_kuberay_is_let_in_where_it_is_named() -> None:
    """Without its namespace no pod is KubeRay's."""
    assert [OWN_NAMESPACE] == [
        peer.namespace for peer in installed(*IMAGES, "--pod-namespace", OWN_NAMESPACE).operators
    ]
