"""Runs and pools as KubeRay's resources on a real API server. KubeRay itself is not there: the tests write its word."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.api.recorded_version import VERSION
from tests.controlplane.cluster import Cluster, wait_for

from socadapter_api import digest
from socadapter_api.adapter import SocAdapter
from socadapter_api.errors import BackendUnavailable, ForeignObject, SecretNotFound
from socadapter_api.manifest import Outcome, RunResult
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ContextRoute, ServedVersion, ServingTable
from socadapter_api.training import RunSpec
from socadapter_operator.backends.cluster import ClusterBackends
from socadapter_operator.backends.kuberay import KubeRayBackend
from socadapter_operator.builders import labels
from socadapter_operator.builders.installation import UNKNOWN, Installation
from socadapter_operator.domain.observed import ServingState
from socadapter_operator.domain.state import RunState
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.credentials import Kubeconfig
from socadapter_operator.kube.resources import (
    ADAPTER,
    ADAPTER_VERSION,
    CONFIG_MAP,
    NETWORK_POLICY,
    POOL,
    RAY_JOB,
    RAY_SERVICE,
    SECRET,
    Kind,
    Object,
    key_of,
    metadata,
    uid_of,
)
from socadapter_store import layout
from socadapter_store.run_folder import RunFolder
from socadapter_store.signatures import fingerprint, new_private_key

pytestmark = pytest.mark.slow

INSTALLATION = Installation(training_image="registry.example/training:1", serving_image="registry.example/serving:1")
DIGEST = "sha256:" + "0" * 64


@dataclass
class Site:
    """A namespace with a pool, an adapter and the secret of a caller."""

    client: Client
    namespace: str
    root: Path

    def __post_init__(self) -> None:
        self.client.create(SECRET, self.named("soar", stringData={"token": "caller-token"}))
        caller = {"name": "soar", "tokenSecretRef": {"name": "soar", "key": "token"}}
        base = {"uri": "builtin://smollm2-135m-instruct"}
        self.spec = {"base": base, "store": str(self.root), "host": "0.0.0.0", "callers": [caller]}
        self.client.apply(POOL, self.named("base", spec=self.spec))
        told = {"context": "cloud", "servingPoolRef": {"name": "base"}, "data": {"alerts": [{"uri": "alerts.jsonl"}]}}
        self.client.apply(ADAPTER, self.named("cloud", spec=told))
        self.backend = KubeRayBackend(self.client, self.namespace, INSTALLATION)

    def named(self, name: str, **more: Any) -> Object:
        return {"metadata": {"name": name, "namespace": self.namespace}, **more}

    def pool(self, **changes: Any) -> SocServingPool:
        """The pool as it is, with changes to its spec that are not applied."""
        raw = self.client.get(POOL, self.namespace, "base")
        return SocServingPool.model_validate({**raw, "spec": {**raw["spec"], **changes}})

    def run(self, run_id: str = "cloud-0123456789") -> RunSpec:
        return RunSpec.model_validate(
            {
                "run_id": run_id,
                "namespace": self.namespace,
                "adapter": "cloud",
                "context": "cloud",
                "version_number": 1,
                "training_hash": digest.of_bytes(b"training"),
                "base": self.spec["base"],
                "store": str(self.root),
                "data": {"alerts": [{"uri": "alerts.jsonl"}]},
            }
        )

    def job(self, run_id: str = "cloud-0123456789") -> Object:
        return self.client.get(RAY_JOB, self.namespace, run_id)

    def kuberay_says(self, run_id: str = "cloud-0123456789", **status: Any) -> None:
        """Writes the RayJob's status, as KubeRay would."""
        identity = {"name": run_id, "namespace": self.namespace}
        self.client.apply_status(RAY_JOB, {"metadata": identity, "status": status}, manager="kuberay")

    def names(self, kind: Kind, labels: str = "") -> list[str]:
        return sorted(key_of(item).name for item in self.client.list(kind, self.namespace, labels=labels).items)


