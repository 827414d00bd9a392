"""kubectl on our definitions: what is refused and why, what is explained, printed, compared and waited for."""

import json
from typing import Any

import pytest
from tests.api.recorded_version import DIGEST, OTHER, VERSION
from tests.controlplane.cluster import Cluster, KubectlFailed

from socadapter_api.adapter import SocAdapter
from socadapter_api.pool import SocServingPool

pytestmark = pytest.mark.slow

Manifest = dict[str, Any]
API = "/apis/socadapter.io/v1alpha1"
KINDS = {"SocAdapter": "socadapters", "SocServingPool": "socservingpools", "SocAdapterVersion": "socadapterversions"}
SINCE = "2026-01-02T03:04:05Z"


@pytest.fixture
def applied(cluster: Cluster, samples: dict[str, Manifest], namespace: str) -> dict[str, Manifest]:
    """The samples and a version, applied by the server; each as the server holds it."""
    everything = [*samples.values(), {**VERSION, "metadata": {**VERSION["metadata"], "namespace": namespace}}]
    cluster.kubectl(
        "apply", "--server-side", "-f", "-", stdin={"apiVersion": "v1", "kind": "List", "items": everything}
    )
    held = cluster.kubectl("get", ",".join(KINDS.values()), "-o", "json", namespace=namespace)
    return {item["metadata"]["name"]: item for item in json.loads(held)["items"]}


def path_of(resource: Manifest) -> str:
    """The URL path of a resource of ours."""
    meta = resource["metadata"]
    return f"{API}/namespaces/{meta['namespace']}/{KINDS[resource['kind']]}/{meta['name']}"


def with_status(cluster: Cluster, resource: Manifest, status: Manifest, manager: str = "operator") -> Manifest:
    """What the server holds after `manager` applied `status`."""
    meta = {key: resource["metadata"][key] for key in ("name", "namespace")}
    body = {"apiVersion": resource["apiVersion"], "kind": resource["kind"], "metadata": meta, "status": status}
    return cluster.apply(body, f"{path_of(resource)}/status", manager=manager)


def condition(kind: str, status: str, reason: str) -> Manifest:
    return {"type": kind, "status": status, "reason": reason, "message": "Why.", "lastTransitionTime": SINCE}


def test_samples_are_applied(applied: dict[str, Manifest]) -> None:
    """Every sample is taken, and starts with a status that says that nobody has looked at it."""
    assert sorted(item["kind"] for item in applied.values()) == [
        "SocAdapter", "SocAdapter", "SocAdapterVersion", "SocServingPool",
    ]  # fmt: skip
    assert [item["status"] for item in applied.values()] == [{"observedGeneration": -1}] * 4


def test_server_and_models_read_the_same(samples: dict[str, Manifest], applied: dict[str, Manifest]) -> None:
    """With the server's defaults filled in, a resource means what its file meant to the models."""
    for sample in samples.values():
        model = SocServingPool if sample["kind"] == "SocServingPool" else SocAdapter
        assert model.model_validate(applied[sample["metadata"]["name"]]).spec == model.model_validate(sample).spec


def test_applying_again_changes_nothing(
    cluster: Cluster, samples: dict[str, Manifest], applied: dict[str, Manifest]
) -> None:
    """A file that was applied and did not change makes no new generation, and no write.

    One write comes with the first repetition, whatever it says: the server strips the status from what it creates, and
    stores the status' default with the next update.
    """
    for sample in samples.values():
        path = path_of(applied[sample["metadata"]["name"]])
        held = []
        for _ in range(2):
            cluster.kubectl("apply", "--server-side", "-f", "-", stdin=sample)
            held.append(cluster.get(path))
        assert held[0] == held[1]
        assert held[1] is not None
        assert held[1]["metadata"]["generation"] == 1


def test_applied_by_the_client(cluster: Cluster, samples: dict[str, Manifest]) -> None:
    """The older `kubectl apply`, which keeps a copy of the file in an annotation, takes each sample, too."""
    for sample in samples.values():
        assert "created" in cluster.kubectl("apply", "-f", "-", stdin=sample)


