"""The client, the elector and the recorder against a real API server: what the small one of the unit tests assumes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.controlplane.cluster import Cluster, wait_for
from tests.controlplane.plane import ControlPlane

from socadapter_api.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    KindNotInstalled,
    LoginRefused,
    ObjectInvalid,
    ObjectNotFound,
)
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.connection import Connection
from socadapter_operator.kube.credentials import Kubeconfig
from socadapter_operator.kube.lease import LeaseElector
from socadapter_operator.kube.recorder import Recorder
from socadapter_operator.kube.resources import (
    ADAPTER,
    CONFIG_MAP,
    EVENT,
    LEASE,
    POD,
    POOL,
    RAY_JOB,
    SECRET,
    WORKLOAD,
    Object,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    made = Client(Kubeconfig(cluster.kubeconfig))
    yield made
    made.close()


def config_map(namespace: str, name: str = "a", data: dict[str, str] | None = None, **about: Any) -> Object:
    return {"metadata": {"namespace": namespace, "name": name, **about}, "data": data or {}}


def pool(namespace: str, name: str = "base", **about: Any) -> Object:
    """The least that makes a pool."""
    spec = {"base": {"uri": "builtin://smollm2-135m-instruct"}, "store": "s3://adapters"}
    return {"metadata": {"namespace": namespace, "name": name, **about}, "spec": spec}


def test_objects_come_change_and_go(client: Client, namespace: str) -> None:
    """Create, read, replace and delete do what they say; a delete is seen at once."""
    created = client.create(CONFIG_MAP, config_map(namespace, data={"k": "1"}))
    assert created == client.get(CONFIG_MAP, namespace, "a")
    changed = client.replace(CONFIG_MAP, {**created, "data": {"k": "2"}})
    with pytest.raises(Conflict):
        client.replace(CONFIG_MAP, {**created, "data": {"k": "3"}})
    assert {"k": "2"} == client.get(CONFIG_MAP, namespace, "a")["data"]
    client.delete(CONFIG_MAP, namespace, "a", uid=changed["metadata"]["uid"])
    assert client.find(CONFIG_MAP, namespace, "a") is None


def test_delete_keeps_its_conditions(client: Client, namespace: str) -> None:
    """An object of another uid, or one that changed since, is not deleted."""
    created = client.create(CONFIG_MAP, config_map(namespace))
    uid, version = created["metadata"]["uid"], created["metadata"]["resourceVersion"]
    client.apply(CONFIG_MAP, config_map(namespace, data={"k": "1"}))
    with pytest.raises(Conflict):
        client.delete(CONFIG_MAP, namespace, "a", uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(Conflict):
        client.delete(CONFIG_MAP, namespace, "a", uid=uid, resource_version=version)
    client.delete(CONFIG_MAP, namespace, "a", uid=uid)
    with pytest.raises(ObjectNotFound):
        client.delete(CONFIG_MAP, namespace, "a", uid=uid)


def test_refusals_have_their_class(client: Client, namespace: str) -> None:
    """What a real API server refuses becomes the error that the tree has for it."""
    client.create(CONFIG_MAP, config_map(namespace))
    with pytest.raises(AlreadyExists):
        client.create(CONFIG_MAP, config_map(namespace))
    with pytest.raises(ObjectNotFound):
        client.get(CONFIG_MAP, namespace, "b")
    with pytest.raises(ObjectNotFound, match="namespaces"):
        client.create(CONFIG_MAP, config_map("nowhere"))
    with pytest.raises(ObjectInvalid):
        client.create(CONFIG_MAP, config_map(namespace, "Not_A_Name"))
    with pytest.raises(ObjectInvalid, match="spec"):
        client.create(POOL, {"metadata": {"namespace": namespace, "name": "p"}})
    with pytest.raises(ObjectInvalid, match="unknown"):
        client.apply(POOL, {**pool(namespace), "unknown": {}})
    for call in (lambda: client.get(WORKLOAD, namespace, "a"), lambda: client.list(WORKLOAD)):
        with pytest.raises(KindNotInstalled):
            call()
    assert (False, True) == (client.installed(WORKLOAD), client.installed(ADAPTER))


def test_strangers_are_told_apart_from_the_unauthorized(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    """A token that nobody knows is refused at the door, one without a role at the object."""

    class Stranger:
        def connection(self) -> Connection:
            known = Kubeconfig(control_plane.kubeconfig).connection()
            return Connection(known.server, known.ca, token="nobody")

        def refused(self) -> None:
            pass

    stranger = Client(Stranger())
    with pytest.raises(LoginRefused):
        stranger.get(SECRET, namespace, "a")
    stranger.close()
    guest = Client(Kubeconfig(control_plane.certificate_kubeconfig("guest")))
    with pytest.raises(Forbidden, match="guest"):
        guest.get(SECRET, namespace, "a")
    guest.close()


def test_lists_are_whole(client: Client, namespace: str) -> None:
    """Many pages make one list, of one namespace or of a label."""
    for number in range(7):
        client.create(CONFIG_MAP, config_map(namespace, f"n-{number}", labels={"odd": str(number % 2)}))
    found = client.list(CONFIG_MAP, namespace, page_size=2)
    names = [item["metadata"]["name"] for item in found.items if item["metadata"]["name"].startswith("n-")]
    assert [f"n-{number}" for number in range(7)] == names
    assert {"ConfigMap"} == {item["kind"] for item in found.items}
    assert 3 == len(client.list(CONFIG_MAP, namespace, labels="odd=1", page_size=2).items)
    assert found.resource_version.isdecimal()


def managers(item: Object) -> dict[str, str]:
    """Who manages fields of `item`, and of which subresource."""
    return {entry["manager"]: entry.get("subresource", "") for entry in item["metadata"]["managedFields"]}


def test_apply_owns_its_fields(client: Client, namespace: str) -> None:
    """Two managers keep off each other's fields, unless forced; what one no longer names goes."""
    client.apply(CONFIG_MAP, config_map(namespace, data={"ours": "1", "shared": "1"}))
    client.apply(CONFIG_MAP, config_map(namespace, data={"theirs": "1"}), manager="they")
    with pytest.raises(Conflict, match="shared"):
        client.apply(CONFIG_MAP, config_map(namespace, data={"shared": "2"}), manager="they", force=False)
    client.apply(CONFIG_MAP, config_map(namespace, data={"ours": "1"}))
    held = client.get(CONFIG_MAP, namespace, "a")
    assert {"ours": "1", "theirs": "1"} == held["data"]
    assert {"socadapter-operator": "", "they": ""} == managers(held)


