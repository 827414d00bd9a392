"""What the chart renders: restricted pods, rights without wildcards, images by digest, and what switches bring."""

import json
import re
from typing import Any

import pytest
import yaml
from tests.chart.conftest import CHART, Helm, Manifest, Render, of_kind

from socadapter_operator.__main__ import main
from socadapter_operator.builders import pod_security
from socadapter_operator.kube.resources import KINDS
from socadapter_operator.shell import tracing
from socadapter_operator.shell.metrics import Metrics
from socadapter_operator.shell.operator import LEASE
from socadapter_operator.shell.resource_series import ResourceId, ResourceState

pytestmark = pytest.mark.slow

DIGEST = "sha256:" + "ab" * 32
EVERYTHING: Manifest = {
    "commonLabels": {"team": "soc"},
    "image": {"repository": "registry.example/socadapter-operator", "digest": DIGEST},
    "watchNamespaces": ["soc", "lab"],
    "kuberay": {"namespace": "kuberay"},
    "env": [{"name": "AWS_REGION", "value": "eu-west-1"}],
    "envFrom": [{"secretRef": {"name": "store"}}],
    "extraVolumes": [{"name": "store", "persistentVolumeClaim": {"claimName": "store"}}],
    "extraVolumeMounts": [{"name": "store", "mountPath": "/store"}],
    "nodeSelector": {"pool": "ops"},
    "tolerations": [{"key": "ops", "operator": "Exists"}],
    "priorityClassName": "system-cluster-critical",
    "networkPolicy": {"metricsNamespaces": ["monitoring"]},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
    "dashboard": {"enabled": True},
    "rbac": {"finalizers": True},
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-more"}, "data": {"a": "b"}}
    ],
}
LEAST: Manifest = {
    "replicas": 1,
    "crds": {"enabled": False},
    "rbac": {"create": False},
    "serviceAccount": {"create": False, "name": "mine"},
    "networkPolicy": {"enabled": False},
    "podDisruptionBudget": {"enabled": False},
    "runAsUser": None,
    "fsGroup": None,
}
MATRIX = [
    pytest.param({}, id="defaults"),
    pytest.param(EVERYTHING, id="everything"),
    pytest.param(LEAST, id="least"),
]


@pytest.mark.parametrize("values", MATRIX)
def test_lint(helm: Helm, values: Manifest) -> None:
    """Helm's own linter has nothing to say."""
    assert "0 chart(s) failed" in helm("lint", CHART, "--strict", values=values)


@pytest.mark.parametrize("values", MATRIX)
def test_pods_are_restricted(render: Render, values: Manifest) -> None:
    """The operator's pods and the test's pass the restricted standard, with a read-only root and bounded resources."""
    objects = render(values)
    templates = [found["spec"]["template"] for found in of_kind(objects, "Deployment")] + of_kind(objects, "Pod")
    assert len(templates) == 2
    for template in templates:
        assert pod_security.violations(template) == ()
        assert template["spec"]["automountServiceAccountToken"] is False
        for container in template["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert (
                container["resources"]["requests"].keys()
                >= {"cpu", "memory"}
                <= container["resources"]["limits"].keys()
            )


@pytest.mark.parametrize("values", MATRIX)
def test_names_and_labels(render: Render, values: Manifest) -> None:
    """No two objects share kind, namespace and name, and all but definitions and extras have the chart's labels."""
    objects = render(values)
    names = [(found["kind"], found["metadata"].get("namespace"), found["metadata"]["name"]) for found in objects]
    assert len(set(names)) == len(names)
    for found in objects:
        if found["kind"] != "CustomResourceDefinition" and not found["metadata"]["name"].endswith("-more"):
            assert found["metadata"]["labels"]["app.kubernetes.io/part-of"] == "socadapter"
            assert values.get("commonLabels", {}).items() <= found["metadata"]["labels"].items()


