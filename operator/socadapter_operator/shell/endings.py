"""The end of what works outside the cluster: a finalizer where there is such a thing, and a deadline for it.

The deadline counts from this process's first attempt, by a clock that nobody sets: how long ago the deletion was asked
for says nothing of how often ending it was tried.

KubeRay's resources need none: they are owned, and go with their owner. A run or an application on a Ray cluster that
exists by itself would go on for ever.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from socadapter_api import API_GROUP
from socadapter_api.errors import ObjectNotFound, SocAdapterError
from socadapter_api.pool import SocServingPool
from socadapter_operator.domain.course import POLL
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.recorder import Recorder
from socadapter_operator.kube.resources import Kind, Object, identity_of, metadata, uid_of

FINALIZER = f"{API_GROUP}/backend"
FINALIZER_MANAGER = "socadapter-operator-finalizer"
DEADLINE = timedelta(minutes=5)


def outlives(pool: SocServingPool) -> bool:
    """Whether what is started for `pool` would go on when its resources are gone."""
    return pool.spec.ray.address is not None


class Endings:
    """Puts the finalizer on and takes it off. Safe for threads; `clock` counts seconds and never goes back."""

    def __init__(self, client: Client, recorder: Recorder, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._begun: dict[str, float] = {}
        """The first attempt at each object's end, by its uid."""
        self._lock = threading.Lock()

    def guards(self, raw: Object) -> bool:
        """Whether our finalizer is on the object."""
        return FINALIZER in (metadata(raw).get("finalizers") or ())

    def guard(self, kind: Kind, raw: Object) -> Object:
        """Puts the finalizer on, before anything is started that outlives the object; returns it as it then is."""
        return raw if self.guards(raw) else self._apply(kind, raw, [FINALIZER])

    def let_go(self, kind: Kind, raw: Object, ended: Callable[[], bool]) -> timedelta | None:
        """Takes the finalizer off once `ended` says so, or its deadline is over; returns when to ask again."""
        late = self._tried_for(uid_of(raw)) > DEADLINE
        done, problem = False, "it has not ended"
        try:
            done = ended()
        except SocAdapterError as error:
            problem = str(error)
        except Exception as error:
            if not late:
                raise
            problem = f"the operator met a {type(error).__name__}"
        if not done and not late:
            return POLL
        if not done:
            told = f"gave up after {DEADLINE}: what runs outside the cluster may go on; {problem}"
            self._recorder.record(raw, "CleanupAbandoned", told, action="Delete", warning=True)
        with suppress(ObjectNotFound):
            self._apply(kind, raw, [])
        return None

    def forget(self, uid: str) -> None:
        """Drops what is kept of an object that is gone."""
        with self._lock:
            self._begun.pop(uid, None)

    def _tried_for(self, uid: str) -> timedelta:
        now = self._clock()
        with self._lock:
            return timedelta(seconds=now - self._begun.setdefault(uid, now))

    def _apply(self, kind: Kind, raw: Object, finalizers: list[str]) -> Object:
        body: Object = {"metadata": {**identity_of(raw), "finalizers": finalizers}}
        return self._client.apply(kind, body, manager=FINALIZER_MANAGER)
