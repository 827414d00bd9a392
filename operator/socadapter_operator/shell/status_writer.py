"""Writes statuses: only those that changed, and mere progress no more than twice a minute."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from socadapter_api.adapter import AdapterStatus, SocAdapter, SocAdapterVersion, VersionStatus
from socadapter_api.errors import Conflict, ObjectNotFound
from socadapter_api.pool import PoolStatus, SocServingPool
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import ADAPTER, ADAPTER_VERSION, POOL, Kind, Object
from socadapter_operator.shell.contracts import status_of

PROGRESS_EVERY = timedelta(seconds=30)

_KINDS: dict[type[Any], Kind] = {SocAdapter: ADAPTER, SocServingPool: POOL, SocAdapterVersion: ADAPTER_VERSION}


class StatusWriter:
    """Server-side apply of `/status`, by the manager that owns nothing else."""

    def __init__(self, client: Client, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._written: dict[str, float] = {}
        self._lock = threading.Lock()

    def write(
        self,
        resource: SocAdapter | SocServingPool | SocAdapterVersion,
        status: AdapterStatus | PoolStatus | VersionStatus,
        resource_version: str = "",
    ) -> timedelta | None:
        """Makes `status` the resource's; returns how long to wait where it is held back, else None.

        `resource_version` is that of the object which `status` was planned for: a status that was planned on a memory
        never replaces a later one.

        Raises:
            ObjectNotFound: the resource is gone.
            Conflict: it is another than at `resource_version`.
            ClusterError, ClusterUnavailable: as `Client.apply_status`.
        """
        if status == resource.status:
            return None
        uid, now = resource.metadata.uid, self._clock()
        if isinstance(status, AdapterStatus) and is_progress(resource.status, status):
            left = PROGRESS_EVERY.total_seconds() - (now - self._written.get(uid, float("-inf")))
            if left > 0:
                return timedelta(seconds=left)
        self._client.apply_status(_KINDS[type(resource)], status_of(resource, status, resource_version))
        with self._lock:
            self._written[uid] = now
        return None

    def declare(self, adapter: SocAdapter, intent: AdapterStatus, resource_version: str) -> Object:
        """Makes `intent` the adapter's status ahead of what it announces; returns the adapter as it then is.

        Raises:
            ObjectNotFound: the adapter is gone.
            Conflict: it is another than at `resource_version`, so that of two operators one announces anything.
            ClusterError, ClusterUnavailable: as `Client.apply_status`.
        """
        return self._client.apply_status(ADAPTER, status_of(adapter, intent, resource_version))

    def write_over(self, version: SocAdapterVersion, status: VersionStatus) -> None:
        """`write` for a version as the cache has it; one that is gone or a namesake's is left to the next pass."""
        with suppress(ObjectNotFound, Conflict):
            self.write(version, status)

    def forget(self, uid: str) -> None:
        """Drops what is kept of a resource that is gone."""
        with self._lock:
            self._written.pop(uid, None)


def is_progress(before: object, after: AdapterStatus) -> bool:
    """Whether `after` tells nothing new but how far the run is."""
    return isinstance(before, AdapterStatus) and _without_progress(before) == _without_progress(after)


def _without_progress(status: AdapterStatus) -> AdapterStatus:
    if status.run is None:
        return status
    run = status.run.model_copy(update={"progress": None})
    plain = tuple(condition.model_copy(update={"message": ""}) for condition in status.conditions)
    return status.model_copy(update={"run": run, "conditions": plain})
