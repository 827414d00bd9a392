"""panther-analysis: detections for cloud, identity and endpoint logs with the events that test them (Apache-2.0).

Reads a checkout of github.com/panther-labs/panther-analysis: every ``*.yml`` below ``rules/`` with `Tests`, each test a
`Name`, an `ExpectedResult` and a `Log`. A test is a case: the detection is the alert, the event is what the tools show,
and true positive means that the event does show what the detection claims. Test names tell the label and are left out.
Tests whose result hangs on a mocked function, and rules over other rules' alerts, show no deciding event: they are
counted as left out. Run on all 876 rules and their 3,062 tests at commit daa10c8. A rule's Python is never run or read.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import PurePosixPath
from typing import Any

import yaml

from socadapter_api import digest
from socadapter_api.case import Case, Verdict
from socadapter_api.errors import EmptyData, MalformedRow
from socadapter_jobs.data.importers.imported import Imported, TextFile, text_files
from socadapter_jobs.data.titles import mark_ambiguous
from socadapter_jobs.data.visibility import parse_time, with_relative_times

_LICENCE = "panther-analysis, Apache-2.0"
_TECHNIQUES = "MITRE ATT&CK"
_EVENT_TIMES = ("eventTime", "p_event_time", "timestamp", "time", "published", "created_at", "receiveTimestamp")

_TOOLS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("get_outcome", re.compile(r"result|outcome|response|status|error|success", re.IGNORECASE)),
    (
        "lookup_actor",
        re.compile(r"actor|user|identity|principal|account|caller|login|email|subject|owner", re.IGNORECASE),
    ),
    (
        "lookup_network",
        re.compile(r"(?<![a-z])ip|addr|client|geo|location|country|network|port$|proto|dns", re.IGNORECASE),
    ),
    (
        "get_overview",
        re.compile(
            r"^(event|action|operation|verb|type|category|name|kind|level|severity|time|published)|region|source",
            re.IGNORECASE,
        ),
    ),
)
"""Which tool shows a top-level field of the event; the first pattern that fits decides, all else is details."""

_DETAILS = "get_request_details"

_CLOUD = (
    "AWS.", "GCP.", "Azure.", "Amazon.", "Kubernetes.", "Wiz.", "Upwind.", "Databricks.", "Snowflake.",
    "Lacework.",
)  # fmt: skip
_ENDPOINT = (
    "Crowdstrike.", "CarbonBlack.", "SentinelOne.", "Osquery.", "Jamf", "Sysdig.", "Zscaler.",
    "CiscoUmbrella.", "Cloudflare.", "Netskope.", "Suricata.", "Zeek.", "OCSF.", "Windows.", "Linux.",
    "MacOS.", "ThinkstCanary.", "Tailscale.", "Gravitational.", "Darktrace.",
)  # fmt: skip
"""Log types by how they start; all others are identity and software as a service."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def import_panther(uri: str) -> Imported:
    """The cases of the checkout at `uri` (its root, its ``rules/`` or any folder below).

    Raises:
        MalformedRow: the first file that is not what its layout says, by name.
        EmptyData: no rule holds a test.
    """
    cases: list[Case] = []
    left_out: Counter[str] = Counter()
    for file in text_files(uri, ".yml"):
        rule = _rule(file)
        if rule is None:
            continue
        for place, test in enumerate(rule.get("Tests") or []):
            if reason := _unusable(f"{file.shown}: test {place + 1}", test):
                left_out[reason] += 1
            else:
                cases.append(_case(file, rule, place, test))
    if not cases:
        raise EmptyData(f"{uri} holds no rule with tests. Expected a checkout of panther-analysis, or its rules folder")
    return Imported(mark_ambiguous(cases), dict(left_out))


