"""What goes wrong between the operator and KubeRay: each is told with a reason, and mended without a manual step.

No KubeRay runs here; the tests write its word.
"""

import copy
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from tests.controlplane.cluster import RAY_CRDS
from tests.controlplane.plane import ControlPlane

from socadapter_api import digest
from socadapter_api.adapter import SocAdapter
from socadapter_api.errors import ObjectInvalid
from socadapter_api.pool import SocServingPool
from socadapter_operator.backends.cluster import ClusterBackends
from socadapter_operator.backends.kuberay_serving import SPEC_DIGEST
from socadapter_operator.builders.installation import Installation
from socadapter_operator.domain import triggers
from socadapter_operator.domain.observed import Observed
from socadapter_operator.kube.resources import (
    CUSTOM_RESOURCE_DEFINITION,
    POOL,
    RAY_JOB,
    RAY_SERVICE,
    SECRET,
    Object,
    uid_of,
)

pytestmark = pytest.mark.slow

RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}


@pytest.fixture
def kuberay(site: Any) -> Any:
    """The site with an operator for clusters, and a pool that can be served."""
    installation = Installation("example.test/train:1", "example.test/serve:1")
    token(site, "first")
    site.operate(backends=lambda client: ClusterBackends(client, installation))
    caller = {"name": "soar", "tokenSecretRef": {"name": "soar", "key": "token"}}
    base = {"uri": "builtin://tiny", "digest": digest.of_bytes(b"base")}
    site.pool(base=base, callers=[caller], host="0.0.0.0")
    return site


def token(site: Any, value: str) -> None:
    body = {"metadata": {"name": "soar", "namespace": site.namespace}, "stringData": {"token": value}}
    site.client.apply(SECRET, body, manager="kubectl")


def jobs(site: Any) -> list[Object]:
    found: list[Object] = list(site.client.list(RAY_JOB, site.namespace).items)
    return found


def started(site: Any) -> Object:
    """The RayJob of the adapter's run, once status names it."""
    site.until(lambda: jobs(site), "the RayJob")
    site.until(lambda: (site.get()["status"].get("run") or {}).get("runId"), "the run in status")
    (job,) = jobs(site)
    return job


def says(site: Any, job: Object, **status: Any) -> None:
    """Writes the RayJob's status, as KubeRay would."""
    about = {key: job["metadata"][key] for key in ("name", "namespace", "uid")}
    site.client.apply_status(RAY_JOB, {"metadata": about, "status": status}, manager="kuberay")


def state(site: Any) -> str:
    return str((site.get()["status"].get("run") or {}).get("state"))


def test_a_rayjob_that_was_deleted_by_hand_is_made_again(kuberay: Any) -> None:
    """Under its name, since it is the same run; the run is lost to nobody."""
    kuberay.adapter()
    first = started(kuberay)
    says(kuberay, first, **RUNNING)
    kuberay.until(lambda: state(kuberay) == "Running", "it trains")
    kuberay.client.delete(RAY_JOB, kuberay.namespace, first["metadata"]["name"], uid=uid_of(first))
    kuberay.until(lambda: [uid_of(job) != uid_of(first) for job in jobs(kuberay)] == [True], "it is made again")
    (second,) = jobs(kuberay)
    assert first["metadata"]["name"] == second["metadata"]["name"] == kuberay.get()["status"]["run"]["runId"]


def test_a_foreign_rayjob_is_told_and_left_alone(kuberay: Any) -> None:
    """Whatever it does, it is not the run; when its owner takes it away, the run starts."""
    kuberay.adapter(suspend=True)
    kuberay.until(lambda: kuberay.condition("Ready") == ("False", "Suspended"), "nothing starts")
    adapter = SocAdapter.model_validate(kuberay.get())
    pool = SocServingPool.model_validate(kuberay.get("base", POOL))
    wanted = triggers.wanted_hash(adapter, Observed(pools={"base": pool}))
    assert wanted is not None
    about = {"name": triggers.spec_run_id(adapter, wanted), "namespace": kuberay.namespace}
    theirs = kuberay.client.create(RAY_JOB, {"metadata": about, "spec": {"entrypoint": "sleep 1"}})
    says(kuberay, theirs, **RUNNING)
    kuberay.adapter()
    kuberay.until(lambda: kuberay.condition("Stalled") == ("True", "ForeignObject"), "it is told")
    kuberay.adapter(lora={"rank": 4})
    kuberay.until(lambda: len(jobs(kuberay)) == 2, "another spec has another run")
    assert uid_of(theirs) == uid_of(kuberay.client.get(RAY_JOB, kuberay.namespace, about["name"]))
    kuberay.client.delete(RAY_JOB, kuberay.namespace, about["name"], uid=uid_of(theirs))
    kuberay.adapter()
    kuberay.until(lambda: about["name"] in [job["metadata"]["name"] for job in jobs(kuberay)], "the run starts")


