"""The CRDs are what an API server takes: structural, bounded, small, and equal to the models.

The rules are those of Kubernetes' documentation of structural schemas and of CEL in definitions, written out here anew;
the generator does not check itself.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from socadapter_api.crd import DEFINITIONS, MAX_BYTES, Definition, definition_of, drifted, main, render

FOLDER = Path(__file__).parents[2] / "manifests" / "crds"
TYPES = {"object", "array", "string", "integer", "number", "boolean"}
ALLOWED = {
    "type", "description", "properties", "required", "items", "additionalProperties", "enum", "default", "pattern",
    "format", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems",
    "maxItems", "minProperties", "maxProperties", "nullable", "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
}  # fmt: skip
OPEN = "x-kubernetes-preserve-unknown-fields"

every_kind = pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.kind) for kind in DEFINITIONS])


def schema_of(kind: Definition) -> dict[str, Any]:
    (version,) = definition_of(kind)["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    assert isinstance(schema, dict)
    return schema


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node of a schema with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(schema["additionalProperties"], f"{path}{{}}")


def violations(schema: dict[str, Any]) -> list[str]:
    """Where `schema` breaks a rule of structural schemas."""
    found = []
    for path, node in nodes(schema):
        if unknown := node.keys() - ALLOWED:
            found.append(f"{path}: {sorted(unknown)} may not stand in a structural schema")
        if node.get("type") not in TYPES and not node.get(OPEN):
            found.append(f"{path}: no type")
        if "properties" in node and "additionalProperties" in node:
            found.append(f"{path}: properties beside additionalProperties")
        if (node.get("type") == "array") != ("items" in node):
            found.append(f"{path}: items go with arrays")
        if "default" in node and "default" in str(node.get("additionalProperties", "")):
            found.append(f"{path}: a default inside a map")
        if missing := set(node.get("required", ())) - node.get("properties", {}).keys():
            found.append(f"{path}: requires {sorted(missing)}, which it does not have")
        for side in ("exclusiveMinimum", "exclusiveMaximum"):
            if side in node and node[side] is not True:
                found.append(f"{path}: {side} is a flag beside the bound")
        for key in node.get("x-kubernetes-list-map-keys", ()):
            if key not in node["items"]["required"] or node["items"]["properties"][key]["type"] == "object":
                found.append(f"{path}: list key {key} must be a required scalar")
    return found


def unbounded(schema: dict[str, Any]) -> list[str]:
    """Where `schema` lets a value grow without limit."""
    limits = {"string": "maxLength", "array": "maxItems", "object": "maxProperties"}
    return [
        path
        for path, node in nodes(schema)
        if (limit := limits.get(node.get("type", ""))) and limit not in node
        if not ("enum" in node or "properties" in node or node.get(OPEN))
        if path not in (".apiVersion", ".kind", ".metadata")
    ]


@every_kind
def test_is_structural(kind: Definition) -> None:
    """Every node obeys the rules of a structural schema."""
    assert violations(schema_of(kind)) == []


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        pytest.param({"properties": {}}, "no type", id="no type"),
        pytest.param({"type": "object", "anyOf": []}, "may not stand", id="junctor"),
        pytest.param({"type": "object", "properties": {"a": {"$ref": "#"}}}, "may not stand", id="reference"),
        pytest.param({"type": "array"}, "items go with arrays", id="array of anything"),
        pytest.param({"type": "object", "properties": {}, "additionalProperties": {}}, "beside", id="map and object"),
        pytest.param({"type": "object", "required": ["a"]}, "does not have", id="requires what is not there"),
        pytest.param({"type": "number", "exclusiveMinimum": 0}, "flag", id="bound as a number"),
    ],
)
def test_checker_finds(schema: dict[str, Any], complaint: str) -> None:
    """The checker above does find each fault that it looks for."""
    assert any(complaint in found for found in violations(schema))


@every_kind
def test_everything_is_bounded(kind: Definition) -> None:
    """Every string, list and map has a limit, so that no object can fill etcd, and CEL's cost can be estimated."""
    assert unbounded(schema_of(kind)) == []


@every_kind
def test_everything_is_described(kind: Definition) -> None:
    """`kubectl explain` has a sentence for every field."""
    silent = [path for path, node in nodes(schema_of(kind)) if "description" not in node and path.count(".") > 1]
    assert [path for path in silent if not path.endswith(("[]", "{}")) and not path.startswith(".metadata")] == []


@every_kind
def test_fits(kind: Definition) -> None:
    """A definition fits beside its own last-applied annotation."""
    assert len(render()[kind.filename].encode()) < MAX_BYTES


@every_kind
def test_status(kind: Definition) -> None:
    """The status is a subresource, starts as 'not yet observed', and its conditions are told apart by type."""
    (version,) = definition_of(kind)["spec"]["versions"]
    assert version["subresources"] == {"status": {}}
    status = schema_of(kind)["properties"]["status"]
    assert status["default"] == {"observedGeneration": -1}
    assert status["properties"]["conditions"]["x-kubernetes-list-map-keys"] == ["type"]
    assert [path for path, node in nodes(status) if "default" in node] == [""]


@every_kind
def test_defaults_obey_their_own_schema(kind: Definition) -> None:
    """Each default is a scalar within the bounds of its field: the API server would refuse another."""
    spec = schema_of(kind)["properties"]["spec"]
    for path, node in nodes(spec):
        if "default" not in node:
            continue
        value = node["default"]
        assert isinstance(value, str | int | float | bool), path
        assert value in node.get("enum", [value]), path
        if isinstance(value, int | float) and not isinstance(value, bool):
            assert node.get("minimum", value) <= value <= node.get("maximum", value), path
        if isinstance(value, str):
            assert len(value) <= node.get("maxLength", 2048), path


@every_kind
def test_columns_show_what_exists(kind: Definition) -> None:
    """Each printed column's path leads to a field of the schema."""
    known = {path for path, _ in nodes(schema_of(kind))}
    for column in kind.columns:
        path = column.path.split("[?")[0]
        assert path in known or path == ".metadata.creationTimestamp", column.name


def test_names() -> None:
    """The three kinds have short names of their own and one category."""
    names = [definition_of(kind)["spec"]["names"] for kind in DEFINITIONS]
    assert len({name["shortNames"][0] for name in names}) == len(names)
    assert [name["plural"] for name in names] == ["socservingpools", "socadapters", "socadapterversions"]
    assert all(name["categories"] == ["soc"] for name in names)


def test_files_are_what_the_models_say() -> None:
    """The committed files are generated from the models as they are; `make crds` mends a difference."""
    assert drifted(FOLDER) == []


def test_same_bytes_each_time() -> None:
    """Generating is repeatable, and what is written reads back as what was meant."""
    first = render()
    assert render() == first
    for kind in DEFINITIONS:
        assert yaml.safe_load(first[kind.filename]) == definition_of(kind)


def test_check_notices_drift(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--check` fails on a changed file, a missing one and a stray one, and passes on what was just written."""
    assert main(["--out", str(tmp_path)]) == 0
    assert main(["--out", str(tmp_path), "--check"]) == 0
    changed, missing = (tmp_path / DEFINITIONS[0].filename, tmp_path / DEFINITIONS[1].filename)
    changed.write_text(changed.read_text("utf-8").replace("maxLoras", "maxLora"), "utf-8")
    missing.unlink()
    (tmp_path / "stray.yaml").write_text("{}", "utf-8")
    capsys.readouterr()
    assert main(["--out", str(tmp_path), "--check"]) == 1
    complaints = capsys.readouterr().out
    assert all(name in complaints for name in (changed.name, missing.name, "stray.yaml"))