def _rule(file: TextFile) -> dict[str, Any] | None:
    """A detection on events; None for other documents."""
    with file.open() as text:
        try:
            rule = yaml.load(text, Loader=_LOADER)  # noqa: S506  a safe loader
        except yaml.YAMLError as error:
            raise MalformedRow(f"{file.shown} is no YAML: {error}") from None
    if not isinstance(rule, dict) or rule.get("AnalysisType") not in ("rule", "scheduled_rule", "correlation_rule"):
        return None
    for key in ("RuleID", "Severity"):
        if not isinstance(rule.get(key), str):
            raise MalformedRow(f"{file.shown}: field {key!r} is missing or no text (value {rule.get(key)!r})")
    reports = rule.get("Reports")
    rule[_TECHNIQUES] = reports.get(_TECHNIQUES) if isinstance(reports, Mapping) else None
    for key in ("LogTypes", _TECHNIQUES):
        if isinstance(rule.get(key), str):
            rule[key] = [rule[key]]
    for key in ("LogTypes", "Tests", _TECHNIQUES):
        if not isinstance(rule.get(key) or [], list):
            raise MalformedRow(f"{file.shown}: field {key!r} is no list (value {str(rule[key])[:80]!r})")
    return rule


def _unusable(where: str, test: Any) -> str:
    """Why a test is no case; empty where it is one."""
    if not isinstance(test, Mapping) or not isinstance(test.get("ExpectedResult"), bool):
        raise MalformedRow(f"{where}: field 'ExpectedResult' is neither true nor false")
    if not isinstance(test.get("Log"), Mapping):
        return "without a log"
    return "decided by a mock" if test.get("Mocks") else ""


def _case(file: TextFile, rule: Mapping[str, Any], place: int, test: Mapping[str, Any]) -> Case:
    event = _plain(test["Log"])
    reference = next((at for key in _EVENT_TIMES if (at := parse_time(event.get(key))) is not None), None)
    log_types = [str(test["LogType"])] if test.get("LogType") else [str(name) for name in rule.get("LogTypes") or []]
    runbook = _line(rule.get("Runbook"))
    identity = digest.of_json([PurePosixPath(file.path).name, rule["RuleID"], place, event]).removeprefix("sha256:")[
        :12
    ]
    return Case(
        id=f"panther-{identity}",
        context=_context(log_types),
        alert={
            "title": str(rule.get("DisplayName") or rule["RuleID"]),
            "rule_id": rule["RuleID"],
            "severity": rule["Severity"],
            "log_types": log_types,
            "description": _line(rule.get("Description")),
            "mitre": [str(technique) for technique in rule[_TECHNIQUES] or []],
        },
        evidence={**_evidence(with_relative_times(event, reference)), **({"get_runbook": runbook} if runbook else {})},
        label=Verdict.TRUE_POSITIVE if test["ExpectedResult"] else Verdict.FALSE_POSITIVE,
        entities=(f"rule:{rule['RuleID']}",),
        group=PurePosixPath(file.path).parent.name,
        source=f"{_LICENCE}; {PurePosixPath(file.path).name}",
    )


def _evidence(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event's fields by the tool that would show them. Panther's own bookkeeping (``p_...``) is not shown."""
    shown: dict[str, dict[str, Any]] = {name: {} for name in ("get_overview", "lookup_actor", "lookup_network")}
    shown |= {_DETAILS: {}, "get_outcome": {}}
    for key, value in event.items():
        if key.startswith("p_"):
            continue
        tool = next((name for name, pattern in _TOOLS if pattern.search(key)), _DETAILS)
        shown[tool][key] = value
    if event.get("p_enrichment"):
        shown["get_enrichment"] = event["p_enrichment"]
    return shown


def _context(log_types: list[str]) -> str:
    first = log_types[0] if log_types else ""
    if first.startswith(_CLOUD):
        return "cloud_infrastructure"
    return "corporate_endpoint_network" if first.startswith(_ENDPOINT) else "corporate_identity_saas"


def _line(text: Any) -> str:
    return " ".join(str(text or "").split())


def _plain(value: Any) -> Any:
    """YAML's values as JSON's: dates as text, keys as text, no infinities."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
