"""Local mode's serving process: watches the table file, serves, and reports in files until it is told to stop.

In the state folder: ``table.json`` (ServingTable) is read whenever it changes; ``endpoint.json`` (``{"url", "pid"}``)
is there while the service answers; ``replicas.json`` (a list of ReplicaReport) says what each replica holds;
``failure.json``, beside the configuration, says why the process ended by itself. All are replaced whole. Written for
the operator's local backend; called by ``python -m socadapter_serve``.
"""

import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from socadapter_api.errors import BackendUnavailable, SpecError
from socadapter_api.serving_table import ReplicaReport, ServingTable
from socadapter_serve.config import ServeConfig

if TYPE_CHECKING:
    from socadapter_serve.local_ray import LocalServe

TABLE = "table.json"
REPLICAS = "replicas.json"
ENDPOINT = "endpoint.json"
FAILURE = "failure.json"
LOCK = "serve.lock"

_LOOK_EVERY_S = 0.25
_REPORT_EVERY_S = 1.0
_SILENT_S = 60.0

_log = logging.getLogger(__name__)


class TableFile:
    """The serving table on disk, read again only when the file changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._table: ServingTable | None = None

    def changed(self) -> ServingTable | None:
        """The table where it differs from the one returned last; a file that cannot be read changes nothing."""
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp == self._stamp:
                return None
            table = ServingTable.model_validate(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _log.error("table_refused path=%s error=%s", self._path, str(error).splitlines()[0])
            return None
        self._stamp = stamp
        if table == self._table:
            return None
        self._table = table
        return table


class LocalServing:
    """The loop around one `LocalServe`."""

    def __init__(self, config: ServeConfig, serve: "LocalServe", stopping: threading.Event) -> None:
        self._config = config
        self._serve = serve
        self._stopping = stopping
        self._state = config.state_dir
        self._reported: Sequence[ReplicaReport] | None = None
        self._untold = False
        self._heard_at = time.monotonic()

    def run(self) -> None:
        """Serves until `stopping` is set.

        Raises:
            SpecError: the port is taken, or another process serves from this state folder.
            BackendUnavailable: the application cannot start, or its replicas fell silent for good.
        """
        self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._only_one():
            for name in (ENDPOINT, REPLICAS, FAILURE):
                (self._state / name).unlink(missing_ok=True)
            self._refuse_taken_port()
            try:
                file = TableFile(self._state / TABLE)
                self._serve.start(file.changed() or ServingTable())
                self._wait_until_running()
                write_json(self._state / ENDPOINT, {"url": url_of(self._config), "pid": os.getpid()})
                self._loop(file)
            finally:
                (self._state / ENDPOINT).unlink(missing_ok=True)
                self._serve.stop()

    def _wait_until_running(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY_S):
            if self._serve.is_running():
                _log.info("serving_started url=%s", url_of(self._config))
                return

    def _loop(self, file: TableFile) -> None:
        next_report = 0.0
        self._heard_at = time.monotonic()
        while not self._stopping.wait(_LOOK_EVERY_S):
            if (table := file.changed()) is not None:
                self._serve.apply(table)
            if time.monotonic() >= next_report:
                self._report()
                next_report = time.monotonic() + _REPORT_EVERY_S

    def _report(self) -> None:
        reports = self._serve.reports()
        if reports != self._reported:
            self._tell(reports)
        if reports or not self._config.spec.replicas:
            self._heard_at = time.monotonic()
        elif time.monotonic() - self._heard_at > _SILENT_S:
            raise BackendUnavailable(f"no engine replica answered for {_SILENT_S:g} s: start the service again")

    def _tell(self, reports: Sequence[ReplicaReport]) -> None:
        """Writes what replicas report; on a full disk later, since alerts are answered all the same."""
        try:
            write_json(self._state / REPLICAS, [report.model_dump(mode="json") for report in reports])
        except OSError as error:
            if not self._untold:
                _log.warning("replicas_not_written path=%s error=%s", self._state / REPLICAS, error)
            self._untold = True
        else:
            self._reported, self._untold = reports, False

    def _refuse_taken_port(self) -> None:
        host, port = self._config.spec.host, self._config.spec.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host.strip("[]"), port))
            except OSError as error:
                raise SpecError(f"cannot serve at {host}:{port}: {error}; choose another port in the pool") from None

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        with (self._state / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise SpecError(f"another process already serves from {self._state}: stop it first") from None
            yield


def url_of(config: ServeConfig) -> str:
    """Where this machine reaches the service."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.spec.host, config.spec.host)  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{config.spec.port}"


def write_json(path: Path, value: Any) -> None:
    """Replaces the file `path` by `value`, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(value, indent=1) + "\n")
    partial.replace(path)
