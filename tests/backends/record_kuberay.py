"""Records what a KubeRay writes: one transcript for each scene, into ``tests/backends/transcripts``.

It needs a cluster without nodes, such as that of ``make cluster``, KubeRay's own definitions in it, and a KubeRay
operator that watches it and sends what it asks of Ray to this program. With KubeRay's program at hand:

    make cluster                                         # prints: export KUBECONFIG=...
    kubectl apply --server-side -f KUBERAY/config/crd/bases
    HTTP_PROXY=http://127.0.0.1:8899 RAYJOB_STATUS_CHECK_TIMEOUT_SECONDS=20 manager \\
      --health-probe-bind-address 0 --metrics-addr 0 --enable-leader-election=false &
    PYTHONPATH=. python tests/backends/record_kuberay.py --kuberay v1.7.0 [SCENE ...]

The pods are played (`kuberay/played_pods.py`), and so is Ray (`kuberay/played_ray.py`); KubeRay, the API server and the
garbage collector are real. In a cluster with nodes ``--watch NAMESPACE`` records what happens there until Ctrl-C.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import httpx

sys.path.append(str(Path(__file__).parents[2]))

from tests.backends import transcript
from tests.backends.kuberay import run_scenes, service_scenes
from tests.backends.kuberay.played_pods import PlayedPods
from tests.backends.kuberay.played_ray import PlayedRay
from tests.backends.kuberay.stage import Stage
from tests.backends.transcript import Step, Transcript
from tests.controlplane.cluster import Cluster, client_of

from socadapter_api.errors import SocAdapterError
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.credentials import Kubeconfig
from socadapter_operator.kube.resources import EVENT, JOB, POD, RAY_CLUSTER, RAY_JOB, RAY_SERVICE, SECRET, Kind

WATCHED = (RAY_JOB, RAY_CLUSTER, RAY_SERVICE, POD, JOB, SECRET, EVENT)
SCENES = {scene.__name__: scene for scene in (*run_scenes.SCENES, *service_scenes.SCENES)}
PROXY_PORT = 8899
_AFTERMATH_S = 4.0
"""How long KubeRay is listened to when a scene is over."""


class Watcher:
    """Every change of the kinds that matter, in all namespaces, as it comes."""

    def __init__(self, kubeconfig: Path) -> None:
        self._seen: dict[str, list[tuple[int, datetime, Step]]] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._http = client_of(kubeconfig)
        self._http.timeout = httpx.Timeout(30, read=None)
        for kind in WATCHED:
            version = self._http.get(kind.path()).raise_for_status().json()["metadata"]["resourceVersion"]
            threading.Thread(target=self._watch, args=(kind, version), daemon=True).start()

    def close(self) -> None:
        """Hears no more."""
        self._ended.set()

    def add(self, namespace: str, kind: str, item: transcript.Json) -> None:
        """A step of our own."""
        with self._lock:
            listed = self._seen.setdefault(namespace, [])
            version = listed[-1][0] if listed else 0
            listed.append((version, datetime.now(UTC), Step(after_s=0, change="SAID", kind=kind, object=item)))

    def take(self, namespace: str) -> tuple[datetime, list[Step]]:
        """When the first step came, and every step, in the order in which the API server stored them."""
        with self._lock:
            listed = sorted(self._seen.pop(namespace, ()), key=lambda one: one[0])
        began = listed[0][1].replace(microsecond=0)
        return began, [Step(**{**step, "after_s": _seconds(at, began)}) for _, at, step in listed]

    def _watch(self, kind: Kind, version: str) -> None:
        parameters = {"watch": "1", "resourceVersion": version}
        with suppress(httpx.TransportError), self._http.stream("GET", kind.path(), params=parameters) as stream:
            for line in stream.iter_lines():
                told = json.loads(line)
                if self._ended.is_set() or told["type"] not in ("ADDED", "MODIFIED", "DELETED"):
                    return
                item, held = told["object"], told["object"]["metadata"]
                step = Step(after_s=0, change=told["type"], kind=kind.kind, object=transcript.compact(kind.kind, item))
                with self._lock:
                    listed = self._seen.setdefault(held["namespace"], [])
                    listed.append((int(held["resourceVersion"]), datetime.now(UTC), step))


def _seconds(at: datetime, began: datetime) -> float:
    return round((at - began).total_seconds(), 1)


class Recorder:
    """Plays scenes against one cluster and writes what came of them."""

    def __init__(self, kubeconfig: Path, kuberay: str, out: Path) -> None:
        self._cluster = Cluster(kubeconfig, Path("kubectl"))
        self._client = Client(Kubeconfig(kubeconfig))
        self._ray = PlayedRay(PROXY_PORT)
        self._pods = PlayedPods(self._client, self._cluster.http(), self._ray)
        self._watcher = Watcher(kubeconfig)
        kubernetes = self._cluster.http().get("/version").json()["gitVersion"]
        self._versions = {"kuberay": kuberay, "kubernetes": kubernetes}
        self._out = out

    def close(self) -> None:
        """Ends what it started; KubeRay goes on."""
        self._watcher.close()
        self._pods.close()
        self._ray.close()
        self._client.close()

    def record(self, name: str) -> str:
        """Plays one scene; says what became of it."""
        scene = SCENES[name]
        with self._cluster.namespace(name) as namespace, tempfile.TemporaryDirectory() as store:
            tell: Callable[[str], None] = lambda said: self._watcher.add(namespace, "Scene", {"said": said})  # noqa: E731
            stage = Stage(self._client, namespace, Path(store), self._pods, self._ray, tell)
            ending = "recorded"
            try:
                scene(stage)
            except (TimeoutError, AssertionError, LookupError, SocAdapterError) as error:
                ending = f"UNFINISHED, {type(error).__name__}: {error}"
            time.sleep(_AFTERMATH_S)
            asked = self._ray.asked.get(namespace, [])
            for method, path, with_token in asked:
                self._watcher.add(namespace, "Ray", {"asked": f"{method} {path}", "with_token": with_token})
            stage.backend.close()
            began, steps = self._watcher.take(namespace)
            settled = transcript.settle(steps, namespace, began)
            said = (scene.__doc__ or "").strip()
            kept = Transcript(name, said, self._versions, settled).save(self._out)
            del self._pods.scenes[namespace]
        return f"{name}: {ending}, {len(settled)} steps, {kept.stat().st_size} bytes"

    def watch(self, namespace: str) -> str:
        """Records a namespace until Ctrl-C."""
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
        began, steps = self._watcher.take(namespace)
        return str(
            Transcript(namespace, "", self._versions, transcript.settle(steps, namespace, began)).save(self._out)
        )


def main() -> int:
    """Records the scenes that are named, or all of them, a few at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*", metavar="SCENE", help=", ".join(SCENES))
    parser.add_argument("--kubeconfig", type=Path, default=os.environ.get("KUBECONFIG"))
    parser.add_argument("--kuberay", required=True, help="its version, for the record")
    parser.add_argument("--out", type=Path, default=transcript.FOLDER)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--watch", metavar="NAMESPACE", help="play nothing, record this namespace")
    options = parser.parse_args()
    recorder = Recorder(options.kubeconfig, options.kuberay, options.out)
    try:
        if options.watch:
            print(recorder.watch(options.watch))
            return 0
        with ThreadPoolExecutor(options.at_once) as threads:
            for told in threads.map(recorder.record, options.scenes or SCENES):
                print(told, flush=True)
    finally:
        recorder.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
