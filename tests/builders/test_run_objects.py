"""What a run is in a cluster: a policy, its spec and a RayJob, made from it alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from tests.builders.resources import (
    ADAPTERS,
    FORBIDDEN,
    INSTALLATION,
    SIDECAR,
    SIGNING_KEY,
    make_adapter,
    make_pool,
    make_run,
    run_objects,
)

from socadapter_api import digest
from socadapter_api.adapter import SocAdapter
from socadapter_api.errors import SpecError
from socadapter_api.pool import SocServingPool
from socadapter_api.training import RunSpec
from socadapter_operator.builders import objects, rayjob, run_config
from socadapter_operator.builders.installation import OBJECT_LIMIT_BYTES


def job_spec(**compute: Any) -> dict[str, Any]:
    spec: dict[str, Any] = run_objects(make_adapter(**compute), make_pool()).job["spec"]
    return spec


@settings(max_examples=25)
@given(adapter=ADAPTERS)
def test_same_bytes_small_and_without_secrets(adapter: SocAdapter) -> None:
    """Building twice gives the same bytes; every object fits; no secret is in any of them."""
    first, second = (list(run_objects(adapter, make_pool())) for _ in range(2))
    assert list(map(digest.canonical_json, first)) == list(map(digest.canonical_json, second))
    for made in first:
        assert len(digest.canonical_json(made)) < OBJECT_LIMIT_BYTES
        assert made["kind"] != "Secret"
        assert not [value for value in FORBIDDEN if value in json.dumps(made)]


def test_made_in_order(adapter: SocAdapter, pool: SocServingPool) -> None:
    """The policy is there before any pod, and all that a pod mounts before the job."""
    assert ["NetworkPolicy", "ConfigMap", "RayJob"] == [made["kind"] for made in run_objects(adapter, pool)]


def test_owned_by_the_adapter(adapter: SocAdapter, pool: SocServingPool) -> None:
    """Every object has the adapter as its controller and lies in its namespace."""
    for made in run_objects(adapter, pool):
        (owner,) = made["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("SocAdapter", adapter.metadata.uid)
        assert owner["controller"] is owner["blockOwnerDeletion"] is True
        assert made["metadata"]["namespace"] == "soc"
        assert made["metadata"]["labels"]["socadapter.io/run"] == "cloud-0123456789"
        assert made["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "socadapter-operator"


def test_named_after_the_run(adapter: SocAdapter, pool: SocServingPool) -> None:
    """Name and submission id are the run's id: a job that is there already is this run's."""
    job = run_objects(adapter, pool).job
    assert job["metadata"]["name"] == job["spec"]["jobId"] == "cloud-0123456789"


@pytest.mark.parametrize("run_id", ["x" * 48, "0-starts-with-a-digit"])
def test_names_that_kuberay_refuses(run_id: str, adapter: SocAdapter, pool: SocServingPool) -> None:
    """A run's id that is no name for a RayJob is told before anything is created."""
    run = make_run(adapter, pool, run_id)
    with pytest.raises(SpecError, match="no name for a RayJob"):
        objects.of_run(run, adapter, pool, INSTALLATION, signing_key=SIGNING_KEY)


def test_ends_by_itself() -> None:
    """KubeRay never retries; a job that hangs, waits for ever, or ended gives its pods back."""
    spec = job_spec(activeDeadlineSeconds=7200, preRunningDeadlineSeconds=60, ttlSecondsAfterFinished=0)
    assert spec["backoffLimit"] == 0
    assert (spec["activeDeadlineSeconds"], spec["preRunningDeadlineSeconds"]) == (7200, 60)
    assert (spec["shutdownAfterJobFinishes"], spec["ttlSecondsAfterFinished"]) == (True, 0)
    assert spec["rayClusterSpec"]["enableInTreeAutoscaling"] is False


