"""Overlays merge as the API server merges a strategic patch; the cases are those of Kubernetes' documentation."""

import copy
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socadapter_api.errors import OverlayRefused
from socadapter_operator.builders import strategic_merge

NGINX: dict[str, Any] = {
    "metadata": {"labels": {"app": "nginx"}, "annotations": {"a": "1"}},
    "spec": {
        "terminationGracePeriodSeconds": 30,
        "containers": [
            {
                "name": "patch-demo-ctr",
                "image": "nginx",
                "command": ["nginx", "-g"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "ports": [{"containerPort": 80, "name": "http"}],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "w", "mountPath": "/w"}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
            },
            {"name": "second", "image": "busybox"},
        ],
        "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "w", "emptyDir": {}}],
        "tolerations": [{"effect": "NoSchedule", "key": "dedicated", "value": "test-team"}],
        "imagePullSecrets": [{"name": "one"}],
        "nodeSelector": {"disk": "ssd"},
    },
}


def in_spec(**fields: Any) -> dict[str, Any]:
    return {"spec": fields}


def in_container(**fields: Any) -> dict[str, Any]:
    return in_spec(containers=[{"name": "patch-demo-ctr", **fields}])


PATCHES = {
    "a container is added": in_spec(containers=[{"name": "patch-demo-ctr-2", "image": "redis"}]),
    "tolerations are replaced": in_spec(
        tolerations=[{"effect": "NoSchedule", "key": "disktype", "value": "ssd"}]
    ),
    "a container is changed by name": in_container(image="nginx:2"),
    "a container is deleted": in_spec(containers=[{"name": "second", "$patch": "delete"}]),
    "a list is replaced": in_spec(containers=[{"name": "only", "image": "x"}, {"$patch": "replace"}]),
    "a map is replaced": in_spec(nodeSelector={"zone": "a", "$patch": "replace"}),
    "a map is deleted": in_spec(nodeSelector={"$patch": "delete"}),
    "null deletes": in_spec(terminationGracePeriodSeconds=None, nodeSelector={"disk": None}),
    "null of nothing": in_spec(hostname=None, securityContext={"runAsUser": None, "fsGroup": 1}),
    "variables by name": in_container(env=[{"name": "B", "value": "3"}, {"name": "C", "value": "4"}]),
    "a variable is deleted": in_container(env=[{"name": "A", "$patch": "delete"}]),
    "a variable becomes a reference": in_container(
        env=[{"name": "A", "value": None, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    ),
    "ports by number": in_container(ports=[{"containerPort": 80, "name": "web"}, {"containerPort": 81}]),
    "mounts by path": in_container(volumeMounts=[{"mountPath": "/w", "name": "v"}, {"mountPath": "/x", "name": "v"}]),
    "a command is replaced": in_container(command=["sh"]),
    "limits merge": in_container(resources={"limits": {"memory": "2Gi"}, "requests": {"cpu": "1"}}),
    "volumes by name": in_spec(
        volumes=[{"name": "v", "emptyDir": {"medium": "Memory"}}, {"name": "x", "emptyDir": {}}]
    ),
    "a volume of another kind": in_spec(
        volumes=[{"name": "v", "$retainKeys": ["name", "secret"], "secret": {"secretName": "c"}}]
    ),
    "pull secrets by name": in_spec(imagePullSecrets=[{"name": "two"}]),
    "labels merge": {"metadata": {"labels": {"team": "soc", "app": None}, "annotations": {"b": "2"}}},
    "an init container with nulls": in_spec(initContainers=[{"name": "i", "image": "x", "args": None}]),
    "an empty list": in_container(command=[]),
    "order": in_spec(containers=[{"name": "new", "image": "n"}, {"name": "second", "image": "s"}]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("patch", "path", "expected"),
    [
        pytest.param("a container is added", "spec.containers", ["patch-demo-ctr-2", "patch-demo-ctr", "second"]),
        pytest.param("a container is deleted", "spec.containers", ["patch-demo-ctr"]),
        pytest.param("a list is replaced", "spec.containers", ["only"]),
        pytest.param("order", "spec.containers", ["new", "patch-demo-ctr", "second"]),
        pytest.param("volumes by name", "spec.volumes", ["v", "x", "w"]),
        pytest.param("pull secrets by name", "spec.imagePullSecrets", ["two", "one"]),
    ],
)
def test_lists_by_name(patch: str, path: str, expected: list[str]) -> None:
    """Items of keyed lists are found by their key; new ones come before those that the patch does not name."""
    merged = strategic_merge.merge(NGINX, PATCHES[patch])
    for key in path.split("."):
        merged = merged[key]
    assert expected == [item["name"] for item in merged]  # type: ignore[index]


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        pytest.param(
            "tolerations are replaced", {"tolerations": PATCHES["tolerations are replaced"]["spec"]["tolerations"]}
        ),
        pytest.param("a map is replaced", {"nodeSelector": {"zone": "a"}}),
        pytest.param("a map is deleted", {"nodeSelector": {}}),
        pytest.param("null deletes", {"terminationGracePeriodSeconds": None, "nodeSelector": {}}),
        pytest.param("null of nothing", {"hostname": None, "securityContext": {"fsGroup": 1}}),
    ],
)
def test_maps(patch: str, expected: dict[str, Any]) -> None:
    """Maps merge, null deletes, and lists without a key are replaced."""
    spec = strategic_merge.merge(NGINX, PATCHES[patch])["spec"]
    assert expected == {key: spec.get(key) for key in expected}


@pytest.mark.parametrize(
    ("patch", "field", "expected"),
    [
        pytest.param("a container is changed by name", "image", "nginx:2"),
        pytest.param("a command is replaced", "command", ["sh"]),
        pytest.param("an empty list", "command", []),
        pytest.param(
            "variables by name",
            "env",
            [{"name": "A", "value": "1"}, {"name": "B", "value": "3"}, {"name": "C", "value": "4"}],
        ),
        pytest.param("a variable is deleted", "env", [{"name": "B", "value": "2"}]),
        pytest.param("ports by number", "ports", [{"containerPort": 80, "name": "web"}, {"containerPort": 81}]),
        pytest.param("limits merge", "resources", {"limits": {"cpu": "1", "memory": "2Gi"}, "requests": {"cpu": "1"}}),
    ],
)  # fmt: skip
def test_within_a_container(patch: str, field: str, expected: object) -> None:
    """A container's own lists merge by their keys, too."""
    merged = strategic_merge.merge(NGINX, PATCHES[patch])
    assert expected == merged["spec"]["containers"][0][field]


def test_volume_of_another_kind() -> None:
    """`$retainKeys` lets one kind of volume take the place of another."""
    merged = strategic_merge.merge(NGINX, PATCHES["a volume of another kind"])
    assert {"name": "v", "secret": {"secretName": "c"}} in merged["spec"]["volumes"]


@pytest.mark.parametrize(
    ("patch", "complaint"),
    [
        pytest.param(in_spec(containers=[{"image": "x"}]), "spec.containers", id="item without its key"),
        pytest.param(in_spec(containers=["x"]), "spec.containers", id="item that is no map"),
        pytest.param(in_spec(containers=[{"name": "x", "$patch": "merge"}]), "'merge'", id="unknown item directive"),
        pytest.param(in_spec(nodeSelector={"$patch": "drop"}), "'drop'", id="unknown map directive"),
        pytest.param(in_spec(**{"$setElementOrder/containers": []}), "setElementOrder", id="order of clients"),
        pytest.param(
            in_spec(volumes=[{"name": "v", "$retainKeys": ["name"], "emptyDir": {"medium": "Memory"}}]),
            "retainKeys",
            id="retained keys that leave out its own",
        ),
        pytest.param(in_spec(volumes=[{"name": "v", "$retainKeys": 5, "emptyDir": {}}]), "is 5", id="retained number"),
        pytest.param(in_spec(volumes=[{"name": "v", "$retainKeys": "name"}]), "is 'name'", id="retained text"),
        pytest.param(
            in_container(**{"$deleteFromPrimitiveList/command": 5}),
            "command is 5: must be a list",
            id="no list to delete",
        ),
        pytest.param(
            in_container(**{"$deleteFromPrimitiveList/nothing": "x"}), "nothing is 'x'", id="nothing to delete from"
        ),
        pytest.param(
            in_spec(containers=[{"name": "new", "env": [1]}, {"name": "new", "env": [{"name": "A"}]}]),
            "spec.containers.env[] is 1",
            id="twice the same new item, the first malformed",
        ),
    ],
)
def test_malformed_patches_are_refused(patch: dict[str, Any], complaint: str) -> None:
    """What the API server would refuse is refused, with its place."""
    with pytest.raises(OverlayRefused, match=r"spec\.compute\.podTemplate") as caught:
        strategic_merge.merge(NGINX, patch, "spec.compute.podTemplate")
    assert complaint in str(caught.value)


LISTS = st.sampled_from(["env", "ports", "volumeMounts", "command"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["name", "v", "A", "delete", "replace"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["spec", "metadata", "containers", "env", "name", "value", "volumes", "labels", "$patch", "$retainKeys"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
DIRECTIVES = LISTS.map("$deleteFromPrimitiveList/{}".format) | st.sampled_from(["$patch", "$retainKeys"])
CONTAINERS = st.lists(
    st.builds(
        lambda name, fields: {**fields, "name": name},
        st.sampled_from(["patch-demo-ctr", "second", "new"]),
        st.dictionaries(LISTS | DIRECTIVES, VALUES | st.lists(st.fixed_dictionaries({"name": VALUES})), max_size=3),
    ),
    max_size=3,
)
"""Containers that are there or new, maybe twice, so that what a patch says about their lists is looked at."""


@given(
    patch=VALUES.map(lambda value: value if isinstance(value, dict) else {"spec": value})
    | st.builds(lambda spec, containers: in_spec(**spec, containers=containers),
                st.dictionaries(DIRECTIVES, VALUES, max_size=2), CONTAINERS)
)  # fmt: skip
def test_anything_merges_or_is_refused(patch: dict[str, Any]) -> None:
    """Whatever stands in an overlay: it is merged, or refused; the arguments stay as they were."""
    before, given_patch = copy.deepcopy(NGINX), copy.deepcopy(patch)
    try:
        merged = strategic_merge.merge(NGINX, patch)
    except OverlayRefused:
        merged = {}
    assert before == NGINX
    assert given_patch == patch
    assert isinstance(merged, dict)


KUBECTL = shutil.which("kubectl")


@pytest.mark.slow
@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed: not compared with it")
@pytest.mark.parametrize("name", PATCHES)
def test_kubectl_agrees(name: str, tmp_path: Path) -> None:
    """`kubectl patch --local --type strategic` makes the same of every patch."""
    assert KUBECTL is not None
    pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(NGINX)}
    pod["metadata"]["name"] = "p"
    (tmp_path / "pod.json").write_text(json.dumps(pod))
    command = [KUBECTL, "patch", "--local", "--type", "strategic", "-f", "pod.json", "-p", json.dumps(PATCHES[name])]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        [*command, "-o", "json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    theirs = json.loads(done.stdout)
    assert without_empty(theirs["spec"]) == without_empty(strategic_merge.merge(NGINX, PATCHES[name])["spec"])
    assert theirs["metadata"]["labels"] == strategic_merge.merge(NGINX, PATCHES[name])["metadata"].get("labels", {})


def without_empty(value: Any) -> Any:
    """What is left when kubectl's empty maps and lists, which mean nothing, are left out on both sides."""
    if isinstance(value, dict):
        kept = {key: without_empty(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in ({}, [], None)} or {}
    if isinstance(value, list):
        return [without_empty(item) for item in value]
    return value
