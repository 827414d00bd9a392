"""The pods of Ray clusters on a control plane without nodes: their status is written as a kubelet would write it.

What becomes of a pod is decided by its role (`head`, `worker`, `submitter`) and the scene's word for that role: `run`,
`unschedulable`, `no-image`, `fail` or `leave`. A submitter that runs does what KubeRay's command does: it hands the job
over unless it is there, follows it, and ends with it, or with an error when its head is another.
"""

import base64
import json
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
from tests.backends.kuberay.played_ray import PlayedRay, RayCluster

from socadapter_api.errors import SocAdapterError
from socadapter_operator.builders.secrets import TOKEN_KEY
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import POD, SECRET, Object, key_of, metadata, uid_of

KUBELET = "kubelet"
NODE = "played"
_BEAT_S = 10.0
_TICK_S = 0.4
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass
class Scene:
    """What is played in one namespace."""

    roles: dict[str, str] = field(default_factory=dict)
    job: str = ""
    serve: str = "RUNNING"
    looks: dict[str, int] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)


class PlayedPods:
    """Plays the pods of every namespace in `scenes`, until `close`."""

    def __init__(self, client: Client, api: httpx.Client, ray: PlayedRay) -> None:
        self.scenes: dict[str, Scene] = {}
        self._client = client
        self._node = PlayedNode(api)
        self._ray = ray
        self._addresses = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._play, name="played-pods", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Leaves the pods as they are."""
        self._ended.set()
        self._thread.join()

    def _play(self) -> None:
        while not self._ended.wait(_TICK_S):
            self._node.beat()
            pods = self._client.list(POD).items
            self._bury(pods)
            for pod in pods:
                scene = self.scenes.get(key_of(pod).namespace)
                if scene is not None and not metadata(pod).get("deletionTimestamp"):
                    with suppress(SocAdapterError):  # it may be gone by now
                        self._act(scene, pod)
            self._advance()

    def _bury(self, pods: tuple[Object, ...]) -> None:
        """Clusters whose head pod is gone or has ended know nothing any more."""
        alive = {uid_of(pod) for pod in pods if (pod.get("status") or {}).get("phase") == "Running"}
        with self._ray.news:
            for key, cluster in list(self._ray.clusters.items()):
                if cluster.head not in alive:
                    del self._ray.clusters[key]

    def _advance(self) -> None:
        """Jobs begin and applications settle between two looks."""
        with self._ray.news:
            for (namespace, _), cluster in self._ray.clusters.items():
                for job, held in cluster.jobs.items():
                    if held["status"] == "PENDING":
                        cluster.say(job, "RUNNING", "Job is currently running.")
                scene = self.scenes.get(namespace)
                deploying = [app for app in cluster.applications.values() if app["status"] == "DEPLOYING"]
                if scene is not None and deploying and scene.serve != "DEPLOYING":
                    cluster.serve(scene.serve, "" if scene.serve == "RUNNING" else "ValueError: no such adapter")

    def _act(self, scene: Scene, pod: Object) -> None:
        role = _role(pod)
        phase = (pod.get("status") or {}).get("phase")
        word = scene.roles.get(role, "run")
        looked = scene.looks[uid_of(pod)] = scene.looks.get(uid_of(pod), 0) + 1
        if phase in ("Succeeded", "Failed") or word == "leave":
            return
        if word == "unschedulable":
            self._say(pod, _unscheduled("0/3 nodes are available: 3 Insufficient nvidia.com/gpu."))
        elif word == "no-image":
            self._say(pod, _waiting(pod, "ErrImagePull" if looked < 3 else "ImagePullBackOff"))
        elif word == "fail":
            self._say(pod, _over(pod, "Failed", 1, "Error"))
            scene.roles[role] = "run"
        elif looked < 3:
            self._node.take(pod)
            self._say(pod, _waiting(pod, "ContainerCreating"))
        elif phase != "Running":
            self._run(role, pod)
        elif role == "submitter":
            self._submit(scene, pod)

    def _run(self, role: str, pod: Object) -> None:
        self._addresses += 1
        address = f"10.244.0.{self._addresses % 250 + 2}"
        self._say(pod, _running(pod, address))
        cluster = str(metadata(pod)["labels"].get("ray.io/cluster", ""))
        if role == "head":
            made = RayCluster(uid_of(pod), self._token(pod), {address})
            with self._ray.news:
                self._ray.clusters[key_of(pod).namespace, cluster] = made
        elif role == "worker" and (found := self._ray.clusters.get((key_of(pod).namespace, cluster))):
            found.addresses.add(address)

    def _submit(self, scene: Scene, pod: Object) -> None:
        """One look of a submitter at the job that it follows."""
        host = _variable(pod, "RAY_DASHBOARD_ADDRESS").partition(":")[0]
        with self._ray.news:
            behind = self._ray.behind(host)
            followed = scene.heads.get(uid_of(pod))
            if behind is None or (followed and behind[1].head != followed):
                ending = ("Failed", 1) if followed else None
            else:
                job = _variable(pod, "RAY_JOB_SUBMISSION_ID")
                behind[1].submit(job)
                scene.job, scene.heads[uid_of(pod)] = job, behind[1].head
                ending = ("Succeeded", 0) if behind[1].jobs[job]["status"] in _ENDED else None
        if ending:
            self._say(pod, _over(pod, *ending, "Completed" if ending[1] == 0 else "Error"))

    def _token(self, pod: Object) -> str:
        """The cluster's token, from the Secret that KubeRay tells the pod of."""
        for variable in pod["spec"]["containers"][0].get("env") or ():
            if variable["name"] == "RAY_AUTH_TOKEN":
                name = variable["valueFrom"]["secretKeyRef"]["name"]
                held = self._client.get(SECRET, key_of(pod).namespace, name)["data"][TOKEN_KEY]
                return base64.b64decode(held).decode()
        return ""

    def _say(self, pod: Object, status: Mapping[str, Any]) -> None:
        """Writes a status, unless it is what was said before: a kubelet repeats nothing."""
        said = json.dumps(_without_times(status), sort_keys=True)
        if said == json.dumps(_without_times(_said(pod)), sort_keys=True):
            return
        held = metadata(pod)
        identity = {"name": held["name"], "namespace": held["namespace"], "uid": held["uid"]}
        self._client.apply_status(POD, {"metadata": identity, "status": dict(status)}, manager=KUBELET)


