"""The importers, on small files in the published layouts; and on the published files where they are at hand.

Set SOCADAPTER_REAL_DATA to a folder that holds checkouts of ``alert-data-set`` and ``panther-analysis`` and, in
``GUIDE_Test.csv``, rows of Microsoft GUIDE to run on the real ones as well.
"""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.data.published import GUIDE_COLUMNS, HEADER, ait_line

from socadapter_api.errors import EmptyData, MalformedRow, SpecError
from socadapter_jobs.data.check import Severity, check
from socadapter_jobs.data.importers.ait_ads import import_ait_ads
from socadapter_jobs.data.importers.guide import import_guide
from socadapter_jobs.data.importers.imported import Imported, text_files
from socadapter_jobs.data.importers.jsonl import import_jsonl
from socadapter_jobs.data.importers.panther import import_panther


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


@pytest.mark.parametrize("run", [import_ait_ads, import_guide, import_panther, import_jsonl])
def test_an_address_of_no_file_system_is_refused(run: Callable[[str], Imported]) -> None:
    """By the address itself."""
    with pytest.raises(SpecError, match="s3x://foo"):
        run("s3x://foo")


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


def test_a_file_beside_the_archive_that_it_came_from_is_refused(tmp_path: Path) -> None:
    """Every alert would be there twice, and of some sets nobody would notice."""
    member = "alerts/fox.csv"
    with zipfile.ZipFile(tmp_path / "alerts.zip", "w") as archive:
        archive.writestr(member, "a,b\n")
        archive.writestr("alerts/russell.csv", "a,b\n")
    assert 2 == len(text_files(str(tmp_path), ".csv"))
    (tmp_path / "other" / "fox").mkdir(parents=True)
    (tmp_path / "other/fox/russell.csv").write_text("a,b\n")
    assert 3 == len(text_files(str(tmp_path), ".csv")), "of another folder"
    (tmp_path / "unpacked/alerts").mkdir(parents=True)
    (tmp_path / "unpacked" / member).write_text("a,b\n")
    with pytest.raises(SpecError, match=r"unpacked/alerts/fox\.csv.*would be read twice"):
        text_files(str(tmp_path), ".csv")


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
