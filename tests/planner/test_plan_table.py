"""The table of plans: each state of a run in progress, beside each thing that may be asked for meanwhile.

A cell says what is done, and which run status names afterwards, in which state: `same`, a `new` one, or `none`.
"""

from typing import Any

import pytest

from socadapter_api.adapter import TRAIN_REQUESTED_AT
from socadapter_api.manifest import Outcome
from socadapter_operator.domain.state import BackendRun, Evidence, Marker, RunState, RunView, settle

TICK = "2026-03-02T11:59:00Z"
AROUND: dict[str, dict[str, Any]] = {
    "nothing": {},
    "suspended": {"spec": {"suspend": True}},
    "faulty": {"spec": {"lora": {"rank": 512}}},
    "another spec": {"spec": {"lora": {"rank": 4}}},
    "request": {"annotations": {TRAIN_REQUESTED_AT: TICK}},
    "tick": {
        "spec": {"schedule": {"cron": "59 11 * * *"}},
        "status": {"next_schedule_time": TICK, "observed_schedule": "59 11 * * * UTC"},
    },
}
"""What is true besides, by its name."""

NEW = "StartRun -> new Starting"
AGAIN = "StartRun -> same Starting"

TABLE: dict[str, tuple[str, ...]] = {
    "queued": ("-> same Queued",) * 3 + ("StopRun -> same Queued",) + ("-> same Queued",) * 2,
    "starting": ("-> same Starting",) * 3 + ("StopRun -> same Starting",) + ("-> same Starting",) * 2,
    "running": ("-> same Running",) * 3 + ("StopRun -> same Running",) + ("-> same Running",) * 2,
    "published": ("RecordVersion -> none",) * 3 + (f"RecordVersion {NEW}",) * 3,
    "gate failed": ("-> none",) * 3 + (NEW,) * 3,
    "unverified": ("-> same Unknown",) * 6,
    "unknown": ("-> same Unknown",) * 6,
    "absent": (AGAIN, "-> same Absent", "-> same Absent", f"ForgetRun {NEW}", AGAIN, AGAIN),
    "interrupted": (AGAIN, "-> same Failed", "-> same Failed", NEW, AGAIN, AGAIN),
    "lost": ("-> same Failed",) * 3 + (NEW,) + ("-> same Failed",) * 2,
    "failed for good": ("-> none",) * 3 + (NEW,) * 3,
}
"""By what is seen of the run; a column for each of `AROUND`."""


def seen(world: Any) -> dict[str, RunView]:
    """What may be seen of the run, by the names of the table's rows."""
    published = world.evidence(Outcome.PUBLISHED)
    unverified = Evidence(Marker.SUCCESS, published.result, published.manifest)
    done = BackendRun(RunState.SUCCEEDED)
    return {
        "queued": settle(BackendRun(RunState.QUEUED), Evidence()),
        "starting": settle(BackendRun(RunState.STARTING), Evidence()),
        "running": settle(BackendRun(RunState.RUNNING), Evidence()),
        "published": settle(done, published),
        "gate failed": settle(done, world.evidence(Outcome.GATE_FAILED)),
        "unverified": settle(done, unverified),
        "unknown": settle(BackendRun(RunState.UNKNOWN), Evidence()),
        "absent": settle(BackendRun(RunState.ABSENT), Evidence()),
        "interrupted": settle(BackendRun(RunState.FAILED, "RunInterrupted", "", True), Evidence()),
        "lost": settle(BackendRun(RunState.FAILED, "RunLost", "", True), Evidence()),
        "failed for good": settle(BackendRun(RunState.FAILED, "OneClass", "", False), Evidence()),
    }


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("row", TABLE)
def test_every_state_beside_everything_asked_for(world: Any, row: str, around: str) -> None:
    """A cell each; the run in progress was started for the spec before anything was asked for."""
    run = world.run(state="Running")
    world.runs = {run.run_id: seen(world)[row]}
    given = AROUND[around]
    world.spec, world.annotations = given.get("spec", {}), given.get("annotations", {})
    world.status = {"run": run, "last_number": 1, "serving_pool": "base", **given.get("status", {})}
    plan = world.plan()
    after = plan.status.run
    named = "none" if after is None else f"{'same' if after.run_id == run.run_id else 'new'} {after.state}"
    told = " ".join([*(type(action).__name__ for action in plan.actions), "->", named])
    assert dict(zip(AROUND, TABLE[row], strict=True))[around] == told


def test_the_table_has_a_row_for_every_state(world: Any) -> None:
    """Those of `RunState` that `settle` can give, and a column for everything asked for."""
    assert set(RunState) == {view.state for view in seen(world).values()}
    assert set(TABLE) == set(seen(world))
    assert {len(AROUND)} == {len(cells) for cells in TABLE.values()}
