"""What KubeRay and its pods do, as far as an operator sees it: RayJobs train, RayServices serve.

KubeRay itself is not there. Its word is written into the real objects' statuses, a run's files lie in the real store,
and a gateway on loopback answers for every service.
"""

import base64
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.local.stand_in_job import BASE_DIGEST, publish_version
from tests.loopback import Loopback

from socadapter_api.errors import ClusterUnavailable, Conflict, ObjectNotFound
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import LoadedVersion, ReplicaReport, ServingTable
from socadapter_api.training import RunSpec
from socadapter_operator.builders import labels, rayservice, run_config
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import (
    CONFIG_MAP,
    RAY_JOB,
    RAY_SERVICE,
    SECRET,
    Object,
    identity_of,
    key_of,
    uid_of,
)
from socadapter_store import layout
from socadapter_store.run_folder import RunFolder

MANAGER = "kuberay-operator"
_LOOK_S = 0.1


class KubeRay:
    """Looks after the namespaces that are in `namespaces`, from its start to `close`. `folder` is for scratch."""

    def __init__(self, client: Client, folder: Path) -> None:
        self.namespaces: set[str] = set()
        self._client = client
        self._folder = folder
        self._ended = threading.Event()
        kuberay = self

        class Gateway(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kuberay._answer(self)

            def log_message(self, *_: Any) -> None: ...

        self._gateway = Loopback(Gateway)
        self._threads = ThreadPoolExecutor(1)
        self._tending = self._threads.submit(self._tend)

    def endpoint(self, pool: SocServingPool) -> str:
        """Where the gateway of `pool` answers; a cluster would have a Service for it."""
        return f"{self._gateway.url}/{pool.metadata.namespace}/{rayservice.service_name(pool)}"

    def close(self) -> None:
        """Ends the thread and the gateway; raises what ended the thread before its time."""
        self._ended.set()
        self._threads.shutdown()
        self._gateway.close()
        self._tending.result()

    def _tend(self) -> None:
        while not self._ended.wait(_LOOK_S):
            with suppress(ClusterUnavailable):
                self._look_after_all()

    def _look_after_all(self) -> None:
        for kind, look_after in ((RAY_SERVICE, self._serve), (RAY_JOB, self._work)):
            for item in self._client.list(kind).items:
                if key_of(item).namespace in self.namespaces:
                    with suppress(ObjectNotFound, Conflict):  # deleted, or changed, meanwhile
                        look_after(item)

    def _serve(self, service: Object) -> None:
        generation = service["metadata"]["generation"]
        if (service.get("status") or {}).get("observedGeneration") == generation:
            return
        now = datetime.now(UTC).isoformat()
        ready = {"type": "Ready", "status": "True", "reason": "NonZeroServeEndpoints", "message": ""}
        serving = {"applicationStatuses": {rayservice.APP_NAME: {"status": "RUNNING"}}}
        told = {"observedGeneration": generation, "conditions": [{**ready, "lastTransitionTime": now}]}
        self._say(RAY_SERVICE, service, {**told, "activeServiceStatus": serving})

    def _work(self, job: Object) -> None:
        """One step of a run: from nothing to running, from running to its end."""
        state = (job.get("status") or {}).get("jobDeploymentStatus", "")
        if state == "":
            self._say(RAY_JOB, job, {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"})
        elif state == "Running":
            self._train(job)
            self._say(RAY_JOB, job, {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"})

    def _train(self, job: Object) -> None:
        namespace, run_id = key_of(job)
        mine = self._client.list(CONFIG_MAP, namespace, labels=f"{labels.RUN}={run_id}").items
        if not mine:
            raise ObjectNotFound(f"no ConfigMap of run {run_id}")
        (told,) = mine
        spec = RunSpec.model_validate_json(told["data"][run_config.FILE])
        folder = RunFolder.at(layout.run_uri(spec.store, spec.namespace, spec.context, spec.run_id))
        if folder.read_result() is not None:
            return
        secret, key = str(spec.signing_key).split("/")
        scratch = self._folder / uid_of(job)
        scratch.mkdir(parents=True, exist_ok=True)
        pem = self._client.get(SECRET, namespace, secret)["data"][key]
        (scratch / key).write_bytes(base64.b64decode(pem))
        publish_version(spec.model_copy(update={"signing_key": str(scratch / key)}), folder, scratch)

    def _say(self, kind: Any, item: Object, status: Object) -> None:
        self._client.apply_status(kind, {"metadata": identity_of(item), "status": status}, manager=MANAGER)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        """``/<namespace>/<service>/v1/replicas``: what the one replica holds, which is all of its table."""
        _, namespace, name, *_ = request.path.split("/")
        service = self._client.find(RAY_SERVICE, namespace, name)
        if service is None or not service.get("status"):
            request.send_error(503)
            return
        config = json.loads(service["spec"]["serveConfigV2"])
        table = ServingTable.model_validate(config["applications"][0]["deployments"][0]["user_config"])
        held = tuple(LoadedVersion(name=v.name, digest=v.digest, ready=True) for v in table.versions().values())
        report = ReplicaReport(replica="r0", generation=table.generation, loaded=held, base_digest=BASE_DIGEST)
        body = json.dumps({"replicas": [report.model_dump(mode="json")]}).encode()
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
