"""The end of what works outside the cluster, on a clock that a test turns."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from tests.kube.api_server import ApiServer
from tests.shell.conftest import Clock

from socadapter_api.errors import BackendUnavailable
from socadapter_operator.domain.course import POLL
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.recorder import Recorder
from socadapter_operator.kube.resources import ADAPTER, Object
from socadapter_operator.shell.endings import DEADLINE, FINALIZER, Endings

PATH = ADAPTER.path("soc", "cloud")


class Leaving:
    """An adapter whose deletion was asked for years ago, and the operator that comes to it now."""

    def __init__(self, server: ApiServer, client: Client, clock: Clock) -> None:
        server.served |= {"/apis/socadapter.io/v1alpha1": ["socadapters"], "/apis/events.k8s.io/v1": ["events"]}
        about = {"name": "cloud", "namespace": "soc", "deletionTimestamp": "2020-01-01T00:00:00Z"}
        body = {"apiVersion": ADAPTER.api_version, "kind": ADAPTER.kind}
        server.put(PATH, {**body, "metadata": {**about, "finalizers": [FINALIZER]}})
        self.server = server
        self.clock = clock
        self.recorder = Recorder(client, "test")
        self.endings = Endings(client, self.recorder, self.clock)

    def let_go(self, ended: Callable[[], bool]) -> timedelta | None:
        return self.endings.let_go(ADAPTER, self.raw, ended)

    @property
    def raw(self) -> Object:
        return self.server.objects[PATH]

    @property
    def events(self) -> list[str]:
        """The notes that were written."""
        self.recorder.write_due()
        return [str(item["note"]) for path, item in self.server.objects.items() if "/events/" in path]


@pytest.fixture
def leaving(server: ApiServer, client: Client, clock: Clock) -> Leaving:
    return Leaving(server, client, clock)


def unreachable() -> bool:
    raise BackendUnavailable("no answer")


def defect() -> bool:
    raise ZeroDivisionError("s3cret")


def test_the_deadline_counts_from_the_first_attempt(leaving: Leaving) -> None:
    """An operator that was down for long still tries for the whole of it, and gives up with an event."""
    for passed in (0.0, DEADLINE.total_seconds()):
        leaving.clock.at += passed
        assert POLL == leaving.let_go(unreachable)
    assert leaving.endings.guards(leaving.raw)
    leaving.clock.at += 1
    assert leaving.let_go(unreachable) is None
    assert not leaving.endings.guards(leaving.raw)
    (note,) = leaving.events
    assert "no answer" in note


def test_what_ends_late_is_let_go_without_an_event(leaving: Leaving) -> None:
    """It counts whether it ended, not when."""
    leaving.let_go(lambda: False)
    leaving.clock.at += 2 * DEADLINE.total_seconds()
    assert leaving.let_go(lambda: True) is None
    assert (False, []) == (leaving.endings.guards(leaving.raw), leaving.events)


def test_a_defect_does_not_keep_an_object_for_ever(leaving: Leaving) -> None:
    """It is raised until the deadline, and then told by its kind."""
    with pytest.raises(ZeroDivisionError):
        leaving.let_go(defect)
    leaving.clock.at += DEADLINE.total_seconds() + 1
    assert leaving.let_go(defect) is None
    (note,) = leaving.events
    assert "ZeroDivisionError" in note
    assert "s3cret" not in note


def test_an_object_that_is_gone_is_not_remembered(leaving: Leaving) -> None:
    """What comes again under its identity has the whole deadline."""
    leaving.let_go(unreachable)
    leaving.endings.forget(leaving.raw["metadata"]["uid"])
    leaving.clock.at += 2 * DEADLINE.total_seconds()
    assert POLL == leaving.let_go(unreachable)