def test_cluster_asks_for_a_token() -> None:
    """Token authentication is on, KubeRay makes the token, and the Ray version makes KubeRay accept it."""
    cluster = job_spec()["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == "2.60.0"


def test_queue_starts_it() -> None:
    """With a queue the job starts suspended and labelled for Kueue; without one nothing is said of either."""
    made = run_objects(make_adapter(queue="soc", queuePriorityClass="nightly"), make_pool()).job
    assert made["spec"]["suspend"] is True
    kueue = {key: value for key, value in made["metadata"]["labels"].items() if key.startswith("kueue")}
    assert kueue == {
        "kueue.x-k8s.io/queue-name": "soc",
        "kueue.x-k8s.io/priority-class": "nightly",
        "kueue.x-k8s.io/max-exec-time-seconds": "86400",
    }
    plain = run_objects(make_adapter(), make_pool()).job
    assert "suspend" not in plain["spec"]
    assert not any(key.startswith("kueue") for key in plain["metadata"]["labels"])


def test_one_pod_holds_all_workers() -> None:
    """Together: one pod with what all workers and Ray itself take, and a core more for Ray to hand out."""
    cluster = job_spec(workers=2, cpusPerWorker=1.5, gpusPerWorker=2, memoryPerWorker="3Gi")["rayClusterSpec"]
    assert cluster["workerGroupSpecs"] == []
    head = cluster["headGroupSpec"]
    assert (head["rayStartParams"]["num-cpus"], head["rayStartParams"]["num-gpus"]) == ("4", "4")
    assert head["template"]["spec"]["containers"][0]["resources"] == {
        "requests": {"cpu": "3500m", "memory": "8Gi", "nvidia.com/gpu": "4"},
        "limits": {"cpu": "4500m", "memory": "8Gi", "nvidia.com/gpu": "4"},
    }


def test_spread_workers_have_a_pod_each() -> None:
    """Spread: the head hands out nothing, each worker has a pod, and all of them mount the claim."""
    spread = {"placement": "Spread", "scratch": {"claimName": "shared"}}
    cluster = job_spec(workers=3, gpusPerWorker=1, memoryPerWorker="3Gi", **spread)["rayClusterSpec"]
    head, (group,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "num-gpus" not in head["rayStartParams"]
    assert group["rayStartParams"]["num-gpus"] == "1"
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 3
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"] == {
        "cpu": "2500m",
        "memory": "4Gi",
        "nvidia.com/gpu": "1",
    }
    assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]
    for template in (head["template"], group["template"]):
        assert {"name": "scratch", "persistentVolumeClaim": {"claimName": "shared"}} in template["spec"]["volumes"]


def test_submitter_is_ours() -> None:
    """The Job that submits has a template of its own, with the run's labels: KubeRay's default is not restricted."""
    spec = job_spec(image="train:7", tolerations=[{"operator": "Exists"}])
    template = spec["submitterPodTemplate"]
    (container,) = template["spec"]["containers"]
    assert (spec["submissionMode"], container["image"]) == ("K8sJobMode", "train:7")
    assert "command" not in container
    assert template["metadata"]["labels"]["socadapter.io/run"] == "cloud-0123456789"
    assert template["spec"]["tolerations"] == [{"operator": "Exists"}]


def test_overlay_reaches_the_submitter() -> None:
    """What an overlay says about a pod holds for the submitter as for Ray's pods; containers and volumes are theirs."""
    tolerations = [{"operator": "Exists"}]
    overlay: dict[str, Any] = {
        "metadata": {"labels": {"team": "soc"}, "annotations": {"sidecar.istio.io/inject": "false"}},
        "spec": {
            "securityContext": {"runAsUser": 12345, "runAsGroup": None, "fsGroup": 12345},
            "serviceAccountName": "trainer",
            "imagePullSecrets": [{"name": "mirror"}],
            "nodeSelector": {"zone": "a"},
            "tolerations": tolerations,
            "hostUsers": False,
        },
    }
    of_ray = {
        "containers": [{"name": "ray", "env": [{"name": "NCCL_DEBUG", "value": "INFO"}]}, SIDECAR],
        "initContainers": [SIDECAR | {"name": "prepare"}],
        "volumes": [{"name": "corpus", "emptyDir": {}}],
        "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpu"}],
    }
    both = overlay | {"spec": overlay["spec"] | of_ray}
    spec = job_spec(podTemplate=both, imagePullSecrets=[{"name": "registry"}], nodeSelector={"gpu": "a100"})
    submitter, head = spec["submitterPodTemplate"], spec["rayClusterSpec"]["headGroupSpec"]["template"]
    for template in (submitter, head):
        assert (
            template["metadata"]["labels"].items() >= {"team": "soc", "socadapter.io/run": "cloud-0123456789"}.items()
        )
        assert {"sidecar.istio.io/inject": "false"} == template["metadata"]["annotations"]
        context = template["spec"]["securityContext"]
        assert (12345, 12345, True) == (context["runAsUser"], context["fsGroup"], context["runAsNonRoot"])
        assert "runAsGroup" not in context
        assert "trainer" == template["spec"]["serviceAccountName"]
        assert {"mirror", "registry"} == {secret["name"] for secret in template["spec"]["imagePullSecrets"]}
        assert {"gpu": "a100", "zone": "a"} == template["spec"]["nodeSelector"]
        assert (tolerations, False) == (template["spec"]["tolerations"], template["spec"]["hostUsers"])
    assert head["spec"].keys() >= of_ray.keys()
    assert of_ray.keys() & submitter["spec"].keys() == {"containers", "volumes"}
    assert ["ray-job-submitter"] == [container["name"] for container in submitter["spec"]["containers"]]
    assert {"tmp", "home", "cache"} == {volume["name"] for volume in submitter["spec"]["volumes"]}


