"""The importers, on small files in the published layouts; and on the published files where they are at hand.

Set SOCADAPTER_REAL_DATA to a folder that holds checkouts of ``alert-data-set`` and ``panther-analysis`` and, in
``GUIDE_Test.csv``, rows of Microsoft GUIDE to run on the real ones as well.
"""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from socadapter_api.case import Case, Verdict
from socadapter_api.errors import EmptyData, MalformedRow, SpecError, UnknownLabel
from socadapter_jobs.data.check import Severity, check
from socadapter_jobs.data.importers.ait_ads import import_ait_ads
from socadapter_jobs.data.importers.guide import import_guide
from socadapter_jobs.data.importers.imported import Imported
from socadapter_jobs.data.importers.jsonl import JsonlOptions, import_jsonl
from socadapter_jobs.data.importers.panther import import_panther

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


def by_title(imported: Imported) -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = {}
    for case in imported.cases:
        found.setdefault(case.alert["title"], []).append(case)
    return found


def test_ait_alerts_become_cases_with_a_look_around(tmp_path: Path) -> None:
    """Alerts within five minutes are one case; its tools know the host, the past and the neighbourhood."""
    t = 1_643_000_000
    uri = ait_repository(
        tmp_path,
        ait_line(t - 7200, "Wazuh: Scan, fast", "web"),
        ait_line(t, "Wazuh: Scan, fast", "web", "dirb"),
        ait_line(t + 200, "Wazuh: Scan, fast", "web"),
        ait_line(t + 301, "Wazuh: Scan, fast", "web"),
        ait_line(t - 60, "AMiner: New event type.", "web"),
        ait_line(t - 60, "AMiner: New event type.", "mail"),
        ait_line(t + 5000, "AMiner: New event type.", "mail"),
    )
    scans = by_title(import_ait_ads(uri))["Wazuh: Scan, fast"]
    assert [(case.label, case.alert["alert_count"]) for case in scans] == [
        (Verdict.FALSE_POSITIVE, 1),
        (Verdict.TRUE_POSITIVE, 2),
        (Verdict.FALSE_POSITIVE, 1),
    ]
    attack = scans[1]
    assert attack.alert["lasted"] == "200s"
    assert attack.entities == ("acme/web",)
    assert attack.evidence["get_asset"]["groups"] == ["dmz"]
    assert attack.evidence["signature_history"] == {
        "prior_total": 1,
        "prior_on_this_host": 1,
        "prior_hosts": 1,
        "last_1h": 0,
        "last_24h": 1,
    }
    assert attack.evidence["alerts_on_host"]["total"] == 1
    assert attack.evidence["alerts_in_network"]["total"] == 2
    assert attack.evidence["alerts_on_host"]["top"][0]["first"] == "-4m"


def test_ait_shows_no_date_and_no_label(tmp_path: Path) -> None:
    """Attacks come late in the recording: neither a date nor its length may be seen, nor the labels' columns."""
    uri = ait_repository(tmp_path, *(ait_line(1_643_000_000 + i * 999, "Wazuh: A", "web", "dirb") for i in range(20)))
    for case in import_ait_ads(uri).cases:
        seen = json.dumps([case.alert, case.evidence])
        assert "2022" not in seen
        assert "16430" not in seen
        assert "dirb" not in seen
        assert "false_positive" not in seen


def test_ait_repeats_are_bounded_by_a_seeded_choice(tmp_path: Path) -> None:
    """A scan that repeats for hours does not drown the rest; what was left out is counted."""
    uri = ait_repository(tmp_path, *(ait_line(1_643_000_000 + i * 999, "Wazuh: A", "web") for i in range(20)))
    few = import_ait_ads(uri, max_per_title=5, seed=1)
    assert len(few.cases) == 5
    assert list(few.left_out.values()) == [15]
    assert import_ait_ads(uri, max_per_title=5, seed=1) == few
    assert len(import_ait_ads(uri, max_per_title=0).cases) == 20


@pytest.mark.parametrize(
    ("lines", "header", "words"),
    [
        pytest.param([], "time,name,label", [":1:", HEADER], id="other-columns"),
        pytest.param(["1643000000,a,b"], HEADER, [":2:", "3 fields"], id="too-few-fields"),
        pytest.param(["noon,n,i,h,s,t,e"], HEADER, [":2:", "'time'", "'noon'"], id="no-time"),
    ],
)
def test_ait_wrong_lines_are_named(tmp_path: Path, lines: list[str], header: str, words: list[str]) -> None:
    """The archive, the file in it, the line and the value."""
    with pytest.raises(MalformedRow) as raised:
        import_ait_ads(ait_repository(tmp_path, *lines, header=header))
    for word in ["alerts_csv.zip!alerts_csv/acme_alerts.txt", *words]:
        assert word in str(raised.value)


