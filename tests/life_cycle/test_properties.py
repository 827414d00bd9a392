"""The walk over the definitions finds every property and two specs for each; no cluster is asked here."""

from typing import Any

import pytest
from tests.properties import ANYTHING, BASES, GIVEN, VALUES, Property, properties_of

from socadapter_api.adapter import SocAdapter, SocAdapterVersion
from socadapter_api.pool import SocServingPool

MODELS: dict[str, Any] = {model.__name__: model for model in (SocServingPool, SocAdapter, SocAdapterVersion)}
PROPERTIES = [found for kind in BASES for found in properties_of(kind)]


def resource(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": spec.get("version", "b")}, "spec": spec}


@pytest.mark.parametrize("found", [pytest.param(found, id=f"{found.kind}.{found.name}") for found in PROPERTIES])
def test_each_property_has_a_good_spec_and_another(found: Property) -> None:
    """The first spec is valid, with the property's parents in it; the second differs, in that property."""
    before = found.before()
    MODELS[found.kind].model_validate(resource(found.kind, before))
    after = found.after(before)
    assert before != after
    assert [found.path[0].removesuffix("[]")] == [key for key in after if before.get(key) != after[key]]


def test_every_hint_is_needed() -> None:
    """None is left over from a field that is gone."""
    names = {(found.kind, found.name) for found in PROPERTIES}
    starts = {(kind, key) for kind, hints in GIVEN.items() for key in hints}
    assert {
        (kind, key) for kind, key in starts if not any(kind == k and name.startswith(key) for k, name in names)
    } == set()
    assert {(kind, key) for kind, hints in VALUES.items() for key in hints} <= names


def test_nothing_is_left_out() -> None:
    """As many properties as the models have, counted another way: by the fields of every model."""
    for kind, model in MODELS.items():
        document = model.model_json_schema(by_alias=True)
        counted = sum(_leaves(document["properties"]["spec"], document["$defs"]))
        assert counted == sum(found.path[-1] != ANYTHING for found in properties_of(kind)), kind


def _leaves(node: dict[str, Any], refs: dict[str, Any]) -> list[int]:
    """One for each field that has no fields of its own."""
    while True:
        options = [option for option in node.get("anyOf", ()) if option != {"type": "null"}]
        if "$ref" in node:
            node = refs[node["$ref"].rpartition("/")[2]]
        elif len(options) == 1:
            node = options[0]
        elif node.get("type") == "array" and "properties" in refs.get(_name(node["items"]), {}):
            node = node["items"]
        else:
            break
    return (
        [count for child in node["properties"].values() for count in _leaves(child, refs)] if _has_fields(node) else [1]
    )


def _has_fields(node: dict[str, Any]) -> bool:
    return bool(node.get("properties"))


def _name(node: dict[str, Any]) -> str:
    return str(node.get("$ref", "")).rpartition("/")[2]
