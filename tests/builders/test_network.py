"""Policies: Ray's ports are for the cluster's own pods, the dashboard for operators, the gateway for its users."""

from typing import Any

import pytest
from tests.builders.resources import INSTALLATION, make_adapter, make_pool

from socadapter_operator.builders import network
from socadapter_operator.builders.installation import Installation

RUN = "cloud-0123456789"
OWN = {"socadapter.io/run": RUN, "app.kubernetes.io/component": "training"}
POOL = {"socadapter.io/pool": "soc-base"}
KUBERAY = {"app.kubernetes.io/name": "kuberay-operator"}
OPERATOR = {"app.kubernetes.io/name": "socadapter-operator"}


def selects(selector: dict[str, Any] | None, labels: dict[str, str]) -> bool:
    """Whether a label selector matches; none at all matches everything."""
    wanted = (selector or {}).get("matchLabels", {})
    return all(labels.get(key) == value for key, value in wanted.items())


def admits(policy: dict[str, Any], port: int, labels: dict[str, str], namespace: str = "soc") -> bool:
    """Whether a policy in ``soc`` lets a pod with `labels` of `namespace` in at `port`, as Kubernetes reads it."""
    for rule in policy["spec"]["ingress"]:
        ports = [entry["port"] for entry in rule.get("ports", [])]
        if ports and port not in ports:
            continue
        for peer in rule["from"]:
            elsewhere = peer.get("namespaceSelector")
            within = selects(elsewhere, {"kubernetes.io/metadata.name": namespace}) if elsewhere else namespace == "soc"
            if within and selects(peer.get("podSelector"), labels):
                return True
    return False


def of_run(**access: Any) -> dict[str, Any]:
    return network.of_run(RUN, make_adapter(), make_pool(access=access), INSTALLATION)


def of_pool(**access: Any) -> dict[str, Any]:
    return network.of_pool("soc-base", make_pool(access=access), INSTALLATION)


@pytest.mark.parametrize(
    ("port", "labels", "namespace", "expected"),
    [
        pytest.param(6379, OWN, "soc", True, id="own pod, GCS"),
        pytest.param(8265, OWN, "soc", True, id="submitter, dashboard"),
        pytest.param(31_234, OWN, "soc", True, id="own pod, worker port"),
        pytest.param(8265, KUBERAY, "kuberay", True, id="KubeRay, dashboard"),
        pytest.param(8265, OPERATOR, "socadapter-system", True, id="operator, dashboard"),
        pytest.param(6379, KUBERAY, "kuberay", False, id="KubeRay, GCS"),
        pytest.param(10001, OPERATOR, "socadapter-system", False, id="operator, client port"),
        pytest.param(8265, KUBERAY, "soc", False, id="impostor in the namespace"),
        pytest.param(8265, {"app": "x"}, "soc", False, id="neighbour, dashboard"),
        pytest.param(8265, {"socadapter.io/run": "other"}, "soc", False, id="another run, dashboard"),
        pytest.param(8265, OWN, "elsewhere", False, id="same labels in another namespace"),
        pytest.param(8080, {"app": "prometheus"}, "monitoring", False, id="metrics, unasked"),
    ],
)
def test_training(port: int, labels: dict[str, str], namespace: str, expected: bool) -> None:
    """A run's pods are reached by each other, and by the operators at the dashboard."""
    assert admits(of_run(), port, labels, namespace) is expected


@pytest.mark.parametrize(
    ("port", "labels", "namespace", "expected"),
    [
        pytest.param(8265, POOL, "soc", True, id="own pod, dashboard"),
        pytest.param(8000, {"app": "soar"}, "soc", True, id="neighbour, gateway"),
        pytest.param(8000, KUBERAY, "kuberay", True, id="KubeRay, proxy's health"),
        pytest.param(8000, OPERATOR, "socadapter-system", True, id="operator, gateway"),
        pytest.param(8000, {"app": "soar"}, "soar", False, id="another namespace, gateway"),
        pytest.param(8265, {"app": "soar"}, "soc", False, id="neighbour, dashboard"),
        pytest.param(10001, {"app": "soar"}, "soc", False, id="neighbour, client port"),
        pytest.param(6379, OWN, "soc", False, id="training pod, GCS"),
    ],
)
def test_serving(port: int, labels: dict[str, str], namespace: str, expected: bool) -> None:
    """A pool's gateway is reached from its namespace; Ray's own ports are not."""
    assert admits(of_pool(), port, labels, namespace) is expected


def test_named_namespaces_are_let_in() -> None:
    """Namespaces that the pool names reach the gateway, or the metrics, and nothing else."""
    policy = of_pool(gatewayNamespaces=["soar"], metricsNamespaces=["monitoring"])
    assert admits(policy, 8000, {"app": "x"}, "soar")
    assert admits(policy, 8080, {"app": "x"}, "monitoring")
    assert not admits(policy, 8265, {"app": "x"}, "soar")
    assert not admits(policy, 8000, {"app": "x"}, "monitoring")
    assert admits(of_run(metricsNamespaces=["monitoring"]), 8080, {"app": "x"}, "monitoring")


@pytest.mark.parametrize("policy", [pytest.param(of_run(), id="run"), pytest.param(of_pool(), id="pool")])
def test_default_is_to_deny(policy: dict[str, Any]) -> None:
    """A policy is about incoming connections, selects its own pods alone, and no rule admits everybody."""
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert len(policy["spec"]["podSelector"]["matchLabels"]) == 1
    assert all(rule["from"] for rule in policy["spec"]["ingress"])


def test_no_operators_is_nobody() -> None:
    """An installation that names no operators lets no more in: an empty list of peers would be everyone."""
    policy = network.of_run(RUN, make_adapter(), make_pool(), Installation("t", "s"))
    assert len(policy["spec"]["ingress"]) == 1
    assert not admits(policy, 8265, KUBERAY, "kuberay")
