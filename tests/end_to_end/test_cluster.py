"""From `kubectl apply` to verdicts and back to nothing: real API server, real operator, real Ray, real training.

The steps are those of docs/cluster.md, run as they stand there. It is one test, since each step takes up what the one
before it left, and a Ray, an operator and two runs are too dear to be had twice.
"""

import json
from typing import Any

import httpx
import pytest
from tests.controlplane.cluster import wait_for
from tests.end_to_end.conftest import ACCOUNT, CALLER_TOKEN, DEADLINE_S, NAMESPACE, OPERATOR_NAMESPACE, Walk
from tests.end_to_end.world import SENSORS, SIGN_INS

from socadapter_api.case import Verdict
from socadapter_operator.backends.ray_states import has_ended

pytestmark = [pytest.mark.slow, pytest.mark.alone]

OURS = ("socadapters", "socservingpools", "socadapterversions", "secrets")
WRONG = "token-of-another-cluster-altogether"


def test_two_adapters_come_to_serve_and_go(walk: Walk) -> None:
    """Applied with a wrong token, mended, trained, served, asked, deleted; the operator is refused nothing."""
    walk.operate()
    walk.run("apply", RAY_AUTH_TOKEN=WRONG)
    walk.give_tool_token()
    walk.run("refused")
    walk.run("rotate")
    shown = walk.run("ready")
    stable = {name: walk.get("socadapters", name)["status"]["versions"]["stable"] for name in SENSORS}
    assert all(version["name"] in shown for version in stable.values()), shown
    each_context_has_its_version(walk, stable)
    what_is_there_can_be_read(walk, stable)
    walk.run("delete")
    walk.plane.kubectl("delete", "secret", "tools", namespace=NAMESPACE)
    nothing_is_left(walk)
    events = walk.plane.audit_events(f"system:serviceaccount:{OPERATOR_NAMESPACE}:{ACCOUNT}")
    assert [] == [event["requestURI"] for event in events if event["responseStatus"]["code"] == 403]


def each_context_has_its_version(walk: Walk, stable: dict[str, Any]) -> None:
    """Each alert is answered by the version that its adapter names, with a verdict that rests on the pool's tools."""
    told = json.loads(walk.run("ask"))
    assert ("cloud-infrastructure", stable["cloud-infrastructure"]["name"]) == (told["context"], told["version"])
    endpoint = walk.get("socservingpools", "soc-base")["status"]["endpoint"]
    headers = {"authorization": f"Bearer {CALLER_TOKEN}"}
    for context, sensor in SENSORS.items():
        alert = {"sensor": sensor, "title": "Odd sign-in", "user": "ann", "count": 3}
        answer = httpx.post(f"{endpoint}/v1/triage", json={"alert": alert}, headers=headers, timeout=60).json()
        expected = (context, stable[context]["name"], stable[context]["digest"], None)
        assert expected == tuple(answer[key] for key in ("context", "version", "digest", "fallback")), answer
        assert answer["verdict"] in {verdict.value for verdict in Verdict} - {Verdict.INVALID.value}
        first = answer["calls"][0]
        assert ("signins", "ok", SIGN_INS) == (first["tool"], first["outcome"], first["result"]), answer
    assert 401 == httpx.post(f"{endpoint}/v1/triage", json={"alert": {"title": "t"}}, timeout=60).status_code


def what_is_there_can_be_read(walk: Walk, stable: dict[str, Any]) -> None:
    """`describe` and `logs`: of an adapter its last run, of a pool its replicas."""
    told = walk.run("look")
    version = stable["cloud-infrastructure"]["name"]
    assert f"Published: {version}" in told
    assert "EngineReplica " in told
    assert "Gateway " in told


def nothing_is_left(walk: Walk) -> None:
    """Neither in the namespace nor on Ray, but for the records of what ran."""
    wait_for(lambda: not any(walk.get(kind)["items"] for kind in OURS), "an empty namespace", DEADLINE_S)
    served = "/api/serve/applications/"
    wait_for(lambda: not walk.of_ray(served)["applications"], "Ray Serve without applications", DEADLINE_S)
    jobs = {job["submission_id"]: job["status"] for job in walk.of_ray("/api/jobs/") if job.get("metadata")}
    assert len(SENSORS) == len(jobs), jobs
    assert all(has_ended(status) for status in jobs.values()), jobs
