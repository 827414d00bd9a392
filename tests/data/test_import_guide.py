"""Microsoft GUIDE: the rows of an incident become one case."""

import json
from pathlib import Path

import pytest
from tests.data.published import GUIDE_COLUMNS, guide_file, guide_row

from socadapter_api.case import Verdict
from socadapter_api.errors import MalformedRow, UnknownLabel
from socadapter_jobs.data.importers.guide import import_guide


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


def test_guide_leaves_out_incidents_of_several_grades(tmp_path: Path) -> None:
    """Which row is right cannot be known; how many were left out is told."""
    rows = [guide_row(1), guide_row(1, grade="FalsePositive", minute=1), guide_row(2)]
    imported = import_guide(guide_file(tmp_path, *rows))
    assert [case.id.rsplit("-", 1)[1] for case in imported.cases] == ["2"]
    assert imported.left_out == {"incident whose rows differ in their grade": 1}