class PlayedNode:
    """The node of every pod that starts: without one, no Service has an endpoint. It lives as long as it is beaten."""

    def __init__(self, api: httpx.Client) -> None:
        self._api = api
        self._beaten = float("-inf")
        made = self._api.post("/api/v1/nodes", json={"metadata": {"name": NODE}})
        if made.status_code != httpx.codes.CONFLICT:
            made.raise_for_status()

    def beat(self) -> None:
        """Says that it is ready, now and then."""
        if time.monotonic() - self._beaten < _BEAT_S:
            return
        self._beaten = time.monotonic()
        ready = {**_condition("Ready", True, "KubeletReady"), "lastHeartbeatTime": _now()}
        headers = {"content-type": "application/strategic-merge-patch+json"}
        body = {"status": {"conditions": [ready]}}
        self._api.patch(f"/api/v1/nodes/{NODE}/status", json=body, headers=headers).raise_for_status()

    def take(self, pod: Object) -> None:
        """Makes the node the pod's, as a scheduler would."""
        if not pod["spec"].get("nodeName"):
            namespace, name = key_of(pod)
            body = {"metadata": {"name": name}, "target": {"kind": "Node", "name": NODE}}
            self._api.post(f"/api/v1/namespaces/{namespace}/pods/{name}/binding", json=body)


def _role(pod: Object) -> str:
    labels = metadata(pod).get("labels") or {}
    return "submitter" if "batch.kubernetes.io/job-name" in labels else str(labels.get("ray.io/node-type", ""))


def _variable(pod: Object, name: str) -> str:
    listed = pod["spec"]["containers"][0].get("env") or ()
    return next((str(one.get("value", "")) for one in listed if one["name"] == name), "")


def _said(pod: Object) -> dict[str, Any]:
    status = pod.get("status") or {}
    kept = ("phase", "conditions", "containerStatuses", "podIP", "podIPs")
    return {key: status[key] for key in kept if key in status}


def _without_times(status: Any) -> Any:
    if isinstance(status, Mapping):
        return {
            key: _without_times(value)
            for key, value in status.items()
            if not key.endswith(("Time", "edAt")) and value is not None
        }
    return [_without_times(one) for one in status] if isinstance(status, list) else status


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _condition(kind: str, holds: bool, reason: str = "", message: str = "") -> dict[str, Any]:
    told = {"reason": reason, "message": message} if reason else {}
    return {"type": kind, "status": str(holds), "lastTransitionTime": _now(), **told}


def _unscheduled(message: str) -> dict[str, Any]:
    return {"phase": "Pending", "conditions": [_condition("PodScheduled", False, "Unschedulable", message)]}


def _containers(pod: Object, state: dict[str, Any], ready: bool) -> list[dict[str, Any]]:
    return [
        {"name": one["name"], "image": one["image"], "imageID": "", "ready": ready, "restartCount": 0, "state": state}
        for one in pod["spec"]["containers"]
    ]


def _waiting(pod: Object, reason: str) -> dict[str, Any]:
    image = pod["spec"]["containers"][0]["image"]
    words = {
        "ErrImagePull": f'failed to pull and unpack image "{image}": not found',
        "ImagePullBackOff": f'Back-off pulling image "{image}"',
    }
    waiting = {"reason": reason} | ({"message": words[reason]} if reason in words else {})
    conditions = [_condition("PodScheduled", True), _condition("Ready", False, "ContainersNotReady", "not ready")]
    return {
        "phase": "Pending",
        "conditions": conditions,
        "containerStatuses": _containers(pod, {"waiting": waiting}, False),
    }


def _running(pod: Object, address: str) -> dict[str, Any]:
    return {
        "phase": "Running",
        "conditions": [_condition("PodScheduled", True), _condition("Ready", True)],
        "containerStatuses": _containers(pod, {"running": {"startedAt": _now()}}, True),
        "podIP": address,
        "podIPs": [{"ip": address}],
    }


def _over(pod: Object, phase: str, code: int, reason: str) -> dict[str, Any]:
    ended = {"terminated": {"exitCode": code, "reason": reason, "startedAt": _now(), "finishedAt": _now()}}
    condition = _condition("Ready", False, "PodCompleted" if phase == "Succeeded" else "PodFailed", "it has ended")
    return {
        "phase": phase,
        "conditions": [_condition("PodScheduled", True), condition],
        "containerStatuses": _containers(pod, ended, False),
    }


def until(holds: Any, what: str, deadline_s: float) -> Any:
    """What `holds` gives once it is neither None nor False."""
    limit = time.monotonic() + deadline_s
    while not (found := holds()):
        if time.monotonic() > limit:
            raise TimeoutError(f"not within {deadline_s:.0f} s: {what}")
        time.sleep(_TICK_S)
    return found
