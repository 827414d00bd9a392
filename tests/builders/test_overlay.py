"""A pod template changes what is its owner's to change; the rest is refused with its place, value and reason."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders.resources import SIDECAR, make_adapter, make_pool, pool_objects, run_objects, templates

from socadapter_api.errors import OverlayRefused
from socadapter_operator.builders import hardening, overlay, pod_security


def head(**compute: Any) -> dict[str, Any]:
    job = run_objects(make_adapter(**compute), make_pool()).job
    found: dict[str, Any] = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    return found


def ray(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "ray", **fields}]}}


def sidecar(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [SIDECAR | fields]}}


def projected(**source: Any) -> dict[str, Any]:
    return {"spec": {"volumes": [{"name": "t", "projected": {"sources": [source]}}]}}


def test_owner_changes_what_is_the_owners() -> None:
    """Scheduling, variables, limits, a sidecar and labels of the owner's reach the pod."""
    made = head(
        podTemplate={
            "metadata": {
                "labels": {"team": "soc"},
                "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
            },
            "spec": {
                "runtimeClassName": "nvidia",
                "securityContext": {"runAsUser": None},
                "containers": [
                    SIDECAR,
                    {
                        "name": "ray",
                        "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
                        "resources": {"limits": {"memory": "64Gi"}},
                    },
                ],
            },
        }
    )
    spec, container = made["spec"], made["spec"]["containers"][0]
    assert made["metadata"]["labels"]["team"] == "soc"
    assert spec["runtimeClassName"] == "nvidia"
    assert "runAsUser" not in spec["securityContext"]
    assert {"name": "NCCL_DEBUG", "value": "INFO"} in container["env"]
    assert container["resources"]["limits"]["memory"] == "64Gi"


def test_ray_stays_the_first_container() -> None:
    """A merge puts new containers first, and KubeRay takes the first for Ray's: the order is put right."""
    made = head(podTemplate=sidecar())
    assert ["ray", "audit"] == [container["name"] for container in made["spec"]["containers"]]


def test_fields_of_the_spec_reach_the_pod() -> None:
    """Image, nodes, taints, volumes and mounts need no overlay."""
    made = head(
        image="train:7",
        nodeSelector={"gpu": "a100"},
        tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        volumes=[{"name": "corpus", "persistentVolumeClaim": {"claimName": "corpus"}}],
        volumeMounts=[{"name": "corpus", "mountPath": "/corpus", "readOnly": True}],
        serviceAccountName="trainer",
        priorityClassName="low",
        imagePullSecrets=[{"name": "registry"}],
    )
    spec, container = made["spec"], made["spec"]["containers"][0]
    assert container["image"] == "train:7"
    assert spec["nodeSelector"] == {"gpu": "a100"}
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert {"name": "corpus", "persistentVolumeClaim": {"claimName": "corpus"}} in spec["volumes"]
    assert {"name": "corpus", "mountPath": "/corpus", "readOnly": True} in container["volumeMounts"]
    assert (spec["serviceAccountName"], spec["priorityClassName"]) == ("trainer", "low")
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["automountServiceAccountToken"] is False