@pytest.mark.parametrize(
    ("name", "patch", "reason"),
    [
        pytest.param("soc-base", {"base": {"uri": "other"}}, "spec: .*base is immutable: make another pool", id="base"),
        pytest.param("cloud-infrastructure", {"context": "other"}, "context is immutable", id="context"),
        pytest.param(VERSION["metadata"]["name"], {"uri": "elsewhere"}, "spec is immutable", id="version"),
        pytest.param("soc-base", {"replicas": -1}, r"spec.replicas: .*greater than or equal to 0", id="bound"),
        pytest.param("soc-base", {"engine": {"kind": "openai"}}, "url goes with kind openai", id="rule"),
        pytest.param("cloud-infrastructure", {"schedule": {"cron": 3}}, r"spec.schedule.cron: .*string", id="type"),
    ],
)
def test_refusals_name_field_and_reason(
    cluster: Cluster, applied: dict[str, Manifest], name: str, patch: Manifest, reason: str
) -> None:
    """What must not be is refused, with the field and what to do instead."""
    resource = applied[name]
    with pytest.raises(KubectlFailed, match=reason):
        cluster.kubectl(
            "patch", KINDS[resource["kind"]], name, "--type=merge", "-p", json.dumps({"spec": patch}),
            namespace=resource["metadata"]["namespace"],
        )  # fmt: skip


def test_unknown_fields_are_refused(cluster: Cluster, samples: dict[str, Manifest]) -> None:
    """A field that is misspelt is refused by its name, whichever side applies."""
    sample = samples["cloud-infrastructure"]
    sample["spec"]["grpo"]["stepz"] = 3
    for where in ("--server-side=true", "--server-side=false"):
        with pytest.raises(KubectlFailed, match=r"spec\.grpo\.stepz"):
            cluster.kubectl("apply", where, "-f", "-", stdin=sample)


def test_unknown_fields_are_told_where_nobody_validates(cluster: Cluster, samples: dict[str, Manifest]) -> None:
    """`--validate=warn` takes the rest and names the field; with `ignore` it is left out all the same."""
    sample = samples["cloud-infrastructure"]
    sample["spec"]["grpo"]["stepz"] = 3
    told = cluster.try_kubectl("apply", "--validate=warn", "-f", "-", stdin=sample)
    assert (0, True) == (told.returncode, 'unknown field "spec.grpo.stepz"' in told.stderr), told.stderr
    cluster.kubectl("apply", "--validate=ignore", "-f", "-", stdin=sample)
    held = cluster.get(path_of(sample))
    assert held is not None
    assert "stepz" not in held["spec"]["grpo"]


@pytest.mark.parametrize("name", [pytest.param("a" * 64, id="long"), pytest.param("cloud.infrastructure", id="dot")])
def test_names_that_no_label_could_carry_are_refused(cluster: Cluster, samples: dict[str, Manifest], name: str) -> None:
    """On every kind, and told by the field: nothing is first noticed by the operator."""
    version = {**VERSION, "metadata": {"name": name, "namespace": samples["pool"]["metadata"]["namespace"]}}
    for sample in (*samples.values(), version):
        sample["metadata"]["name"] = name
        with pytest.raises(KubectlFailed, match=r"metadata\.name"):
            cluster.kubectl("apply", "--server-side", "-f", "-", stdin=sample)


def test_names_lead_to_one_kind(cluster: Cluster, applied: dict[str, Manifest], namespace: str) -> None:
    """A resource is found by each name of its kind; the category lists every kind."""
    words, wanted = [], []
    for resource in applied.values():
        kind, name = resource["kind"], resource["metadata"]["name"]
        words += [f"{word}/{name}" for word in (kind, kind.lower(), KINDS[kind], f"{KINDS[kind]}.socadapter.io")]
        wanted += [f"{kind.lower()}.socadapter.io/{name}"] * 4
    assert cluster.kubectl("get", "-o", "name", *words, namespace=namespace).splitlines() == wanted
    assert len(cluster.kubectl("get", "soc", "-o", "name", namespace=namespace).splitlines()) == len(applied)


def test_explain(cluster: Cluster) -> None:
    """`kubectl explain` knows each field of a part of the spec, its type, and what it is for."""
    text = cluster.kubectl("explain", "socadapter.spec.grpo")
    for line in ("steps\t<integer>", "groupSize\t<integer>", "learningRate\t<number>", "timeLimit\t<string>"):
        assert line in text
    assert "0 skips the stage" in cluster.kubectl("explain", "socadapter.spec.grpo.steps")
    assert "immutable" in cluster.kubectl("explain", "socservingpool.spec.base").lower()
    deep = cluster.kubectl("explain", "socadapter", "--recursive")
    assert all(field in deep for field in ("nonInferiority", "weightPercent", "conditions", "lastTransitionTime"))


