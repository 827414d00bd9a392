"""The CustomResourceDefinitions, generated from the pydantic models of the three resources.

``python -m socadapter_api.crd --out manifests/crds`` writes them; with ``--check`` it only says whether the files there
are what the models say. The models carry the descriptions, bounds and CEL rules; this module turns pydantic's JSON
schema into the structural schema that an API server takes: references inlined, nothing that the server refuses or would
prune against the user's intent, scalar defaults only. What the printed columns and names are is decided here too.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from socadapter_api import API_GROUP
from socadapter_api.adapter import SocAdapter, SocAdapterVersion
from socadapter_api.model import Contract
from socadapter_api.pool import SocServingPool

Schema = dict[str, Any]

VERSION = "v1alpha1"
CATEGORY = "soc"
"""`kubectl get soc` lists all kinds. Were it a kind's singular, `kubectl describe socadapter NAME` would be refused."""
NAME_RULE = {
    "rule": "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
    "message": "metadata.name must be a label of DNS, at most 63 letters, digits and '-' with no dot: it becomes a "
    "label's value and part of other names",
}
MAX_BYTES = 64 * 1024
"""A larger definition does not fit beside its own last-applied annotation."""

_KEPT = (
    "type",
    "enum",
    "pattern",
    "format",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "multipleOf",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "x-kubernetes-validations",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
)


@dataclass(frozen=True, slots=True)
class Column:
    """One column that `kubectl get` prints; those of priority 1 only with ``-o wide``."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0


def condition_column(name: str, condition: str) -> Column:
    """The column of one condition's status."""
    return Column(name, f'.status.conditions[?(@.type=="{condition}")].status')


@dataclass(frozen=True, slots=True)
class Definition:
    """One kind: its model, its names and its columns."""

    model: type[Contract]
    kind: str
    short_name: str
    columns: tuple[Column, ...] = field(default=())

    @property
    def plural(self) -> str:
        """The kind's name in URLs."""
        return f"{self.kind.lower()}s"

    @property
    def filename(self) -> str:
        """``<group>_<plural>.yaml``, the customary name."""
        return f"{API_GROUP}_{self.plural}.yaml"


_AGE = Column("Age", ".metadata.creationTimestamp", "date")

DEFINITIONS: tuple[Definition, ...] = (
    Definition(
        SocServingPool,
        "SocServingPool",
        "socpool",
        (
            condition_column("Ready", "Ready"),
            Column("Base", ".spec.base.uri"),
            Column("Engine", ".spec.engine.kind"),
            Column("Replicas", ".spec.replicas", "integer"),
            Column("Endpoint", ".status.endpoint"),
            Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', priority=1),
            Column("Table", ".status.tableGeneration", "integer", priority=1),
            _AGE,
        ),
    ),
    Definition(
        SocAdapter,
        "SocAdapter",
        "soca",
        (
            condition_column("Ready", "Ready"),
            condition_column("Trained", "Trained"),
            Column("Stable", ".status.versions.stable.name"),
            Column("Canary", ".status.versions.canary.name"),
            Column("Run", ".status.run.state"),
            Column("Stage", ".status.run.progress.stage"),
            Column("Pool", ".spec.servingPoolRef.name", priority=1),
            Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', priority=1),
            Column("Next", ".status.nextScheduleTime", priority=1),
            _AGE,
        ),
    ),
    Definition(
        SocAdapterVersion,
        "SocAdapterVersion",
        "socver",
        (
            Column("Context", ".spec.context"),
            Column("Number", ".spec.number", "integer"),
            condition_column("Verified", "Verified"),
            condition_column("Evaluated", "Evaluated"),
            condition_column("Serving", "Serving"),
            Column("Parent", ".spec.parent", priority=1),
            Column("Digest", ".spec.digest", priority=1),
            _AGE,
        ),
    ),
)


def structural(node: Schema, refs: dict[str, Schema], *, defaults: bool) -> Schema:
    """`node` of a JSON schema as a structural schema; `refs` are the document's ``$defs``.

    With `defaults`, scalar defaults are kept. Objects and lists never get one: pydantic fills those in, and a stored
    copy would outlive a change of the default. What may be null is simply left out, unless the model asks for it.
    """
    nullable = {"type": "null"} in node.get("anyOf", ())
    node = _inlined(node, refs)
    schema: Schema = {}
    if text := node.get("description"):
        schema["description"] = " ".join(text.split())
    schema |= {key: node[key] for key in _KEPT if key in node}
    schema |= _bounds(node)
    if "const" in node:
        schema["enum"] = [node["const"]]
        schema.setdefault("type", "string")
    if "anyOf" in node:
        schema |= _any_type(node["anyOf"], refs)
    if nullable and "default" not in node:
        schema["nullable"] = True
    if defaults and _is_plain_default(node.get("default")):
        schema["default"] = node["default"]
    if node.get("type") == "array":
        schema["items"] = structural(node.get("items", {}), refs, defaults=defaults)
    if node.get("type") == "object":
        schema |= _object(node, refs, defaults=defaults)
    return schema


