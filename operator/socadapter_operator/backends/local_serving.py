"""Serving as a child process of this machine: ``python -m socadapter_serve --config FILE``.

The contract with the serving application is files in ``<state>/serving/<namespace>/<pool>/``::

    config.json     ServeConfig: pool, stateDir (this folder), cacheDir, trustedKeys, tokens; owner-readable only
    table.json      ServingTable; the application watches it and reconfigures its replicas when it changes
    endpoint.json   {"url", "pid"}, written by the application when it answers
    replicas.json   list of ReplicaReport, written by the application
    serve.log       what it printed; an application that cannot start ends with a line ``Reason: message``
    process.json    the process, see `process`
    failures.json   {"count", "at"}: failed starts in a row
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from socadapter_api import digest
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ReplicaReport, ServingTable
from socadapter_operator.backends import pool_secrets, process, serve_config
from socadapter_operator.backends.credentials import Credentials
from socadapter_operator.backends.process import Process
from socadapter_operator.domain.addresses import Address
from socadapter_operator.domain.observed import ServingState, ServingView
from socadapter_operator.domain.reasons import BY_REASON

SERVE = (sys.executable, "-m", "socadapter_serve")
STOP_GRACE_S = 20.0
_HEALTHY_AFTER_S = 60.0
_REPORTS = TypeAdapter(tuple[ReplicaReport, ...])


@dataclass(frozen=True, slots=True)
class ServingFolder:
    """The files of one pool's serving application."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def table(self) -> Path:
        return self.path / "table.json"

    @property
    def endpoint(self) -> Path:
        return self.path / "endpoint.json"

    @property
    def replicas(self) -> Path:
        return self.path / "replicas.json"

    @property
    def log(self) -> Path:
        return self.path / "serve.log"

    @property
    def process(self) -> Path:
        return self.path / "process.json"

    @property
    def failures(self) -> Path:
        return self.path / "failures.json"


class LocalServing:
    """The serving applications of one state folder. `command` starts one; ``--config FILE`` is added."""

    def __init__(
        self,
        folder: Path,
        credentials: Credentials,
        cache: Path,
        environment: Mapping[str, str],
        command: Sequence[str] = SERVE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._credentials = credentials
        self._cache = cache
        self._environment = dict(environment)
        self._command = tuple(command)
        self._clock = clock

    def files(self, pool: SocServingPool) -> ServingFolder:
        """Where the pool's application keeps its files."""
        return ServingFolder(self._folder / pool.metadata.namespace / pool.metadata.name)

    def running(self, pool: SocServingPool) -> bool:
        """Whether the pool's application has a process."""
        found = Process.read(self.files(pool).process)
        return found is not None and found.alive

    def address(self, pool: SocServingPool) -> Address | None:
        """Where the pool's application answers, or is about to; None where it has no process."""
        if not self.running(pool):
            return None
        try:
            return Address.of(SocServingPool.model_validate(_object(self.files(pool).config).get("pool")).spec)
        except ValidationError:
            return None

    def apply_table(self, pool: SocServingPool, table: ServingTable) -> None:
        """Hands `table` to the application, which is started, or restarted for a changed pool, where needed.

        Raises:
            SecretNotFound: the pool names a secret that is not there.
        """
        files = self.files(pool)
        self._credentials.signing_key(pool)
        config = self._config(pool, files)
        files.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        process.write_json(files.table, table.model_dump(mode="json"))
        running = Process.read(files.process)
        if running is not None and running.alive:
            if process.read_json(files.config) == config:
                return
            running.end(STOP_GRACE_S)
        self._launch(files, config)

    def serving(self, pool: SocServingPool) -> ServingView:
        """What is known about the pool's application."""
        files = self.files(pool)
        table = _table(files.table)
        found = Process.read(files.process)
        if found is None:
            return ServingView(table=table)
        if not found.alive:
            return self._failed(files, table)
        endpoint = _object(files.endpoint)
        state = ServingState.RUNNING if endpoint.get("url") else ServingState.STARTING
        return ServingView(
            state=state,
            endpoint=str(endpoint.get("url", "")),
            reports=_reports(files.replicas),
            table=table,
            outdated=_object(files.config).get("pool") != serve_config.pool_document(pool),
        )

    def logs(self, pool: SocServingPool, *, follow: bool = False) -> Iterator[str]:
        """The application's output, line by line; with `follow` until it ends."""
        return process.lines(self.files(pool).log, lambda: follow and self.running(pool))

    def delete(self, pool: SocServingPool) -> None:
        """Ends the pool's application and forgets its process."""
        files = self.files(pool)
        if found := Process.read(files.process):
            found.end(STOP_GRACE_S)
        for left in (files.process, files.endpoint, files.replicas, files.failures):
            left.unlink(missing_ok=True)

    def tend(self) -> None:
        """Counts applications that died, and forgives those that have answered for a while."""
        for record in self._folder.glob("*/*/process.json"):
            files = ServingFolder(record.parent)
            found = Process.read(record)
            if found is None:
                continue
            if found.alive:
                if files.endpoint.is_file() and self._clock() - files.endpoint.stat().st_mtime > _HEALTHY_AFTER_S:
                    files.failures.unlink(missing_ok=True)
            elif _object(files.failures).get("process") != [found.pid, found.started]:
                self._count(files, found)

    def _count(self, files: ServingFolder, found: Process) -> None:
        count = int(_object(files.failures).get("count", 0)) + 1
        counted = {"count": count, "at": self._clock(), "process": [found.pid, found.started]}
        process.write_json(files.failures, counted)
        found.kill()

    def _failed(self, files: ServingFolder, table: ServingTable | None) -> ServingView:
        counted = _object(files.failures)
        at = counted.get("at")
        last = process.last_line(files.log)
        reason, found, message = last.partition(": ")
        known = BY_REASON.get(reason) if found else None
        return ServingView(
            state=ServingState.FAILED,
            table=table,
            failures=int(counted.get("count", 0)),
            failed_at=datetime.fromtimestamp(float(at), UTC) if at is not None else None,
            reason=reason if known else "",
            message=message if known else f"the serving process ended; it said: {last} ({files.log})",
            retryable=known is None or known.retryable,
        )

    def _config(self, pool: SocServingPool, files: ServingFolder) -> dict[str, Any]:
        return serve_config.build(
            pool,
            state_dir=str(files.path.resolve()),
            cache_dir=str(self._cache),
            trusted_keys=pool_secrets.trusted_keys(pool, self._credentials),
            tokens=pool_secrets.serving_tokens(pool, self._credentials),
        )

    def _launch(self, files: ServingFolder, config: dict[str, Any]) -> None:
        for left in (files.endpoint, files.replicas):
            left.unlink(missing_ok=True)
        _write_private(files.config, config)
        environment = {**os.environ, **self._environment}
        environment.pop("RAY_ADDRESS", None)
        process.launch((*self._command, "--config", str(files.config)), environment, files.log, files.process)


def _write_private(path: Path, value: object) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(digest.canonical_json(value))
    partial.replace(path)


def _object(path: Path) -> dict[str, Any]:
    value = process.read_json(path)
    return value if isinstance(value, dict) else {}


def _table(path: Path) -> ServingTable | None:
    try:
        return ServingTable.model_validate(process.read_json(path))
    except ValidationError:
        return None


def _reports(path: Path) -> tuple[ReplicaReport, ...]:
    try:
        return _REPORTS.validate_python(process.read_json(path) or ())
    except ValidationError:
        return ()
