"""What a pool is in a cluster: a policy, a token, a configuration and a RayService whose table changes in place."""

import ast
import base64
import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from tests.builders.resources import (
    CALLER_TOKEN,
    FORBIDDEN,
    POOLS,
    TABLE,
    TOKEN,
    config_of,
    make_pool,
    pool_objects,
)

from socadapter_api import digest
from socadapter_api.errors import InsecureBind
from socadapter_api.pool import RAY_PORTS, SocServingPool
from socadapter_operator.builders import rayservice, secrets
from socadapter_operator.builders.installation import OBJECT_LIMIT_BYTES

SERVE_APP = Path(__file__).parents[2] / "serve" / "socadapter_serve" / "app.py"


def cluster(pool: SocServingPool) -> dict[str, Any]:
    found: dict[str, Any] = pool_objects(pool).service["spec"]["rayClusterConfig"]
    return found


def hashed(pool: SocServingPool) -> dict[str, Any]:
    """The part of a cluster that KubeRay compares: without the number of its pods."""
    found = copy.deepcopy(cluster(pool))
    for group in found["workerGroupSpecs"]:
        for key in ("replicas", "minReplicas", "maxReplicas"):
            del group[key]
    return found


@settings(max_examples=25)
@given(pool=POOLS)
def test_same_bytes_small_and_without_secrets(pool: SocServingPool) -> None:
    """Building twice gives the same bytes; every object fits; secrets' values are in Secrets and nowhere else."""
    first, second = (list(pool_objects(pool)) for _ in range(2))
    assert list(map(digest.canonical_json, first)) == list(map(digest.canonical_json, second))
    for made in first:
        assert len(digest.canonical_json(made)) < OBJECT_LIMIT_BYTES
        text = json.dumps(made)
        if made["kind"] != "Secret":
            assert not [value for value in FORBIDDEN if value in text]


@settings(max_examples=25)
@given(pool=POOLS)
def test_names_fit_kuberay(pool: SocServingPool) -> None:
    """The RayService's name is a DNS-1035 label that leaves room for the Service in front of the gateway."""
    name = rayservice.service_name(pool)
    assert len(f"{name}-serve-svc") <= 50
    assert name[0].isalpha()
    assert name[-1].isalnum()
    assert rayservice.endpoint(pool) == f"http://{name}-serve-svc.soc.svc:{pool.spec.port}"


def test_long_names_stay_apart() -> None:
    """Two pools whose names are cut have different RayServices."""
    names = {rayservice.service_name(make_pool(f"{'a' * 50}-{end}")) for end in "bc"}
    assert len(names) == 2


def test_made_in_order(pool: SocServingPool) -> None:
    """The policy is there before any pod, and all that a pod mounts before the service."""
    made = list(pool_objects(pool))
    assert ["NetworkPolicy", "Secret", "Secret", "RayService"] == [item["kind"] for item in made]
    assert {item["metadata"]["ownerReferences"][0]["uid"] for item in made} == {pool.metadata.uid}


