"""The telemetry store: its tables, and the raw rows that make a phrase.

Each phrase of the vocabulary is made of rows as a log would hold them (images, ports, byte counts, query names); that
they read as this phrase again is the work of `tools`, and a test. The store holds no truth and no policy. Called by
`world`.
"""

import random
import sqlite3
from collections import defaultdict
from typing import Any, Final

from socadapter_range.vocabulary import STANDING

HOUR: Final = 3600
DAY: Final = 24 * HOUR

SCHEMA: Final = """
CREATE TABLE signins (ts INTEGER, user TEXT, ip TEXT, region TEXT, device TEXT, method TEXT, result TEXT, agent TEXT);
CREATE TABLE processes (ts INTEGER, host TEXT, image TEXT, parent TEXT, args TEXT);
CREATE TABLE flows (ts INTEGER, host TEXT, peer TEXT, port INTEGER, bytes INTEGER, link TEXT);
CREATE TABLE cloud_calls (ts INTEGER, principal TEXT, action TEXT, region TEXT, agent TEXT);
CREATE TABLE dns (ts INTEGER, host TEXT, name TEXT, zone TEXT, answered INTEGER, resolver TEXT);
CREATE TABLE assets (name TEXT PRIMARY KEY, user TEXT, role TEXT, owner TEXT, system TEXT) WITHOUT ROWID;
CREATE TABLE tickets (opened INTEGER, closes INTEGER, host TEXT, user TEXT, kind TEXT, status TEXT, owner TEXT);
CREATE TABLE intel (indicator TEXT, listed INTEGER, category TEXT, source TEXT);
CREATE TABLE gaps (source TEXT, entity TEXT, starts INTEGER, ends INTEGER);
CREATE TABLE software (image TEXT PRIMARY KEY, purpose TEXT) WITHOUT ROWID;
CREATE TABLE api_actions (action TEXT PRIMARY KEY, purpose TEXT) WITHOUT ROWID;
CREATE TABLE zones (zone TEXT PRIMARY KEY, purpose TEXT) WITHOUT ROWID;
"""
INDEXES: Final = """
CREATE INDEX signins_by ON signins (user, ts);
CREATE INDEX processes_by ON processes (host, ts);
CREATE INDEX flows_by ON flows (host, ts);
CREATE INDEX cloud_calls_by ON cloud_calls (principal, ts);
CREATE INDEX dns_by ON dns (host, ts);
CREATE INDEX tickets_by_host ON tickets (host, closes);
CREATE INDEX tickets_by_user ON tickets (user, closes);
CREATE INDEX assets_by_user ON assets (user);
CREATE INDEX intel_by ON intel (indicator);
CREATE INDEX gaps_by ON gaps (entity, source);
"""

SOFTWARE: Final = {
    "memory dump": ("procdump", "lsadump", "memcopy"),
    "software update": ("updater", "msiexec", "patchd"),
    "unattended script": ("ansible", "cron-runner"),
    "remote desktop": ("mstsc", "vnc-viewer"),
    "ordinary": ("browser", "editor", "chat", "indexer"),
}
ACTIONS: Final = {
    "logging disabled": ("StopLogging", "DeleteTrail"),
    "list calls": ("ListBuckets", "DescribeInstances"),
    "role chain": ("AssumeRole", "ExchangeToken"),
    "console edits": ("ConsoleUpdate", "ConsoleEdit"),
    "ordinary": ("GetObject", "PutMetric", "GetCallerIdentity"),
}
ZONES: Final = {
    "update site": ("updates.example", "packages.example"),
    "short lived names": ("svc.local", "mesh.local"),
    "directory lookups": ("ad.corp", "ldap.corp"),
    "ordinary": ("mail.corp", "intra.corp", "search.example"),
}
_TICKETS: Final = {
    "change approved": ("change", "approved"),
    "change expired": ("change", "approved"),
    "pipeline record": ("pipeline", "recorded"),
    "helpdesk request": ("helpdesk", "requested"),
    STANDING: ("standing", "approved"),
}
_OWNERS: Final = ("platform", "network", "data", "office")

_LOSSY: Final = (
    ("signins", "signins", "user"),
    ("processes", "processes", "host"),
    ("flows", "flows", "host"),
    ("cloud_api", "cloud_calls", "principal"),
    ("dns", "dns", "host"),
)
"""Sources whose rows a gap takes away, with their table and the column of its entity."""


