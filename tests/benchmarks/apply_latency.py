"""How long it takes from the apply of an adapter until its RayJob is there: the operator beside a bare kopf operator.

Both run the whole time, each in a namespace of its own, and are asked in turns. When a RayJob came to be is told by a
watch on a connection of the benchmark's own.
"""

import json
import os
import signal
import statistics
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from tests.benchmarks import settled
from tests.controlplane.cluster import client_of, wait_for
from tests.controlplane.processes import Child

from socadapter_api.errors import ObjectNotFound
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import ADAPTER, NAMESPACE, POOL, RAY_JOB, SECRET, Object, metadata, uid_of

OURS, PEER = "bench-ours", "bench-peer"
_POOL = "base"
_DEADLINE_S = 120.0


@dataclass
class RayJobWatch:
    """Every RayJob that comes to be, by the name of the SocAdapter that owns it, and when; until `close`."""

    kubeconfig: Path
    seen: dict[str, tuple[float, Object]] = field(default_factory=dict)
    news: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self._http = client_of(self.kubeconfig)
        self._open = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        assert self._open.wait(_DEADLINE_S), "the watch on RayJobs was not opened"

    def wait(self, adapter: str) -> tuple[float, Object]:
        """When the RayJob of `adapter` came to be, by `time.perf_counter`, and the RayJob."""
        with self.news:
            assert self.news.wait_for(lambda: adapter in self.seen, _DEADLINE_S), f"no RayJob of {adapter}"
            return self.seen[adapter]

    def close(self) -> None:
        """Ends the watch."""
        self._http.close()

    def _follow(self) -> None:
        try:
            parameters = {"watch": "true", "resourceVersion": self._now()}
            with self._http.stream("GET", "/apis/ray.io/v1/rayjobs", params=parameters, timeout=None) as answer:
                self._open.set()
                for line in answer.iter_lines():
                    at, event = time.perf_counter(), json.loads(line)
                    if event["type"] == "ADDED":
                        self._note(at, event["object"])
        except (httpx.HTTPError, RuntimeError):
            return  # closed under it

    def _now(self) -> str:
        listed = self._http.get("/apis/ray.io/v1/rayjobs", params={"limit": 1}).raise_for_status().json()
        return str(listed["metadata"]["resourceVersion"])

    def _note(self, at: float, job: Object) -> None:
        with self.news:
            for owner in metadata(job).get("ownerReferences") or ():
                self.seen[owner["name"]] = (at, job)
            self.news.notify_all()


def prepare(client: Client, namespace: str, store: Path) -> None:
    """A namespace with a pool that KubeRay would serve."""
    client.create(NAMESPACE, {"metadata": {"name": namespace}})
    client.create(SECRET, {"metadata": {"name": "soar", "namespace": namespace}, "stringData": {"token": "a-token"}})
    pool = settled.pool(_POOL, namespace, "")
    caller = {"name": "soar", "tokenSecretRef": {"name": "soar", "key": "token"}}
    pool["spec"] |= {"ray": {}, "store": str(store), "host": "0.0.0.0", "callers": [caller]}
    client.create(POOL, pool)


def clear(client: Client, namespace: str) -> None:
    """Takes the pool away again, so that nothing is left to look at."""
    held = client.get(POOL, namespace, _POOL)
    client.delete(POOL, namespace, _POOL, uid=uid_of(held))
    wait_for(lambda: client.find(POOL, namespace, _POOL) is None, "the pool is gone", _DEADLINE_S)


def turn(client: Client, watch: RayJobWatch, namespace: str, name: str) -> tuple[float, Object]:
    """Seconds from the apply of the adapter `name` until its RayJob is there, and that; both are deleted again."""
    body = settled.adapter(name, namespace, _POOL)
    started = time.perf_counter()
    made = client.apply(ADAPTER, body, manager="kubectl")
    at, job = watch.wait(name)
    client.delete(ADAPTER, namespace, name, uid=uid_of(made))
    with suppress(ObjectNotFound):  # the garbage collector was faster
        client.delete(RAY_JOB, namespace, str(metadata(job)["name"]), uid=uid_of(job))
    wait_for(lambda: client.find(ADAPTER, namespace, name) is None, f"{name} is gone", _DEADLINE_S)
    return at - started, job


def start_peer(folder: Path, job: Object, cpu: int) -> Child:
    """The peer, which makes what `job` is, on `cpu` as the operator is."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = metadata(job).get("labels")
    template = folder / "rayjob.json"
    template.write_text(json.dumps({"metadata": {"labels": labels}, "spec": job["spec"]}), "utf-8")
    os.environ["PEER_RAYJOB"] = str(template)
    program = str(Path(__file__).with_name("peer_operator.py"))
    child = Child.start(Path(sys.executable), ["-m", "kopf", "run", "--standalone", "-n", PEER, program], folder)
    os.sched_setaffinity(child.process.pid, {cpu})
    return child


def in_turns(client: Client, watch: RayJobWatch, store: Path, folder: Path, rounds: int, cpu: int) -> dict[str, float]:
    """Both operators' figures. The operator runs already, and looks at `OURS` alone."""
    for namespace in (OURS, PEER):
        prepare(client, namespace, store)
    _, job = turn(client, watch, OURS, "warm-ours")
    peer = start_peer(folder, job, cpu)
    try:
        turn(client, watch, PEER, "warm-peer")
        ours, theirs = [], []
        for number in range(rounds):
            ours.append(turn(client, watch, OURS, f"ours-{number:03d}")[0])
            theirs.append(turn(client, watch, PEER, f"peer-{number:03d}")[0])
    finally:
        peer.process.send_signal(signal.SIGTERM)
        peer.kill()
    for namespace in (OURS, PEER):
        clear(client, namespace)
    return {**figures("apply_to_rayjob", ours), **figures("peer_apply", theirs)}


def figures(name: str, seconds: list[float]) -> dict[str, float]:
    """The median and the slowest, in milliseconds."""
    return {f"{name}_p50_ms": statistics.median(seconds) * 1e3, f"{name}_max_ms": max(seconds) * 1e3}
