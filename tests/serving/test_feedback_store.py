"""Investigations and analysts' verdicts on disk."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from socadapter_api.case import Verdict
from socadapter_api.errors import DiskFull, StoreUnavailable
from socadapter_api.feedback import Feedback, FeedbackRecord
from socadapter_api.trajectory import Trajectory
from socadapter_serve.feedback import FeedbackStore, Kept, export


class Clock:
    """A clock that goes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def kept(identifier: str, at: float = 1000.0, context: str = "cloud") -> Kept:
    return Kept(
        id=identifier,
        at=at,
        context=context,
        version="cloud-v1-00000000",
        digest="sha256:0",
        role="stable",
        incident_id="INC-1",
        caller="soar",
        verdict="false_positive",
        confidence=0.1,
        alert={"title": "ü", "n": [1, 2]},
        trajectory=Trajectory(verdict=Verdict.FALSE_POSITIVE, summary="s"),
    )


def said(
    identifier: str, verdict: Verdict = Verdict.TRUE_POSITIVE, analyst: str = "ann", comment: str = ""
) -> Feedback:
    return Feedback(trajectory_id=identifier, verdict=verdict, analyst=analyst, comment=comment)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[FeedbackStore]:
    opened = FeedbackStore(tmp_path / "state/feedback.sqlite3", clock)
    yield opened
    opened.close()


def test_what_is_kept_is_found_after_a_restart(tmp_path: Path) -> None:
    """An investigation survives the process, whole, and the file is its owner's."""
    path = tmp_path / "f.sqlite3"
    first = FeedbackStore(path)
    first.keep(kept("t1"))
    first.close()
    second = FeedbackStore(path)
    assert kept("t1") == second.find("t1")
    second.close()
    assert path.stat().st_mode & 0o077 == 0


def test_the_same_investigation_is_kept_once(store: FeedbackStore) -> None:
    """A second write of an id changes nothing."""
    store.keep(kept("t1"))
    store.keep(kept("t1", context="other"))
    found = store.find("t1")
    assert found is not None
    assert found.context == "cloud"


def test_feedback_needs_an_investigation(store: FeedbackStore) -> None:
    """A verdict on nothing is refused and leaves nothing."""
    assert not store.give(said("missing"), "soar")
    assert store.feedback_records(0) == ()


def test_a_verdict_said_again_keeps_its_time(store: FeedbackStore, clock: Clock) -> None:
    """Repeating a verdict gives no second record and moves it into no later window; changing it does."""
    store.keep(kept("t1"))
    assert store.give(said("t1"), "soar")
    clock.now = 2000.0
    assert store.give(said("t1"), "soar")
    assert [record.given_at for record in store.feedback_records(0)] == [1000.0]
    assert store.give(said("t1", Verdict.FALSE_POSITIVE), "soar")
    assert [(record.given_at, record.feedback.verdict) for record in store.feedback_records(0)] == [
        (2000.0, Verdict.FALSE_POSITIVE)
    ]


def test_each_analyst_has_one_verdict(store: FeedbackStore) -> None:
    """Two analysts may disagree about one investigation."""
    store.keep(kept("t1"))
    store.give(said("t1", analyst="ann"), "soar")
    store.give(said("t1", Verdict.FALSE_POSITIVE, analyst="bob"), "soar")
    assert {"ann", "bob"} == {feedback.analyst for feedback in store.verdicts("t1")}


def test_a_caller_speaks_over_no_other_callers_analysts(store: FeedbackStore) -> None:
    """The same name by another caller is another analyst; the record says whose token came with it."""
    store.keep(kept("t1"))
    store.give(said("t1", analyst="ann"), "soar")
    store.give(said("t1", Verdict.FALSE_POSITIVE, analyst="ann"), "mallory")
    store.give(said("t1", Verdict.ESCALATE, analyst="ann"), "mallory")
    found = {record.caller: record.feedback.verdict for record in store.feedback_records(0)}
    assert found == {"soar": Verdict.TRUE_POSITIVE, "mallory": Verdict.ESCALATE}
    assert len(store.verdicts("t1")) == 2


FIRST_SCHEMA = """
CREATE TABLE trajectories (
    id TEXT PRIMARY KEY, at REAL NOT NULL, context TEXT NOT NULL, version TEXT NOT NULL, digest TEXT NOT NULL,
    role TEXT NOT NULL, incident_id TEXT NOT NULL, caller TEXT NOT NULL, verdict TEXT NOT NULL, confidence REAL,
    fallback TEXT NOT NULL, shadow_of TEXT NOT NULL, observed_at TEXT NOT NULL, alert TEXT NOT NULL,
    trajectory TEXT NOT NULL
) STRICT;
CREATE INDEX trajectories_at ON trajectories (at);
CREATE INDEX trajectories_version ON trajectories (version, at);
CREATE TABLE feedback (
    trajectory_id TEXT NOT NULL REFERENCES trajectories (id) ON DELETE CASCADE, analyst TEXT NOT NULL,
    verdict TEXT NOT NULL, comment TEXT NOT NULL, approved INTEGER NOT NULL, given_at REAL NOT NULL,
    PRIMARY KEY (trajectory_id, analyst)
) STRICT;
CREATE INDEX feedback_given_at ON feedback (given_at);
PRAGMA user_version = 1;
"""