def test_merge_gives_nothing_up(client: Client, namespace: str) -> None:
    """What the same manager set before stays, and what is another's; nothing is made where nothing was."""
    client.apply(CONFIG_MAP, config_map(namespace, data={"theirs": "1"}), manager="git")
    client.merge(CONFIG_MAP, namespace, "a", {"data": {"first": "1"}}, manager="person")
    client.merge(CONFIG_MAP, namespace, "a", {"data": {"second": "2"}}, manager="person")
    held = client.get(CONFIG_MAP, namespace, "a")
    assert {"theirs": "1", "first": "1", "second": "2"} == held["data"]
    assert {"git": "", "person": ""} == managers(held)
    with pytest.raises(ObjectNotFound):
        client.merge(CONFIG_MAP, namespace, "b", {"data": {}}, manager="person")
    client.create(POOL, pool(namespace))
    with pytest.raises(ObjectInvalid, match="spec"):
        client.merge(POOL, namespace, "base", {"spec": {"replicas": "many"}}, manager="person")


def test_equal_apply_changes_nothing(client: Client, namespace: str) -> None:
    """Applied again, an equal object keeps its version: nobody is woken. Of ours, the default status is stored once."""
    assert client.apply(CONFIG_MAP, config_map(namespace)) == client.apply(CONFIG_MAP, config_map(namespace))
    client.apply(POOL, pool(namespace))
    assert client.apply(POOL, pool(namespace)) == client.apply(POOL, pool(namespace))


def test_status_is_apart(client: Client, namespace: str) -> None:
    """Status is written by its own manager, changes no generation, and refuses a namesake and what is gone."""
    created = client.create(POOL, pool(namespace))
    about = {"namespace": namespace, "name": "base", "uid": created["metadata"]["uid"]}
    told = client.apply_status(POOL, {"metadata": about, "status": {"observedGeneration": 1, "endpoint": "http://x"}})
    assert ("http://x", 1) == (told["status"]["endpoint"], told["metadata"]["generation"])
    assert "status" == managers(told)["socadapter-operator-status"]
    status = {"status": {"endpoint": "http://y"}}
    with pytest.raises(Conflict):
        client.apply_status(POOL, {"metadata": {**about, "resourceVersion": "1"}, **status})
    assert "http://x" == client.get(POOL, namespace, "base")["status"]["endpoint"]
    with pytest.raises(Conflict):
        client.apply_status(POOL, {"metadata": {**about, "uid": "another"}, **status})
    client.delete(POOL, namespace, "base", uid=about["uid"])
    with pytest.raises(ObjectNotFound):
        client.apply_status(POOL, {"metadata": about, **status})


