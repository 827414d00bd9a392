"""Microsoft GUIDE: graded incidents of many organisations, one row a piece of evidence (CDLA-Permissive-2.0, Kaggle).

Reads ``GUIDE_Train.csv`` or ``GUIDE_Test.csv`` as published (45 columns, and `Usage` in the test file). Names are
anonymised to numbers; the number that a column uses for "none" is left out. An incident is a case: its first alert is
shown, its evidence rows answer the tools. `ActionGrouped` and `ActionGranular` are what was done after the verdict and
are hidden, as are absolute times. Never run on the complete files: it was written against their header and was run on
an excerpt of the published test rows only.
"""

import csv
import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from socadapter_agent.replay import relative
from socadapter_api.case import Case, Verdict
from socadapter_api.errors import EmptyData, MalformedRow, UnknownLabel
from socadapter_jobs.data.importers.imported import Imported, TextFile, text_files
from socadapter_jobs.data.titles import mark_ambiguous
from socadapter_jobs.data.visibility import parse_time

Row = dict[str, str]

REQUIRED = (
    "OrgId", "IncidentId", "AlertId", "Timestamp", "DetectorId", "AlertTitle", "Category", "MitreTechniques",
    "IncidentGrade", "EntityType", "EvidenceRole",
)  # fmt: skip

_GRADES = {
    "TruePositive": Verdict.TRUE_POSITIVE,
    "BenignPositive": Verdict.BENIGN_TRUE_POSITIVE,
    "FalsePositive": Verdict.FALSE_POSITIVE,
}

_NONE = {
    "DeviceId": "98799", "Sha256": "138268", "IpAddress": "360606", "Url": "160396", "AccountSid": "441377",
    "AccountUpn": "673934", "AccountObjectId": "425863", "AccountName": "453297", "DeviceName": "153085",
    "NetworkMessageId": "529644", "RegistryKey": "1631", "RegistryValueName": "635", "RegistryValueData": "860",
    "ApplicationId": "2251", "ApplicationName": "3421", "OAuthApplicationId": "881", "FileName": "289573",
    "FolderPath": "117668", "ResourceIdName": "3586", "OSFamily": "5", "OSVersion": "66", "CountryCode": "242",
    "State": "1445", "City": "10630",
}  # fmt: skip
"""What each column holds where the evidence has no such property."""

_TOOLS: dict[str, tuple[str, ...]] = {
    "get_devices": ("DeviceName", "OSFamily", "OSVersion"),
    "get_accounts": ("AccountName", "AccountUpn", "Roles"),
    "get_network": ("IpAddress", "Url", "CountryCode", "State", "City"),
    "get_files": ("FileName", "FolderPath", "Sha256", "ThreatFamily"),
    "get_mail": ("NetworkMessageId", "EmailClusterId", "AntispamDirection"),
    "get_applications": ("ApplicationName", "OAuthApplicationId", "ResourceIdName", "ResourceType"),
    "get_registry": ("RegistryKey", "RegistryValueName", "RegistryValueData"),
    "get_detections": ("SuspicionLevel", "LastVerdict"),
}
_TOP = 6
_MAX_ROWS_PER_INCIDENT = 2_000


def import_guide(uri: str, *, max_incidents: int = 2_000, seed: int = 0) -> Imported:
    """A seeded sample of at most `max_incidents` graded incidents (0: all) of the CSV file or folder at `uri`.

    The files hold millions of rows in no order: one pass keeps only the rows of the incidents that are in the sample.

    Raises:
        MalformedRow, UnknownLabel: the first wrong row, by file and line.
        EmptyData: there is no incident whose rows agree in a grade.
    """
    left_out: Counter[str] = Counter()
    incidents: dict[str, list[Row]] = {}
    rank: list[tuple[int, str]] = []
    limit: int | None = None
    contradictory: set[str] = set()
    for row in _rows(uri, left_out):
        name = f"{row['OrgId']}/{row['IncidentId']}"
        if name not in incidents:
            place = _place(name, seed)
            if limit is not None and place >= limit:
                continue
            incidents[name] = []
            heapq.heappush(rank, (-place, name))
            if max_incidents and len(rank) > max_incidents:
                away, gone = heapq.heappop(rank)
                limit = -away
                del incidents[gone]
                if gone == name:
                    continue
        if incidents[name] and incidents[name][0]["IncidentGrade"] != row["IncidentGrade"]:
            contradictory.add(name)
        if len(incidents[name]) < _MAX_ROWS_PER_INCIDENT:
            incidents[name].append(row)
    if differing := contradictory & incidents.keys():
        left_out["incident whose rows differ in their grade"] = len(differing)
    agreed = sorted(incidents.keys() - contradictory)
    if not agreed:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "no row"
        raise EmptyData(f"{uri} holds no graded incident ({reasons})")
    cases = [_case(name, sorted(incidents[name], key=lambda row: row["Timestamp"])) for name in agreed]
    return Imported(mark_ambiguous(cases), dict(left_out))


