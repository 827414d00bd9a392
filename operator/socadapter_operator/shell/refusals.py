"""What kept a resource from being reconciled, told in its conditions; also on one that cannot be read.

Works on the raw object, so that everything else in its status stays as it is, whatever wrote it.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

from pydantic import ValidationError

from socadapter_api.conditions import Condition
from socadapter_api.errors import (
    ClusterUnavailable,
    Conflict,
    Expired,
    InternalError,
    LeadershipLost,
    ObjectNotFound,
    SocAdapterError,
)
from socadapter_operator.domain import refusal
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.recorder import Recorder
from socadapter_operator.kube.resources import Kind, Object, ObjectKey, identity_of, metadata, version_of
from socadapter_operator.shell.contracts import being_deleted

log = logging.getLogger(__name__)

AFTER_REFUSAL = timedelta(minutes=1)
"""What somebody has to mend may be mended where no watch sees it, in a Secret for instance."""

_OUR_OWN = (ClusterUnavailable, Conflict, Expired, LeadershipLost, ObjectNotFound)
"""Between the operator and the API server alone: nothing about the resource, and over with the next pass."""

_LONGEST = 4096


class Refusals:
    """Writes what went wrong with a resource into its status, once, and as an event."""

    def __init__(self, client: Client, recorder: Recorder, clock: Callable[[], datetime]) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock

    def settle(self, kind: Kind, key: ObjectKey, error: SocAdapterError) -> timedelta:
        """Tells `error` on the object as it is now; returns when to look again, where trying sooner cannot help.

        Raises:
            SocAdapterError: `error` itself, if it may pass by itself; or the status could not be written.
        """
        if not isinstance(error, _OUR_OWN):
            raw = self._client.find(kind, *key)
            if raw is not None and not being_deleted(raw):
                self._tell(kind, raw, error)
        if error.retryable:
            raise error
        return AFTER_REFUSAL

    def own_up(self, kind: Kind, key: ObjectKey, error: Exception) -> None:
        """Tells of a defect: only what was raised, since its text may be anybody's; the log has the rest."""
        told = InternalError(
            f"the operator met a {type(error).__name__} that its code does not expect, which is a defect of it; its "
            "log has the traceback"
        )
        with suppress(SocAdapterError):
            raw = self._client.find(kind, *key)
            if raw is not None and being_deleted(raw):
                self._recorder.record(raw, told.reason, str(told), action="Delete", warning=True)
            elif raw is not None:
                self._tell(kind, raw, told)

    def _tell(self, kind: Kind, raw: Object, error: SocAdapterError) -> None:
        status = dict(raw.get("status") or {})
        generation = int(metadata(raw).get("generation") or 0)
        before = _conditions(status)
        told = type(error)(str(error)[:_LONGEST]) if len(str(error)) > _LONGEST else error
        after = refusal.conditions(before, generation, told, self._clock())
        if after == before and status.get("observedGeneration") == generation:
            return
        log.warning("reconcile_refused kind=%s reason=%s %s", kind.kind, error.reason, error)
        self._recorder.record(raw, error.reason, str(error), warning=True)
        status["conditions"] = [condition.model_dump(mode="json", exclude_none=True) for condition in after]
        status["observedGeneration"] = generation
        identity = {**identity_of(raw), "resourceVersion": version_of(raw)}
        self._client.apply_status(kind, {"metadata": identity, "status": status})


def _conditions(status: Object) -> tuple[Condition, ...]:
    """Those that can be read, sorted as `merge` sorts them."""
    found: list[Condition] = []
    for raw in status.get("conditions") or ():
        try:
            found.append(Condition.model_validate(raw))
        except ValidationError:
            continue
    return tuple(sorted(found, key=lambda condition: condition.type))