class Telemetry:
    """Collects rows table by table, then writes them to an SQLite file in one go."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._rows: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for table, kinds in (("software", SOFTWARE), ("api_actions", ACTIONS), ("zones", ZONES)):
            self._rows[table] = [(name, purpose) for purpose, names in kinds.items() for name in names]

    def add(self, table: str, *row: Any) -> None:
        """One row of `table`, in the schema's column order."""
        self._rows[table].append(row)

    def gap(self, source: str, entity: str, until: int) -> None:
        """`source` lost everything about `entity` in the day before `until`."""
        self.add("gaps", source, entity, until - DAY, until)

    def signins(self, user: str, ts: int, phrase: str, note: str = "") -> None:
        """Sign-ins of `user` that end at `ts`."""
        rng, agent = self._rng, note or "browser"
        device = f"{user}-laptop" if rng.random() < 0.6 else f"device-{rng.randrange(10**6)}"
        home, rows = "10.1.0.4", []
        if phrase == "mfa denied x5 then ok":
            rows = [(home, "main", "mfa", "denied")] * rng.randint(5, 7) + [(home, "main", "mfa", "ok")]
        elif phrase == "typo then ok":
            rows = [(home, "main", "password", "denied"), (home, "main", "sso", "ok")]
        elif phrase == "token from many regions":
            rows = [(home, region, "token", "ok") for region in ("east", "west", "north", "south")]
        elif phrase == "password typed by hand":
            rows = [(home, "main", "password", "ok")] * rng.randint(1, 3)
        for index, (ip, region, method, result) in enumerate(rows):
            self.add("signins", ts - 40 * (len(rows) - index), user, ip, region, device, method, result, agent)

    def processes(self, host: str, ts: int, phrase: str, note: str = "") -> None:
        """Process starts on `host` that end at `ts`."""
        parent = self._rng.choice(("shell", "service", "desktop"))
        for index in range(self._rng.randint(1, 4)):
            self.add("processes", ts - 60 * index, host, self._rng.choice(SOFTWARE[phrase]), parent, note)

    def flows(self, host: str, ts: int, phrase: str, remote: str) -> None:
        """Network flows of `host` that end at `ts`; `remote` is the alert's outside party."""
        rng = self._rng
        link = rng.choice(("wired", "wifi", "vpn"))
        rows: list[tuple[int, str, int, int]] = []
        if phrase == "steady beacon":
            rows = [(300 * i, remote, 443, rng.randint(300, 340)) for i in range(rng.randint(12, 15))]
        elif phrase == "mail sync":
            rows = [(90 * i, "mail.corp", 993, rng.randint(10**4, 10**6)) for i in range(rng.randint(2, 4))]
        elif phrase == "bulk copy":
            rows = [(120 * i, "store.corp", 873, rng.randint(10**9, 3 * 10**9)) for i in range(rng.randint(2, 4))]
        elif phrase == "file share fan-out":
            rows = [(5 * i, f"10.2.0.{i}", 445, rng.randint(200, 900)) for i in range(rng.randint(11, 15))]
        for back, peer, port, size in rows:
            self.add("flows", ts - back, host, peer, port, size, link)

    def cloud_api(self, principal: str, ts: int, phrase: str, note: str = "") -> None:
        """Cloud API calls of `principal` that end at `ts`."""
        region = self._rng.choice(("main", "other"))
        for index in range(self._rng.randint(1, 5)):
            self.add(
                "cloud_calls", ts - 20 * index, principal, self._rng.choice(ACTIONS[phrase]), region, note or "sdk"
            )

    def dns(self, host: str, ts: int, phrase: str, remote: str) -> None:
        """DNS queries of `host` that end at `ts`."""
        rng = self._rng
        resolver = rng.choice(("local", "public"))
        for index in range(rng.randint(6, 12)):
            label = f"{rng.getrandbits(32):08x}"
            if phrase == "very long labels":
                name, zone = f"{rng.getrandbits(240):060x}.{remote}", remote
            else:
                zone = rng.choice(ZONES[phrase])
                name = f"{label[:4]}.{zone}"
            self.add("dns", ts - 7 * index, host, name, zone, 1, resolver)

    def intel(self, indicator: str, ts: int, phrase: str) -> None:
        """A listing of `indicator` that was known before `ts`."""
        age = self._rng.choice((2, 20, 200))
        self.add("intel", indicator, ts - age * DAY, phrase, self._rng.choice(("open feed", "partner", "vendor feed")))

    def ticket(self, host: str, user: str, ts: int, phrase: str) -> None:
        """A ticket for `host` and `user`; one that expired closed in the hours before `ts`."""
        kind, status = _TICKETS[phrase]
        opened = ts - self._rng.randint(5 * HOUR, 7 * HOUR)
        late = self._rng.randint(HOUR, 4 * HOUR)
        closes = ts - late if phrase == "change expired" else ts + late
        self.add("tickets", opened, closes, host, user, kind, status, self._rng.choice(_OWNERS))

    def write(self, path: str) -> None:
        """All rows into a new SQLite file at `path`. Rows that fall into a gap of their source are lost."""
        with sqlite3.connect(path) as db:
            db.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;" + SCHEMA)
            for table in sorted(self._rows):
                rows = self._rows[table]
                marks = ",".join("?" * len(rows[0]))
                db.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
            db.executescript(INDEXES)
            for source, table, key in _LOSSY:
                db.execute(
                    f"DELETE FROM {table} WHERE rowid IN (SELECT t.rowid FROM gaps g JOIN {table} t"
                    f" ON t.{key} = g.entity AND t.ts BETWEEN g.starts AND g.ends WHERE g.source = ?)",
                    (source,),
                )
            db.commit()
        db.close()
