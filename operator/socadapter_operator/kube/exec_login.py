"""Credentials that a program makes, as kubeconfigs of managed clusters have them (`users[].user.exec`).

The program is run when there is nothing yet and when what it made expires within a minute; a login that the API server
refused is thrown away as a whole. Called by `credentials`; a pod never needs it.
"""

import json
import os
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from socadapter_api.errors import ClusterNotConfigured
from socadapter_operator.kube.connection import Connection

_API_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_TIMEOUT_S = 60.0
_EARLY = timedelta(minutes=1)


class ExecLogin:
    """The program of one user, and what it made last."""

    def __init__(
        self,
        command: tuple[str, ...],
        environment: Mapping[str, str],
        api_version: str,
        where: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._command = command
        self._environment = environment
        self._api_version = api_version
        self._where = where
        self._now = now
        self._lock = threading.Lock()
        self._made: tuple[Mapping[str, Any], datetime | None] | None = None

    @classmethod
    def of(cls, entry: Any, folder: Path, where: str) -> "ExecLogin":
        """The program that a kubeconfig's `exec` entry names; a relative path with a slash starts from `folder`.

        Raises:
            ClusterNotConfigured: no command, or a protocol that is not spoken here.
        """
        if not isinstance(entry, Mapping) or not entry.get("command"):
            raise ClusterNotConfigured(f"`exec` in {where} names no command")
        version = str(entry.get("apiVersion") or "")
        if version not in _API_VERSIONS:
            raise ClusterNotConfigured(
                f"`exec` in {where} speaks {version!r}; one of {', '.join(_API_VERSIONS)} is needed: update the program"
            )
        command = str(entry["command"])
        if os.sep in command:
            command = str(folder / command)
        arguments = tuple(str(part) for part in entry.get("args") or ())
        extra = {str(item["name"]): str(item["value"]) for item in entry.get("env") or () if isinstance(item, Mapping)}
        return cls((command, *arguments), extra, version, where)

    def applied(self, connection: Connection) -> Connection:
        """`connection` with what the program made.

        Raises:
            ClusterNotConfigured: the program is missing, fails, or prints something else.
        """
        with self._lock:
            if self._made is None or (self._made[1] is not None and self._made[1] - _EARLY <= self._now()):
                self._made = self._run()
            status = self._made[0]
        return replace(
            connection,
            token=str(status.get("token") or connection.token),
            client_certificate=str(status.get("clientCertificateData") or connection.client_certificate),
            client_key=str(status.get("clientKeyData") or connection.client_key),
        )

    def _run(self) -> tuple[Mapping[str, Any], datetime | None]:
        asked = {"apiVersion": self._api_version, "kind": "ExecCredential", "spec": {"interactive": False}}
        environment = {**os.environ, **self._environment, "KUBERNETES_EXEC_INFO": json.dumps(asked)}
        try:
            done = subprocess.run(
                self._command,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
            if done.returncode:
                complaint = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise ClusterNotConfigured(f"{self._named} ended with {done.returncode}: {complaint}")
            status = json.loads(done.stdout)["status"]
            expires = status.get("expirationTimestamp")
            return status, None if expires is None else datetime.fromisoformat(str(expires))
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ClusterNotConfigured(f"{self._named} cannot be run: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ClusterNotConfigured(f"{self._named} printed no ExecCredential with a status") from error

    @property
    def _named(self) -> str:
        return f"the program {self._command[0]!r} that {self._where} logs in with"