def test_ait_plain_folder_without_configurations(tmp_path: Path) -> None:
    """The lists alone are enough; a host is then known by name only."""
    (tmp_path / "acme_alerts.txt").write_text(f"{HEADER}\n{ait_line(1_643_000_000, 'A: b', 'web')}\n", encoding="utf-8")
    (case,) = import_ait_ads(str(tmp_path)).cases
    assert case.evidence["get_asset"] == {"host": "web"}


def test_a_broken_archive_is_named(tmp_path: Path) -> None:
    """Not a traceback of the zip reader."""
    (tmp_path / "alerts_csv.zip").write_bytes(b"PK nonsense")
    with pytest.raises(MalformedRow, match=r"alerts_csv\.zip"):
        import_ait_ads(str(tmp_path))


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


def test_panther_tests_become_cases(tmp_path: Path) -> None:
    """The detection is seen, the event is asked for, and an expected hit is a true positive."""
    benign, hit = import_panther(panther_repository(tmp_path, RULE)).cases
    assert (benign.label, hit.label) == (Verdict.FALSE_POSITIVE, Verdict.TRUE_POSITIVE)
    assert hit.context == "cloud_infrastructure"
    assert hit.entities == ("rule:AWS.Thing.Opened",)
    assert hit.alert == {
        "title": "Thing Opened",
        "rule_id": "AWS.Thing.Opened",
        "severity": "High",
        "log_types": ["AWS.CloudTrail"],
        "description": "Somebody opened a thing.",
        "mitre": ["TA0001:T1078"],
    }
    assert hit.evidence == {
        "get_overview": {"eventName": "Open", "eventTime": "+0s"},
        "lookup_actor": {"userIdentity": {"created": "-1h"}},
        "lookup_network": {"sourceIPAddress": "198.51.100.7"},
        "get_request_details": {"requestParameters": {"thing": 1, "rate": "inf"}},
        "get_outcome": {"errorCode": None},
        "get_enrichment": {"asn": 7},
        "get_runbook": "Ask them.",
    }


def test_panther_test_names_are_never_shown(tmp_path: Path) -> None:
    """They tell the label in plain words."""
    for case in import_panther(panther_repository(tmp_path, RULE)).cases:
        assert "Malicious" not in case.model_dump_json()
        assert "Benign" not in case.model_dump_json()


def test_panther_leaves_out_what_shows_no_deciding_event(tmp_path: Path) -> None:
    """Mocked results and rules over other rules are counted; policies and packs are passed over."""
    mocked = {
        **RULE,
        "Tests": [{**RULE["Tests"][0], "Mocks": [{"objectName": "f", "returnValue": "x"}]}, RULE["Tests"][1]],
    }
    correlation = {
        **RULE,
        "AnalysisType": "correlation_rule",
        "RuleID": "Other",
        "Tests": [{"Name": "n", "ExpectedResult": True, "RuleOutputs": []}],
    }
    policy = {"AnalysisType": "policy", "Tests": "none of ours"}
    found = import_panther(panther_repository(tmp_path, mocked, correlation, policy, {**RULE, "Tests": None}))
    assert len(found.cases) == 1
    assert found.left_out == {"decided by a mock": 1, "without a log": 1}


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        pytest.param("a: [1, 2", ["rule_0.yml", "no YAML"], id="no-yaml"),
        pytest.param({**RULE, "RuleID": 7}, ["rule_0.yml", "'RuleID'", "7"], id="no-id"),
        pytest.param(
            {**RULE, "Tests": [{"Name": "n", "Log": {}}]}, ["test 1", "'ExpectedResult'"], id="no-expectation"
        ),
    ],
)
def test_panther_wrong_files_are_named(tmp_path: Path, rule: dict[str, Any] | str, words: list[str]) -> None:
    """File, test and field."""
    with pytest.raises(MalformedRow) as raised:
        import_panther(panther_repository(tmp_path, rule))
    for word in words:
        assert word in str(raised.value)


def test_panther_unsafe_yaml_is_not_run(tmp_path: Path) -> None:
    """A tag that would build a Python object is an error, and builds nothing."""
    with pytest.raises(MalformedRow, match=r"rule_0\.yml is no YAML"):
        import_panther(panther_repository(tmp_path, "x: !!python/object/apply:os.system ['exit 1']"))


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