def constants() -> dict[str, str]:
    """What the serving application calls itself, read without importing Ray."""
    found = {}
    for node in ast.parse(SERVE_APP.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            (target,) = node.targets
            found[ast.unparse(target)] = str(node.value.value)
    return found


def test_names_are_the_applications_own(pool: SocServingPool) -> None:
    """Application, import path and deployments are called as `socadapter_serve.app` calls them."""
    theirs = constants()
    config = yaml.safe_load(pool_objects(pool).service["spec"]["serveConfigV2"])
    (application,) = config["applications"]
    assert (application["name"], application["import_path"]) == (theirs["APP_NAME"], theirs["IMPORT_PATH"])
    assert {theirs["ENGINE"], theirs["GATEWAY"]} == {item["name"] for item in application["deployments"]}
    assert rayservice.IMPORT_PATH == theirs["IMPORT_PATH"]


def test_table_travels_as_user_config(pool: SocServingPool) -> None:
    """Another table changes `serveConfigV2` and nothing else: no new pods, no new cluster."""
    before, after = (
        pool_objects(pool, TABLE.model_copy(update={"generation": generation})).service["spec"] for generation in (3, 4)
    )
    deployments = json.loads(after["serveConfigV2"])["applications"][0]["deployments"]
    assert [4, 4] == [item["user_config"]["generation"] for item in deployments]
    assert before.pop("serveConfigV2") != after.pop("serveConfigV2")
    assert before == after


def test_replicas_change_in_place() -> None:
    """Another number of replicas changes the number of pods and of replicas, and nothing that KubeRay compares."""
    two, five = make_pool(replicas=2), make_pool(replicas=5)
    assert hashed(two) == hashed(five)
    assert 5 == cluster(five)["workerGroupSpecs"][0]["replicas"]
    engine, _ = json.loads(rayservice.serve_config(five, TABLE))["applications"][0]["deployments"]
    assert engine["num_replicas"] == 5


def test_no_replicas_suspend_it() -> None:
    """A pool of no replicas has no cluster."""
    assert pool_objects(make_pool(replicas=0)).service["spec"]["suspend"] is True
    assert pool_objects(make_pool(replicas=1)).service["spec"]["suspend"] is False


def test_another_configuration_is_another_cluster() -> None:
    """What the application reads once, when it starts, is mounted under a name of its own."""
    small, large = make_pool(maxLoras=4), make_pool(maxLoras=8)
    assert hashed(small) != hashed(large)
    names = {pool_objects(pool).config["metadata"]["name"] for pool in (small, large)}
    assert len(names) == 2


def test_access_is_no_configuration() -> None:
    """Who may reach the pods changes the policy alone."""
    closed, opened = make_pool(), make_pool(access={"gatewayNamespaces": ["soar"]})
    assert pool_objects(closed).config == pool_objects(opened).config
    assert pool_objects(closed).policy != pool_objects(opened).policy


def test_application_reads_what_is_mounted(pool: SocServingPool, tmp_path: Path) -> None:
    """The mounted file is the configuration that `socadapter_serve` reads, with the callers' tokens in it."""
    from socadapter_serve.config import read_config

    made = pool_objects(pool)
    path = tmp_path / "config.json"
    path.write_bytes(base64.b64decode(made.config["data"][secrets.CONFIG_FILE]))
    config = read_config(path)
    assert config.caller_tokens() == {"soar": CALLER_TOKEN}
    assert (str(config.state_dir), str(config.cache_dir)) == (rayservice.STATE_DIR, "/var/cache/socadapter")
    application = json.loads(made.service["spec"]["serveConfigV2"])["applications"][0]
    assert application["args"] == {"config": "/etc/socadapter/serve/config.json"}
    head = made.service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in head["containers"][0]["volumeMounts"]}
    assert mounts["/etc/socadapter/serve"] == "config"
    assert {mounts[rayservice.STATE_DIR], mounts["/var/cache/socadapter"]} == {"state", "cache"}
    secret = {"secretName": made.config["metadata"]["name"], "defaultMode": 0o440}
    assert {"name": "config", "secret": secret} in head["volumes"]


def test_gateway_needs_callers() -> None:
    """Behind a Service every pod could ask: a pool without callers is refused."""
    with pytest.raises(InsecureBind, match="names no callers"):
        pool_objects(make_pool(callers=[]))