@pytest.mark.parametrize("about", [{"uid": "another"}, {"resourceVersion": "1"}], ids=["uid", "version"])
def test_apply_changes_only_what_was_meant(client: Client, namespace: str, about: dict[str, str]) -> None:
    """An object of another uid, or one that changed since, is left as it is."""
    created = client.create(POOL, pool(namespace))
    with pytest.raises(Conflict):
        client.apply(POOL, {**pool(namespace, **about), "spec": {**created["spec"], "replicas": 3}})
    assert 1 == client.get(POOL, namespace, "base")["spec"]["replicas"]


def test_apply_that_names_a_uid_never_creates(client: Client, namespace: str) -> None:
    """A finalizer meant for an object that is gone brings no empty namesake into being."""
    created = client.create(POOL, pool(namespace))
    about = {"namespace": namespace, "name": "base", "uid": created["metadata"]["uid"]}
    guarded = client.apply(POOL, {"metadata": {**about, "finalizers": ["socadapter.io/test"]}}, manager="finalizer")
    assert ["socadapter.io/test"] == guarded["metadata"]["finalizers"]
    freed = client.apply(POOL, {"metadata": about}, manager="finalizer")
    assert "finalizers" not in freed["metadata"]
    client.delete(POOL, namespace, "base", uid=about["uid"])
    with pytest.raises(Conflict):
        client.apply(POOL, {"metadata": {**about, "finalizers": ["socadapter.io/test"]}}, manager="finalizer")
    assert client.find(POOL, namespace, "base") is None


def test_log_of_a_missing_pod_is_an_error_of_the_tree(client: Client, namespace: str) -> None:
    """Without the pod there is no log, and that is said by name."""
    with pytest.raises(ObjectNotFound):
        list(client.log_lines(namespace, "nobody"))
    assert client.find(POD, namespace, "nobody") is None
    assert client.find(RAY_JOB, namespace, "nobody") is None


def test_events_are_taken_and_grow(client: Client, namespace: str) -> None:
    """An event and its series are what a real API server takes, and are found by the object's uid."""
    item = client.create(POOL, pool(namespace))
    recorder = Recorder(client, "pod-1")
    for _ in range(3):
        recorder.record(item, "PoolServes", "replicas are ready", action="Serve")
        recorder.write_due(all_of_it=True)
    recorder.record(item, "Told", "x" * 5000, warning=True)
    recorder.write_due(all_of_it=True)
    events = {event["reason"]: event for event in client.list(EVENT, namespace).items}
    assert {"PoolServes", "Told"} == set(events)
    assert 3 == events["PoolServes"]["series"]["count"]
    assert item["metadata"]["uid"] == events["Told"]["regarding"]["uid"]


def test_fence_and_lease_work_on_the_real_thing(client: Client, cluster: Cluster, namespace: str) -> None:
    """The elector's record is one that the API server takes, renews and releases."""
    elector = LeaseElector(client, namespace, "operator", "a")
    fenced = Client(Kubeconfig(cluster.kubeconfig), fence=elector.fence)
    elector.step()
    elector.step()
    fenced.create(CONFIG_MAP, config_map(namespace))
    fenced.close()
    lease = client.get(LEASE, namespace, "operator")["spec"]
    assert ("a", 15, 0) == (lease["holderIdentity"], lease["leaseDurationSeconds"], lease["leaseTransitions"])
    elector.release()
    assert not client.get(LEASE, namespace, "operator")["spec"].get("holderIdentity")


@contextmanager
def candidate(cluster: Cluster, namespace: str, identity: str) -> Iterator[subprocess.Popen[str]]:
    """A process that stands for election until the block ends."""
    command = [sys.executable, str(Path(__file__).with_name("candidate.py"))]
    process = subprocess.Popen(
        [*command, str(cluster.kubeconfig), namespace, identity],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        assert "waiting\n" == process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def holder(client: Client, namespace: str) -> str:
    lease = client.find(LEASE, namespace, "operator")
    return "" if lease is None else str(lease["spec"].get("holderIdentity") or "")


def test_killed_leader_is_succeeded(cluster: Cluster, client: Client, namespace: str) -> None:
    """Of two processes one leads; killed without a word, it is succeeded by the other, and one that stops is, too."""
    with candidate(cluster, namespace, "first") as first:
        assert "won" == next_line(first)
        with candidate(cluster, namespace, "second") as second:
            assert "first" == holder(client, namespace)
            first.kill()
            assert "won" == next_line(second)
            assert "second" == holder(client, namespace)
            with candidate(cluster, namespace, "third") as third:
                second.terminate()
                assert "ended" == next_line(second)
                assert "won" == next_line(third)
                wait_for(lambda: holder(client, namespace) == "third" or None, "the third leads")
