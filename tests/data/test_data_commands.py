"""`socadapter data`: what it writes, prints and refuses."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.jobs.test_full_disk import no_file_larger_than

from socadapter_api.case import Case
from socadapter_api.errors import DiskFull, OneClass, SpecError
from socadapter_jobs.data.case_files import read_cases, read_trajectories
from socadapter_jobs.data.commands import data

pytestmark = pytest.mark.slow  # whole commands, each of which learns from the data what leaks


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(data, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Prepared alerts of two organisations, with dates and a counter that leak."""
    rows: list[dict[str, Any]] = [
        {
            "id": f"a{place}",
            "context": f"net/{'one' if place < 60 else 'two'}",
            "alert": {"title": "t", "host": f"h{place % 7}", "last_seen": f"2022-02-05T05:{place % 60:02}:00Z"},
            "evidence": {"history": {"days": place, "failures": 900 if place % 3 == 0 else 2, "ticket": f"T{place}"}},
            "label": "TP" if place % 3 == 0 else "FP",
        }
        for place in range(90)
    ]
    path = tmp_path / "prepared.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_import_check_and_split(tmp_path: Path, source: Path) -> None:
    """The path from a prepared file to a training file, expert investigations and a holdout."""
    cases, experts, train, held = (tmp_path / name for name in ("c.jsonl", "e.jsonl", "train.jsonl", "held.jsonl"))
    told = run(
        *("import", "jsonl", source, "--out", cases, "--experts", experts),
        *("--hide", "days", "--relative-times", "--time-field", "alert.last_seen", "--entity-field", "alert.host"),
    ).output
    assert "90 cases (false_positive 60, true_positive 30)" in told
    assert "they ask history" in told
    assert all("days" not in case.evidence["history"] for case in read_cases(str(cases)))
    assert len(read_trajectories(str(experts))) == 90

    told = run("split", cases, "--train", train, "--holdout", held, "--hold-out", "net/two").output
    assert "split by group net/two" in told
    assert {case.context for case in read_cases(str(held))} == {"net/two"}

    report = tmp_path / "report.json"
    assert "holdout" in run("check", train, "--holdout", held, "--json", report).output
    assert json.loads(report.read_text("utf-8"))["train"]["n"] == len(read_cases(str(train)))


def test_a_seeded_split_by_percent(tmp_path: Path, source: Path) -> None:
    """Without a group, the strictest split that the data allow."""
    cases, train, held = (tmp_path / name for name in ("c.jsonl", "train.jsonl", "held.jsonl"))
    run("import", "jsonl", source, "--out", cases)
    told = run("split", cases, "--train", train, "--holdout", held, "--percent", "30").output
    assert "split by label, at random" in told


def test_check_fails_on_an_error_and_still_writes_its_report(tmp_path: Path, source: Path) -> None:
    """A pipeline stops, and a person can read why."""
    only = tmp_path / "only.jsonl"
    rows = [row for row in source.read_text("utf-8").splitlines() if '"TP"' in row]
    only.write_text("\n".join(rows), encoding="utf-8")
    report = tmp_path / "report.json"
    with pytest.raises(OneClass):
        run("check", only, "--json", report)
    assert "one class" in report.read_text("utf-8")


def test_relative_times_need_a_time(tmp_path: Path, source: Path) -> None:
    """Without the alert's own time there is nothing to tell times from."""
    with pytest.raises(SpecError, match="--time-field"):
        run("import", "jsonl", source, "--out", tmp_path / "c.jsonl", "--relative-times")