def test_guide_rows_of_an_incident_become_one_case(tmp_path: Path) -> None:
    """Rows lie anywhere in the file; the first alert is seen, the rest answers the tools."""
    uri = guide_file(
        tmp_path,
        guide_row(5, 2, minute=30, ip="12"),
        guide_row(6, 9, "BenignPositive"),
        guide_row(5, 1, minute=0),
        guide_row(5, 2, minute=31, ip="12"),
        guide_row(8, 9, ""),
    )
    found = import_guide(uri)
    assert found.left_out == {"row without a grade": 1}
    first, second = found.cases
    assert (first.id, second.id) == ("guide-7-5", "guide-7-6")
    assert second.label is Verdict.BENIGN_TRUE_POSITIVE
    assert first.alert["alerts_in_incident"] == 2
    assert first.alert["mitre"] == ["T1041", "T1020"]
    assert [alert["at"] for alert in first.evidence["list_alerts"]] == ["-31m", "-1m"]
    assert first.evidence["get_network"] == {"IpAddress": {"12": 2}, "CountryCode": {"6": 3}}
    assert "get_accounts" not in first.evidence


def test_guide_hides_what_was_done_after_the_verdict(tmp_path: Path) -> None:
    """Actions, grade, dates and the file's own split."""
    (case,) = import_guide(guide_file(tmp_path, guide_row(5))).cases
    seen = json.dumps([case.alert, case.evidence])
    for word in ("ContainAccount", "lock", "TruePositive", "Public", "2024"):
        assert word not in seen


def test_guide_sample_is_complete_per_incident_and_seeded(tmp_path: Path) -> None:
    """One pass over unordered rows keeps every row of the chosen incidents, and of no other."""
    rows = [guide_row(incident, minute=minute) for minute in range(3) for incident in range(40)]
    uri = guide_file(tmp_path, *rows)
    few = import_guide(uri, max_incidents=7, seed=2)
    assert len(few.cases) == 7
    assert all(case.alert["pieces_of_evidence"] == 3 for case in few.cases)
    everything = {case.id: case for case in import_guide(uri, max_incidents=0).cases}
    assert len(everything) == 40
    assert all(everything[case.id].evidence == case.evidence for case in few.cases)
    assert {case.id for case in import_guide(uri, max_incidents=7, seed=3).cases} != {case.id for case in few.cases}


@pytest.mark.parametrize(
    ("rows", "columns", "error", "words"),
    [
        pytest.param([], "Id,OrgId", MalformedRow, [":1:", "'IncidentId'"], id="missing-column"),
        pytest.param([guide_row(1), "1,2"], GUIDE_COLUMNS, MalformedRow, [":3:"], id="short-row"),
        pytest.param([guide_row(1, grade="Maybe")], GUIDE_COLUMNS, UnknownLabel, [":2:", "'Maybe'"], id="grade"),
        pytest.param(
            [guide_row(1).replace("2024-06-04T", "soon")],
            GUIDE_COLUMNS,
            MalformedRow,
            [":2:", "'Timestamp'"],
            id="time",
        ),
    ],
)
def test_guide_wrong_rows_are_named(
    tmp_path: Path, rows: list[str], columns: str, error: type[Exception], words: list[str]
) -> None:
    """File, line and value."""
    with pytest.raises(error) as raised:
        import_guide(guide_file(tmp_path, *rows, columns=columns))
    for word in ["GUIDE_Test.csv", *words]:
        assert word in str(raised.value)


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


def test_jsonl_hides_and_relativises(tmp_path: Path) -> None:
    """Named keys go, times are told from the alert's own, which is kept for splits only."""
    options = JsonlOptions(
        hide=frozenset({"observed_days_so_far"}),
        relative_times=True,
        time_field="alert.last_seen",
        entity_fields=("alert.host", "alert.absent"),
        group_field="context",
    )
    other = {**ROW, "id": "other", "alert": {**ROW["alert"], "absent": "here"}}
    case, _ = import_jsonl(jsonl_file(tmp_path, ROW, other), options).cases
    assert case.alert == {"title": "t", "host": "web", "first_seen": "-30m"}
    assert case.evidence == {"history": {"seen": 3, "last": "-10m"}}
    assert case.observed_at is not None
    assert (case.entities, case.group) == (("net/acme/web",), "net/acme")