def test_one_engine_a_pod() -> None:
    """Each engine has a worker pod to itself, with its GPUs; the gateway stays on the head."""
    pool = make_pool(replicas=2, ray={"gpusPerReplica": 2, "cpusPerReplica": 4, "memoryPerReplica": "40Gi"})
    engine, gateway = json.loads(rayservice.serve_config(pool, TABLE))["applications"][0]["deployments"]
    assert engine["ray_actor_options"] == {"num_cpus": 4.0, "num_gpus": 2, "resources": {"socadapter-engine": 1}}
    assert gateway["ray_actor_options"]["resources"] == {"socadapter-gateway": 1}
    made = cluster(pool)
    (group,) = made["workerGroupSpecs"]
    assert group["rayStartParams"]["num-gpus"] == "2"
    assert group["rayStartParams"]["resources"] == "'{\"socadapter-engine\": 1}'"
    assert made["headGroupSpec"]["rayStartParams"]["resources"] == "'{\"socadapter-gateway\": 1}'"
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "5500m", "memory": "41Gi", "nvidia.com/gpu": "2"}


def test_ports_and_probe() -> None:
    """Both groups name the port `serve`, which KubeRay looks for; a worker is ready when its proxy answers."""
    made = cluster(make_pool(port=9000))
    for template in (made["headGroupSpec"]["template"], made["workerGroupSpecs"][0]["template"]):
        container = template["spec"]["containers"][0]
        assert {"name": "serve", "containerPort": 9000} in container["ports"]
    worker = made["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    assert worker["readinessProbe"]["httpGet"] == {"path": "/-/healthz", "port": 9000}
    http = json.loads(rayservice.serve_config(make_pool(port=9000), TABLE))["http_options"]
    assert http == {"host": "0.0.0.0", "port": 9000}


def test_gateway_has_a_port_of_its_own(pool: SocServingPool) -> None:
    """A pool may take no port that a pod of Ray's names for Ray: callers would be let in to it."""
    made = cluster(pool)
    for template in (made["headGroupSpec"]["template"], made["workerGroupSpecs"][0]["template"]):
        ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
        assert pool.spec.port == ports.pop("serve")
        assert set(RAY_PORTS) >= set(ports.values())


@pytest.mark.slow
def test_agents_port_is_rays() -> None:
    """Ray's dashboard agent, which takes jobs as the dashboard does, listens where no gateway may."""
    from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT

    assert DEFAULT_DASHBOARD_AGENT_LISTEN_PORT in RAY_PORTS


def test_feedback_outlives_the_pod() -> None:
    """A claim for the feedback is mounted where the gateway runs, and only there."""
    made = cluster(make_pool(feedbackStore={"claimName": "feedback"}))
    kept = {"name": "state", "persistentVolumeClaim": {"claimName": "feedback"}}
    assert kept in made["headGroupSpec"]["template"]["spec"]["volumes"]
    assert kept not in made["workerGroupSpecs"][0]["template"]["spec"]["volumes"]


def test_token_is_the_clusters_own(pool: SocServingPool) -> None:
    """Token authentication is on; the token's Secret never changes."""
    made = pool_objects(pool)
    auth = made.service["spec"]["rayClusterConfig"]["authOptions"]
    assert auth == {"mode": "token", "secretName": made.token["metadata"]["name"]}
    assert base64.b64decode(made.token["data"]["auth_token"]).decode() == TOKEN
    assert made.token["immutable"] is True


def test_configuration_is_named_by_its_content(pool: SocServingPool) -> None:
    """A rotated token makes another Secret, the same configuration the same one."""
    config = config_of(pool)
    first = secrets.serving_config("soc-base", config, pool)
    assert first == secrets.serving_config("soc-base", copy.deepcopy(config), pool)
    rotated = config | {"tokens": {"soar/token": "new"}}
    assert first["metadata"]["name"] != secrets.serving_config("soc-base", rotated, pool)["metadata"]["name"]


@pytest.mark.slow
def test_ray_serve_reads_the_configuration(pool: SocServingPool) -> None:
    """Ray Serve's own schema takes what is declared, table included."""
    from ray.serve.schema import ServeDeploySchema

    read = ServeDeploySchema.model_validate(json.loads(rayservice.serve_config(pool, TABLE)))
    (application,) = read.applications
    assert [2, 3] == [len(application.deployments), application.deployments[0].user_config["generation"]]
    assert read.http_options.port == pool.spec.port