def _inlined(node: Schema, refs: dict[str, Schema]) -> Schema:
    """`node` with its reference, or its single non-null alternative, merged into it; `node`'s own words win."""
    while "$ref" in node or "anyOf" in node:
        rest = {key: value for key, value in node.items() if key not in ("$ref", "anyOf")}
        if "$ref" in node:
            target = refs[node["$ref"].rpartition("/")[2]]
        else:
            alternatives = [option for option in node["anyOf"] if option.get("type") != "null"]
            if len(alternatives) != 1:
                return node
            target = alternatives[0]
        node = {**target, **rest}
    return node


def _bounds(node: Schema) -> Schema:
    """Exclusive bounds in the form of OpenAPI v3.0: the bound, and a flag."""
    bounds: Schema = {}
    for side in ("Minimum", "Maximum"):
        if (bound := node.get(f"exclusive{side}")) is not None:
            bounds |= {side.lower(): bound, f"exclusive{side}": True}
    return bounds


def _any_type(alternatives: list[Schema], refs: dict[str, Schema]) -> Schema:
    """A value of one of several types.

    A structural schema cannot name the types, so any value passes the type check; the bounds of each alternative still
    hold, since a bound looks only at values of its own type.
    """
    schema: Schema = {"x-kubernetes-preserve-unknown-fields": True}
    for option in alternatives:
        bounds = structural(option, refs, defaults=False)
        schema |= {key: bounds[key] for key in ("maxLength", "minItems", "maxItems") if key in bounds}
        if "enum" in bounds:
            schema["maxLength"] = max(len(str(value)) for value in bounds["enum"])
    return schema


def _is_plain_default(value: object) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and value != "")


def _object(node: Schema, refs: dict[str, Schema], *, defaults: bool) -> Schema:
    """The parts of an object: its properties, or the values of a map, or anything at all."""
    if properties := node.get("properties"):
        parts: Schema = {key: structural(value, refs, defaults=defaults) for key, value in properties.items()}
        required = [key for key in node.get("required", ()) if "default" not in parts[key]]
        rest = {"x-kubernetes-preserve-unknown-fields": True} if node.get("additionalProperties") is True else {}
        return {"properties": parts} | ({"required": required} if required else {}) | rest
    values = node.get("additionalProperties")
    if isinstance(values, dict):
        return {"additionalProperties": structural(values, refs, defaults=False)}
    return {"x-kubernetes-preserve-unknown-fields": True}


def resource_schema(model: type[Contract]) -> Schema:
    """The structural schema of a whole resource."""
    document = model.model_json_schema(by_alias=True, mode="validation")
    refs: dict[str, Schema] = document.get("$defs", {})
    parts = document["properties"]
    return {
        "description": " ".join(document["description"].split()),
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 63}},
            },
            "spec": structural(parts["spec"], refs, defaults=True),
            "status": structural(parts["status"], refs, defaults=False) | {"default": {"observedGeneration": -1}},
        },
        "x-kubernetes-validations": [NAME_RULE, *document.get("x-kubernetes-validations", ())],
    }


def definition_of(kind: Definition) -> Schema:
    """The CustomResourceDefinition of one kind."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{API_GROUP}"},
        "spec": {
            "group": API_GROUP,
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.kind.lower(),
                "shortNames": [kind.short_name],
                "categories": [CATEGORY],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(column) for column in kind.columns],
                    "schema": {"openAPIV3Schema": resource_schema(kind.model)},
                }
            ],
        },
    }


def _column(column: Column) -> Schema:
    entry: Schema = {"name": column.name, "type": column.type, "jsonPath": column.path}
    return entry | ({"priority": column.priority} if column.priority else {})


def to_yaml(definition: Schema) -> str:
    """The file of one definition: the same bytes for the same models, whatever the machine."""
    body = yaml.dump(definition, Dumper=_PlainDumper, sort_keys=False, width=110, allow_unicode=True)
    return f"# Generated by `make crds` from the models in operator/socadapter_api. Do not edit.\n{body}"


class _PlainDumper(yaml.SafeDumper):
    """Writes every value out: no anchors, which some tools that read definitions do not follow."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def render() -> dict[str, str]:
    """Every file, by name."""
    return {kind.filename: to_yaml(definition_of(kind)) for kind in DEFINITIONS}


def drifted(folder: Path) -> list[str]:
    """Names of the files in `folder` that are not what the models say, or that nothing generates."""
    wanted = render()
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.yaml")}
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def main(argv: list[str] | None = None, say: Callable[[str], object] = print) -> int:
    """Writes or checks the files; 1 when a check finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m socadapter_api.crd", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the definitions")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the files differ")
    options = parser.parse_args(argv)
    if options.check:
        stale = drifted(options.out)
        for name in stale:
            say(f"{options.out / name} is not what the models say: run `make crds`")
        return 1 if stale else 0
    options.out.mkdir(parents=True, exist_ok=True)
    for name, text in render().items():
        (options.out / name).write_text(text, encoding="utf-8")
        say(f"wrote {options.out / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
