"""`kubectl socadapter` on a real API server: what it changes, and that looking changes nothing."""

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.controlplane.cluster import Cluster
from tests.controlplane.plane import ControlPlane

from socadapter_api import digest
from socadapter_api.adapter import TRAIN_REQUESTED_AT
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ServingTable
from socadapter_cli.main import cli
from socadapter_operator.backends.kuberay import KubeRayBackend
from socadapter_operator.builders.installation import Installation
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.credentials import Kubeconfig
from socadapter_operator.kube.resources import ADAPTER, POOL, RAY_SERVICE, SECRET, Kind, Object, key_of, uid_of

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

    def call(*arguments: str, code: int = 0, kubeconfig: Path | None = None) -> Result:
        options = ("-n", namespace, "--kubeconfig", str(kubeconfig or cluster.kubeconfig_of()))
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


def test_describe_tells_all_of_a_run_and_a_command_that_works(kubectl: Kubectl, client: Client, namespace: str) -> None:
    """Stage, step, reward and what is left; every version, the canary's, too; and where the log is, to be called so."""
    client.apply(ADAPTER, adapter(namespace), manager="git")
    progress = {"stage": "grpo", "step": 3, "steps": 40, "reward": 0.625, "etaS": 600, "at": 0.0}
    run = {"runId": "cloud-0123456789", "state": "Running", "trainingHash": BASE, "number": 2, "progress": progress}
    roles = ("stable", "canary", "previous", "candidate")
    versions = {role: {"name": f"cloud-{role}", "digest": BASE, "uri": "store/run"} for role in roles}
    told = {"metadata": {"name": "cloud", "namespace": namespace}, "status": {"run": run, "versions": versions}}
    client.apply_status(ADAPTER, told)
    output = kubectl("describe", "cloud").output
    assert "grpo  3/40  reward 0.62  about 10 min left" in output
    assert set(roles) == {line.split()[0] for line in output.splitlines() if " cloud-" in line and BASE in line}
    command = shlex.split(re.search(r"log kubectl socadapter (.+)", output)[1])  # type: ignore[index]
    assert 0 == CliRunner().invoke(cli, command, prog_name="kubectl-socadapter").exit_code
    assert {"logs", "cloud", "cloud-0123456789", namespace} <= set(command)


BASE = digest.of_bytes(b"base")


class Served:
    """A pool without adapters, whose table KubeRay serves; no Secret but that of its caller is the user's."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client, self._namespace = client, namespace
        client.create(SECRET, self._named("soar", stringData={"token": "caller-token"}))
        self._spec = {
            "base": {"uri": "builtin://tiny", "digest": BASE},
            "store": "/nowhere",
            "host": "0.0.0.0",
            "callers": [{"name": "soar", "tokenSecretRef": {"name": "soar", "key": "token"}}],
        }
        self.change()

    def settle(self) -> None:
        """Does what the operator, KubeRay and the gateway do until the pool serves."""
        installation = Installation("registry.example/training:1", "registry.example/serving:1")
        backend = KubeRayBackend(self._client, self._namespace, installation)
        pool = SocServingPool.model_validate(self._client.get(POOL, self._namespace, "base"))
        backend.apply_table(pool, ServingTable(generation=1, base_digest=BASE))
        backend.close()
        serving = {"applicationStatuses": {"socadapter": {"status": "RUNNING"}}}
        self._say(RAY_SERVICE, {"activeServiceStatus": serving})
        self._say(POOL, {"tableGeneration": 1, "replicas": [{"replica": "r0", "generation": 1, "loaded": []}]})

    def change(self, **spec: Any) -> None:
        """Edits the pool as its owner would."""
        self._client.apply(POOL, self._named("base", spec=self._spec | spec), manager="git")

    def secrets(self) -> set[str]:
        return {key_of(item).name for item in self._client.list(SECRET, self._namespace).items}

    def _say(self, kind: Kind, status: Object) -> None:
        self._client.apply_status(kind, self._named("base", status=status))

    def _named(self, name: str, **more: Any) -> Object:
        return {"metadata": {"name": name, "namespace": self._namespace}, **more}


@pytest.fixture
def served(client: Client, namespace: str) -> Served:
    return Served(client, namespace)


@pytest.fixture
def reader(control_plane: ControlPlane, namespace: str) -> Path:
    """The kubeconfig of a user who may read everything in the namespace, and write nothing."""
    role = {
        "kind": "ClusterRole",
        "metadata": {"name": "everything-to-be-read"},
        "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]}],
    }
    binding = {
        "kind": "RoleBinding",
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "everything-to-be-read"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "reader"}],
    }
    version = {"apiVersion": "rbac.authorization.k8s.io/v1"}
    control_plane.kubectl("apply", "-f", "-", stdin={**role, **version})
    control_plane.kubectl("apply", "-f", "-", stdin={**binding, **version}, namespace=namespace)
    return control_plane.certificate_kubeconfig("reader")


def test_a_plan_is_made_by_one_who_may_only_read(
    kubectl: Kubectl, client: Client, namespace: str, reader: Path, served: Served
) -> None:
    """A new pool, one that serves, one that was edited: each plan is right, and neither a key nor anything is made."""
    assert "serve table 1: the base alone" in kubectl("plan", kubeconfig=reader).output
    assert {"soar"} == served.secrets()
    served.settle()
    told = kubectl("plan", kubeconfig=reader).output
    assert ("nothing to do", False) == (told.splitlines()[1].strip(), "Reconciling" in told)
    served.change(maxLoras=3)
    assert "serve table 1" in kubectl("plan", kubeconfig=reader).output


def test_a_plan_makes_no_key_in_the_place_of_one_that_is_gone(
    kubectl: Kubectl, client: Client, namespace: str, served: Served
) -> None:
    """Not even for a user who may: that is left to what starts a service or a run."""
    served.settle()
    before = served.secrets()
    key = client.get(SECRET, namespace, "base-signing-key")
    client.delete(SECRET, namespace, "base-signing-key", uid=uid_of(key))
    kubectl("plan")
    assert before - {"base-signing-key"} == served.secrets()
