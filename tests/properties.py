"""Every property of a definition's spec, each with two specs that differ in it alone.

Walked from the OpenAPI schema, so that a field which the contract gains is there by itself. What the schema does not
say (a cron expression, two fields that go together) stands in `GIVEN` and `VALUES`.
"""

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Schema = dict[str, Any]
Spec = dict[str, Any]

CRDS = Path(__file__).parents[1] / "manifests" / "crds"
OPEN = "x-kubernetes-preserve-unknown-fields"
ANYTHING = "*"
"""The last part of the path of what an open object holds besides its named properties."""

DIGEST = "sha256:" + "b" * 64
STRINGS = (
    "bbb", "ccc", "7m", "9m", "7Gi", "9Gi", "9.9.9", "/b", "/c", "example.test/b", DIGEST, "sha256:" + "c" * 64,
    "b-v1-bbbbbbbb", "c-v1-bbbbbbbb",
)  # fmt: skip
"""Texts of every form that a pattern asks for; the first two that fit a field are its two values."""

BASES: dict[str, Spec] = {
    "SocServingPool": {"base": {"uri": "builtin://tiny"}, "store": "/store"},
    "SocAdapter": {
        "context": "cloud",
        "servingPoolRef": {"name": "base"},
        "data": {"alerts": [{"uri": "alerts.jsonl"}]},
    },
    "SocAdapterVersion": {
        "version": "b-v1-bbbbbbbb",
        "context": "b",
        "number": 1,
        "digest": DIGEST,
        "uri": "/store/soc/b/run",
        "runId": "run",
        "baseDigest": DIGEST,
        "trainingHash": DIGEST,
        "configDigest": DIGEST,
        "codeDigest": DIGEST,
    },
}
"""A small spec of each kind: what every pair of specs has besides its property."""

_MOUNT = {"volumes": [{"name": "bbb", "emptyDir": {}}], "volumeMounts": [{"name": "bbb", "mountPath": "/b"}]}
_TAINT = {"tolerations": [{"key": "k"}]}
_TEMPLATE = {"podTemplate": {"metadata": {"labels": {"team": "noc"}}, "spec": {"hostname": "ccc"}}}
_STEP = {"rollout": {"steps": [{"weightPercent": 10}]}}
_GATE = {"evaluation": {"gates": [{"metric": "balancedAccuracy", "min": 0.1}]}}
_TOOL = {"tools": [{"name": "bbb", "url": "http://tools.example.test/mcp"}]}
_LASTING = {"tolerations": [{"key": "k", "effect": "NoExecute"}]}

GIVEN: dict[str, dict[str, Spec]] = {
    "SocServingPool": {
        "engine.url": {"engine": {"kind": "openai", "url": "http://127.0.0.1:9000/v1"}},
        "ray.gpuResourceName": {"ray": {"gpusPerReplica": 1}},
        "ray.podTemplate": {"ray": _TEMPLATE},
        "ray.tolerations": {"ray": _TAINT},
        "ray.tolerations[].tolerationSeconds": {"ray": _LASTING},
        "ray.volumes": {"ray": _MOUNT},
        "ray.volumeMounts": {"ray": _MOUNT},
        "ray.tokenSecretRef": {"ray": {"address": "http://127.0.0.1:8265", "tokenSecretRef": {"name": "bbb"}}},
        "tools": _TOOL,
        "tools[].command": {"tools": [{"name": "bbb", "command": ["serve"]}]},
    },
    "SocAdapter": {
        "schedule": {"schedule": {"cron": "0 3 1 1 *"}},
        "compute.gpuResourceName": {"compute": {"gpusPerWorker": 1}},
        "compute.podTemplate": {"compute": _TEMPLATE},
        "compute.tolerations": {"compute": _TAINT},
        "compute.tolerations[].tolerationSeconds": {"compute": _LASTING},
        "compute.volumes": {"compute": _MOUNT},
        "compute.volumeMounts": {"compute": _MOUNT},
        "compute.queuePriorityClass": {"compute": {"queue": "gpus"}},
        "compute.placement": {"compute": {"scratch": {"claimName": "scratch"}}},
        "evaluation.gates": _GATE,
        "rollout.pin": {"rollout": {"pin": {"version": "b-v1-bbbbbbbb", "digest": DIGEST}}},
        "rollout.steps": _STEP,
        "rollout.steps[].shadow": {"rollout": {"steps": [{"shadow": {"minSamples": 20}}]}},
    },
    "SocAdapterVersion": {},
}
"""By the start of a property's name, the nearest first: what both specs have, since the property needs it."""

VALUES: dict[str, dict[str, Any]] = {
    "SocServingPool": {
        "ray.address": "http://127.0.0.1:8265",
        "ray.podTemplate.metadata": {"labels": {"team": "soc"}},
        "ray.podTemplate.spec": {"hostname": "bbb"},
        "ray.volumes[].*": {"emptyDir": {"sizeLimit": "1Gi"}},
        "tools[].url": "http://tools.example.test/other",
    },
    "SocAdapter": {
        "match": "alert.severity > 3",
        "servingPoolRef.name": "spare",
        "lora.targetModules": ["q_proj"],
        "compute.podTemplate.metadata": {"labels": {"team": "soc"}},
        "compute.podTemplate.spec": {"hostname": "bbb"},
        "compute.volumes[].*": {"emptyDir": {"sizeLimit": "1Gi"}},
        "schedule.cron": "0 4 1 1 *",
        "schedule.timeZone": "Europe/Vienna",
    },
    "SocAdapterVersion": {},
}
"""By a property's name: its second value, where the schema alone would give one that nobody could use."""