def test_a_rotated_token_reaches_the_service_and_a_missing_one_is_told(kuberay: Any) -> None:
    """The service goes on with what it has until there is another value."""

    def served() -> Object:
        found: Object = kuberay.client.find(RAY_SERVICE, kuberay.namespace, "base") or {}
        return found

    kuberay.until(served, "the RayService")
    before = served()
    token(kuberay, "second")
    rotated = partial(_differs, served, before)
    kuberay.until(rotated, "the new token is handed on")
    held = kuberay.client.get(SECRET, kuberay.namespace, "soar")
    kuberay.client.delete(SECRET, kuberay.namespace, "soar", uid=uid_of(held))
    site_spec = kuberay.get("base", POOL)["spec"]
    kuberay.pool(**{key: site_spec[key] for key in ("base", "callers", "host")}, maxLoras=9)
    kuberay.until(lambda: kuberay.condition("Stalled", "base", POOL) == ("True", "SecretNotFound"), "it is told")
    assert uid_of(before) == uid_of(served())
    token(kuberay, "third")
    kuberay.until(lambda: kuberay.condition("Stalled", "base", POOL)[0] == "False", "it is mended")


def _differs(served: Any, before: Object) -> bool:
    digests = [(raw.get("metadata") or {}).get("annotations", {}).get(SPEC_DIGEST) for raw in (before, served())]
    return bool(digests[1]) and digests[0] != digests[1]


def test_kuberay_may_come_later(site: Any, control_plane: ControlPlane, request: pytest.FixtureRequest) -> None:
    """Until its kinds are served pool and adapter say what is missing; then both go on by themselves."""
    request.addfinalizer(lambda: control_plane.install(RAY_CRDS))
    names = [f"{kind.plural}.{kind.group}" for kind in (RAY_JOB, RAY_SERVICE)]
    for name in names:
        held = site.client.get(CUSTOM_RESOURCE_DEFINITION, "", name)
        site.client.delete(CUSTOM_RESOURCE_DEFINITION, "", name, uid=uid_of(held))
    site.until(lambda: all(site.client.find(CUSTOM_RESOURCE_DEFINITION, "", name) is None for name in names), "gone")
    kuberay: Any = request.getfixturevalue("kuberay")
    kuberay.adapter()
    kuberay.until(lambda: kuberay.condition("Ready", "base", POOL) == ("False", "KindNotInstalled"), "the pool says so")
    kuberay.until(lambda: kuberay.condition("Trained") == ("Unknown", "KindNotInstalled"), "the adapter says so")
    control_plane.install(RAY_CRDS)
    kuberay.until(lambda: kuberay.client.list(RAY_SERVICE, kuberay.namespace).items, "the RayService")
    started(kuberay)


def test_a_newer_kuberay_is_read_as_far_as_it_is_known(
    kuberay: Any, control_plane: ControlPlane, request: pytest.FixtureRequest
) -> None:
    """A version of the kind besides ours and fields in its status change nothing; a state of its own is told."""
    name = f"{RAY_JOB.plural}.{RAY_JOB.group}"
    before = kuberay.client.get(CUSTOM_RESOURCE_DEFINITION, "", name)
    request.addfinalizer(lambda: control_plane.install(RAY_CRDS))
    upgraded = copy.deepcopy(before)
    (version,) = upgraded["spec"]["versions"]
    status = version["schema"]["openAPIV3Schema"]["properties"]["status"]
    status["x-kubernetes-preserve-unknown-fields"] = True
    upgraded["spec"]["versions"].append({**copy.deepcopy(version), "name": "v2", "storage": False})
    kuberay.client.replace(CUSTOM_RESOURCE_DEFINITION, upgraded)
    kuberay.adapter()
    job = started(kuberay)
    more = {"conditions": [{"type": "Complete", "status": "False"}], "placement": {"rack": 7}}
    _says_newly(kuberay, job, {**RUNNING, **more})
    kuberay.until(lambda: state(kuberay) == "Running", "it is seen")
    _says_newly(kuberay, job, {**more, "jobDeploymentStatus": "Hibernating"})
    kuberay.until(lambda: kuberay.condition("Trained") == ("Unknown", "UnknownStatus"), "the state is told")
    _says_newly(kuberay, job, {**RUNNING, **more})
    kuberay.until(lambda: state(kuberay) == "Running", "it goes on")
    (held,) = jobs(kuberay)
    assert uid_of(job) == uid_of(held)


def _says_newly(site: Any, job: Object, status: Object) -> None:
    """`says`, once the server takes the fields of the newer definition."""

    def kept() -> bool:
        with suppress(ObjectInvalid):
            says(site, job, **status)
        return set(status) <= set(jobs(site)[0].get("status") or {})

    site.until(kept, "the newer definition is served")
