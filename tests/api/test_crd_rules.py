"""CEL rules and bounds: the API server and the models agree on what may be asked for.

A file that works on a laptop is taken by the cluster: whatever the models accept, the schema and its rules accept.
"""

import copy
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import celpy
import jsonschema
import pytest
import yaml
from celpy.celtypes import IntType, StringType
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.api.recorded_version import DIGEST, OTHER, VERSION

from socadapter_api.adapter import SocAdapter, SocAdapterVersion
from socadapter_api.crd import DEFINITIONS, resource_schema
from socadapter_api.pool import RAY_PORTS, SocServingPool

SAMPLES = Path(__file__).parents[2] / "manifests" / "samples"
SCHEMAS = {kind.kind: resource_schema(kind.model) for kind in DEFINITIONS}
MODELS = {kind.kind: kind.model for kind in DEFINITIONS}
RULES = "x-kubernetes-validations"


def samples() -> dict[str, dict[str, Any]]:
    return {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in sorted(SAMPLES.glob("*.yaml"))}


RESOURCES = samples() | {"version": VERSION}


def substring(text: StringType, start: IntType, end: IntType) -> StringType:
    """Kubernetes' own extension of CEL."""
    return StringType(text[int(start) : int(end)])


def compiled(rule: str) -> Any:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule), functions={"substring": substring})


PROGRAMS: dict[str, Any] = {}


def holds(rule: str, value: Any, before: Any = None) -> bool:
    program = PROGRAMS.setdefault(rule, compiled(rule))
    return bool(program.evaluate({"self": celpy.json_to_cel(value), "oldSelf": celpy.json_to_cel(before)}))


def with_defaults(schema: dict[str, Any], value: Any) -> Any:
    """`value` as the API server stores it: defaults filled in wherever their object is there."""
    if isinstance(value, dict) and "properties" in schema:
        filled = {key: with_defaults(schema["properties"].get(key, {}), item) for key, item in value.items()}
        for key, child in schema["properties"].items():
            if "default" in child and key not in filled:
                filled[key] = child["default"]
        return filled
    if isinstance(value, list):
        return [with_defaults(schema.get("items", {}), item) for item in value]
    return value