def test_an_unknown_format_lists_the_known_ones(tmp_path: Path, source: Path) -> None:
    """As every choice on the command line."""
    result = run("import", "splunk", source, "--out", tmp_path / "c.jsonl")
    assert result.exit_code == 2
    assert "ait-ads" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["split", "SOURCE", "--train", "DIR/t", "--holdout", "DIR/x/../t"], id="train-is-holdout"),
        pytest.param(["split", "SOURCE", "--train", "SOURCE", "--holdout", "DIR/t"], id="train-is-source"),
        pytest.param(["split", "SOURCE", "--train", "DIR/t", "--holdout", "file://SOURCE"], id="holdout-is-source"),
        pytest.param(["import", "jsonl", "SOURCE", "--out", "DIR/t", "--experts", "DIR/t"], id="out-is-experts"),
        pytest.param(["import", "jsonl", "SOURCE", "--out", "SOURCE"], id="out-is-source"),
    ],
)
def test_no_output_overwrites_another_or_the_source(tmp_path: Path, source: Path, arguments: list[str]) -> None:
    """However the file is spelt; nothing is written."""
    before = source.read_bytes()
    with pytest.raises(SpecError, match="the same file"):
        run(*(word.replace("SOURCE", str(source)).replace("DIR", str(tmp_path)) for word in arguments))
    assert source.read_bytes() == before
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("format_", "option"),
    [
        ("ait-ads", ["--hide", "days"]),
        ("guide", ["--relative-times"]),
        ("panther", ["--entity-field", "alert.host"]),
        ("panther", ["--max-incidents", "5"]),
        ("jsonl", ["--max-per-title", "5"]),
    ],
)
def test_an_option_of_another_format_is_refused(tmp_path: Path, source: Path, format_: str, option: list[str]) -> None:
    """It would be ignored, and what it was to hide would be shown."""
    with pytest.raises(SpecError, match=f"{option[0]} is for"):
        run("import", format_, source, "--out", tmp_path / "c.jsonl", *option)


def test_counts_are_not_negative(tmp_path: Path, source: Path) -> None:
    """Less than none would import nothing."""
    assert run("import", "guide", source, "--out", tmp_path / "c", "--max-incidents", "-1").exit_code == 2
    assert run("import", "ait-ads", source, "--out", tmp_path / "c", "--max-per-title", "-1").exit_code == 2


def test_a_report_that_cannot_be_written_is_named(tmp_path: Path, source: Path) -> None:
    """With the option that named its place."""
    with pytest.raises(SpecError, match=r"--json .*prepared\.jsonl/r\.json cannot be written"):
        run("check", source, "--json", source / "r.json")


def test_a_full_disk_leaves_the_report_of_before(tmp_path: Path, source: Path) -> None:
    """And is told as what it is."""
    report = tmp_path / "report.json"
    report.write_text("{}")
    with no_file_larger_than(200), pytest.raises(DiskFull, match=r"--json .*report\.json cannot be written"):
        run("check", source, "--json", report)
    assert "{}" == report.read_text()


def test_paths_are_printed_as_they_are(tmp_path: Path, source: Path) -> None:
    """Brackets are no markup."""
    odd = tmp_path / "[bold]x[/bold]"
    assert str(odd / "c.jsonl") in run("import", "jsonl", source, "--out", odd / "c.jsonl").output
    told = run("split", odd / "c.jsonl", "--train", odd / "t.jsonl", "--holdout", odd / "h.jsonl").output
    assert str(odd / "h.jsonl") in told


PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_the_pages_commands_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that docs/data.md shows works as shown, on alerts in the prepared form that it speaks of."""
    monkeypatch.chdir(tmp_path)
    rows: list[dict[str, Any]] = [
        {
            "id": f"a{place}",
            "context": f"corporate_network/{'acme' if place % 2 else 'other'}",
            "alert": {"title": "t", "host": f"h{place % 10}", "last_seen": f"2022-02-{1 + place % 28:02}T05:00:00Z"},
            "evidence": {"history": {"observed_days_so_far": place, "failures": (place % 3 == 0) * 900, "n": place}},
            "label": "TP" if place % 3 == 0 else "FP",
        }
        for place in range(120)
    ]
    Path("prepared.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    commands = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    assert len(commands) >= 5
    for command in commands:
        words = shlex.split(command)
        assert words[:2] == ["socadapter", "data"]
        if "FORMAT" not in words:
            assert run(*words[2:]).exit_code == 0, command


def test_the_pages_example_is_a_case() -> None:
    """The format that the page shows is the format that is read."""
    (example,) = re.findall(r"```json\n(.*?)\n```", PAGE.read_text("utf-8"), re.DOTALL)
    assert Case.model_validate_json(example).entities == ("acme/web",)