def test_printed_columns(cluster: Cluster, applied: dict[str, Manifest], namespace: str) -> None:
    """`kubectl get` prints what an owner asks first; `-o wide` adds the reasons."""
    ready = condition("Ready", "True", "Serving")
    run = {
        "runId": "r", "state": "Running", "trainingHash": OTHER, "number": 4,
        "progress": {"stage": "grpo", "step": 3, "steps": 6, "at": 1.5},
    }  # fmt: skip
    with_status(cluster, applied["cloud-infrastructure"], {"conditions": [ready], "run": run})
    with_status(cluster, applied["soc-base"], {"conditions": [ready], "endpoint": "http://x:8001"})
    plain, *_ = cluster.kubectl("get", "soca", namespace=namespace).splitlines()
    assert plain.split() == ["NAME", "READY", "TRAINED", "STABLE", "CANARY", "RUN", "STAGE", "AGE"]
    wide = cluster.kubectl("get", "soca", "cloud-infrastructure", "-o", "wide", namespace=namespace)
    header, row = (line.split() for line in wide.splitlines())
    assert header[-4:] == ["POOL", "REASON", "NEXT", "AGE"]
    assert ["True", "Running", "grpo", "soc-base", "Serving"] == row[1:-1]
    pool = cluster.kubectl("get", "socpool", namespace=namespace).splitlines()[1].split()
    assert pool[1:-1] == ["True", "builtin://smollm2-135m-instruct", "transformers", "1", "http://x:8001"]
    version = cluster.kubectl("get", "socver", "-o", "wide", namespace=namespace).splitlines()[1].split()
    assert version[:-1] == [VERSION["metadata"]["name"], "cloud", "3", DIGEST]


def test_describe(cluster: Cluster, applied: dict[str, Manifest], namespace: str) -> None:
    """`kubectl describe` shows the spec and each condition with its reason."""
    with_status(cluster, applied["soc-base"], {"conditions": [condition("Ready", "False", "PodPending")]})
    text = cluster.kubectl("describe", "socservingpool", "soc-base", namespace=namespace)
    assert all(word in text for word in ("Max Loras:", "PodPending", "Why."))


def test_diff(cluster: Cluster, samples: dict[str, Manifest], applied: dict[str, Manifest]) -> None:
    """`kubectl diff` shows nothing for what is there, and a changed field for what would change."""
    pool = samples["pool"]
    assert cluster.try_kubectl("diff", "--server-side", "-f", "-", stdin=pool).returncode == 0
    pool["spec"]["replicas"] = 2
    changed = cluster.try_kubectl("diff", "--server-side", "-f", "-", stdin=pool)
    assert changed.returncode == 1
    assert "+  replicas: 2" in changed.stdout
    assert "-  replicas: 1" in changed.stdout


def test_wait(cluster: Cluster, applied: dict[str, Manifest], namespace: str) -> None:
    """`kubectl wait` ends once the condition holds for the generation that is there, and not for an older one."""
    adapter = applied["cloud-infrastructure"]
    question = ("wait", "--for=condition=Ready", "socadapter/cloud-infrastructure")
    ready = {"conditions": [condition("Ready", "True", "Serving")], "observedGeneration": 0}
    with_status(cluster, adapter, ready)
    assert cluster.try_kubectl(*question, "--timeout=0s", namespace=namespace).returncode != 0
    with_status(cluster, adapter, ready | {"observedGeneration": adapter["metadata"]["generation"]})
    assert "condition met" in cluster.kubectl(*question, "--timeout=60s", namespace=namespace)


def test_status_is_apart_from_spec(cluster: Cluster, applied: dict[str, Manifest]) -> None:
    """Who writes the status changes no spec and makes no generation, and an apply of the spec changes no status."""
    before = applied["soc-base"]
    told = with_status(cluster, before, {"observedGeneration": 1})
    assert told["metadata"]["generation"] == before["metadata"]["generation"]
    assert told["spec"] == before["spec"]
    pool = {**before, "status": {"observedGeneration": 9}, "metadata": {"name": "soc-base"}}
    assert cluster.apply(pool, path_of(before))["status"] == {"observedGeneration": 1}


def test_conditions_of_two_writers(cluster: Cluster, applied: dict[str, Manifest]) -> None:
    """Two writers of conditions of different types keep out of each other's way; one takes back only its own."""
    adapter = applied["corporate-network"]
    with_status(cluster, adapter, {"conditions": [condition("Ready", "True", "Serving")]}, "one")
    both = with_status(cluster, adapter, {"conditions": [condition("Approved", "True", "Signed")]}, "two")
    assert {one["type"] for one in both["status"]["conditions"]} == {"Ready", "Approved"}
    left = with_status(cluster, adapter, {"observedGeneration": 1}, "one")
    assert [one["type"] for one in left["status"]["conditions"]] == ["Approved"]