@pytest.mark.parametrize(
    ("change", "label"),
    [
        pytest.param({"label": "FP"}, Verdict.FALSE_POSITIVE, id="own-format"),
        pytest.param({"label": "TruePositive"}, Verdict.TRUE_POSITIVE, id="camel-case"),
        pytest.param({"label": "benign positive"}, Verdict.BENIGN_TRUE_POSITIVE, id="words"),
        pytest.param({"label": "escalate"}, Verdict.ESCALATE, id="verdicts-name"),
    ],
)
def test_jsonl_label_spellings(tmp_path: Path, change: dict[str, Any], label: Verdict) -> None:
    """The spellings of other public sets mean the same verdicts."""
    (case,) = import_jsonl(jsonl_file(tmp_path, {**ROW, **change})).cases
    assert case.label is label


def test_jsonl_close_variants(tmp_path: Path) -> None:
    """Other names for id, label and evidence; a field of the format's own name wins."""
    row = {"case_id": "x", "alert": {}, "tools": {"get": 1}, "verdict": "FP", "classification": "TP", "label": "BTP"}
    (case,) = import_jsonl(jsonl_file(tmp_path, row)).cases
    assert (case.id, case.evidence, case.label) == ("x", {"get": 1}, Verdict.BENIGN_TRUE_POSITIVE)


@pytest.mark.parametrize(
    ("rows", "options", "error", "words"),
    [
        pytest.param([ROW, ROW], JsonlOptions(), MalformedRow, [":2:", "unique"], id="id-twice"),
        pytest.param([{**ROW, "label": "?"}], JsonlOptions(), UnknownLabel, [":1:", "'?'"], id="label"),
        pytest.param([ROW], JsonlOptions(time_field="alert.host"), MalformedRow, [":1:", "'web'"], id="no-time"),
    ],
)
def test_jsonl_wrong_rows_are_named(
    tmp_path: Path, rows: list[dict[str, Any]], options: JsonlOptions, error: type[Exception], words: list[str]
) -> None:
    """File, line and value."""
    with pytest.raises(error) as raised:
        import_jsonl(jsonl_file(tmp_path, *rows), options)
    for word in ["alerts.jsonl", *words]:
        assert word in str(raised.value)


def test_jsonl_refuses_a_wrong_time(tmp_path: Path) -> None:
    """A split by time would otherwise go by nothing."""
    row = {"id": "a", "alert": {}, "evidence": {}, "label": "TP", "observed_at": "yesterday"}
    with pytest.raises(MalformedRow, match=r":1: field 'observed_at'.*'yesterday'"):
        import_jsonl(jsonl_file(tmp_path, row))


@pytest.mark.parametrize(
    "options",
    [
        JsonlOptions(hide=frozenset({"dayz"})),
        JsonlOptions(entity_fields=("alert.dayz",)),
        JsonlOptions(group_field="dayz"),
    ],
)
def test_jsonl_refuses_a_path_that_no_row_has(tmp_path: Path, options: JsonlOptions) -> None:
    """A slip in the name of what must be hidden shows it."""
    row = {"id": "a", "alert": {"title": "t"}, "evidence": {"history": {"days": 3}}, "label": "TP"}
    with pytest.raises(SpecError, match="dayz: no row"):
        import_jsonl(jsonl_file(tmp_path, row), options)


@pytest.mark.parametrize(
    ("run", "name", "text"),
    [
        pytest.param(import_ait_ads, "acme_alerts.txt", "", id="ait-empty"),
        pytest.param(import_ait_ads, "acme_alerts.txt", HEADER + "\n", id="ait-header"),
        pytest.param(import_guide, "GUIDE_Train.csv", GUIDE_COLUMNS + "\n", id="guide-header"),
        pytest.param(import_jsonl, "cases.jsonl", "\n", id="jsonl"),
    ],
)
def test_a_set_of_nothing_is_refused(tmp_path: Path, run: Callable[[str], Imported], name: str, text: str) -> None:
    """Rather than an empty file written as if all were well."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(EmptyData):
        run(str(tmp_path))


@pytest.mark.parametrize(
    ("run", "name", "content", "words"),
    [
        pytest.param(import_ait_ads, "acme_alerts.txt", f"{HEADER}\n".encode() + b"1,\xff", ":2:", id="ait-bytes"),
        pytest.param(import_guide, "G.csv", GUIDE_COLUMNS.encode() + b"\n\xff", ":2:", id="guide-bytes"),
        pytest.param(import_panther, "r.yml", b"AnalysisType: rule\nRuleID: \xff", ":2:", id="panther-bytes"),
        pytest.param(
            import_guide, "G.csv", f"{GUIDE_COLUMNS}\n{'x' * 200_000}".encode(), ":2:.*limit", id="guide-long-field"
        ),
        pytest.param(
            import_ait_ads, "a_alerts.txt", f"{HEADER}\n{ait_line(10**15, 'a', 'h')}".encode(), ":2:.*range", id="time"
        ),
    ],
)
def test_unreadable_lines_are_named(
    tmp_path: Path, run: Callable[[str], Imported], name: str, content: bytes, words: str
) -> None:
    """The file and the line, whatever broke the reader."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MalformedRow, match=f"{name}{words}"):
        run(str(tmp_path))


