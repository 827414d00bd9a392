"""Every investigation and every analyst's verdict on one, in SQLite, with a retention.

Writes are idempotent: an investigation has one row by its id, an analyst of one caller has one verdict on it, the last
one given. An analyst's name is what the caller says; the caller is who the gateway recognised, so that no caller speaks
over another's analysts.
Several processes may share the file (WAL). Calls block for microseconds to milliseconds; the gateway makes them in a
thread. `feedback_records` is what the next night's training reads.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from socadapter_api.errors import DiskFull, SocAdapterError, SpecError, StoreUnavailable
from socadapter_api.feedback import Feedback, FeedbackRecord
from socadapter_api.trajectory import Trajectory
from socadapter_serve.config import ServeConfig

DATABASE = "feedback.sqlite3"
SCHEMA_VERSION = 2
_BUSY_TIMEOUT_S = 10.0

_SCHEMA = """
CREATE TABLE trajectories (
    id TEXT PRIMARY KEY, at REAL NOT NULL, context TEXT NOT NULL, version TEXT NOT NULL, digest TEXT NOT NULL,
    role TEXT NOT NULL, incident_id TEXT NOT NULL, caller TEXT NOT NULL, verdict TEXT NOT NULL, confidence REAL,
    fallback TEXT NOT NULL, shadow_of TEXT NOT NULL, observed_at TEXT NOT NULL, alert TEXT NOT NULL,
    trajectory TEXT NOT NULL
) STRICT;
CREATE INDEX trajectories_at ON trajectories (at);
CREATE INDEX trajectories_version ON trajectories (version, at);
"""
_FEEDBACK = """
CREATE TABLE feedback (
    trajectory_id TEXT NOT NULL REFERENCES trajectories (id) ON DELETE CASCADE, caller TEXT NOT NULL,
    analyst TEXT NOT NULL, verdict TEXT NOT NULL, comment TEXT NOT NULL, approved INTEGER NOT NULL,
    given_at REAL NOT NULL, PRIMARY KEY (trajectory_id, caller, analyst)
) STRICT;
"""
_FEEDBACK_INDEX = "CREATE INDEX feedback_given_at ON feedback (given_at);"
_TAKE_OVER = """
INSERT INTO feedback SELECT trajectory_id, '', analyst, verdict, comment, approved, given_at FROM feedback_1;
DROP TABLE feedback_1;
"""
_STEPS = (
    _SCHEMA + _FEEDBACK + _FEEDBACK_INDEX,
    "ALTER TABLE feedback RENAME TO feedback_1;" + _FEEDBACK + _TAKE_OVER + _FEEDBACK_INDEX,
)
"""What brings an empty database, and one of schema 1, to the schema of today."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One investigation as it is kept. `verdict` is the one to act on; the model's own is in `trajectory`."""

    id: str
    at: float
    context: str
    version: str
    digest: str
    role: str
    incident_id: str
    caller: str
    verdict: str
    confidence: float | None
    alert: dict[str, Any]
    trajectory: Trajectory
    fallback: str = ""
    shadow_of: str = ""
    observed_at: str = ""


