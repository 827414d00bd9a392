"""Panther's rules: each of their tests becomes a case."""

from pathlib import Path
from typing import Any

import pytest
from tests.data.published import RULE, panther_repository

from socadapter_api.case import Verdict
from socadapter_api.errors import MalformedRow
from socadapter_jobs.data.importers.panther import import_panther


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


def test_panther_log_types_may_be_one_text(tmp_path: Path) -> None:
    """It is one type, not its letters; anything but a text or a list is refused, as are tests that are no list."""
    (tmp_path / "one").mkdir()
    rule = {**RULE, "LogTypes": "AWS.CloudTrail"}
    assert import_panther(panther_repository(tmp_path / "one", rule)).cases[0].alert["log_types"] == ["AWS.CloudTrail"]
    for key in ("LogTypes", "Tests"):
        (tmp_path / key).mkdir()
        with pytest.raises(MalformedRow, match=f"'{key}' is no list.*'5'"):
            import_panther(panther_repository(tmp_path / key, {**RULE, key: 5}))


def test_panther_techniques_may_be_one_text(tmp_path: Path) -> None:
    """As log types may."""
    rule = {**RULE, "Reports": {"MITRE ATT&CK": "TA0001:T1078"}}
    assert import_panther(panther_repository(tmp_path / "one", rule)).cases[0].alert["mitre"] == ["TA0001:T1078"]
    with pytest.raises(MalformedRow, match=r"rule_0\.yml: field 'MITRE ATT&CK' is no list \(value '7'\)"):
        import_panther(panther_repository(tmp_path / "two", {**RULE, "Reports": {"MITRE ATT&CK": 7}}))
