"""What goes wrong with a resource, a file or the machine ends no pass, is said once, and keeps no other resource."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from socadapter_api.adapter import SocAdapter, SocAdapterVersion
from socadapter_api.errors import SpecError
from socadapter_api.pool import SocServingPool

TORN = '{"apiVersion": "soc'


@pytest.fixture
def still(bench: Any) -> Any:
    """A pool that is not served, and two adapters that train nothing: no process is started."""
    bench.adapter(suspend=True)
    bench.adapter("office", suspend=True)
    bench.restart(serve=False)
    bench.apply()
    return bench


def said(seen: Any) -> list[tuple[str, str]]:
    return [(name, note.reason) for name, note in seen.notes if note.warning]


def planned(bench: Any) -> dict[str, bool]:
    """The adapters by name, and whether a pass wrote their status."""
    found, _ = bench.state.readable(SocAdapter)
    return {adapter.metadata.name: adapter.status.observed_generation > 0 for adapter in found}


def conditions(resource: Any) -> dict[str, tuple[str, str]]:
    return {told.type: (told.status.value, told.reason) for told in resource.status.conditions}


def file_of(bench: Any, kind: str, name: str) -> Path:
    found: Path = bench.state.path / "soc" / kind / f"{name}.json"
    return found


@pytest.mark.parametrize("kind", [SocAdapter, SocServingPool, SocAdapterVersion])
def test_a_file_that_cannot_be_read_keeps_no_other_resource(kind: Any, still: Any) -> None:
    """It is named once, `Ready` is not claimed, and what it held before comes back with it."""
    path = file_of(still, kind.__name__, "cloud")
    before = path.read_bytes() if path.exists() else None
    path.parent.mkdir(exist_ok=True)
    path.write_text(TORN)
    still.restart(serve=False)
    seen = still.reconciler.pass_once()
    assert ([("state folder", "InvalidSpec")], False, True) == (said(seen), seen.ready, planned(still)["office"])
    assert str(path) in seen.notes[0][1].message
    assert [] == said(still.reconciler.pass_once())
    with pytest.raises(SpecError, match="is not a"):
        still.state.list(kind)
    path.unlink()
    if before is not None:
        path.write_bytes(before)
    assert () == still.reconciler.pass_once().unreadable


def test_no_route_is_taken_away_while_an_adapter_cannot_be_read(still: Any) -> None:
    """Which context it has is not known, and what answers it goes on answering."""
    version = {"name": "cloud-v1-00000000", "uri": "/store/run", "digest": f"sha256:{'0' * 64}"}
    table = still.state.path / "serving" / "soc" / "base" / "table.json"
    table.parent.mkdir(parents=True)
    table.write_text(json.dumps({"generation": 3, "routes": [{"context": "cloud", "stable": version}]}))
    file_of(still, "SocAdapter", "cloud").write_text(TORN)
    still.restart(serve=False)
    (pool,) = still.reconciler.pools()
    (apply,) = still.reconciler.plan_pool(pool).actions
    assert ["cloud-v1-00000000"] == list(apply.table.versions())


@pytest.mark.parametrize(("number", "reason"), [(errno.ENOSPC, "DiskFull"), (errno.EACCES, "BackendUnavailable")])
def test_a_status_that_cannot_be_written_is_said_and_tried_again(
    number: int, reason: str, still: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk under one resource is a note, as its status cannot tell; others are driven, and none is settled."""
    still.restart(serve=False)
    write = still.state.write

    def full(resource: Any) -> bool:
        if resource.metadata.name == "cloud":
            raise OSError(number, os.strerror(number))
        return bool(write(resource))

    with monkeypatch.context() as patched:
        patched.setattr(still.state, "write", full)
        seen = still.reconciler.pass_once()
        assert [("cloud", reason)] == said(seen)
        assert os.strerror(number) in seen.notes[0][1].message
        assert {"cloud": False, "office": True} == planned(still)
        assert [] == said(still.reconciler.pass_once())
    assert still.reconciler.pass_once().settled
    assert {"cloud": True, "office": True} == planned(still)
    monkeypatch.setattr(still.state, "write", full)
    assert not still.reconciler.pass_once().settled


