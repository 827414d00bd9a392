"""The eight tools: questions to the telemetry, answered as of a moment in a few words.

Each answer is SQL over the window that ends at the alert's time, reduced to the phrase that stands out and a few
neutral attributes. Nothing later than that moment is read, and nothing here knows a truth or a policy. Called by
`toolbox` (in process) and `server` (over MCP).
"""

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from socadapter_range.telemetry import DAY, HOUR
from socadapter_range.vocabulary import NO_TICKET, ORDINARY, STANDING

WINDOW_S: Final = DAY
TICKET_GRACE_S: Final = 8 * HOUR
LOG_MISSING: Final = "no rows; log=missing"
LOG_COMPLETE: Final = "no rows; log=complete"


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """One tool: its name, one short line, and the JSON schema of the arguments that the model gives."""

    name: str
    description: str
    parameters: dict[str, Any]


def _spec(name: str, argument: str, description: str) -> ToolSpec:
    schema = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return ToolSpec(name, description, schema)


TOOL_SPECS: Final = (
    _spec("asset", "name", "role of a host"),
    _spec("cloud_api", "principal", "cloud calls of a user"),
    _spec("dns", "host", "DNS lookups"),
    _spec("flows", "host", "network flows"),
    _spec("intel", "indicator", "domain reputation"),
    _spec("processes", "host", "process starts"),
    _spec("signins", "user", "sign-ins"),
    _spec("tickets", "entity", "changes for a host"),
)
ARGUMENT_OF: Final = {spec.name: next(iter(spec.parameters["properties"])) for spec in TOOL_SPECS}

_STANDS_OUT: Final = "shown <> 'ordinary'"

_SIGNINS: Final = f"""
WITH w AS (SELECT * FROM signins WHERE user = :key AND ts BETWEEN :start AND :now),
     odd AS (SELECT * FROM w WHERE method <> 'sso' OR agent <> 'browser' OR result <> 'ok'
             OR ts >= (SELECT min(ts) FROM w WHERE method <> 'sso'))
SELECT CASE
    WHEN sum(method = 'mfa' AND result = 'denied') >= 5 THEN 'mfa denied x5 then ok'
    WHEN count(DISTINCT CASE WHEN method = 'token' THEN region END) >= 3 THEN 'token from many regions'
    WHEN sum(result = 'denied') > 0 THEN 'typo then ok'
    WHEN sum(method = 'password') > 0 THEN 'password typed by hand'
    ELSE '{ORDINARY}' END,
  count(*),
  'device=' || CASE WHEN max(device) IN (SELECT device FROM signins WHERE user = :key AND ts < :start)
    THEN 'known' ELSE 'new' END,
  max(ts), max(CASE WHEN agent <> 'browser' THEN agent ELSE '' END)
FROM (SELECT * FROM odd UNION ALL SELECT * FROM w WHERE NOT EXISTS (SELECT 1 FROM odd))
HAVING count(*) > 0
"""
_PROCESSES: Final = f"""
SELECT coalesce(s.purpose, '{ORDINARY}') AS shown, count(*), 'parent=' || max(parent), max(ts), max(args)
FROM processes p LEFT JOIN software s USING (image)
WHERE host = :key AND ts BETWEEN :start AND :now
GROUP BY 1 ORDER BY {_STANDS_OUT} DESC, 4 DESC LIMIT 1
"""
_FLOWS: Final = f"""
WITH w AS (SELECT * FROM flows WHERE host = :key AND ts BETWEEN :start AND :now),
     outside AS (SELECT peer, count(*) AS n, max(bytes) - min(bytes) AS spread FROM w
                 WHERE peer NOT LIKE '%.corp' AND peer NOT LIKE '10.%' GROUP BY peer),
     named AS (SELECT *, CASE
         WHEN port = 445 AND (SELECT count(DISTINCT peer) FROM w WHERE port = 445) >= 10 THEN 'file share fan-out'
         WHEN peer IN (SELECT peer FROM outside WHERE n >= 10 AND spread < 100) THEN 'steady beacon'
         WHEN port = 873 AND bytes >= 100000000 THEN 'bulk copy'
         WHEN port IN (25, 143, 993) THEN 'mail sync'
         ELSE '{ORDINARY}' END AS shown FROM w)
SELECT shown, count(*), 'link=' || max(link), max(ts), '' FROM named
GROUP BY 1 ORDER BY {_STANDS_OUT} DESC, 4 DESC LIMIT 1
"""
_CLOUD_API: Final = f"""
SELECT coalesce(a.purpose, '{ORDINARY}') AS shown, count(*), 'region=' || max(region), max(ts),
  max(CASE WHEN agent <> 'sdk' THEN agent ELSE '' END)
FROM cloud_calls c LEFT JOIN api_actions a USING (action)
WHERE principal = :key AND ts BETWEEN :start AND :now
GROUP BY 1 ORDER BY {_STANDS_OUT} DESC, 4 DESC LIMIT 1
"""
_DNS: Final = f"""
SELECT CASE
    WHEN length(name) - length(d.zone) > 50 THEN 'very long labels'
    ELSE coalesce(z.purpose, '{ORDINARY}') END AS shown,
  count(*), 'resolver=' || max(resolver), max(ts), ''
FROM dns d LEFT JOIN zones z USING (zone)
WHERE host = :key AND ts BETWEEN :start AND :now
GROUP BY 1 ORDER BY {_STANDS_OUT} DESC, 4 DESC LIMIT 1
"""
_INTEL: Final = """
SELECT category, CASE WHEN :now - listed < 7 * 86400 THEN 'this week' WHEN :now - listed < 60 * 86400 THEN 'this month'
  ELSE 'last year' END, source
FROM intel WHERE indicator = :key AND listed <= :now ORDER BY listed DESC LIMIT 1
"""
_TICKETS: Final = f"""
SELECT CASE
    WHEN kind = 'standing' THEN '{STANDING}'
    WHEN kind = 'pipeline' THEN 'pipeline record'
    WHEN kind = 'helpdesk' THEN 'helpdesk request'
    WHEN closes < :now THEN kind || ' expired'
    ELSE kind || ' approved' END, owner
FROM tickets WHERE (host = :key OR user = :key) AND opened <= :now AND closes >= :now - {TICKET_GRACE_S}
ORDER BY opened DESC LIMIT 1
"""


