"""The end of what works outside the cluster: a finalizer where there is such a thing, and a deadline for it.

KubeRay's resources need none: they are owned, and go with their owner. A run or an application on a Ray cluster that
exists by itself would go on for ever.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

from socadapter_api import API_GROUP
from socadapter_api.errors import ObjectNotFound, SocAdapterError
from socadapter_api.pool import SocServingPool
from socadapter_operator.domain.course import POLL
from socadapter_operator.domain.timestamps import parse
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.recorder import Recorder
from socadapter_operator.kube.resources import Kind, Object, identity_of, metadata
from socadapter_operator.shell.contracts import being_deleted

FINALIZER = f"{API_GROUP}/backend"
FINALIZER_MANAGER = "socadapter-operator-finalizer"
DEADLINE = timedelta(minutes=5)


def outlives(pool: SocServingPool) -> bool:
    """Whether what is started for `pool` would go on when its resources are gone."""
    return pool.spec.ray.address is not None


class Endings:
    """Puts the finalizer on and takes it off."""

    def __init__(self, client: Client, recorder: Recorder, clock: Callable[[], datetime]) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock

    def guards(self, raw: Object) -> bool:
        """Whether our finalizer is on the object."""
        return FINALIZER in (metadata(raw).get("finalizers") or ())

    def guard(self, kind: Kind, raw: Object) -> Object:
        """Puts the finalizer on, before anything is started that outlives the object; returns it as it then is."""
        return raw if self.guards(raw) else self._apply(kind, raw, [FINALIZER])

    def let_go(self, kind: Kind, raw: Object, ended: Callable[[], bool]) -> timedelta | None:
        """Takes the finalizer off once `ended` says so, or its deadline is over; returns when to ask again."""
        problem = ""
        try:
            done = ended()
        except SocAdapterError as error:
            done, problem = False, str(error)
        since = parse(being_deleted(raw)) or self._clock()
        late = self._clock() - since > DEADLINE
        if not done and not late:
            return POLL
        if not done:
            told = f"gave up after {DEADLINE}: what runs outside the cluster may go on; {problem or 'it has not ended'}"
            self._recorder.record(raw, "CleanupAbandoned", told, action="Delete", warning=True)
        with suppress(ObjectNotFound):
            self._apply(kind, raw, [])
        return None

    def _apply(self, kind: Kind, raw: Object, finalizers: list[str]) -> Object:
        body: Object = {"metadata": {**identity_of(raw), "finalizers": finalizers}}
        return self._client.apply(kind, body, manager=FINALIZER_MANAGER)
