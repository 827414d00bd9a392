"""One operator leads: the one whose name stands in a Lease of coordination.k8s.io that it keeps renewing.

Decisions use the monotonic clock only, and never a time that another machine wrote: a Lease counts as held for as long
as its holder promised, from the moment that *this* process first saw that version of it. The holder counts from before
it sent its last successful renewal, and stops believing `renew_deadline_s` after that, which is less than the promise.
So two never believe at once, however long a request is under way, as long as clocks run at nearly the same speed.

Times as controller-runtime has them: 15 s promised, 10 s to renew, a try every 2 s. Losing the Lease is final for this
process (`on_lost` ends it); a clean stop gives it back, so that a successor need not wait.
"""

import logging
import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from socadapter_api.errors import AlreadyExists, Conflict, LeadershipLost, ObjectNotFound, SocAdapterError
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import LEASE, Object, metadata

log = logging.getLogger(__name__)

_JITTER = 1.2
_RELEASED_S = 1


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """How long a Lease is promised, how long its holder tries to renew it, and how often; seconds."""

    promised_s: float = 15.0
    renew_deadline_s: float = 10.0
    retry_s: float = 2.0

    def __post_init__(self) -> None:
        if not self.promised_s > self.renew_deadline_s > self.retry_s * _JITTER > 0:
            raise ValueError(
                f"a lease of {self.promised_s} s with a deadline of {self.renew_deadline_s} s and tries every "
                f"{self.retry_s} s cannot be kept: promised > deadline > 1.2 x retry is needed"
            )


class Standing(StrEnum):
    """Where a candidate stands; nothing leads back from `LOST` or `RELEASED`."""

    WAITING = "Waiting"
    LEADING = "Leading"
    LOST = "Lost"
    RELEASED = "Released"


@dataclass(frozen=True, slots=True)
class _Seen:
    """A version of the Lease and when this process first saw it, on the monotonic clock."""

    lease: Object
    at: float

    @property
    def version(self) -> str:
        return str(metadata(self.lease).get("resourceVersion") or "")

    @property
    def holder(self) -> str:
        return str(_spec(self.lease).get("holderIdentity") or "")

    @property
    def promised_until(self) -> float:
        return self.at + float(_spec(self.lease).get("leaseDurationSeconds") or 0)


