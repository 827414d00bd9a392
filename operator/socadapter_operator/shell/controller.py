"""What passes over adapters and pools have in common: when to read again, how failures are told, how objects end."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from socadapter_api.errors import SocAdapterError
from socadapter_operator.backends.protocol import BackendOf
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.recorder import Recorder
from socadapter_operator.kube.resources import Kind, Object, ObjectKey, uid_of
from socadapter_operator.shell.cache import Cache
from socadapter_operator.shell.claims import Claims
from socadapter_operator.shell.contracts import Contracts, being_deleted
from socadapter_operator.shell.endings import Endings
from socadapter_operator.shell.refusals import Refusals
from socadapter_operator.shell.status_writer import StatusWriter


class Controller(ABC):
    """Reconciles the objects of one kind. Safe for threads, one key at a time."""

    kind: Kind

    def __init__(
        self,
        client: Client,
        cache: Cache,
        backend_of: BackendOf,
        recorder: Recorder,
        contracts: Contracts,
        claims: Claims,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._cache = cache
        self._backend_of = backend_of
        self._recorder = recorder
        self._contracts = contracts
        self._claims = claims
        self._clock = clock
        self._refusals = Refusals(client, recorder, clock)
        self._endings = Endings(client, recorder)
        self._statuses = StatusWriter(client)

    def reconcile(self, key: ObjectKey) -> timedelta | None:
        """Brings the object one step nearer to its spec; returns when to look again without being called.

        Raises:
            SocAdapterError: something failed that may pass; status says so, and the queue tries again.
            Exception: a defect; status says so, too, or an event where the object is being deleted.
        """
        raw = self._cache.get(self.kind, key)
        if raw is None:
            return None
        try:
            return self._end(key) if being_deleted(raw) else self._settled(key, raw)
        except SocAdapterError:
            raise
        except Exception as error:
            self._refusals.own_up(self.kind, key, error)
            raise

    def forget(self, uid: str) -> None:
        """Drops what is kept of an object that is gone."""
        self._statuses.forget(uid)
        self._endings.forget(uid)

    @abstractmethod
    def _pass(self, key: ObjectKey, raw: Object) -> timedelta | None:
        """One pass on what the cache knows; `_change` where that asks for any change."""

    @abstractmethod
    def _changed(self, raw: Object) -> timedelta | None:
        """Plans on `raw`, which was read just now, and carries the plan out."""

    @abstractmethod
    def _ended(self, raw: Object) -> bool:
        """Ends what works for the object outside the cluster; whether it has ended."""

    def _settled(self, key: ObjectKey, raw: Object) -> timedelta | None:
        try:
            return self._pass(key, raw)
        except SocAdapterError as error:
            return self._refusals.settle(self.kind, key, error)

    def _change(self, key: ObjectKey, uid: str) -> timedelta | None:
        """`_changed` on the object as it is now; an object that was replaced, or is being deleted, is come back to."""
        raw = self._client.find(self.kind, *key)
        if raw is None or uid_of(raw) != uid or being_deleted(raw):
            return timedelta(0) if raw is not None else None
        return self._changed(raw)

    def _end(self, key: ObjectKey) -> timedelta | None:
        """Lets the object go once nothing outside the cluster works for it any more."""
        raw = self._client.find(self.kind, *key)
        if raw is None or not self._endings.guards(raw):
            return None
        return self._endings.let_go(self.kind, raw, lambda: self._ended(raw))