def as_json_schema(schema: Any) -> Any:
    """A structural schema in the words of JSON schema; unknown fields are faults, not pruned."""
    if isinstance(schema, list):
        return [as_json_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    node = {key: as_json_schema(value) for key, value in schema.items() if not key.startswith("x-")}
    for side in ("Minimum", "Maximum"):
        if node.pop(f"exclusive{side}", None) is True:
            node[f"exclusive{side}"] = node.pop(side.lower())
    if node.pop("nullable", False):
        node["type"] = [node["type"], "null"]
    return node


def faults(kind: str, value: dict[str, Any], before: dict[str, Any] | None = None) -> list[str]:
    """What an API server would say against `value`, after `before` if that is what it replaces."""
    schema = SCHEMAS[kind]
    stored = with_defaults(schema, value)
    errors = [error.message for error in jsonschema.Draft202012Validator(as_json_schema(schema)).iter_errors(stored)]
    if not errors:
        old = with_defaults(schema, before) if before else None
        errors += broken_rules(schema, stored, old)
    return errors


def broken_rules(schema: dict[str, Any], value: Any, before: Any) -> Iterator[str]:
    for check in schema.get(RULES, ()):
        if "oldSelf" in check["rule"] and before is None:
            continue
        if not holds(check["rule"], value, before):
            yield check["message"]
    if isinstance(value, dict):
        for key, child in schema.get("properties", {}).items():
            if key in value:
                yield from broken_rules(child, value[key], before.get(key) if isinstance(before, dict) else None)
    if isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys", ())
        if keys and len({tuple(item[key] for key in keys) for item in value}) < len(value):
            yield "duplicate entries"
        for item in value:
            yield from broken_rules(schema.get("items", {}), item, None)


def changed(resource: str, path: str, value: Any) -> dict[str, Any]:
    """A copy of a resource with the field at `path` set."""
    whole = copy.deepcopy(RESOURCES[resource])
    *parents, last = path.split(".")
    node = whole
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = value
    return whole


@pytest.mark.parametrize("name", RESOURCES)
def test_samples_are_taken(name: str) -> None:
    """Every sample is accepted by the models, by the schema, and by the rules."""
    resource = RESOURCES[name]
    MODELS[resource["kind"]].model_validate(resource)
    assert faults(resource["kind"], resource) == []


@pytest.mark.parametrize(
    ("resource", "path", "value", "complaint"),
    [
        pytest.param("pool", "spec.base.uri", "other", "base is immutable", id="base"),
        pytest.param("pool", "spec.base.digest", DIGEST, "base is immutable", id="base digest"),
        pytest.param("cloud-infrastructure", "spec.context", "other", "context is immutable", id="context"),
        pytest.param("version", "spec.uri", "elsewhere", "spec is immutable", id="version"),
    ],
)
def test_immutable(resource: str, path: str, value: Any, complaint: str) -> None:
    """What must never change cannot be changed, and says so; anything else can."""
    before = RESOURCES[resource]
    assert complaint in " ".join(faults(before["kind"], changed(resource, path, value), before))
    assert faults(before["kind"], before, before) == []
    touched = changed(resource, "metadata.annotations", {"a": "b"})
    assert faults(before["kind"], {**touched, "metadata": before["metadata"]}, before) == []


@pytest.mark.parametrize(
    ("resource", "path", "value"),
    [
        pytest.param("pool", "spec.engine", {"kind": "openai"}, id="openai without url"),
        pytest.param("pool", "spec.engine", {"url": "http://x"}, id="url without openai"),
        pytest.param("pool", "spec.tools", [{"name": "t"}], id="tool without transport"),
        pytest.param(
            "pool", "spec.tools", [{"name": "t", "url": "u", "command": ["c"]}], id="tool with two transports"
        ),
        pytest.param("pool", "spec.tools", [{"name": "t", "url": "u"}, {"name": "t", "url": "v"}], id="two of a name"),
        pytest.param("pool", "spec.replicas", -1, id="negative replicas"),
        pytest.param("pool", "spec.port", 70_000, id="port"),
        *(pytest.param("pool", "spec.port", port, id=f"Ray's port {port}") for port in RAY_PORTS),
        pytest.param("cloud-infrastructure", "spec.evaluation.gates", [{"metric": "auc"}], id="gate without bound"),
        pytest.param("cloud-infrastructure", "spec.evaluation.gates", [{"metric": "luck", "min": 1}], id="metric"),
        pytest.param("cloud-infrastructure", "spec.rollout.steps", [{}], id="empty step"),
        pytest.param("cloud-infrastructure", "spec.rollout.steps", [{"weightPercent": 101}], id="weight above all"),
        pytest.param(
            "cloud-infrastructure", "spec.rollout.steps", [{"shadow": {}, "weightPercent": 5}], id="two-way step"
        ),
        pytest.param(
            "cloud-infrastructure", "spec.rollout.pin", {"version": "c-v1-00000000", "digest": DIGEST}, id="pin"
        ),
        pytest.param("cloud-infrastructure", "spec.lora.targetModules", [], id="no module"),
        pytest.param("cloud-infrastructure", "spec.grpo.groupSize", 3, id="group too small"),
        pytest.param("cloud-infrastructure", "spec.grpo.learningRate", 0, id="no learning rate"),
        pytest.param("cloud-infrastructure", "spec.grpo.timeLimit", "1d", id="days"),
        pytest.param("cloud-infrastructure", "spec.schedule", {}, id="schedule without cron"),
        pytest.param("cloud-infrastructure", "spec.compute", {"placement": "Spread"}, id="spread without a claim"),
        pytest.param(
            "cloud-infrastructure", "spec.compute.scratch", {"claimName": "c", "sizeLimit": "1Gi"}, id="two scratches"
        ),
        pytest.param("cloud-infrastructure", "spec.compute", {"queuePriorityClass": "high"}, id="priority in no queue"),
        pytest.param(
            "cloud-infrastructure",
            "spec.compute",
            {"activeDeadlineSeconds": 60, "preRunningDeadlineSeconds": 61},
            id="deadlines the wrong way round",
        ),
        pytest.param("cloud-infrastructure", "spec.compute.memoryPerWorker", "8GB", id="no quantity"),
        pytest.param("cloud-infrastructure", "spec.compute.tolerations", [{"value": "x"}], id="toleration of nothing"),
        pytest.param(
            "cloud-infrastructure",
            "spec.compute.tolerations",
            [{"operator": "Exists", "value": "x"}],
            id="toleration that compares nothing",
        ),
        pytest.param(
            "cloud-infrastructure", "spec.compute.tolerations", [{"key": "k", "tolerationSeconds": 5}], id="no end"
        ),
        pytest.param(
            "cloud-infrastructure",
            "spec.compute.volumes",
            [{"name": "v", "emptyDir": {}}, {"name": "v", "secret": {"secretName": "s"}}],
            id="two volumes of a name",
        ),
        pytest.param(
            "cloud-infrastructure",
            "spec.compute.volumeMounts",
            [{"name": "v", "mountPath": "/a"}, {"name": "w", "mountPath": "/a"}],
            id="two mounts at a path",
        ),
        pytest.param("cloud-infrastructure", "spec.compute.volumeMounts", [{"name": "v", "mountPath": "a"}], id="path"),
        pytest.param("pool", "spec.ray", {"tokenSecretRef": {"name": "t"}}, id="token of no cluster"),
        pytest.param("pool", "spec.ray.version", "2.60", id="Ray version without patch"),
        pytest.param("pool", "metadata.name", "a.b", id="name with a dot"),
        pytest.param("pool", "metadata.name", "a" * 64, id="long name of a pool"),
        pytest.param("cloud-infrastructure", "metadata.name", "a" * 64, id="long name of an adapter"),
        pytest.param("version", "spec.context", "other", id="version of another context"),
        pytest.param("version", "spec.digest", OTHER, id="version of another digest"),
    ],
)
def test_both_refuse(resource: str, path: str, value: Any) -> None:
    """What the models refuse, the API server refuses, too: nothing wrong is first noticed by the operator."""
    whole = changed(resource, path, value)
    with pytest.raises(ValidationError):
        MODELS[whole["kind"]].model_validate(whole)
    assert faults(whole["kind"], whole)


@pytest.mark.parametrize("port", RAY_PORTS)
def test_a_refused_port_is_named(port: int) -> None:
    """Both say which field is wrong; a port of Ray's is a gateway's on a cluster that somebody else made."""
    whole = changed("pool", "spec.port", port)
    assert any(fault.startswith("port must be none of Ray's own") for fault in faults("SocServingPool", whole))
    with pytest.raises(ValidationError, match=f"port {port} is one of Ray's own"):
        SocServingPool.model_validate(whole)
    whole["spec"]["ray"] = {"address": "http://ray.example:8265"}
    assert [] == faults("SocServingPool", whole)
    assert port == SocServingPool.model_validate(whole).spec.port


@pytest.mark.parametrize("time", [None, datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00Z"])
def test_a_file_may_carry_a_time_of_creation(time: object) -> None:
    """As tools write it: `null`, or what YAML takes for a time."""
    whole = changed("pool", "metadata.creationTimestamp", time)
    assert SocServingPool.model_validate(whole).metadata.creation_timestamp == (time if isinstance(time, str) else "")


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every scalar below `value`, with its path."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not isinstance(value, dict | list):
        yield path, value
    for key, item in items:
        yield from leaves(item, (*path, key))


def alike(value: Any) -> st.SearchStrategy[Any]:
    """Other values of the same JSON type."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int | float):
        return st.integers(-1000, 200_000) | st.floats(-20, 20).map(lambda number: round(number, 3))
    words = ["", "a", "A", "10m", "1d", "0 3 * * *", "auc", "vllm", "Base", "Manual", DIGEST, "x" * 100, "x" * 3000]
    return st.sampled_from(words)


@given(data=st.data())
def test_what_the_models_take_the_server_takes(data: st.DataObject) -> None:
    """Whatever value a field is given: if the models accept it, the schema and the rules do."""
    name = data.draw(st.sampled_from(sorted(samples())))
    whole = copy.deepcopy(RESOURCES[name])
    written = (
        MODELS[whole["kind"]].model_validate(whole).model_dump(mode="json", exclude_none=True, exclude={"metadata"})
    )
    whole["spec"] = written["spec"]
    path, value = data.draw(st.sampled_from(sorted(leaves(whole["spec"]), key=str)))
    node = whole["spec"]
    for key in path[:-1]:
        node = node[key]
    if data.draw(st.booleans()):
        node[path[-1]] = data.draw(alike(value))
    elif isinstance(node, dict):
        del node[path[-1]]
    try:
        MODELS[whole["kind"]].model_validate(whole)
    except ValidationError:
        return
    assert faults(whole["kind"], whole) == []


@pytest.mark.parametrize(
    "resource",
    [
        pytest.param(SocServingPool.model_validate(RESOURCES["pool"]), id="pool"),
        pytest.param(SocAdapter.model_validate(RESOURCES["cloud-infrastructure"]), id="adapter"),
        pytest.param(SocAdapterVersion.model_validate(VERSION), id="version"),
    ],
)
def test_what_the_models_write_the_server_takes(resource: Any) -> None:
    """A resource that was read, filled in and written again is as good as the file that it came from."""
    written = resource.model_dump(mode="json", exclude_none=True, exclude={"metadata"})
    written["metadata"] = {"name": resource.metadata.name}
    assert faults(resource.kind, written) == []