def test_submitter_is_started_once() -> None:
    """A Job takes no pod that is started for ever, whatever the overlay says of Ray's."""
    submitter = job_spec(podTemplate={"spec": {"restartPolicy": "Always"}})["submitterPodTemplate"]
    assert "Never" == submitter["spec"]["restartPolicy"]


def test_pods_bear_no_name_label(adapter: SocAdapter, pool: SocServingPool) -> None:
    """KubeRay's head Services select by its own `app.kubernetes.io/name`: pods must not have another."""
    labels = run_objects(adapter, pool).job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["metadata"]["labels"]
    assert "app.kubernetes.io/name" not in labels


def test_run_finds_its_spec_and_its_keys(adapter: SocAdapter, pool: SocServingPool, tmp_path: Path) -> None:
    """The mounted file is a run spec whose paths are those of the mounts; only named keys are mounted."""
    from socadapter_jobs.__main__ import read_spec

    made = run_objects(adapter, pool)
    file = tmp_path / "run.json"
    file.write_text(made.config["data"]["run.json"], encoding="utf-8")
    spec = read_spec(str(file))
    assert isinstance(spec, RunSpec)
    container = made.job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    volumes = made.job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    variables = {item["name"]: item["value"] for item in container["env"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert variables["SOCADAPTER_RUN_SPEC"] == f"{run_config.FOLDER}/run.json"
    assert mounts[run_config.FOLDER]["name"] == "run-spec"
    assert {"name": "run-spec", "configMap": {"name": made.config["metadata"]["name"], "defaultMode": 0o444}} in volumes
    assert spec.scratch == "/scratch/soc/cloud-0123456789"
    assert "/scratch" in mounts
    assert spec.signing_key == "signing/key.pem"
    assert mounts[variables["SOCADAPTER_SECRETS"]]["readOnly"] is True
    (projected,) = (volume["projected"] for volume in volumes if volume["name"] == "secrets")
    assert projected["sources"] == [
        {"secret": {"name": "siem", "items": [{"key": "token", "path": "siem/token"}]}},
        {"secret": {"name": "signing", "items": [{"key": "key.pem", "path": "signing/key.pem"}]}},
    ]


def test_spec_that_changes_gets_another_name(adapter: SocAdapter, pool: SocServingPool) -> None:
    """A resumed attempt that is told something else never finds the old file under the new one's name."""
    names = {run_config.build(make_run(adapter, pool, seed=seed), adapter)["metadata"]["name"] for seed in (0, 1)}
    assert len(names) == 2
    assert all(len(name) <= 63 for name in names)


def test_spec_too_large_is_told(adapter: SocAdapter, pool: SocServingPool) -> None:
    """A spec that no ConfigMap takes is refused with its size and what to do."""
    run = make_run(adapter, pool).model_copy(update={"trusted_keys": ("k" * 4096,) * 300})
    with pytest.raises(SpecError, match="name folders"):
        run_config.build(run, adapter)


def test_store_credentials_by_name() -> None:
    """The store's Secret becomes variables, which can set none of ours, and files; its name is all that is written."""
    made = run_objects(make_adapter(), make_pool(storeSecretRef={"name": "s3"}))
    spec = made.job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert spec["containers"][0]["envFrom"] == [{"secretRef": {"name": "s3"}}]
    assert {"name": "store-credentials", "secret": {"secretName": "s3", "defaultMode": 0o440}} in spec["volumes"]


def test_entry_point_is_the_job() -> None:
    """What Ray starts is the package of the jobs, in place of a shell that would pass signals on twice."""
    assert rayjob.ENTRYPOINT == "exec python -m socadapter_jobs"
    assert job_spec()["entrypoint"] == rayjob.ENTRYPOINT


def test_ray_asks_no_cloud_where_it_runs(adapter: SocAdapter, pool: SocServingPool) -> None:
    """A configuration in the home folder keeps Ray's dashboard from asking cloud providers' metadata addresses."""
    made = run_objects(adapter, pool)
    container = made.job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    home = next(item["value"] for item in container["env"] if item["name"] == "HOME")
    (mount,) = (item for item in container["volumeMounts"] if item["mountPath"] == f"{home}/ray_bootstrap_config.yaml")
    assert made.config["data"][mount["subPath"]] == "{}\n"
    assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