@dataclass(frozen=True, slots=True)
class Property:
    """One property of `kind`, by its path in the spec; a part that ends in ``[]`` is a list's first item."""

    kind: str
    path: tuple[str, ...]
    schema: Schema
    parents: tuple[Schema, ...]

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def words(self) -> tuple[str, ...]:
        """The fields of the path, the innermost first."""
        return tuple(part.removesuffix("[]") for part in reversed(self.path) if part != ANYTHING)

    def before(self, base: Spec | None = None) -> Spec:
        """The first spec: `base`, or the kind's own, with what the property needs."""
        spec = _merged(BASES[self.kind] if base is None else base, self._given())
        nodes = self._nodes(spec)
        # Server-side apply makes a null of an empty object whose last field it takes away.
        for node, part in reversed(list(zip(nodes, self.path, strict=True))[:-1]):
            if node[part.removesuffix("[]")] == {}:
                del node[part]
        return spec

    def after(self, before: Spec) -> Spec:
        """`before` with another value of this property, and nothing else changed."""
        spec = copy.deepcopy(before)
        node = self._nodes(spec)[-1]
        last = self.path[-1]
        if last == ANYTHING:
            for key in set(node) - set(self.parents[-1]["properties"]):
                del node[key]
            node.update(VALUES[self.kind][self.name])
        else:
            node[last] = VALUES[self.kind].get(self.name) or other(self.schema, node.get(last))
        return spec

    def _nodes(self, spec: Spec) -> list[Spec]:
        """The objects on the path, `spec` first, each made of what it requires where it is missing."""
        nodes = [spec]
        for part, schema in zip(self.path[:-1], self.parents[1:], strict=True):
            nodes.append(_entered(nodes[-1], part, schema))
        return nodes

    def _given(self) -> Spec:
        near = [key for key in GIVEN[self.kind] if self.name == key or self.name.startswith((f"{key}.", f"{key}[]"))]
        return GIVEN[self.kind][max(near, key=len)] if near else {}


def properties_of(kind: str) -> list[Property]:
    """Every property of the kind's spec."""
    return list(_walk(kind, (), spec_schema(kind), ()))


def spec_schema(kind: str) -> Schema:
    """The schema of the kind's spec, as its definition has it."""
    for path in CRDS.glob("socadapter.io_*.yaml"):
        definition = yaml.safe_load(path.read_text("utf-8"))
        if definition["spec"]["names"]["kind"] == kind:
            (version,) = definition["spec"]["versions"]
            spec: Schema = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
            return spec
    raise LookupError(f"no definition of {kind} in {CRDS}")


def other(schema: Schema, current: Any) -> Any:
    """A valid value of `schema` that is not `current`, nor the default where `current` is None."""
    current = schema.get("default") if current is None else current
    return next(value for value in _candidates(schema, current) if value not in (current, ""))


def sample(schema: Schema) -> Any:
    """A valid value of `schema`, of an object its required properties."""
    if schema.get("type") == "object":
        return {name: sample(schema["properties"][name]) for name in schema.get("required", ())}
    return other(schema, None)


def _candidates(schema: Schema, current: Any) -> Iterator[Any]:
    kind = schema.get("type")
    if "enum" in schema:
        yield from schema["enum"]
    elif kind == "boolean":
        yield not current
    elif kind in ("integer", "number"):
        yield from _numbers(schema, current)
    elif kind == "string":
        yield from (text for text in STRINGS if _fits(schema, text))
    elif kind == "array":
        yield [sample(schema["items"])]
    elif isinstance(schema.get("additionalProperties"), dict):
        yield {"bbb": sample(schema["additionalProperties"])}
    raise LookupError(f"nothing here says what another value than {current!r} may be of {schema}")


def _numbers(schema: Schema, current: float | None) -> Iterator[float]:
    low, high = schema.get("minimum", 0), schema.get("maximum", 2**31)
    at = low if current is None else current
    whole = schema["type"] == "integer"
    steps = (at + 1, at - 1, at * 2, at / 2, (low + high) / 2)
    for value in (int(step) if whole else step for step in steps):
        above = value > low if schema.get("exclusiveMinimum") else value >= low
        if above and value <= high:
            yield value


def _fits(schema: Schema, text: str) -> bool:
    long_enough = schema.get("minLength", 0) <= len(text) <= schema["maxLength"]
    return long_enough and re.search(schema.get("pattern", ""), text) is not None


def _walk(kind: str, path: tuple[str, ...], schema: Schema, parents: tuple[Schema, ...]) -> Iterator[Property]:
    items = schema.get("items", {})
    if "properties" in schema:
        for name, child in schema["properties"].items():
            yield from _walk(kind, (*path, name), child, (*parents, schema))
        if schema.get(OPEN):
            yield Property(kind, (*path, ANYTHING), schema, (*parents, schema))
    elif "properties" in items:
        yield from _walk(kind, (*path[:-1], f"{path[-1]}[]"), items, parents)
    else:
        yield Property(kind, path, schema, parents)


def _merged(one: Spec, more: Spec) -> Spec:
    """`one` with `more` written over it, object by object; neither is changed."""
    made = copy.deepcopy(one)
    for key, value in more.items():
        within = isinstance(value, dict) and isinstance(made.get(key), dict)
        made[key] = _merged(made[key], value) if within else copy.deepcopy(value)
    return made


def _entered(node: Spec, part: str, schema: Schema) -> Spec:
    """The object at `part` of `node`, made of what its `schema` requires where it is missing."""
    if part.endswith("[]"):
        held: Spec = node.setdefault(part.removesuffix("[]"), [sample(schema)])[0]
    else:
        held = node.setdefault(part, sample(schema))
    return held