@pytest.mark.parametrize(
    ("patch", "complaints"),
    [
        pytest.param({"spec": {"hostNetwork": True}}, ["spec.hostNetwork is True: must be false"], id="host network"),
        pytest.param(
            {"spec": {"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}},
            ["spec.volumes[h] is 'hostPath': must be one of"],
            id="host path",
        ),
        pytest.param(
            {"spec": {"containers": [{"name": "side", "image": "x"}]}},
            ["spec.containers[side].securityContext.allowPrivilegeEscalation is None", "capabilities.drop is None"],
            id="careless sidecar",
        ),
        pytest.param(ray(securityContext={"privileged": True}), ["privileged is True"], id="privileged"),
        pytest.param(
            {"spec": {"containers": [{"name": "ray", "$patch": "delete"}]}},
            ["spec.containers[ray] is None: must stay"],
            id="removes our container",
        ),
        pytest.param(
            {"spec": {"containers": [{"$patch": "replace"}, SIDECAR]}},
            ["spec.containers[ray] is None: must stay"],
            id="replaces our container",
        ),
        pytest.param(ray(command=["sh"]), ["spec.containers[ray].command is ['sh']"], id="command"),
        pytest.param(ray(args=["-c", "x"]), ["spec.containers[ray].args is ['-c', 'x']"], id="arguments"),
        pytest.param(
            ray(env=[{"name": "SOCADAPTER_SECRETS", "value": "/tmp"}]), ["env[SOCADAPTER_SECRETS]"], id="our variable"
        ),
        pytest.param(ray(env=[{"name": "SOCADAPTER_NEW", "value": "1"}]), ["env[SOCADAPTER_NEW]"], id="our prefix"),
        pytest.param(ray(env=[{"name": "HOME", "$patch": "delete"}]), ["env[HOME] is None"], id="variable taken away"),
        pytest.param(ray(env=[{"name": "RAY_AUTH_TOKEN", "value": "s3cret"}]), ["env[RAY_AUTH_TOKEN]"], id="token"),
        pytest.param(ray(env=[{"name": "RAY_AUTH_MODE", "value": "disabled"}]), ["env[RAY_AUTH_MODE]"], id="no token"),
        *(
            pytest.param(
                ray(env=[{"name": name, "value": "s3cret"}]),
                [f"env[{name}] is 'another value': changes which code runs: set it in the image"],
                id=f"foreign code by {name}",
            )
            for name in (
                "BASH_ENV",
                "BASH_FUNC_python%%",
                "ENV",
                "LD_AUDIT",
                "LD_LIBRARY_PATH",
                "LD_PRELOAD",
                "PATH",
                "PYTHONHOME",
                "PYTHONPATH",
                "PYTHONSTARTUP",
                "PYTHONUSERBASE",
            )
        ),
        pytest.param(
            ray(envFrom=[{"configMapRef": {"name": "mine"}}]),
            ["spec.containers[ray].envFrom is [{'configMapRef'", "name each of yours in env, with valueFrom"],
            id="variables of any name",
        ),
        pytest.param(
            ray(securityContext={"readOnlyRootFilesystem": False}),
            ["spec.containers[ray].securityContext.readOnlyRootFilesystem is False: must be true: mount a volume"],
            id="writable root",
        ),
        pytest.param(
            sidecar(securityContext=SIDECAR["securityContext"] | {"readOnlyRootFilesystem": None}),
            ["spec.containers[audit].securityContext.readOnlyRootFilesystem is None: must be true"],
            id="sidecar with a writable root",
        ),
        pytest.param(
            sidecar(resources={"limits": {"cpu": "1"}}),
            [
                f"spec.containers[audit].resources.{amount} is None: must be set"
                for amount in ("requests.cpu", "requests.memory", "limits.memory")
            ],
            id="sidecar without bounds",
        ),
        pytest.param(
            {"spec": {"initContainers": [SIDECAR | {"resources": None, "securityContext": None}]}},
            [
                "spec.initContainers[audit].resources.limits.cpu is None",
                "spec.initContainers[audit].securityContext.readOnlyRootFilesystem is None",
            ],
            id="careless init container",
        ),
        pytest.param(
            {"spec": {"ephemeralContainers": [SIDECAR]}},
            ["spec.ephemeralContainers[audit] is 'audit:1': is added to a pod that runs"],
            id="ephemeral container",
        ),
        pytest.param(
            ray(volumeMounts=[{"mountPath": "/etc/socadapter/run", "name": "tmp"}]),
            ["volumeMounts[/etc/socadapter/run] is 'tmp'"],
            id="over our file",
        ),
        pytest.param(
            ray(volumeMounts=[{"mountPath": "/etc", "name": "tmp"}]),
            ["volumeMounts[/etc] is 'tmp'"],
            id="around our files",
        ),
        pytest.param(
            ray(volumeMounts=[{"mountPath": "opt/.././etc/socadapter/run", "name": "tmp"}]),
            ["volumeMounts[opt/.././etc/socadapter/run] is 'tmp'"],
            id="over our file by another way",
        ),
        pytest.param(
            {"spec": {"volumes": [{"name": "secrets", "projected": None, "emptyDir": {}}]}},
            ["spec.volumes[secrets]"],
            id="our secrets",
        ),
        pytest.param(
            {"spec": {"volumes": [{"name": "tmp", "$patch": "delete"}]}}, ["spec.volumes[tmp] is None"], id="our volume"
        ),
        pytest.param(
            {"spec": {"automountServiceAccountToken": True}}, ["automountServiceAccountToken is True"], id="API token"
        ),
        *(
            pytest.param(
                projected(serviceAccountToken={"path": "t", "audience": audience}),
                [f"spec.volumes[t].projected.serviceAccountToken.audience is {audience!r}: must be another's"],
                id=f"API token for {audience}",
            )
            for audience in (
                None,
                "",
                5,
                "kubernetes",
                "api",
                "https://kubernetes.default.svc",
                "https://kubernetes.default.svc.cluster.local",
                "kubernetes.default.svc",
            )
        ),
        pytest.param(projected(serviceAccountToken={}), ["audience is None"], id="API token without a path"),
        pytest.param(
            projected(podCertificate={"signerName": "kubernetes.io/kube-apiserver-client-pod"}),
            ["spec.volumes[t].projected.podCertificate.signerName is 'kubernetes.io/kube-apiserver-client-pod'"],
            id="certificate for the API server",
        ),
        pytest.param(
            {"metadata": {"labels": {"socadapter.io/run": "x"}}}, ["labels[socadapter.io/run]"], id="our label"
        ),
        pytest.param({"metadata": {"labels": {"ray.io/cluster": "x"}}}, ["labels[ray.io/cluster]"], id="Ray's label"),
        pytest.param(
            {"metadata": {"labels": {"app.kubernetes.io/name": "x"}}},
            ["labels[app.kubernetes.io/name]"],
            id="label that KubeRay's Services select by",
        ),
        pytest.param(
            {"metadata": {"annotations": {"ray.io/overwrite-container-cmd": "true"}}},
            ["annotations[ray.io/overwrite-container-cmd]"],
            id="command by annotation",
        ),
        pytest.param({"metadata": {"name": "x"}}, ["metadata.name is 'x'"], id="name"),
        pytest.param(ray(resources={"limits": {"memory": None}}), ["resources.limits.memory is None"], id="no limit"),
        pytest.param({"spec": {"containers": "x"}}, ["spec.containers is 'x'"], id="no list of containers"),
        pytest.param(
            {"spec": {"securityContext": {"sysctls": [{"name": []}]}}}, ["sysctls is []: is not a safe"], id="no sysctl"
        ),
        pytest.param(
            {"spec": {"securityContext": {"seLinuxOptions": {"type": ["spc_t"]}}}},
            ["seLinuxOptions.type is ['spc_t']"],
            id="list of SELinux types",
        ),
        pytest.param(ray(**{"$deleteFromPrimitiveList/args": 5}), ["args is 5: must be a list"], id="deletes no list"),
    ],
)
def test_refused(patch: dict[str, Any], complaints: list[str]) -> None:
    """What would break the standard or what the operator relies on is refused, with place, value and reason."""
    with pytest.raises(OverlayRefused) as caught:
        head(podTemplate=patch)
    assert str(caught.value).startswith("spec.compute: ")
    for complaint in complaints:
        assert complaint in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_all_faults_are_told_at_once() -> None:
    """An owner mends an overlay in one go."""
    with pytest.raises(OverlayRefused) as caught:
        head(
            podTemplate={"spec": {"hostPID": True, "hostIPC": True, "containers": [{"name": "ray", "command": ["x"]}]}}
        )
    assert all(word in str(caught.value) for word in ("hostPID", "hostIPC", "command"))


@pytest.mark.parametrize(
    "audience",
    ["sts.amazonaws.com", "api://AzureADTokenExchange", "//iam.googleapis.com/projects/1/providers/p", "vault"],
)
def test_tokens_for_others_are_mounted(audience: str) -> None:
    """A cloud's workload identity needs a token that the API server does not take."""
    patch = projected(serviceAccountToken={"path": "t", "audience": audience})
    assert patch["spec"]["volumes"][0] in head(podTemplate=patch)["spec"]["volumes"]


def test_store_credentials_stay() -> None:
    """An overlay's own `envFrom` replaces ours, as the API server would; it is told to name single variables."""
    pool = make_pool(storeSecretRef={"name": "s3"}, ray={"podTemplate": ray(envFrom=[{"secretRef": {"name": "mine"}}])})
    with pytest.raises(OverlayRefused, match="name each of yours in env"):
        pool_objects(pool)
    single = {"name": "TEAM", "valueFrom": {"secretKeyRef": {"name": "mine", "key": "team"}}}
    pool = make_pool(storeSecretRef={"name": "s3"}, ray={"podTemplate": ray(env=[single])})
    (template, *_) = templates(pool_objects(pool).service)
    container = template["spec"]["containers"][0]
    assert [{"secretRef": {"name": "s3"}}] == container["envFrom"]
    assert single in container["env"]


@pytest.mark.parametrize("name", ["tmp", "secrets", "scratch", "run-spec", "shared-mem"])
def test_volume_names_are_not_shared(name: str) -> None:
    """A volume of the owner's under a name of ours would become a volume of two kinds."""
    with pytest.raises(OverlayRefused, match=f"{name}.*choose another name"):
        head(volumes=[{"name": name, "secret": {"secretName": "s"}}])


def test_volumes_are_held_to_the_standard() -> None:
    """`volumes` is no way around the overlay's rules."""
    with pytest.raises(OverlayRefused, match="hostPath"):
        head(volumes=[{"name": "h", "hostPath": {"path": "/"}}])


WORDS = ["ray", "ALL", "Memory", "x", "RuntimeDefault", "kernel.shm_rmid_forced", "delete", "replace"]
POD_FIELDS = ["volumes", "initContainers", "securityContext", "sysctls", "seLinuxOptions", "seccompProfile"]
FIELDS = [
    "name", "type", "securityContext", "capabilities", "drop", "add", "emptyDir", "hostPath", "projected", "sources",
    "serviceAccountToken", "audience", "env", "envFrom", "labels", "runAsUser", "privileged", "readOnlyRootFilesystem",
    "ports", "volumeMounts", "mountPath", "resources", "limits", "cpu", "$patch", "$retainKeys",
    "$deleteFromPrimitiveList/command",
    *POD_FIELDS,
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 1) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)
NAMED = st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3).map(lambda fields: [{"name": "ray", **fields}])
"""Ray's own container with anything in it: what stands there is reached, where a list of anything seldom is."""
CONTEXTS = st.fixed_dictionaries(
    {},
    optional={
        "sysctls": st.lists(st.fixed_dictionaries({"name": JSON}), max_size=2),
        "seLinuxOptions": st.fixed_dictionaries({"type": JSON}),
        "seccompProfile": st.fixed_dictionaries({"type": JSON}),
    },
)


OURS = head()


@given(
    containers=st.just([]) | NAMED | JSON,
    rest=st.just({}) | st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3),
    context=st.just({}) | CONTEXTS | JSON,
    metadata=st.just({}) | JSON,
)
def test_no_overlay_gets_through_unsafe(containers: Any, rest: dict[str, Any], context: Any, metadata: Any) -> None:
    """Whatever an overlay holds: it is refused, or the pod keeps to all that is asked and Ray's container is ours."""
    spec = rest | {"containers": containers, "securityContext": context}
    patch = {"metadata": metadata if isinstance(metadata, dict) else {}, "spec": spec}
    try:
        merged = overlay.apply(OURS, (patch,), "spec.compute")
    except OverlayRefused:
        return
    assert pod_security.violations(merged) == hardening.violations(merged) == ()
    assert merged["spec"]["containers"][0]["name"] == "ray"
    assert {mount["mountPath"] for mount in merged["spec"]["containers"][0]["volumeMounts"]} >= {"/tmp", "/dev/shm"}
