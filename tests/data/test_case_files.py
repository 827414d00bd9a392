"""Case files: what is read, what is refused, and that the first wrong row is named."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socadapter_api.case import Case, Verdict
from socadapter_api.errors import (
    AlertTooLarge,
    DataError,
    DigestMismatch,
    EmptyData,
    MalformedRow,
    SpecError,
    StoreUnavailable,
    UnknownLabel,
)
from socadapter_api.training import DataSource
from socadapter_api.trajectory import ExpertTrajectory, ToolCall
from socadapter_jobs.data import case_files
from socadapter_jobs.data.case_files import (
    load_cases,
    read_cases,
    read_trajectories,
    write_cases,
    write_trajectories,
)

GOOD = {"id": "a", "alert": {"title": "t"}, "evidence": {"get": {"x": 1}}, "label": "TP"}


def write(folder: Path, *rows: Any, name: str = "cases.jsonl") -> str:
    """A file of JSON lines; a text is written as it stands."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def nested(levels: int) -> Any:
    """A list in a list, and so on."""
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("row", "error", "words"),
    [
        pytest.param("{not json", MalformedRow, ["not a line of JSON", "{not json"], id="no-json"),
        pytest.param("[1, 2]", MalformedRow, ["JSON object", "[1, 2]"], id="no-object"),
        pytest.param('{"id": "b", "alert": {}, "label": "TP", "x": NaN}', MalformedRow, ["NaN"], id="nan"),
        pytest.param('{"id": "b", "alert": {"x": "\\ud800"}, "label": "TP"}', MalformedRow, ["utf-8"], id="surrogate"),
        pytest.param("[" * 100_000, MalformedRow, ["not a line of JSON"], id="nested-too-deep"),
        pytest.param(
            {**GOOD, "id": "b", "alert": {"x": nested(300)}},
            MalformedRow,
            ["128 levels", '"alert": '],
            id="nested-too-deep-to-write",
        ),
        pytest.param({**GOOD, "id": ""}, MalformedRow, ["'id'", "(value '')"], id="empty-id"),
        pytest.param({"id": "b", "label": "TP"}, MalformedRow, ["'alert'", "required"], id="no-alert"),
        pytest.param({**GOOD, "id": "b", "alert": "text"}, MalformedRow, ["'alert'", "'text'"], id="alert-is-text"),
        pytest.param({**GOOD, "id": "b", "label": "tp"}, UnknownLabel, ["'tp'", "TP, BTP, FP"], id="unknown-label"),
        pytest.param({**GOOD, "id": "b", "label": 1}, MalformedRow, ["'label'"], id="label-is-a-number"),
        pytest.param(GOOD, MalformedRow, ["'a'", "cases.jsonl:1", "unique"], id="id-used-twice"),
        pytest.param({**GOOD, "id": "b", "observed_at": "yesterday"}, MalformedRow, ["'observed_at'"], id="no-time"),
        pytest.param(
            {**GOOD, "id": "b", "alert": {"title": "t", "body": "x" * 300_000}},
            AlertTooLarge,
            ["'b'", "'body'", "262144"],
            id="alert-too-large",
        ),
    ],
)
def test_the_first_wrong_row_is_named(tmp_path: Path, row: Any, error: type[DataError], words: list[str]) -> None:
    """File, line, field and value stand in the message, whatever is wrong."""
    uri = write(tmp_path, GOOD, "", row, {"also": "wrong"})
    with pytest.raises(error) as raised:
        read_cases(uri)
    for word in ["cases.jsonl:3", *words]:
        assert word in str(raised.value)


def test_a_line_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten megabytes of text in one alert: an error, not a crash."""
    monkeypatch.setattr(case_files, "_CHUNK_BYTES", 4096)
    monkeypatch.setattr(case_files, "MAX_ROW_BYTES", 65_536)
    with pytest.raises(AlertTooLarge, match=r"cases\.jsonl:2: the line"):
        read_cases(write(tmp_path, GOOD, '{"id": "' + "x" * 200_000))


def test_ten_megabytes_of_alert_are_refused(tmp_path: Path) -> None:
    """The real limit, on a real file."""
    with pytest.raises(AlertTooLarge):
        read_cases(write(tmp_path, {**GOOD, "alert": {"body": "x" * 10_000_000}}))


def test_chunk_borders_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that span reads, multi-byte characters included, come out whole."""
    rows = [{**GOOD, "id": f"é-{place}", "alert": {"title": "ü" * place}} for place in range(40)]
    uri = write(tmp_path, *rows)
    whole = load_cases(DataSource(uri=uri))
    monkeypatch.setattr(case_files, "_CHUNK_BYTES", 7)
    assert load_cases(DataSource(uri=uri)) == whole


def test_unknown_columns_are_ignored_and_labels_translated(tmp_path: Path) -> None:
    """Public sets carry more than the format asks for."""
    (case,) = read_cases(write(tmp_path, {**GOOD, "licence": "x", "label": "BTP"}))
    assert case.label is Verdict.BENIGN_TRUE_POSITIVE


def test_a_folder_is_all_its_files_in_order(tmp_path: Path) -> None:
    """Sub-folders included; other files are left alone."""
    write(tmp_path, {**GOOD, "id": "2"}, name="b.jsonl")
    write(tmp_path, {**GOOD, "id": "1"}, name="a/z.jsonl")
    write(tmp_path, "not for us", name="README.md")
    assert [case.id for case in read_cases(str(tmp_path))] == ["1", "2"]


def test_an_id_is_unique_over_a_whole_folder(tmp_path: Path) -> None:
    """The message names both places."""
    write(tmp_path, GOOD, name="one.jsonl")
    write(tmp_path, GOOD, name="two.jsonl")
    with pytest.raises(MalformedRow, match=r"two\.jsonl:1: id 'a' was already used at .*one\.jsonl:1"):
        read_cases(str(tmp_path))


