"""AIT-ADS: lists of alerts by organisation become cases with a look around."""

import json
from pathlib import Path

import pytest
from tests.data.published import HEADER, ait_line, ait_repository

from socadapter_api.case import Case, Verdict
from socadapter_api.errors import MalformedRow
from socadapter_jobs.data.importers.ait_ads import import_ait_ads
from socadapter_jobs.data.importers.imported import Imported


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


def test_ait_server_configurations_are_checked(tmp_path: Path) -> None:
    """A list is no mapping of hosts."""
    uri = ait_repository(tmp_path, ait_line(1_643_000_000, "A: b", "web"))
    (tmp_path / "server_configs" / "acme.yaml").write_text("- web\n", encoding="utf-8")
    with pytest.raises(MalformedRow, match=r"acme\.yaml"):
        import_ait_ads(uri)