def _place(name: str, seed: int) -> int:
    """Where an incident stands in the seeded order of all incidents."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")


def _rows(uri: str, left_out: Counter[str]) -> Iterator[Row]:
    for file in text_files(uri, ".csv"):
        yield from _graded(file, left_out)


def _graded(file: TextFile, left_out: Counter[str]) -> Iterator[Row]:
    with file.open() as text:
        reader = csv.DictReader(text)
        columns = _columns(file, reader)
        if missing := [name for name in REQUIRED if name not in columns]:
            raise MalformedRow(f"{file.shown}:1: column {missing[0]!r} is missing; it has {columns}")
        for row in _readable(file, reader):
            where = f"{file.shown}:{reader.line_num}"
            if None in row or None in row.values():
                raise MalformedRow(f"{where}: the row has not as many fields as the first line has columns")
            if not row["IncidentGrade"]:
                left_out["row without a grade"] += 1
                continue
            if row["IncidentGrade"] not in _GRADES:
                known = ", ".join(_GRADES)
                raise UnknownLabel(f"{where}: IncidentGrade {row['IncidentGrade']!r} is none of: {known}")
            if parse_time(row["Timestamp"]) is None:
                raise MalformedRow(f"{where}: field 'Timestamp' is no ISO 8601 time (value {row['Timestamp']!r})")
            yield row


def _columns(file: TextFile, reader: "csv.DictReader[str]") -> Sequence[str]:
    try:
        return reader.fieldnames or ()
    except csv.Error as error:
        raise MalformedRow(f"{file.shown}:1: no line of CSV: {error}") from None


def _readable(file: TextFile, reader: "csv.DictReader[str]") -> Iterator[Row]:
    """The reader's rows; one that breaks the CSV reader is named."""
    try:
        yield from reader
    except csv.Error as error:
        raise MalformedRow(f"{file.shown}:{reader.reader.line_num}: no line of CSV: {error}") from None


def _case(name: str, rows: Sequence[Row]) -> Case:
    first, last = rows[0], _time(rows[-1])
    return Case(
        id=f"guide-{name.replace('/', '-')}",
        context=f"organisation/{first['OrgId']}",
        alert={
            "title": f"alert type {first['AlertTitle']}",
            "detector": first["DetectorId"],
            "category": first["Category"],
            "mitre": _techniques(first),
            "alerts_in_incident": len({row["AlertId"] for row in rows}),
            "pieces_of_evidence": len(rows),
        },
        evidence={
            "list_alerts": _alerts(rows, last),
            "get_entities": _counted(f"{row['EntityType']} ({row['EvidenceRole']})" for row in rows),
            **{tool: shown for tool, columns in _TOOLS.items() if (shown := _properties(rows, columns))},
        },
        label=_GRADES[first["IncidentGrade"]],
        observed_at=last,
        entities=(f"organisation:{first['OrgId']}",),
        group=first["Category"],
        source="Microsoft GUIDE, CDLA-Permissive-2.0",
    )


def _time(row: Row) -> datetime:
    return parse_time(row["Timestamp"]) or datetime.min.replace(tzinfo=UTC)


def _techniques(row: Row) -> list[str]:
    return [technique for technique in row["MitreTechniques"].split(";") if technique]


def _alerts(rows: Sequence[Row], last: datetime) -> list[dict[str, Any]]:
    """The incident's alerts from the first on, their times told from its last piece of evidence."""
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(row["AlertId"], row)
    return [
        {
            "title": f"alert type {row['AlertTitle']}",
            "detector": row["DetectorId"],
            "category": row["Category"],
            "mitre": ",".join(_techniques(row)),
            "at": relative((_time(row) - last).total_seconds()),
        }
        for row in list(found.values())[:_TOP]
    ]


def _properties(rows: Sequence[Row], columns: Sequence[str]) -> dict[str, Any]:
    """For each column the commonest values with how often each occurs; columns without any are left out."""
    shown: dict[str, Any] = {}
    for column in columns:
        values = [row.get(column, "") for row in rows]
        present = _counted(value for value in values if value and value != _NONE.get(column))
        if present:
            shown[column] = present
    return shown


def _counted(values: Iterator[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))[:_TOP])
