"""Every pod that is asked for passes the restricted Pod Security Standard, and the check finds what breaks it."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from tests.builders.breaches import BREACHES, broken
from tests.builders.resources import ADAPTERS, POOLS, make_adapter, make_pool, pool_objects, run_objects, templates

from socadapter_api.adapter import SocAdapter
from socadapter_api.pool import SocServingPool
from socadapter_operator.builders import pod_security


def with_init_container(template: dict[str, Any]) -> dict[str, Any]:
    """The template with the init container that KubeRay adds to a worker: a copy of Ray's security context."""
    ray = template["spec"]["containers"][0]
    waits = {"name": "wait-gcs-ready", "securityContext": copy.deepcopy(ray["securityContext"])}
    return {**template, "spec": {**template["spec"], "initContainers": [waits]}}


def refuse(template: dict[str, Any]) -> list[str]:
    return [str(violation) for violation in pod_security.violations(with_init_container(template))]


@settings(max_examples=25)
@given(adapter=ADAPTERS)
def test_training_pods_are_restricted(adapter: SocAdapter) -> None:
    """Head, workers and submitter of a run pass, whatever its owner may ask for."""
    found = list(templates(run_objects(adapter, make_pool()).job))
    assert len(found) == (3 if adapter.spec.compute.placement.value == "Spread" else 2)
    assert [refuse(template) for template in found] == [[]] * len(found)


@settings(max_examples=25)
@given(pool=POOLS)
def test_serving_pods_are_restricted(pool: SocServingPool) -> None:
    """Head and engine pods of a pool pass, whatever its owner may ask for."""
    found = list(templates(pool_objects(pool).service))
    assert [refuse(template) for template in found] == [[], []]


@settings(max_examples=25)
@given(adapter=ADAPTERS, pool=POOLS)
def test_every_pod_is_hardened_beyond(adapter: SocAdapter, pool: SocServingPool) -> None:
    """No pod, of a run or of a pool, has an API token or a writable root; each container says what it needs and what it
    gets at most."""
    for manifest in (run_objects(adapter, make_pool()).job, pool_objects(pool).service):
        found = list(templates(manifest))
        assert len(found) >= 2
        for template in found:
            spec = template["spec"]
            assert spec["automountServiceAccountToken"] is False
            for container in (*spec["containers"], *spec.get("initContainers", ())):
                assert container["securityContext"]["readOnlyRootFilesystem"] is True
                for kind in ("requests", "limits"):
                    assert container["resources"][kind].keys() >= {"cpu", "memory"}
            (ours,) = (item for item in spec["containers"] if item["name"] in ("ray", "ray-job-submitter"))
            writable = {mount["mountPath"] for mount in ours["volumeMounts"] if not mount.get("readOnly")}
            assert writable >= {"/tmp", "/home/socadapter"}


@pytest.mark.parametrize(("path", "value", "complaint"), BREACHES)
def test_check_finds(path: str, value: Any, complaint: str) -> None:
    """Each rule of the standard is checked: a pod that breaks it is told where, with what and why."""
    (template, *_) = templates(run_objects(make_adapter(), make_pool()).job["spec"]["rayClusterSpec"])
    assert list(pod_security.violations(template)) == []
    told = "; ".join(map(str, pod_security.violations(broken(template, path, value))))
    assert complaint in told


def test_init_and_ephemeral_containers_count() -> None:
    """Containers are checked wherever they stand."""
    (template, *_) = templates(run_objects(make_adapter(), make_pool()).job["spec"]["rayClusterSpec"])
    for field in ("initContainers", "ephemeralContainers"):
        (found,) = {
            v.path.partition("]")[0]
            for v in pod_security.violations(broken(template, f"spec.{field}", [{"name": "x"}]))
        }
        assert found == f"spec.{field}[x"
