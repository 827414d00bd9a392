"""Cases a team has written itself, a JSON object a line."""

from pathlib import Path
from typing import Any

import pytest
from tests.data.published import ROW, jsonl_file

from socadapter_api.case import Verdict
from socadapter_api.errors import MalformedRow, SpecError, UnknownLabel
from socadapter_jobs.data.importers.jsonl import JsonlOptions, import_jsonl


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


def test_titles_with_both_labels_are_marked(tmp_path: Path) -> None:
    """They are the honest test, and reported apart."""
    rows = [
        {**ROW, "id": str(place), "alert": {"title": title}, "label": label}
        for place, (title, label) in enumerate([("x", "TP"), ("x", "FP"), ("y", "TP"), ("z", "FP")])
    ]
    assert [case.ambiguous for case in import_jsonl(jsonl_file(tmp_path, *rows)).cases] == [True, True, False, False]