class LeaseElector:
    """One candidate. `step` makes one try and is what `run` repeats; only one thread calls them.

    A try that fails, whatever it raises, is one that did not renew: the Lease is lost once there was none in time.
    `identity` must be new for each process. The client needs no hooks, and its calls are bounded by what is left.
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        identity: str,
        *,
        times: LeaseTimes = LeaseTimes(),
        on_won: Callable[[], None] = lambda: None,
        on_lost: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self.identity = identity
        self._times = times
        self._on_won = on_won
        self._on_lost = on_lost
        self._clock = clock
        self._now = now
        self._seen: _Seen | None = None
        self._believes_until = float("-inf")
        self._standing = Standing.WAITING

    @property
    def standing(self) -> Standing:
        """Where this candidate stands; `LEADING` only while it may believe so."""
        if self._standing is Standing.LEADING and self._clock() >= self._believes_until:
            return Standing.LOST
        return self._standing

    @property
    def leading(self) -> bool:
        """Whether this candidate may act as the leader now."""
        return self.standing is Standing.LEADING

    def fence(self) -> None:
        """Passes while this candidate leads.

        Raises:
            LeadershipLost: it does not, or may no longer.
        """
        if not self.leading:
            raise LeadershipLost(
                f"{self.identity} does not hold the lease {self._namespace}/{self._name} ({self.standing.value}); "
                "nothing is written"
            )

    def step(self) -> float:
        """One try to take or to renew the Lease; returns the seconds until the next is due."""
        if self._ended():
            return 0.0
        try:
            self._try()
        except SocAdapterError as error:
            log.warning("lease_not_reached lease=%s/%s reason=%s %s", self._namespace, self._name, error.reason, error)
        except Exception:
            # The rim of the elector's thread: were it to end here, nobody would tell of the loss that follows.
            log.exception("lease_crashed lease=%s/%s", self._namespace, self._name)
        if self._ended():
            return 0.0
        if self._standing is Standing.LEADING:
            return max(0.0, min(self._times.retry_s, self._believes_until - self._clock()))
        return self._times.retry_s * random.uniform(1.0, _JITTER)

    def run(self, stop: threading.Event) -> None:
        """Tries until `stop` is set, then gives the Lease back; returns early only when it was lost."""
        while not stop.is_set():
            wait = self.step()
            if self._standing is Standing.LOST:
                return
            stop.wait(wait)
        self.release()

    def release(self) -> None:
        """Gives the Lease back where it is held; from here on the fence is closed."""
        held, led = self._seen, self.leading
        self._standing = Standing.RELEASED if self._standing is not Standing.LOST else Standing.LOST
        if not led or held is None:
            return
        try:
            self._client.replace(LEASE, self._record(held, "", _RELEASED_S), timeout_s=self._times.retry_s)
            log.info("lease_released lease=%s/%s identity=%s", self._namespace, self._name, self.identity)
        except SocAdapterError as error:
            log.warning("lease_not_released lease=%s/%s %s", self._namespace, self._name, error)

    def _try(self) -> None:
        if self._standing is not Standing.LEADING:
            self._look()
            if not self._free():
                return
        try:
            self._take()
        except (AlreadyExists, Conflict, ObjectNotFound):
            # Somebody was faster, or an earlier renewal of ours arrived although its answer did not.
            self._look()
            if self._standing is not Standing.LEADING:
                return
            if self._seen is None or self._seen.holder == self.identity:
                self._take()
            else:
                self._believes_until = float("-inf")

    def _look(self) -> None:
        """Reads the Lease. One that is gone is still waited for as its holder was promised."""
        try:
            found = self._client.get(LEASE, self._namespace, self._name, timeout_s=self._left_s())
        except ObjectNotFound:
            if self._free():
                self._seen = None
            return
        seen = _Seen(found, self._clock())
        if self._seen is None or self._seen.version != seen.version:
            self._seen = seen

    def _free(self) -> bool:
        seen = self._seen
        return seen is None or seen.holder in ("", self.identity) or seen.promised_until <= self._clock()

    def _take(self) -> None:
        """Writes our name, on condition that nobody wrote since we looked."""
        sent_at = self._clock()
        timeout_s = self._left_s()
        if self._seen is None:
            stored = self._client.create(LEASE, self._record(None, self.identity, self._promise()), timeout_s=timeout_s)
        else:
            record = self._record(self._seen, self.identity, self._promise())
            stored = self._client.replace(LEASE, record, timeout_s=timeout_s)
        self._seen = _Seen(stored, self._clock())
        self._believes_until = sent_at + self._times.renew_deadline_s
        # An answer may come later than it is worth.
        if self._standing is Standing.WAITING and self._clock() < self._believes_until:
            self._standing = Standing.LEADING
            log.info("lease_won lease=%s/%s identity=%s", self._namespace, self._name, self.identity)
            self._begin()

    def _begin(self) -> None:
        """Tells of the win. Who cannot begin must not keep others from it: what is raised ends the leadership."""
        try:
            self._on_won()
        except Exception:
            self._believes_until = float("-inf")
            raise

    def _ended(self) -> bool:
        """Whether there is nothing more to try; tells of a loss, once."""
        if self._standing is Standing.LEADING and not self.leading:
            self._standing = Standing.LOST
            log.error("lease_lost lease=%s/%s identity=%s", self._namespace, self._name, self.identity)
            self._on_lost()
        return self._standing in (Standing.LOST, Standing.RELEASED)

    def _promise(self) -> int:
        return max(1, math.ceil(self._times.promised_s))

    def _left_s(self) -> float:
        """What a request may take: a leader's must not outlast its belief."""
        most = self._times.renew_deadline_s / 4  # for connecting, and again for the answer
        if self._standing is not Standing.LEADING:
            return most
        return max(0.1, min(most, self._believes_until - self._clock()))

    def _record(self, seen: _Seen | None, holder: str, promised_s: int) -> Object:
        """The Lease with `holder`. Times in it are for people."""
        about: Object = {"namespace": self._namespace, "name": self._name}
        before = {} if seen is None else _spec(seen.lease)
        if seen is not None:
            about["resourceVersion"] = seen.version
        now = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        same = before.get("holderIdentity") == holder
        transitions = int(before.get("leaseTransitions") or 0)
        won = holder and not same and seen is not None
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": promised_s,
            "acquireTime": before.get("acquireTime", now) if same else now,
            "renewTime": now,
            "leaseTransitions": transitions + 1 if won else transitions,
        }
        return {"metadata": about, "spec": spec}


def _spec(lease: Object) -> Object:
    held = lease.get("spec")
    return held if isinstance(held, dict) else {}