def test_a_pinned_source_must_not_change(tmp_path: Path) -> None:
    """The digest is of content: it holds after a copy, and fails after any change."""
    uri = write(tmp_path, GOOD)
    pinned = load_cases(DataSource(uri=uri)).digest
    assert load_cases(DataSource(uri=write(tmp_path / "copy", GOOD), digest=pinned)).digest == pinned
    write(tmp_path, {**GOOD, "label": "FP"})
    with pytest.raises(DigestMismatch, match=pinned):
        load_cases(DataSource(uri=uri, digest=pinned))


def test_a_folder_digest_covers_names_and_content(tmp_path: Path) -> None:
    """A file added, or renamed, is another folder; where the folder lies does not matter."""
    write(tmp_path / "x", GOOD)
    write(tmp_path / "y", GOOD)
    first = load_cases(DataSource(uri=str(tmp_path / "x"))).digest
    assert load_cases(DataSource(uri=str(tmp_path / "y") + "/")).digest == first
    write(tmp_path / "y", {**GOOD, "id": "b"}, name="more.jsonl")
    assert load_cases(DataSource(uri=str(tmp_path / "y"))).digest != first


@pytest.mark.parametrize(
    ("make", "error"),
    [
        pytest.param(lambda folder: str(folder / "absent.jsonl"), EmptyData, id="missing"),
        pytest.param(lambda folder: str(folder), EmptyData, id="empty-folder"),
        pytest.param(lambda folder: write(folder, ""), EmptyData, id="empty-file"),
        pytest.param(lambda folder: "nowhere://bucket/x.jsonl", SpecError, id="unknown-protocol"),
    ],
)
def test_a_source_that_holds_nothing(tmp_path: Path, make: Any, error: type[Exception]) -> None:
    """Each way of not being there has its reason."""
    with pytest.raises(error):
        read_cases(make(tmp_path))


def test_any_file_system_of_fsspec(tmp_path: Path) -> None:
    """The same bytes have the same digest wherever they lie."""
    cases = read_cases(write(tmp_path, GOOD))
    local = write_cases(str(tmp_path / "out" / "cases.jsonl"), cases)
    assert write_cases("memory://case-files/cases.jsonl", cases) == local
    assert read_cases("memory://case-files") == cases


def test_an_object_store_without_credentials_is_unavailable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The cloud library's own errors are told as the store tells them."""
    pytest.importorskip("s3fs")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreUnavailable, match="s3://socadapter-absent"):
        read_cases("s3://socadapter-absent/cases.jsonl")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    """The file is replaced as a whole, or not at all: what is unfinished lies beside it, a rename away."""
    out = tmp_path / "cases.jsonl"
    cases = read_cases(write(tmp_path, GOOD))
    before = out.read_bytes()

    def breaking() -> Any:
        (unfinished,) = set(tmp_path.iterdir()) - {out}
        assert out.suffix != unfinished.suffix, "a folder's reader would take it"
        yield cases[0].model_copy(update={"id": "other"})
        raise RuntimeError("source broke")

    with pytest.raises(RuntimeError, match="source broke"):
        write_cases(str(out), breaking())
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["cases.jsonl"]


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8"), max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    alert=st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=6), _json, max_size=4),
    evidence=st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), _json, max_size=3),
    label=st.sampled_from(["TP", "BTP", "FP", "UNDECIDABLE"]),
)
def test_what_is_written_is_read(alert: dict[str, Any], evidence: dict[str, Any], label: str) -> None:
    """Any JSON survives, line separators of Unicode included."""
    case = Case.model_validate({"id": "a", "alert": alert, "evidence": evidence, "label": label, "entities": ["u"]})
    write_cases("memory://round-trip.jsonl", [case])
    assert read_cases("memory://round-trip.jsonl") == (case,)


def test_the_deepest_row_that_is_read_can_be_written(tmp_path: Path) -> None:
    """What nothing could write again is refused where it is read, by file and line."""
    deep = {**GOOD, "alert": {"x": nested(126)}}
    cases = read_cases(write(tmp_path, deep))
    write_cases("memory://deep.jsonl", cases)
    assert read_cases("memory://deep.jsonl") == cases
    with pytest.raises(MalformedRow, match=r"cases\.jsonl:2: .*nested deeper than 128 levels"):
        read_cases(write(tmp_path, deep, {**GOOD, "id": "b", "alert": {"x": nested(127)}}))


def test_expert_trajectories_survive_and_are_checked(tmp_path: Path) -> None:
    """Calls, verdict and citations; a row without a verdict is named, and one whose verdict no model may give."""
    expert = ExpertTrajectory(
        case_id="a",
        alert={"title": "t"},
        calls=(ToolCall(tool="get", evidence_id="e1", result="x=1"),),
        verdict=Verdict.FALSE_POSITIVE,
        summary="s",
        citations=("e1",),
    )
    out = str(tmp_path / "experts.jsonl")
    write_trajectories(out, [expert])
    assert read_trajectories(out) == (expert,)
    row = {"caseId": "a", "alert": {}, "calls": [], "summary": ""}
    with pytest.raises(MalformedRow, match=r"cases\.jsonl:1: field 'verdict'"):
        read_trajectories(write(tmp_path, row))
    for verdict in ("invalid", "TP"):
        with pytest.raises(UnknownLabel, match=rf"cases\.jsonl:2: verdict '{verdict}' is none of: true_positive, "):
            read_trajectories(
                write(tmp_path, {**row, "caseId": "b", "verdict": "escalate"}, {**row, "verdict": verdict})
            )
