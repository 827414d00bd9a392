"""Values: each is explained and bounded, unknown ones are refused, and what is made from other files is up to date."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import generate
from tests.chart.conftest import CHART, Helm, HelmFailed, Manifest

SCHEMA = json.loads((CHART / "values.schema.json").read_text("utf-8"))
VALUES_TEXT = (CHART / "values.yaml").read_text("utf-8")
VALUES = yaml.safe_load(VALUES_TEXT)


def leaves(schema: Manifest, path: str = "") -> list[str]:
    """The paths of the values that have no parts of ours."""
    parts = schema.get("properties")
    if parts is None or path in ("resources", "affinity"):
        return [path]
    return [leaf for key, part in parts.items() for leaf in leaves(part, f"{path}.{key}".removeprefix("."))]


def test_every_value_is_explained_and_bounded() -> None:
    """Schema and `values.yaml` have the same values, and each has its line in the README."""
    explained = {value.path for value in generate.values(VALUES_TEXT)}
    assert set(leaves(SCHEMA)) - {"global"} == explained
    page = (CHART / "README.md").read_text("utf-8")
    assert [path for path in explained if f"| `{path}` |" not in page] == []


def test_no_part_takes_unknown_keys() -> None:
    """Wherever the schema names properties, it refuses others."""

    def open_parts(schema: Any, path: str) -> list[str]:
        if isinstance(schema, list):
            return [found for part in schema for found in open_parts(part, path)]
        if not isinstance(schema, dict):
            return []
        own = [path] if "properties" in schema and schema.get("additionalProperties") is not False else []
        return own + [found for key, part in schema.items() for found in open_parts(part, f"{path}.{key}")]

    assert open_parts(SCHEMA, "") == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        pytest.param({"replicaCount": 3}, "replicaCount", id="unknown"),
        pytest.param({"image": {"name": "x"}}, "name", id="unknown below"),
        pytest.param({"image": {"digest": "sha256:abc"}}, "/image/digest", id="digest that is none"),
        pytest.param({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy", id="pull policy"),
        pytest.param({"replicas": "2"}, "/replicas", id="text for a number"),
        pytest.param({"threads": 0}, "/threads", id="no thread"),
        pytest.param({"healthPort": 80}, "/healthPort", id="privileged port"),
        pytest.param({"watchNamespaces": "soc"}, "/watchNamespaces", id="text for a list"),
        pytest.param({"watchNamespaces": ["soc", "soc"]}, "/watchNamespaces", id="twice"),
        pytest.param({"runAsUser": 0}, "/runAsUser", id="root"),
        pytest.param({"networkPolicy": {"apiServerPorts": []}}, "/networkPolicy/apiServerPorts", id="no API server"),
        pytest.param({"tracing": {"endpoint": "collector:4318"}}, "/tracing/endpoint", id="collector of no scheme"),
        pytest.param({"commonLabels": {"cost": 7}}, "/commonLabels/cost", id="number for a label"),
        pytest.param({"podLabels": {"app.kubernetes.io/name": "x"}}, "/podLabels", id="the selector's label"),
        pytest.param(
            {"dashboard": {"labels": {"app.kubernetes.io/name": "x"}}},
            "/dashboard/labels",
            id="a label of the chart's own",
        ),
        pytest.param(
            {"commonLabels": {"rbac.authorization.k8s.io/aggregate-to-edit": "true"}},
            "/commonLabels",
            id="rights by label",
        ),
        pytest.param({"extraObjects": [{"kind": "ConfigMap"}]}, "/extraObjects/0", id="object of no version"),
    ],
)
def test_bad_values_are_refused(helm: Helm, values: Manifest, told: str) -> None:
    """Helm installs nothing of them, and its message names the value."""
    with pytest.raises(HelmFailed) as refused:
        helm.render(values)
    assert told in str(refused.value)


def test_what_is_made_from_other_files_is_up_to_date(helm: Helm) -> None:
    """The chart's definitions and page, and the manifests for kustomize, are what `make chart` would write."""
    different = [
        str(path.relative_to(generate.ROOT))
        for path, text in generate.wanted(helm.program).items()
        if path.read_text("utf-8") != text
    ]
    assert different == []


def test_versions_are_the_projects() -> None:
    """The chart installs the program that it is kept with."""
    import tomllib

    project = tomllib.loads((Path(generate.ROOT) / "pyproject.toml").read_text("utf-8"))["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert project["version"] == chart["appVersion"]