class FeedbackStore:
    """The database of one pool."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Opens or creates the database at `path`.

        Raises:
            StoreUnavailable: the file cannot be opened, or a newer release wrote it.
        """
        self._clock = clock
        self._lock = threading.Lock()
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(f"feedback database {path} cannot be opened: {error}") from error
        self._db.row_factory = sqlite3.Row
        try:
            with self._transaction(prepare=True) as db:
                self._migrate(db)
        except SocAdapterError:
            self._db.close()
            raise

    def _migrate(self, db: sqlite3.Connection) -> None:
        found = db.execute("PRAGMA user_version").fetchone()[0]
        if found > SCHEMA_VERSION:
            raise StoreUnavailable(
                f"feedback database {self._path} has schema {found}, this release knows {SCHEMA_VERSION}: "
                "use the release that wrote it, or move the file away"
            )
        if found < SCHEMA_VERSION:
            for statement in _STEPS[found].split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextmanager
    def _transaction(self, prepare: bool = False) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if prepare:
                    self._db.execute("PRAGMA journal_mode = WAL")
                    self._db.execute("PRAGMA synchronous = NORMAL")
                    self._db.execute("PRAGMA foreign_keys = ON")
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                full = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
                kind = DiskFull if full else StoreUnavailable
                raise kind(f"feedback database {self._path}: {error}") from error
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def close(self) -> None:
        """Closes the database."""
        with self._lock:
            self._db.close()

    def keep(self, kept: Kept) -> None:
        """Stores one investigation; a second one of the same id changes nothing."""
        row = (
            kept.id, kept.at, kept.context, kept.version, kept.digest, kept.role, kept.incident_id, kept.caller,
            kept.verdict, kept.confidence, kept.fallback, kept.shadow_of, kept.observed_at, json.dumps(kept.alert),
            kept.trajectory.model_dump_json(),
        )  # fmt: skip
        with self._transaction() as db:
            db.execute(f"INSERT OR IGNORE INTO trajectories VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608

    def find(self, trajectory_id: str) -> Kept | None:
        """The investigation of that id."""
        with self._transaction() as db:
            row = db.execute("SELECT * FROM trajectories WHERE id = ?", (trajectory_id,)).fetchone()
        return _kept(row) if row is not None else None

    def verdicts(self, trajectory_id: str) -> tuple[Feedback, ...]:
        """What analysts said about the investigation of that id, oldest first."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT * FROM feedback WHERE trajectory_id = ? ORDER BY given_at", (trajectory_id,)
            ).fetchall()
        return tuple(_feedback(row) for row in rows)

    def give(self, feedback: Feedback, caller: str) -> bool:
        """Stores an analyst's verdict, as `caller` sent it; False where no investigation has that id.

        Said again unchanged it keeps its time, so that no window of training takes it up twice.
        """
        values = (feedback.verdict.value, feedback.comment, int(feedback.approved))
        with self._transaction() as db:
            if db.execute("SELECT 1 FROM trajectories WHERE id = ?", (feedback.trajectory_id,)).fetchone() is None:
                return False
            db.execute(
                "INSERT INTO feedback (trajectory_id, caller, analyst, verdict, comment, approved, given_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET verdict = excluded.verdict, comment = excluded.comment,"
                " approved = excluded.approved, given_at = excluded.given_at"
                " WHERE (verdict, comment, approved) != (excluded.verdict, excluded.comment, excluded.approved)",
                (feedback.trajectory_id, caller, feedback.analyst, *values, self._clock()),
            )
        return True

    def feedback_records(
        self, since: float, until: float | None = None, context: str = ""
    ) -> tuple[FeedbackRecord, ...]:
        """Verdicts given in ``since <= time < until`` (seconds since the epoch), joined with what they are about."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT f.trajectory_id, f.caller, f.analyst, f.verdict, f.comment, f.approved, f.given_at,"
                " t.context, t.version, t.digest, t.role, t.alert, t.trajectory, t.at, t.observed_at"
                " FROM feedback f JOIN trajectories t ON t.id = f.trajectory_id"
                " WHERE f.given_at >= ? AND f.given_at < ? AND (? = '' OR t.context = ?) ORDER BY f.given_at, t.id",
                (since, until if until is not None else float("inf"), context, context),
            ).fetchall()
        return tuple(
            FeedbackRecord(
                feedback=_feedback(row),
                caller=row["caller"],
                context=row["context"],
                version=row["version"],
                digest=row["digest"],
                role=row["role"],
                alert=json.loads(row["alert"]),
                given_at=row["given_at"],
                observed_at=_observed_at(row),
                trajectory=json.loads(row["trajectory"]),
            )
            for row in rows
        )

    def purge(self, retention_s: float) -> int:
        """Deletes investigations older than the retention, with their verdicts; returns how many."""
        with self._transaction() as db:
            return db.execute("DELETE FROM trajectories WHERE at < ?", (self._clock() - retention_s,)).rowcount


def database_of(config: ServeConfig) -> Path:
    """Where the pool's trajectories and verdicts are kept.

    Raises:
        SecretNotFound: the pool names a secret for it that is not there.
        SpecError: the secret names another kind of database than SQLite.
    """
    ref = config.spec.feedback_store.url_secret_ref
    if ref is None:
        return config.state_dir / DATABASE
    scheme, found, path = config.secret(ref).partition(":///")
    if scheme != "sqlite" or not found:
        raise SpecError(f"the feedback store in secret {ref.name!r} is no 'sqlite:///PATH', the only kind served here")
    return Path(path)


def export(store: FeedbackStore, since: float, until: float | None = None, context: str = "") -> Iterator[str]:
    """`feedback_records` as JSON lines."""
    for record in store.feedback_records(since, until, context):
        yield record.model_dump_json() + "\n"


def _feedback(row: sqlite3.Row) -> Feedback:
    return Feedback(
        trajectory_id=row["trajectory_id"],
        verdict=row["verdict"],
        analyst=row["analyst"],
        comment=row["comment"],
        approved=bool(row["approved"]),
    )


def _observed_at(row: sqlite3.Row) -> datetime:
    """When the alert was raised; where the caller did not say, when it was investigated."""
    told: str = row["observed_at"]
    return datetime.fromisoformat(told) if told else datetime.fromtimestamp(row["at"], UTC)


def _kept(row: sqlite3.Row) -> Kept:
    values = dict(row)
    values["alert"] = json.loads(values["alert"])
    values["trajectory"] = Trajectory.model_validate_json(values["trajectory"])
    return Kept(**values)
