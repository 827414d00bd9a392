"""A Ray of this process's own with the application on it: loopback only, token-protected, silent towards the world.

Tables go in as a cluster's do, through the declarative configuration, so that replicas stay and one that dies comes
back with the table in force. Called by `local`, after `ray_environment` was prepared: Ray reads it on import.
"""

import logging
import math
from collections.abc import Callable
from pathlib import Path

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import ProxyLocation
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, ServeApplicationSchema, ServeDeploySchema

from socadapter_api import digest
from socadapter_api.errors import BackendUnavailable
from socadapter_api.serving_table import ReplicaReport, ServingTable
from socadapter_serve.app import APP_NAME, ENGINE, GATEWAY, IMPORT_PATH
from socadapter_serve.config import ServeConfig

_log = logging.getLogger(__name__)
_OBJECT_STORE_BYTES = 128 * 2**20
_REPORT_TIMEOUT_S = 5.0


def _nothing() -> None:
    """For callers with nothing to do at that moment."""


class LocalServe:
    """One running application. Not for use from an event loop."""

    def __init__(self, config: ServeConfig, config_path: Path, on_ray_started: Callable[[], None] = _nothing) -> None:
        self._config = config
        self._config_path = config_path
        self._on_ray_started = on_ray_started

    def start(self, table: ServingTable) -> None:
        """Starts Ray and the application, without waiting for the replicas.

        Raises:
            BackendUnavailable: Ray did not start, as on a machine that is too busy; nothing is left of it.
        """
        cpus = self._config.num_cpus
        try:
            ray.init(
                address="local",
                num_cpus=max(1, math.ceil(cpus)) if cpus is not None else None,
                include_dashboard=False,
                namespace=APP_NAME,
                object_store_memory=_OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
            )
            self._on_ray_started()
            serve.start(
                proxy_location=ProxyLocation.HeadOnly,
                http_options={"host": self._config.spec.host, "port": self._config.spec.port},
            )
        except Exception as error:
            raise BackendUnavailable(f"the local Ray did not start: {type(error).__name__}: {error}") from error
        self.apply(table)

    def apply(self, table: ServingTable) -> None:
        """Hands a serving table to all replicas; none restarts for it."""
        user_config = table.model_dump(mode="json")
        application = ServeApplicationSchema(
            name=APP_NAME,
            route_prefix="/",
            import_path=IMPORT_PATH,
            args={"config": str(self._config_path), "digest": digest.of_bytes(self._config_path.read_bytes())},
            deployments=[{"name": name, "user_config": user_config} for name in (ENGINE, GATEWAY)],
        )
        # What Ray's REST API does with a PUT. The API itself would need the dashboard, several processes more.
        _get_global_client().deploy_apps(ServeDeploySchema(applications=[application]))
        _log.info("table_deployed generation=%d versions=%d", table.generation, len(table.versions()))

    def is_running(self) -> bool:
        """Whether every deployment has its replicas.

        Raises:
            BackendUnavailable: the application failed to start, or Ray is gone.
        """
        try:
            found = serve.status().applications.get(APP_NAME)
        except (RayError, RayServeException) as error:
            raise BackendUnavailable(f"the local Ray is gone: {error}") from error
        if found is None:
            return False
        if found.status is ApplicationStatus.DEPLOY_FAILED:
            raise BackendUnavailable(f"the serving application failed to start: {_reasons(found)}")
        return bool(found.status is ApplicationStatus.RUNNING)

    def reports(self) -> tuple[ReplicaReport, ...]:
        """What each engine replica holds; empty where none answers."""
        try:
            handle = serve.get_deployment_handle(ENGINE, APP_NAME)
            answers = handle.broadcast("report").results(timeout_s=_REPORT_TIMEOUT_S, return_exceptions=True)
        except (RayError, RayServeException, TimeoutError) as error:
            _log.warning("reports_missing error=%s", error)
            return ()
        found = [answer for answer in answers if isinstance(answer, ReplicaReport)]
        return tuple(sorted(found, key=lambda report: report.replica))

    def stop(self) -> None:
        """Ends the application, then Ray."""
        if not ray.is_initialized():
            return
        try:
            serve.shutdown()
        except (RayError, RayServeException, TimeoutError) as error:
            _log.warning("shutdown_incomplete error=%s", error)
        ray.shutdown()


def _reasons(application: "object") -> str:
    parts = [str(getattr(application, "message", ""))]
    parts += [f"{name}: {found.message}" for name, found in getattr(application, "deployments", {}).items()]
    return " ".join(part.strip() for part in parts if part.strip())[-4000:]
