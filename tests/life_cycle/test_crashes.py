"""The operator is stopped before and after each write of a life cycle; every restart ends in the same state.

`make test-crash` runs it for applied, trained, published, served; SOCADAPTER_TEST_CRASHES=whole adds another training
spec.
"""

import gc
import os
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from socadapter_operator.kube.client import Write
from socadapter_operator.kube.resources import ADAPTER, POOL, Object

HOW = os.environ.get("SOCADAPTER_TEST_CRASHES", "")
WHOLE = HOW == "whole"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(HOW not in ("short", "whole"), reason="SOCADAPTER_TEST_CRASHES is neither short nor whole"),
]

MOST_WRITES = 64


class Stopped(BaseException):
    """The process ends here: no handler of errors sees it, and the thread that was writing is gone."""


@dataclass
class StopAt:
    """Stops every writer from the `number`-th write on (from 1): before it is sent, or once it was carried out."""

    number: int
    after_it: bool
    stopped: threading.Event = field(default_factory=threading.Event)
    told: str = ""
    _seen: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def before(self, write: Write) -> None:
        with self._lock:
            if self.stopped.is_set():
                raise Stopped(str(write))
            if write.kind.plural == "events":
                return
            self._seen += 1
            if self._seen == self.number and not self.after_it:
                self._stop(write)

    def after(self, write: Write) -> None:
        with self._lock:
            if write.kind.plural != "events" and self._seen >= self.number and self.after_it:
                self._stop(write)

    def _stop(self, write: Write) -> None:
        self.told = self.told or str(write)
        self.stopped.set()
        raise Stopped(str(write))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_restart_ends_in_the_same_state(site: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """One version, one run, ready: wherever the operator before was stopped, and however often."""
    site.pool()
    tried: list[str] = []
    golden: Object | None = None
    for number in range(1, MOST_WRITES):
        reached = False
        for after_it in (False, True):
            name = f"cloud-{number}-{'after' if after_it else 'before'}"
            hook = StopAt(number, after_it)
            first = site.operate(hook)
            _live(site, name, hook)
            first.stop()
            if hook.stopped.is_set():
                reached = True
                tried.append(f"{'after' if after_it else 'before'} {hook.told}")
                second = site.operate()
                _live(site, name, None)
                second.stop()
            ended = _normalised(site, name)
            golden = golden or ended
            assert golden == ended, tried[-1:]
            _clear(site, name)
        if not reached:
            break
    assert tried
    gc.collect()  # what a stopped thread held open is let go here, where nobody minds
    with capsys.disabled():
        print(f"\ncrash matrix: {len(tried)} kill points, {len(set(tried))} different")


def _live(site: Any, name: str, hook: StopAt | None) -> None:
    """Applied, trained, published and served, or until `hook` stopped it; the whole matrix also retrains."""

    def over() -> bool:
        return hook is not None and hook.stopped.is_set()

    def ready() -> bool:
        conditions = (site.condition("Ready", name)[0], site.condition("Reconciling", name)[0])
        return conditions == ("True", "False") and bool(_versions(site, name))

    site.adapter(name, context="cloud")
    site.until(lambda: over() or ready(), f"{name} is ready")
    if WHOLE:
        site.adapter(name, context="cloud", lora={"rank": 4})
        site.until(lambda: over() or (ready() and len(_versions(site, name)) == 2), f"{name} is trained anew")


def _clear(site: Any, name: str) -> None:
    """Deletes the adapter, with an operator that nothing stops."""
    held = site.get(name)["metadata"]
    site.client.delete(ADAPTER, site.namespace, name, uid=held["uid"])
    site.until(lambda: not site.get(name) and not _versions(site, name), f"{name} is gone")


def _versions(site: Any, name: str) -> list[Object]:
    uid = (site.get(name).get("metadata") or {}).get("uid")
    return [v for v in site.versions() if any(owner["uid"] == uid for owner in v["metadata"]["ownerReferences"])]


def _normalised(site: Any, name: str) -> Object:
    """What has to be the same however it came about: names and times of this one adapter apart."""
    status = site.get(name)["status"]
    versions = [
        (version["spec"]["number"], sorted(_flags(version["status"]["conditions"])))
        for version in _versions(site, name)
    ]
    return {
        "conditions": sorted(_flags(status["conditions"])),
        "versions": versions,
        "roles": sorted(status["versions"]),
        "run": status.get("run"),
        "last_run": {key: status["lastRun"][key] for key in ("state", "reason", "number")},
        "last_number": status["lastNumber"],
        "pool": sorted(_flags(site.get("base", POOL)["status"]["conditions"])),
    }


def _flags(conditions: list[Object]) -> list[tuple[str, str, str]]:
    return [(c["type"], c["status"], c["reason"]) for c in conditions]