def test_a_database_of_the_first_schema_is_taken_over(tmp_path: Path, clock: Clock) -> None:
    """Its verdicts are all there, of a caller that is not known; new ones are kept with theirs, and purged as ever."""
    path = tmp_path / "f.sqlite3"
    old = kept("t1")
    row = [old.id, old.at, old.context, old.version, old.digest, old.role, old.incident_id, old.caller, old.verdict]
    row += [old.confidence, "", "", "", json.dumps(old.alert), old.trajectory.model_dump_json()]
    with sqlite3.connect(path) as db:
        db.executescript(FIRST_SCHEMA)
        db.execute(f"INSERT INTO trajectories VALUES ({', '.join('?' * 15)})", row)
        for analyst in ("ann", "bob"):
            db.execute("INSERT INTO feedback VALUES ('t1', ?, 'escalate', 'why', 1, 900.0)", (analyst,))
    db.close()
    for _ in range(2):
        store = FeedbackStore(path, clock)
        assert store.find("t1") == old
        first = store.feedback_records(0, 950.0)
        assert [(r.caller, r.feedback.analyst, r.feedback.comment, r.given_at) for r in first] == [
            ("", "ann", "why", 900.0),
            ("", "bob", "why", 900.0),
        ]
        assert store.give(said("t1"), "soar")
        assert [record.caller for record in store.feedback_records(950.0)] == ["soar"]
        store.close()
    store = FeedbackStore(path, clock)
    assert store.purge(-1.0) == 1
    assert store.feedback_records(0) == ()
    store.close()


def test_records_are_cut_by_time_and_context(store: FeedbackStore, clock: Clock) -> None:
    """The window is closed below and open above."""
    for n, context in enumerate(("cloud", "network", "cloud")):
        store.keep(kept(f"t{n}", context=context))
        clock.now = 1000.0 + n
        store.give(said(f"t{n}"), "soar")
    assert [r.feedback.trajectory_id for r in store.feedback_records(1000.0, 1002.0)] == ["t0", "t1"]
    assert [r.feedback.trajectory_id for r in store.feedback_records(1001.0, context="cloud")] == ["t2"]


def test_the_export_is_what_training_reads(store: FeedbackStore) -> None:
    """One JSON line a record, with the alert and the trajectory."""
    store.keep(kept("t1"))
    store.give(said("t1", comment="line\nbreak"), "soar")
    lines = list(export(store, since=0))
    assert len(lines) == 1
    record = FeedbackRecord.model_validate(json.loads(lines[0]))
    assert (record.alert, record.version) == ({"title": "ü", "n": [1, 2]}, "cloud-v1-00000000")
    assert Trajectory.model_validate(record.trajectory).summary == "s"


def test_a_record_tells_when_the_alert_was_raised(store: FeedbackStore, clock: Clock) -> None:
    """As the caller said it; else when it was investigated. Never when the analyst spoke."""
    store.keep(replace(kept("t1"), observed_at="2023-11-14T20:00:00+00:00"))
    store.keep(kept("t2"))
    clock.now = 90_000.0
    for name in ("t1", "t2"):
        store.give(said(name), "soar")
    records = [FeedbackRecord.model_validate_json(line) for line in export(store, since=0)]
    assert [datetime(2023, 11, 14, 20, tzinfo=UTC), datetime.fromtimestamp(1000.0, UTC)] == [
        record.observed_at for record in records
    ]


def test_old_investigations_are_purged_with_their_verdicts(store: FeedbackStore, clock: Clock) -> None:
    """The retention counts from the investigation."""
    store.keep(kept("old", at=100.0))
    store.keep(kept("new", at=1000.0))
    store.give(said("old"), "soar")
    assert store.purge(500.0) == 1
    assert store.find("old") is None
    assert store.find("new") is not None
    assert store.feedback_records(0) == ()


def test_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    """A file that a later release wrote is refused, with what to do."""
    path = tmp_path / "f.sqlite3"
    FeedbackStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreUnavailable, match="schema 99"):
        FeedbackStore(path)


def keep_many(store: FeedbackStore) -> None:
    for n in range(100):
        store.keep(kept(f"more-{n}"))


def test_a_full_disk_is_named_and_loses_nothing(store: FeedbackStore) -> None:
    """A write that finds no space fails as `DiskFull`; what was there stays readable."""
    store.keep(kept("t1"))
    store._db.execute(f"PRAGMA max_page_count = {store._db.execute('PRAGMA page_count').fetchone()[0]}")
    with pytest.raises(DiskFull):
        keep_many(store)
    assert kept("t1") == store.find("t1")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """The error names the file."""
    path = tmp_path / "f.sqlite3"
    path.write_text("not a database, but long enough to be looked at as one" * 20)
    with pytest.raises(StoreUnavailable, match=r"f\.sqlite3"):
        FeedbackStore(path)


def test_many_threads_and_two_openers_write_at_once(tmp_path: Path) -> None:
    """Nothing is lost and nothing fails when several gateways share the file."""
    path = tmp_path / "f.sqlite3"
    stores = [FeedbackStore(path), FeedbackStore(path)]
    threads = [
        threading.Thread(target=lambda n=n: [stores[n % 2].keep(kept(f"{n}-{i}")) for i in range(10)]) for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(stores[0].find(f"{n}-{i}") for n in range(6) for i in range(10))
    for store in stores:
        store.close()
