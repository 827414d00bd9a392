"""`kubectl socadapter` on a real API server: what it changes, and that looking changes nothing."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.controlplane.cluster import Cluster

from socadapter_api.adapter import TRAIN_REQUESTED_AT
from socadapter_cli.main import cli
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.credentials import Kubeconfig
from socadapter_operator.kube.resources import ADAPTER, Object

pytestmark = pytest.mark.slow

Kubectl = Callable[..., Result]


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    made = Client(Kubeconfig(cluster.kubeconfig_of()))
    yield made
    made.close()


@pytest.fixture
def kubectl(cluster: Cluster, namespace: str) -> Kubectl:
    """`kubectl("plan")` as ``kubectl socadapter plan`` in the test's namespace; it must succeed."""

    def call(*arguments: str, code: int = 0) -> Result:
        options = ("-n", namespace, "--kubeconfig", str(cluster.kubeconfig_of()))
        result = CliRunner(env={"COLUMNS": "300"}).invoke(cli, [*arguments, *options], prog_name="kubectl-socadapter")
        assert code == result.exit_code, result.output
        return result

    return call


def adapter(namespace: str, **spec: Any) -> Object:
    """An adapter as its owner writes it."""
    body = {"context": "cloud", "servingPoolRef": {"name": "base"}, "data": {"alerts": [{"uri": "alerts.jsonl"}]}}
    return {"metadata": {"name": "cloud", "namespace": namespace}, "spec": body | spec}


def _asked(item: Object) -> tuple[bool, bool]:
    """Whether it is suspended, and whether a run was asked for."""
    return item["spec"]["suspend"], TRAIN_REQUESTED_AT in (item["metadata"].get("annotations") or {})


@pytest.mark.parametrize(
    "commands",
    [
        pytest.param(("suspend", "train"), id="a request resumes nothing"),
        pytest.param(("train", "suspend"), id="a suspension takes back no request"),
    ],
)
def test_what_was_asked_for_before_stays(
    commands: tuple[str, ...], kubectl: Kubectl, client: Client, namespace: str
) -> None:
    """`train` and `suspend` set one field each and leave the other's alone, in either order."""
    client.apply(ADAPTER, adapter(namespace), manager="git")
    for command in commands:
        kubectl(command, "cloud")
    assert (True, True) == _asked(client.get(ADAPTER, namespace, "cloud"))
    kubectl("resume", "cloud")
    assert (False, True) == _asked(client.get(ADAPTER, namespace, "cloud"))


def test_what_git_applies_stays_gits(kubectl: Kubectl, client: Client, namespace: str) -> None:
    """Who applied the resource still owns what it applied, can set `suspend`, and keeps a request that is not its."""
    client.apply(ADAPTER, adapter(namespace), manager="git")
    kubectl("train", "cloud")
    owned = client.apply(ADAPTER, adapter(namespace, suspend=True), manager="git", force=False)
    assert (True, True) == _asked(owned)
    kubectl("suspend", "cloud")
    by = {entry["manager"] for entry in client.get(ADAPTER, namespace, "cloud")["metadata"]["managedFields"]}
    assert {"git", "kubectl-socadapter"} == by
    assert (True, True) == _asked(client.apply(ADAPTER, adapter(namespace, suspend=True), manager="git", force=False))


def test_no_adapter_is_made_for_a_wrong_name(kubectl: Kubectl, client: Client, namespace: str) -> None:
    """A name that is not there is told, with exit code 2, and nothing of that name comes to be."""
    assert "holds no SocAdapter 'clod'" in kubectl("train", "clod", code=2).stderr
    assert client.find(ADAPTER, namespace, "clod") is None
