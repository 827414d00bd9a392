"""The definitions of KubeRay's kinds that tests install are parts of KubeRay's own."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.controlplane.cluster import RAY_CRDS

KUBERAY = "KUBERAY_CRDS"
FILES = sorted(path.name for path in RAY_CRDS.glob("*.yaml"))
OPEN = "x-kubernetes-preserve-unknown-fields"
SAME = ("type", "format", "nullable", "default", "enum", "minimum", "maximum", "maxLength", "x-kubernetes-validations")

Schema = dict[str, Any]


def definition(path: Path) -> Schema:
    loaded: Schema = yaml.safe_load(path.read_text("utf-8"))
    return loaded


def v1_of(crd: Schema) -> Schema:
    version: Schema = next(one for one in crd["spec"]["versions"] if one["name"] == "v1")
    return version


def strays(ours: Schema, theirs: Schema, path: str = "") -> Iterator[str]:
    """Where `ours` says other than `theirs`; an open object of ours may be any object of theirs."""
    if ours.get(OPEN):
        if theirs.get("type") != "object":
            yield f"{path}: open here, {theirs.get('type')} there"
        return
    for key in SAME:
        if ours.get(key) != theirs.get(key):
            yield f"{path}: {key} is {ours.get(key)} here, {theirs.get(key)} there"
    for name, child in ours.get("properties", {}).items():
        if name not in theirs.get("properties", {}):
            yield f"{path}.{name}: not there"
        else:
            yield from strays(child, theirs["properties"][name], f"{path}.{name}")
    # What they require of fields that ours leaves out would refuse objects that ours takes.
    if ours.get("properties") and set(theirs.get("required", ())) - set(ours.get("required", ())):
        yield f"{path}: requires {ours.get('required')} here, {theirs['required']} there"
    for key in ("items", "additionalProperties"):
        if isinstance(ours.get(key), dict):
            yield from strays(ours[key], theirs.get(key, {}), f"{path}[]")


@pytest.mark.parametrize("name", FILES)
def test_part_of_kuberays_own(name: str) -> None:
    """Each field is one of KubeRay's, with its type, default and bounds, and what KubeRay requires is required."""
    folder = os.environ.get(KUBERAY)
    if not folder:
        pytest.skip(f"{KUBERAY} names no folder with KubeRay's own {name} to compare with")
    ours, theirs = definition(RAY_CRDS / name), definition(Path(folder) / name)
    assert ours["metadata"]["name"] == theirs["metadata"]["name"]
    assert {**ours["spec"], "versions": None} == {**theirs["spec"], "versions": None}
    assert v1_of(ours)["subresources"] == v1_of(theirs)["subresources"]
    schemas = [v1_of(crd)["schema"]["openAPIV3Schema"] for crd in (ours, theirs)]
    assert list(strays(*schemas)) == []


@pytest.mark.parametrize(
    ("ours", "complaint"),
    [
        pytest.param({"type": "string"}, "type is string here", id="type"),
        pytest.param({"type": "object", "properties": {"b": {"type": "string"}}}, ".b: not there", id="field"),
        pytest.param({"type": "object", "properties": {"a": {"type": "string"}}}, "requires", id="required"),
        pytest.param(
            {"type": "object", "required": ["a"], "properties": {"a": {OPEN: True}}}, ".a: open here", id="open"
        ),
    ],
)
def test_comparison_finds(ours: Schema, complaint: str) -> None:
    """The comparison does find each difference that it looks for, and none where there is none."""
    theirs = {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}
    assert any(complaint in found for found in strays(ours, theirs))
    assert list(strays(theirs, theirs)) == []


def test_kinds() -> None:
    """The three kinds of KubeRay that a training or serving operator meets are there."""
    assert FILES == ["ray.io_rayclusters.yaml", "ray.io_rayjobs.yaml", "ray.io_rayservices.yaml"]