class OneOfEach(yaml.SafeLoader):
    """Refuses a key that is there twice, as Helm does once it installs."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key is there twice at {node.start_mark}"
        return super().construct_mapping(node, deep)


def test_own_labels_win_over_common_ones(helm: Helm) -> None:
    """One key among the labels of all objects and among those of some is rendered once, with the latter's value."""
    mine = {"team": "mine"}
    values: Manifest = {
        "commonLabels": {"team": "all"},
        "podLabels": mine,
        "podAnnotations": {"kubectl.kubernetes.io/default-container": "proxy"},
        "serviceMonitor": {"enabled": True, "labels": mine},
        "prometheusRule": {"enabled": True, "labels": mine},
        "dashboard": {"enabled": True, "labels": mine},
    }
    text = helm("template", "soc", CHART, "--namespace", "ops", values=values)
    objects = [found for found in yaml.load_all(text, OneOfEach) if found]
    (deployment,), (policy, _) = of_kind(objects, "Deployment"), of_kind(objects, "NetworkPolicy")
    of_some = [found for kind in ("ServiceMonitor", "PrometheusRule", "ConfigMap") for found in of_kind(objects, kind)]
    assert len(of_some) == 3
    assert {"mine"} == {found["metadata"]["labels"]["team"] for found in (*of_some, deployment["spec"]["template"])}
    assert {"all"} == {found["metadata"]["labels"]["team"] for found in (deployment, policy)}
    assert (
        policy["spec"]["podSelector"]["matchLabels"].items()
        <= deployment["spec"]["template"]["metadata"]["labels"].items()
    )


def test_long_names_fit(render: Render) -> None:
    """A release and a namespace with the longest names that there are make no name of more than 63 characters."""
    objects = render(release="r" * 53, namespace="n" * 63)
    assert [found["metadata"]["name"] for found in objects if len(found["metadata"]["name"]) > 63] == []


def test_digest_wins(render: Render) -> None:
    """An image with a digest is pulled by it, once; one without by its tag, each time, as the tag may have moved."""
    (deployment,) = of_kind(render(EVERYTHING), "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"registry.example/socadapter-operator:0.1.0@{DIGEST}"
    assert container["imagePullPolicy"] == "IfNotPresent"
    (deployment,) = of_kind(render({"image": {"tag": "edge"}}), "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert (container["image"], container["imagePullPolicy"]) == ("socadapter-operator:edge", "Always")


def test_variables_are_options_of_the_process(render: Render) -> None:
    """Each SOCADAPTER_OPERATOR_ variable is an option of the operator's process, and none that it needs is missing."""
    (deployment,) = of_kind(render({"watchNamespaces": ["soc", "lab"]}), "Deployment")
    variables = {v["name"]: v.get("value") for v in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}
    ours = {name for name in variables if name.startswith("SOCADAPTER_OPERATOR_")}
    options = {f"SOCADAPTER_OPERATOR_{str(option.name).upper()}": option for option in main.params}
    assert ours <= options.keys()
    assert {name for name, option in options.items() if option.required} <= ours
    assert variables["SOCADAPTER_OPERATOR_NAMESPACES"] == "soc,lab"


def egress_ports(objects: list[Manifest]) -> list[int]:
    """The ports that the operator is let out to, anywhere."""
    (policy,) = of_kind(objects, "NetworkPolicy", "-socadapter")
    return [port["port"] for port in policy["spec"]["egress"][1]["ports"]]


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        pytest.param("", [443, 6443], id="none"),
        pytest.param("http://collector.monitoring:4318", [443, 6443, 4318], id="port"),
        pytest.param("http://collector.monitoring/v1", [443, 6443, 80], id="http"),
        pytest.param("https://collector.example", [443, 6443], id="https"),
        pytest.param("http://[fd00::1]:4318", [443, 6443, 4318], id="IPv6"),
    ],
)
def test_traces_get_out(render: Render, endpoint: str, expected: list[int]) -> None:
    """The operator is told where traces go, and the network policy lets it there."""
    objects = render({"tracing": {"endpoint": endpoint}})
    (deployment,) = of_kind(objects, "Deployment")
    variables = {v["name"]: v.get("value") for v in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert variables.get(tracing.ENDPOINTS[0], "") == endpoint
    assert egress_ports(objects) == expected


def rules(objects: list[Manifest]) -> list[Manifest]:
    return [rule for kind in ("Role", "ClusterRole") for found in of_kind(objects, kind) for rule in found["rules"]]


@pytest.mark.parametrize("values", [pytest.param({}, id="cluster"), pytest.param(EVERYTHING, id="namespaces")])
def test_rights_have_no_wildcards(render: Render, values: Manifest) -> None:
    """Nothing is granted by a star, and every kind is one that the code names."""
    known = {(kind.group, kind.plural) for kind in KINDS}
    for rule in rules(render(values)):
        assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]
        for group in rule["apiGroups"]:
            assert {(group, resource.partition("/")[0]) for resource in rule["resources"]} <= known


