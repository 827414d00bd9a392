"""Small files in the layouts in which alert sets are published, for the tests of their importers."""

import json
import zipfile
from pathlib import Path
from typing import Any

import yaml

HEADER = "time,name,ip,host,short,time_label,event_label"


def ait_repository(folder: Path, *lines: str, header: str = HEADER) -> str:
    """A checkout with one organisation: its alerts in a zip archive, its hosts in YAML."""
    (folder / "alerts_csv").mkdir()
    with zipfile.ZipFile(folder / "alerts_csv" / "alerts_csv.zip", "w") as archive:
        archive.writestr("alerts_csv/acme_alerts.txt", "\n".join([header, *lines]) + "\n")
    (folder / "server_configs").mkdir()
    server = {"groups": ["dmz"], "distribution": "Ubuntu", "distribution_version": "18.04", "fqdns": ["w.acme"]}
    (folder / "server_configs" / "acme.yaml").write_text(yaml.safe_dump({"web": server}), encoding="utf-8")
    return str(folder)


def ait_line(time: int, name: str, host: str, event: str = "-") -> str:
    return f"{time},{name},10.0.0.1,{host},X-Y,false_positive,{event}"


RULE: dict[str, Any] = {
    "AnalysisType": "rule",
    "RuleID": "AWS.Thing.Opened",
    "DisplayName": "Thing Opened",
    "Severity": "High",
    "LogTypes": ["AWS.CloudTrail"],
    "Description": "Somebody opened\n a thing.",
    "Runbook": "Ask them.",
    "Reports": {"MITRE ATT&CK": ["TA0001:T1078"]},
    "Tests": [
        {
            "Name": "Benign close",
            "ExpectedResult": False,
            "Log": {"eventName": "Close", "eventTime": "2021-01-01T10:00:00Z", "userIdentity": {"type": "Root"}},
        },
        {
            "Name": "Malicious open",
            "ExpectedResult": True,
            "Log": {
                "eventName": "Open",
                "eventTime": "2021-01-01T10:00:00Z",
                "userIdentity": {"created": "2021-01-01T09:00:00Z"},
                "sourceIPAddress": "198.51.100.7",
                "errorCode": None,
                "requestParameters": {"thing": 1, "rate": float("inf")},
                "p_log_type": "AWS.CloudTrail",
                "p_enrichment": {"asn": 7},
            },
        },
    ],
}


def panther_repository(folder: Path, *rules: dict[str, Any] | str) -> str:
    target = folder / "rules" / "aws_rules"
    target.mkdir(parents=True)
    for place, rule in enumerate(rules):
        text = rule if isinstance(rule, str) else yaml.safe_dump(rule)
        (target / f"rule_{place}.yml").write_text(text, encoding="utf-8")
    return str(folder)


GUIDE_COLUMNS = (
    "Id,OrgId,IncidentId,AlertId,Timestamp,DetectorId,AlertTitle,Category,MitreTechniques,IncidentGrade,ActionGrouped,"
    "ActionGranular,EntityType,EvidenceRole,IpAddress,AccountName,DeviceName,SuspicionLevel,LastVerdict,CountryCode,Usage"
)


def guide_file(folder: Path, *rows: str, columns: str = GUIDE_COLUMNS) -> str:
    path = folder / "GUIDE_Test.csv"
    path.write_text("\n".join([columns, *rows]) + "\n", encoding="utf-8")
    return str(path)


def guide_row(incident: int, alert: int = 1, grade: str = "TruePositive", minute: int = 0, ip: str = "360606") -> str:
    before = f"1,7,{incident},{alert},2024-06-04T06:{minute:02}:00.000Z,3,44,Exfiltration,T1041;T1020,{grade}"
    return f"{before},ContainAccount,lock,Ip,Related,{ip},453297,153085,Suspicious,,6,Public"


def jsonl_file(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "alerts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


ROW: dict[str, Any] = {
    "id": "a",
    "context": "net/acme",
    "alert": {"title": "t", "host": "web", "last_seen": "2022-02-05T05:30:00Z", "first_seen": "2022-02-05T05:00:00Z"},
    "evidence": {"history": {"observed_days_so_far": 1.2, "seen": 3, "last": "2022-02-05T05:20:00Z"}},
    "label": "TP",
    "label_detail": "dirb",
}