def test_ait_server_configurations_are_checked(tmp_path: Path) -> None:
    """A list is no mapping of hosts."""
    uri = ait_repository(tmp_path, ait_line(1_643_000_000, "A: b", "web"))
    (tmp_path / "server_configs" / "acme.yaml").write_text("- web\n", encoding="utf-8")
    with pytest.raises(MalformedRow, match=r"acme\.yaml"):
        import_ait_ads(uri)


def test_panther_log_types_may_be_one_text(tmp_path: Path) -> None:
    """It is one type, not its letters; anything but a text or a list is refused, as are tests that are no list."""
    (tmp_path / "one").mkdir()
    rule = {**RULE, "LogTypes": "AWS.CloudTrail"}
    assert import_panther(panther_repository(tmp_path / "one", rule)).cases[0].alert["log_types"] == ["AWS.CloudTrail"]
    for key in ("LogTypes", "Tests"):
        (tmp_path / key).mkdir()
        with pytest.raises(MalformedRow, match=f"'{key}' is no list.*'5'"):
            import_panther(panther_repository(tmp_path / key, {**RULE, key: 5}))


@pytest.mark.parametrize("run", [import_ait_ads, import_guide, import_panther, import_jsonl])
def test_an_address_of_no_file_system_is_refused(run: Callable[[str], Imported]) -> None:
    """By the address itself."""
    with pytest.raises(SpecError, match="s3x://foo"):
        run("s3x://foo")


def test_guide_leaves_out_incidents_of_several_grades(tmp_path: Path) -> None:
    """Which row is right cannot be known; how many were left out is told."""
    rows = [guide_row(1), guide_row(1, grade="FalsePositive", minute=1), guide_row(2)]
    imported = import_guide(guide_file(tmp_path, *rows))
    assert [case.id.rsplit("-", 1)[1] for case in imported.cases] == ["2"]
    assert imported.left_out == {"incident whose rows differ in their grade": 1}


def test_titles_with_both_labels_are_marked(tmp_path: Path) -> None:
    """They are the honest test, and reported apart."""
    rows = [
        {**ROW, "id": str(place), "alert": {"title": title}, "label": label}
        for place, (title, label) in enumerate([("x", "TP"), ("x", "FP"), ("y", "TP"), ("z", "FP")])
    ]
    assert [case.ambiguous for case in import_jsonl(jsonl_file(tmp_path, *rows)).cases] == [True, True, False, False]


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(import_ait_ads, id="ait-ads"),
        pytest.param(import_guide, id="guide"),
        pytest.param(import_panther, id="panther"),
        pytest.param(import_jsonl, id="jsonl"),
    ],
)
@pytest.mark.parametrize("place", [pytest.param("", id="empty-folder"), pytest.param("absent", id="missing")])
def test_a_source_without_the_set_is_refused(tmp_path: Path, run: Callable[[str], Imported], place: str) -> None:
    """An empty folder, or none, is said to be so."""
    with pytest.raises(EmptyData):
        run(str(tmp_path / place))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "path", "least"),
    [
        pytest.param(import_ait_ads, "alert-data-set", 5000, id="ait-ads"),
        pytest.param(import_panther, "panther-analysis", 2500, id="panther"),
        pytest.param(import_guide, "GUIDE_Test.csv", 5, id="guide"),
    ],
)
def test_published_files(run: Callable[[str], Imported], path: str, least: int) -> None:
    """The published sets import whole, show no date, and pass the data check."""
    at_hand = os.environ.get("SOCADAPTER_REAL_DATA", "")
    if not at_hand or not Path(at_hand, path).exists():
        pytest.skip(f"not run on the published {path}: SOCADAPTER_REAL_DATA names no folder that holds it")
    cases = run(str(Path(at_hand, path))).cases
    assert len(cases) >= least
    errors = [f for f in check(cases).findings if f.severity is Severity.ERROR]
    assert errors == []