def test_namespaces_get_roles_and_the_cluster_none(render: Render) -> None:
    """With namespaces named, the operator has a Role in each, and no ClusterRole is bound to anybody."""
    objects = render({"watchNamespaces": ["soc", "lab"]})
    bound = {(found["metadata"]["namespace"], found["roleRef"]["name"]) for found in of_kind(objects, "RoleBinding")}
    assert bound == {
        ("soc", "soc-socadapter"),
        ("lab", "soc-socadapter"),
        ("ops", "soc-socadapter-lease"),
    }
    assert of_kind(objects, "ClusterRoleBinding") == []


def test_lease_is_named(render: Render) -> None:
    """Only the Lease that the operator elects by can be read and updated."""
    (lease,) = of_kind(render(), "Role", "-lease")
    assert [rule.get("resourceNames") for rule in lease["rules"] if "update" in rule["verbs"]] == [[LEASE]]


@pytest.mark.parametrize(("keep", "expected"), [(True, "keep"), (False, None)])
def test_definitions_are_kept_if_told(render: Render, keep: bool, expected: str | None) -> None:
    """`crds.keep` is the annotation that an uninstallation heeds; the definitions are otherwise the project's."""
    for found in of_kind(render({"crds": {"keep": keep}}), "CustomResourceDefinition"):
        annotations = found["metadata"].pop("annotations", {})
        assert annotations.get("helm.sh/resource-policy") == expected
        source = CHART.parents[1] / "manifests" / "crds" / f"socadapter.io_{found['spec']['names']['plural']}.yaml"
        assert found == yaml.safe_load(source.read_text("utf-8"))


def test_switches(render: Render) -> None:
    """What is switched off is not made, and one replica needs no budget for disruptions."""
    kinds = {found["kind"] for found in render(LEAST)}
    assert kinds == {"Deployment", "Service", "Pod"}
    assert of_kind(render({"replicas": 1}), "PodDisruptionBudget") == []
    made = {found["kind"] for found in render(EVERYTHING)}
    assert made >= {"ServiceMonitor", "PrometheusRule", "PodDisruptionBudget", "NetworkPolicy"}
    assert [found["metadata"]["name"] for found in of_kind(render(EVERYTHING), "ConfigMap", "-more")] == ["soc-more"]


def exposed() -> set[str]:
    """The names of every series that the operator can have."""
    metrics = Metrics()
    metrics.resources.tell(
        ResourceId("SocAdapter", "soc", "cloud"), ResourceState({"Ready": "True"}, {}, 0.0, 1.0, 2.0, 3.0)
    )
    metrics.controller("socadapter", 1, tuple)
    found: set[str] = set()
    for family in metrics.registry.collect():
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        found |= {family.name + ending for ending in endings}
    return found


def expressions(objects: list[Manifest]) -> list[str]:
    (rule,), (dashboard,) = of_kind(objects, "PrometheusRule"), of_kind(objects, "ConfigMap", "-dashboard")
    panels: list[Any] = json.loads(dashboard["data"]["socadapter.json"])["panels"]
    return [alert["expr"] for group in rule["spec"]["groups"] for alert in group["rules"]] + [
        target["expr"] for panel in panels for target in panel["targets"]
    ]


def test_alerts_and_dashboard_name_series_that_exist(render: Render) -> None:
    """Each series of an alert or a panel is one that the operator exposes."""
    names = {
        name
        for expression in expressions(render(EVERYTHING))
        for name in re.findall(r"\b(?:socadapter|controller_runtime|workqueue|rest_client|leader)_\w+", expression)
    }
    assert len(names) > 10
    assert names - exposed() == set()
