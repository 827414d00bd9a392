"""What is built for KubeRay is what KubeRay's own definitions take, down to the last field of a pod.

KUBERAY_CRDS names the folder of those definitions (``ray.io_rayjobs.yaml``, ``ray.io_rayservices.yaml``).
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from tests.builders.resources import ADAPTERS, POOLS, make_pool, pool_objects, run_objects

from socadapter_api.adapter import SocAdapter
from socadapter_api.pool import SocServingPool

FOLDER = os.environ.get("KUBERAY_CRDS", "")

pytestmark = pytest.mark.skipif(not FOLDER, reason="KUBERAY_CRDS names no folder: not validated against KubeRay's CRDs")


def strict(schema: Any) -> Any:
    """A structural schema in the words of JSON schema; a field that it does not know is a fault, not pruned."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    node = {key: strict(value) for key, value in schema.items() if not key.startswith("x-kubernetes")}
    if "properties" in node and not schema.get("x-kubernetes-preserve-unknown-fields"):
        node.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        node.pop("type", None)
    return node


@cache
def validator(kind: str) -> Any:
    """The validator of one kind in version v1."""
    definition = yaml.load((Path(FOLDER) / f"ray.io_{kind}.yaml").read_text("utf-8"), Loader=yaml.CSafeLoader)
    (version,) = (version for version in definition["spec"]["versions"] if version["name"] == "v1")
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


def faults(kind: str, manifest: dict[str, Any]) -> list[str]:
    return [
        f"{'.'.join(map(str, error.path))}: {error.message[:200]}" for error in validator(kind).iter_errors(manifest)
    ]


@settings(max_examples=20)
@given(adapter=ADAPTERS)
def test_rayjob(adapter: SocAdapter) -> None:
    """Every RayJob is valid, whatever its adapter's owner may ask for."""
    assert faults("rayjobs", run_objects(adapter, make_pool()).job) == []


@settings(max_examples=20)
@given(pool=POOLS)
def test_rayservice(pool: SocServingPool) -> None:
    """Every RayService is valid, whatever its pool's owner may ask for."""
    assert faults("rayservices", pool_objects(pool).service) == []


def test_faults_are_found(adapter: SocAdapter) -> None:
    """The validation does see an unknown field and a wrong type, deep in a pod."""
    job = run_objects(adapter, make_pool()).job
    container = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    container["securityContext"]["readOnly"] = True
    job["spec"]["backoffLimit"] = "0"
    assert len(faults("rayjobs", job)) == 2