def test_a_program_that_cannot_be_started_ends_no_pass(bench: Any) -> None:
    """The adapter tells it beside the run that was meant, and so does each pass that tries to launch what waits."""
    bench.adapter("office", suspend=True)
    bench.restart(job=("/no/such/program",), serve=False)
    bench.apply()
    bench.reconciler.pass_once()
    cloud = bench.get()
    assert (("True", "BackendUnavailable"), True) == (conditions(cloud)["Reconciling"], cloud.status.run is not None)
    assert [("machine", "BackendUnavailable")] == said(bench.reconciler.pass_once())
    assert ([], True) == (said(bench.reconciler.pass_once()), planned(bench)["office"])


def test_a_defect_stops_one_resource_and_shows_its_traceback_once(
    still: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What no code expects is the resource's `InternalError`, tried again with every pass."""
    plan = still.reconciler.plan_adapter

    def broken(adapter: Any) -> Any:
        if adapter.metadata.name == "cloud":
            raise KeyError("unexpected")
        return plan(adapter)

    monkeypatch.setattr(still.reconciler, "plan_adapter", broken)
    for _ in range(3):
        still.reconciler.pass_once()
    assert (("True", "InternalError"), True) == (conditions(still.get())["Reconciling"], planned(still)["office"])
    traces = [record for record in caplog.records if record.exc_info]
    assert [("ERROR", "pass_crashed name=cloud")] == [(record.levelname, record.getMessage()) for record in traces]


def test_an_error_in_an_edited_file_is_said_once_each_time(still: Any) -> None:
    """Until it is mended no edit counts, and whoever looks at `up` learns why."""
    good = (still.files / "cloud.yaml").read_text()
    still.reconciler.pass_once()
    for _ in range(2):
        (still.files / "cloud.yaml").write_text("kind: SocAdapter\nspec: [")
        seen = still.reconciler.pass_once()
        assert [("files", "InvalidSpec")] == said(seen)
        assert "cloud.yaml is not YAML" in seen.notes[0][1].message
        assert [] == said(still.reconciler.pass_once())
        (still.files / "cloud.yaml").write_text(good)
        assert [] == said(still.reconciler.pass_once())


def test_the_context_of_an_adapter_is_immutable(still: Any) -> None:
    """Once it was trained: what was learned from one context's alerts never answers another's."""
    still.adapter(context="mistyped", suspend=True)
    still.apply()
    assert "mistyped" == still.get().spec.context
    trained = still.get().status.model_copy(update={"last_number": 1})
    still.state.write(still.get().model_copy(update={"status": trained}))
    still.adapter(context="network", suspend=True)
    with pytest.raises(SpecError, match=r"spec\.context is immutable: it is 'mistyped'"):
        still.apply()
    assert [("files", "InvalidSpec")] == said(still.reconciler.pass_once())
    assert "mistyped" == still.get().spec.context


def test_of_two_pools_on_one_address_one_is_stalled(still: Any) -> None:
    """Before either was started: the first by name keeps it, and the other names both."""
    still.pool("spare", host="localhost")
    still.apply()
    base, spare = still.reconciler.pass_once().pools
    assert (("False", "Settled"), ("True", "InvalidSpec")) == (
        conditions(base)["Stalled"],
        conditions(spare)["Stalled"],
    )
    told = next(c.message for c in spare.status.conditions if c.type == "Stalled")
    assert ("'spare'" in told, "'soc/base'" in told) == (True, True)
    still.pool("spare", port=8124)
    assert all(conditions(pool)["Stalled"] == ("False", "Settled") for pool in still.reconciler.pass_once().pools)