@pytest.fixture
def site(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[Site]:
    client = Client(Kubeconfig(cluster.kubeconfig_of()))
    made = Site(client, namespace, tmp_path / "store")
    yield made
    made.backend.close()
    client.close()


def test_starting_twice_makes_one_rayjob(site: Site) -> None:
    """By the same operator and by another that leads by mistake; it has its spec, policy and owner."""
    spec, pool = site.run(), site.pool()
    site.backend.start(spec, pool)
    first = site.job()
    site.backend.start(spec, pool)
    KubeRayBackend(site.client, site.namespace, INSTALLATION).start(spec, pool)
    assert (uid_of(first), [spec.run_id]) == (uid_of(site.job()), site.names(RAY_JOB))
    adapter = site.client.get(ADAPTER, site.namespace, "cloud")
    assert uid_of(adapter) == metadata(first)["ownerReferences"][0]["uid"]
    of_run = f"socadapter.io/run={spec.run_id}"
    assert [1, 1] == [len(site.names(kind, of_run)) for kind in (CONFIG_MAP, NETWORK_POLICY)]


def test_a_run_follows_kuberays_word(site: Site) -> None:
    """From starting to its end; a RayJob that was deleted by hand is absent."""
    site.backend.start(site.run(), site.pool())
    assert RunState.STARTING is site.backend.observe("cloud-0123456789").state
    site.kuberay_says(jobDeploymentStatus="Running", jobStatus="RUNNING")
    assert RunState.RUNNING is site.backend.observe("cloud-0123456789").state
    site.kuberay_says(jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
    assert RunState.SUCCEEDED is site.backend.observe("cloud-0123456789").state
    assert ["cloud-0123456789"] == [run.run_id for run in site.backend.ended(site.namespace, "cloud")]
    everywhere = ClusterBackends(site.client, INSTALLATION)
    assert RunState.SUCCEEDED is everywhere(None).observe("cloud-0123456789").state
    site.client.delete(RAY_JOB, site.namespace, "cloud-0123456789", uid=uid_of(site.job()))
    assert RunState.ABSENT is site.backend.observe("cloud-0123456789").state


def test_a_failed_run_is_resumed_under_its_name(site: Site) -> None:
    """The ended RayJob makes room for a new one; while it is still being removed the start is to be tried again."""
    spec, pool = site.run(), site.pool()
    site.backend.start(spec, pool)
    site.kuberay_says(jobDeploymentStatus="Failed", jobStatus="RUNNING", reason="AppFailed", message="exit 1")
    assert ("RunLost", True) == _why(site)
    held = site.job()
    held["metadata"]["finalizers"] = ["ray.io/rayjob-finalizer"]
    site.client.replace(RAY_JOB, held)
    with pytest.raises(BackendUnavailable, match="still being removed"):
        site.backend.start(spec, pool)
    assert ("Terminating", True) == _why(site)
    leaving = site.job()
    leaving["metadata"]["finalizers"] = []
    site.client.replace(RAY_JOB, leaving)
    wait_for(lambda: site.backend.observe(spec.run_id).state is RunState.ABSENT, "the old RayJob is gone")
    site.backend.start(spec, pool)
    assert uid_of(held) != uid_of(site.job())


def test_a_run_that_left_its_result_is_not_started_again(site: Site) -> None:
    """Who starts it saw none yet; of a failure, or without one, another attempt is made."""
    spec, pool = site.run(), site.pool()
    site.backend.start(spec, pool)
    site.kuberay_says(jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
    first = uid_of(site.job())
    folder = RunFolder.at(layout.run_uri(spec.store, spec.namespace, spec.context, spec.run_id))
    folder.finish(RunResult(run_id=spec.run_id, context=spec.context, outcome=Outcome.GATE_FAILED))
    site.backend.start(spec, pool)
    assert first == uid_of(site.job())
    folder.store.remove(layout.SUCCESS)
    site.backend.start(spec, pool)
    assert first != uid_of(site.job())


def _why(site: Site) -> tuple[str, bool]:
    found = site.backend.observe("cloud-0123456789")
    return found.reason, found.retryable


def test_a_foreign_rayjob_is_never_adopted(site: Site) -> None:
    """Same name, no owner of ours: neither changed nor deleted, nor taken for the run, whatever its state."""
    site.backend.start(site.run("cloud-other"), site.pool())
    theirs = site.named("cloud-0123456789", spec=site.job("cloud-other")["spec"])
    site.client.create(RAY_JOB, theirs)
    site.kuberay_says(jobDeploymentStatus="Failed")
    before = uid_of(site.job())
    with pytest.raises(ForeignObject, match="nobody"):
        site.backend.start(site.run(), site.pool())
    for word in ({"jobDeploymentStatus": "Failed"}, {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}):
        site.kuberay_says(**word)
        assert RunState.ABSENT is site.backend.observe("cloud-0123456789").state
        site.backend.stop("cloud-0123456789")
        site.backend.forget("cloud-0123456789")
    assert before == uid_of(site.job())


def test_a_run_that_waits_is_stopped_at_once(site: Site) -> None:
    """Queued or starting: its RayJob goes. One that ended is left alone."""
    site.backend.start(site.run(), site.pool())
    site.kuberay_says(jobDeploymentStatus="Suspended")
    assert RunState.QUEUED is site.backend.observe("cloud-0123456789").state
    site.backend.stop("cloud-0123456789")
    assert RunState.ABSENT is site.backend.observe("cloud-0123456789").state
    site.backend.start(site.run(), site.pool())
    site.kuberay_says(jobDeploymentStatus="Complete", jobStatus="STOPPED")
    site.backend.stop("cloud-0123456789")
    assert ("RunInterrupted", True) == _why(site)


def test_a_forgotten_run_leaves_nothing_in_the_cluster(site: Site) -> None:
    """RayJob, spec and policy go; a run that has not ended keeps all of them."""
    site.backend.start(site.run(), site.pool())
    of_run = "socadapter.io/run=cloud-0123456789"
    kinds = (RAY_JOB, CONFIG_MAP, NETWORK_POLICY)
    site.backend.forget("cloud-0123456789")
    assert [1, 1, 1] == [len(site.names(kind, of_run)) for kind in kinds]
    site.kuberay_says(jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
    site.backend.forget("cloud-0123456789")
    assert [[], [], []] == [site.names(kind, of_run) for kind in kinds]


def test_the_signing_key_is_made_once(site: Site) -> None:
    """By what starts a service or a run, never by a look; whoever starts later finds it, and trusts its public half."""
    with pytest.raises(SecretNotFound, match="first service or run"):
        site.backend.trusted_keys(site.pool())
    assert ServingState.ABSENT is site.backend.serving(site.pool()).state
    assert ["soar"] == site.names(SECRET)
    site.backend.apply_table(site.pool(), table(1))
    keys = site.backend.trusted_keys(site.pool())
    another = KubeRayBackend(site.client, site.namespace, INSTALLATION)
    another.start(site.run(), site.pool())
    assert (1, keys) == (len(keys), another.trusted_keys(site.pool()))
    with pytest.raises(SecretNotFound, match="nowhere"):
        site.backend.trusted_keys(site.pool(signing={"keySecretRef": {"name": "nowhere"}}))


class LostKey:
    """A pool whose key signed a version, and is gone."""

    def __init__(self, site: Site) -> None:
        site.backend.apply_table(site.pool(), table(1))
        (self.public,) = site.backend.trusted_keys(site.pool())
        adapter = SocAdapter.model_validate(site.client.get(ADAPTER, site.namespace, "cloud"))
        held = {**VERSION["metadata"], **labels.metadata(VERSION["metadata"]["name"], adapter, {})}
        spec = {**VERSION["spec"], "signedBy": fingerprint(self.public)}
        site.client.create(ADAPTER_VERSION, {"metadata": held, "spec": spec})
        self.secret = site.client.get(SECRET, site.namespace, "base-signing-key")
        site.client.delete(SECRET, site.namespace, "base-signing-key", uid=uid_of(self.secret))

    def restore(self, site: Site) -> None:
        kept = {key: self.secret["metadata"][key] for key in ("name", "namespace", "ownerReferences")}
        site.client.create(SECRET, {"metadata": kept, "data": self.secret["data"]})


def test_a_lost_signing_key_is_told_and_not_replaced(site: Site) -> None:
    """Neither a service nor a run gets another one while a version needs it; what serves stays. Restored, all go on."""
    lost = LostKey(site)
    before = uid_of(site.client.get(RAY_SERVICE, site.namespace, "base"))
    told = "recorded versions, such as 'cloud-v3-[0-9a-f]+', are signed with it .*: restore it"
    with pytest.raises(SecretNotFound, match=told):
        site.backend.apply_table(site.pool(), table(2))
    with pytest.raises(SecretNotFound, match=told):
        site.backend.start(site.run(), site.pool())
    assert "base-signing-key" not in site.names(SECRET)
    assert ([], before) == (site.names(RAY_JOB), uid_of(site.client.get(RAY_SERVICE, site.namespace, "base")))
    lost.restore(site)
    site.backend.apply_table(site.pool(), table(2))
    assert (lost.public,) == site.backend.trusted_keys(site.pool())


@pytest.mark.parametrize(
    "freed",
    [
        pytest.param(lambda public: {"trust": {"publicKeys": [public]}}, id="its public half is trusted"),
        pytest.param(lambda _: {"signing": {"keySecretRef": {"name": "own", "key": "key.pem"}}}, id="another is named"),
    ],
)
def test_a_lost_signing_key_can_be_left_behind(site: Site, freed: Callable[[str], dict[str, Any]]) -> None:
    """Whoever names another key, or trusts what the lost one signed without it, goes on."""
    lost = LostKey(site)
    site.client.create(SECRET, site.named("own", stringData={"key.pem": new_private_key()}))
    site.backend.apply_table(site.pool(**freed(lost.public)), table(2))
    assert table(2) == site.backend.serving(site.pool(**freed(lost.public))).table


def test_an_adapter_that_moves_to_a_new_pool_brings_no_key(site: Site) -> None:
    """Its versions are signed by the other pool's key, which is there: the new pool gets one of its own."""
    lost = LostKey(site)
    lost.restore(site)
    site.client.apply(POOL, site.named("next", spec=site.spec))
    told = site.client.get(ADAPTER, site.namespace, "cloud")["spec"]
    site.client.apply(ADAPTER, site.named("cloud", spec={**told, "servingPoolRef": {"name": "next"}}))
    moved = SocServingPool.model_validate(site.client.get(POOL, site.namespace, "next"))
    site.backend.apply_table(moved, table(1))
    assert (lost.public,) != site.backend.trusted_keys(moved)


def table(generation: int) -> ServingTable:
    version = ServedVersion(name=f"cloud-v{generation}-00000000", uri="/nowhere", digest=DIGEST)
    return ServingTable(generation=generation, routes=(ContextRoute(context="cloud", stable=version),))


def test_a_table_changes_nothing_else_of_a_rayservice(site: Site) -> None:
    """The cluster's spec stays as it is, so that KubeRay makes no new one; a changed pool is told, and changes it."""
    pool = site.pool()
    site.backend.apply_table(pool, table(1))
    first = site.client.get(RAY_SERVICE, site.namespace, "base")
    site.backend.apply_table(pool, table(2))
    second = site.client.get(RAY_SERVICE, site.namespace, "base")
    assert (uid_of(first), first["spec"]["rayClusterConfig"]) == (uid_of(second), second["spec"]["rayClusterConfig"])
    view = site.backend.serving(pool)
    assert (ServingState.STARTING, table(2), False) == (view.state, view.table, view.outdated)
    changed = site.pool(maxLoras=3)
    assert site.backend.serving(changed).outdated
    site.backend.apply_table(changed, table(2))
    assert not site.backend.serving(changed).outdated


def test_one_who_looks_from_outside_sees_what_is_settled(site: Site) -> None:
    """Without knowing the operator's images: what it applied is not outdated, and what the pool names since is."""
    site.backend.apply_table(site.pool(), table(1))
    outside = KubeRayBackend(site.client, site.namespace, UNKNOWN)
    assert not outside.serving(site.pool()).outdated
    changes: tuple[dict[str, Any], ...] = ({"maxLoras": 3}, {"ray": {"image": "registry.example/serving:2"}})
    assert [True, True] == [outside.serving(site.pool(**change)).outdated for change in changes]
    outside.close()


def test_a_rotated_token_makes_a_service_outdated(site: Site) -> None:
    """Its configuration is another then; with one that is missing nothing is applied, which says what is missing."""
    pool = site.pool()
    site.backend.apply_table(pool, table(1))
    secret = site.client.get(SECRET, site.namespace, "soar")
    site.client.replace(SECRET, {**secret, "stringData": {"token": "another"}})
    assert site.backend.serving(pool).outdated
    before = site.client.list(RAY_SERVICE, site.namespace).items
    site.client.delete(SECRET, site.namespace, "soar", uid=uid_of(secret))
    assert site.backend.serving(pool).outdated
    with pytest.raises(SecretNotFound, match="soar"):
        site.backend.apply_table(pool, table(2))
    assert before == site.client.list(RAY_SERVICE, site.namespace).items


def test_a_deleted_pool_leaves_no_service(site: Site) -> None:
    """Neither RayService nor configuration nor policy; what others own stays, a RayService of theirs included."""
    pool = site.pool()
    site.backend.apply_table(pool, table(1))
    site.backend.delete(pool)
    assert ServingState.ABSENT is site.backend.serving(pool).state
    assert ([], [], True) == (site.names(RAY_SERVICE), site.names(NETWORK_POLICY), "soar" in site.names(SECRET))
    spec: Callable[[], Any] = lambda: {"rayClusterConfig": {"headGroupSpec": {"template": {}}}}  # noqa: E731
    site.client.create(RAY_SERVICE, site.named("base", spec=spec()))
    site.backend.services.close()
    assert "ForeignObject" == site.backend.serving(pool).reason
    with pytest.raises(ForeignObject):
        site.backend.apply_table(pool, table(2))
    with pytest.raises(ForeignObject):
        site.backend.delete(pool)