def _telemetry(sql: str) -> Callable[[sqlite3.Connection, dict[str, Any]], str]:
    """An answer made of the activity that stands out in the window."""

    def answer(db: sqlite3.Connection, bound: dict[str, Any]) -> str:
        row = db.execute(sql, bound).fetchone()
        if row is None:
            return LOG_COMPLETE
        phrase, count, attribute, last, note = row
        hours = "day" if 6 <= last // HOUR % 24 < 20 else "night"
        rows = "row" if count == 1 else "rows"
        quoted = f', note="{note}"' if note else ""
        return f"{count} {rows}, {attribute}, hours={hours}{quoted}: {phrase}"

    return answer


def _intel(db: sqlite3.Connection, bound: dict[str, Any]) -> str:
    row = db.execute(_INTEL, bound).fetchone()
    return f"1 row, seen={row[1]}, source={row[2]}: {row[0]}" if row else LOG_COMPLETE


def _tickets(db: sqlite3.Connection, bound: dict[str, Any]) -> str:
    row = db.execute(_TICKETS, bound).fetchone()
    return f"1 row, owner={row[1]}: {row[0]}" if row else f"0 rows: {NO_TICKET}"


def _asset(db: sqlite3.Connection, bound: dict[str, Any]) -> str:
    row = db.execute("SELECT role, owner, system FROM assets WHERE name = :key OR user = :key", bound).fetchone()
    return f"1 row, owner={row[1]}, system={row[2]}: {row[0]}"


_ANSWERS: Final[dict[str, Callable[[sqlite3.Connection, dict[str, Any]], str]]] = {
    "signins": _telemetry(_SIGNINS),
    "processes": _telemetry(_PROCESSES),
    "flows": _telemetry(_FLOWS),
    "cloud_api": _telemetry(_CLOUD_API),
    "dns": _telemetry(_DNS),
    "intel": _intel,
    "tickets": _tickets,
    "asset": _asset,
}
_KNOWN: Final = "SELECT 1 FROM assets WHERE name = :key UNION ALL SELECT 1 FROM assets WHERE user = :key LIMIT 1"
_GAP: Final = """
SELECT 1 FROM gaps WHERE source = :tool AND starts < :now AND ends > :start AND entity IN (
  :key, (SELECT user FROM assets WHERE name = :key), (SELECT name FROM assets WHERE user = :key)) LIMIT 1
"""
"""Under whichever name is asked: what a log lost about a machine is not found by asking for its user."""


def ask(db: sqlite3.Connection, tool: str, args: Mapping[str, Any], as_of: int) -> str:
    """The answer of `tool` at `as_of` (seconds since 1970). The caller has checked that tool and arguments exist."""
    bound = {"key": str(args[ARGUMENT_OF[tool]]), "tool": tool, "now": as_of, "start": as_of - WINDOW_S}
    if tool != "intel" and db.execute(_KNOWN, bound).fetchone() is None:
        return "no such name"
    if db.execute(_GAP, bound).fetchone() is not None:
        return LOG_MISSING
    return _ANSWERS[tool](db, bound)
