"""The cluster's samples: what the operator makes of them on an API server that has KubeRay's kinds.

No KubeRay runs here: what it would write is not there, and everything stops where it would begin.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from socadapter_api import digest
from socadapter_cli.main import cli
from socadapter_operator.backends.cluster import ClusterBackends
from socadapter_operator.builders.installation import Installation
from socadapter_operator.kube.resources import ADAPTER, POOL, RAY_JOB, RAY_SERVICE, SECRET, Object
from socadapter_operator.shell.operator import Operator

pytestmark = pytest.mark.slow

SAMPLES = Path(__file__).parents[2] / "manifests" / "cluster-samples"
KINDS = {"Secret": SECRET, "SocServingPool": POOL, "SocAdapter": ADAPTER}


@pytest.fixture
def samples(site: Any) -> dict[str, Object]:
    """The samples by kind and name, in the test's namespace, with a real signing key and a base that is known."""
    found: dict[str, Object] = {}
    for path in sorted(SAMPLES.glob("*.yaml")):
        for item in yaml.safe_load_all(path.read_text("utf-8")):
            item["metadata"]["namespace"] = site.namespace
            found[f"{item['kind']}/{item['metadata']['name']}"] = item
    found["Secret/soc-signing"]["stringData"]["key.pem"] = _key()
    found["SocServingPool/soc-base"]["spec"]["base"]["digest"] = digest.of_bytes(b"base")
    found["SocServingPool/soc-base"]["spec"]["store"] = str(site.root / "store")
    return found


@pytest.fixture
def operator(site: Any) -> Operator:
    """An operator with the backends of a cluster."""
    installation = Installation("example.test/train:1", "example.test/serve:1")
    made: Operator = site.operate(backends=lambda client: ClusterBackends(client, installation))
    return made


def test_the_samples_become_a_service_and_a_run(site: Any, samples: dict[str, Object], operator: Operator) -> None:
    """Secrets, pool and adapter: one RayService and one RayJob, each owned, named and labelled, and told in status."""
    for item in samples.values():
        site.client.apply(KINDS[item["kind"]], item, manager="kubectl")
    site.until(lambda: site.client.list(RAY_SERVICE, site.namespace).items, "the RayService")
    site.until(lambda: site.client.list(RAY_JOB, site.namespace).items, "the RayJob")
    site.until(lambda: (site.get("cloud-infrastructure")["status"].get("run") or {}).get("runId"), "the run in status")
    (job,) = site.client.list(RAY_JOB, site.namespace).items
    run = site.get("cloud-infrastructure")["status"]["run"]
    assert (run["runId"], run["runId"]) == (job["metadata"]["name"], job["spec"]["jobId"])
    owners = [owner["uid"] for owner in job["metadata"]["ownerReferences"]]
    assert [site.get("cloud-infrastructure")["metadata"]["uid"]] == owners
    assert "socadapter_jobs" in job["spec"]["entrypoint"]


def test_a_missing_secret_is_told_and_the_run_starts_once_it_is_there(
    site: Any, samples: dict[str, Object], operator: Operator
) -> None:
    """`Stalled` with its reason until somebody makes it; nothing else is needed then."""
    signing = samples.pop("Secret/soc-signing")
    for item in samples.values():
        site.client.apply(KINDS[item["kind"]], item, manager="kubectl")
    name = "cloud-infrastructure"
    site.until(lambda: site.condition("Stalled", name) == ("True", "SecretNotFound"), "the missing Secret is told")
    assert not site.client.list(RAY_JOB, site.namespace).items
    site.client.apply(SECRET, signing, manager="kubectl")
    site.until(lambda: site.client.list(RAY_JOB, site.namespace).items, "the RayJob")


def test_plan_says_what_the_operator_would_do_and_does_nothing(site: Any, samples: dict[str, Object]) -> None:
    """Before an operator runs: the table that would be served, the run that would start, and neither is made."""
    for item in samples.values():
        site.client.apply(KINDS[item["kind"]], item, manager="kubectl")
    options = ["-n", site.namespace, "--kubeconfig", str(site.cluster.kubeconfig_of())]
    result = CliRunner().invoke(cli, ["plan", *options])
    assert 0 == result.exit_code, result.output
    assert "start run cloud-infrastructure-" in result.output
    assert "serve table 1" in result.output
    assert not [*site.client.list(RAY_JOB, site.namespace).items, *site.client.list(RAY_SERVICE, site.namespace).items]


def test_suspended_nothing_starts_and_resumed_it_does(site: Any, samples: dict[str, Object]) -> None:
    """`suspend` and `resume` are spec.suspend, and `train` is the annotation; `get` shows what is there."""
    for item in samples.values():
        site.client.apply(KINDS[item["kind"]], item, manager="kubectl")
    options = ["-n", site.namespace, "--kubeconfig", str(site.cluster.kubeconfig_of())]
    runner = CliRunner()
    for command, told in (
        (["suspend", "cloud-infrastructure"], "suspended"),
        (["plan"], "nothing to do"),
        (["resume", "cloud-infrastructure"], "resumed"),
        (["train", "cloud-infrastructure"], "the operator takes it up"),
        (["plan"], "start run cloud-infrastructure-"),
        (["get", "adapters"], "cloud-infrastructure"),
        (["describe", "cloud-infrastructure"], "context cloud-infrastructure, pool soc-base"),
    ):
        result = runner.invoke(cli, [*command, *options])
        assert (0, True) == (result.exit_code, told in result.output), (command, result.output)
    assert "socadapter.io/train-requested-at" in site.get("cloud-infrastructure")["metadata"]["annotations"]


def _key() -> str:
    made = ec.generate_private_key(ec.SECP256R1())
    return made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    ).decode()
