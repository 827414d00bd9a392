"""What an export holds, and that a seed decides every byte of it."""

import json
import sqlite3
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import pytest

from socadapter_api.case import Case, Verdict
from socadapter_api.errors import SpecError
from socadapter_api.trajectory import ExpertTrajectory
from socadapter_range import CONTEXTS, World, export, range_cases
from socadapter_range.__main__ import main
from socadapter_range.telemetry import DAY
from socadapter_range.world import HOLDOUT_DAYS, TRAIN_DAYS


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _cases(path: Path) -> list[Case]:
    return [Case.model_validate_json(line) for line in path.read_text().splitlines()]


def _moment(case: Case) -> datetime:
    assert case.observed_at is not None
    return case.observed_at


def test_equal_seeds_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    """A second export of the same seed is byte for byte the first."""
    export(World(7), tmp_path / "again", train=320, holdout=96, extra=64)
    assert _digests(folder) == _digests(tmp_path / "again")


def test_another_seed_gives_other_alerts(world: World) -> None:
    """Seeds differ in their people and stories."""
    mine, other = (range_cases(world, CONTEXTS[0], "train", 40) for world in (world, World(8)))
    assert not {case.entities for case in mine} & {case.entities for case in other}


def test_files_are_rows_of_the_contract(folder: Path) -> None:
    """Every line parses as the contract's `Case` or `ExpertTrajectory`, trajectories solve the training alerts."""
    for context in CONTEXTS:
        base = folder / context
        alerts = _cases(base / "alerts.jsonl")
        rows = [
            ExpertTrajectory.model_validate_json(line)
            for line in (base / "trajectories.jsonl").read_text().splitlines()
        ]
        assert [case.id for case in alerts] == [row.case_id for row in rows]
        assert [case.label for case in alerts] == [row.verdict for row in rows]
        assert len(_cases(base / "alerts_extra.jsonl")) == 64
        assert sum(case.decidable for case in _cases(base / "holdout.jsonl")) >= 90


def test_holdout_shares_neither_days_nor_entities_with_training(folder: Path) -> None:
    """Held-out alerts are of later days, other people and other machines, and no two alerts share an indicator."""
    seen: set[str] = set()
    for context in CONTEXTS:
        base = folder / context
        train = _cases(base / "alerts.jsonl") + _cases(base / "alerts_extra.jsonl")
        held_out = _cases(base / "holdout.jsonl")
        assert max(map(_moment, train)) < min(map(_moment, held_out))
        assert not {name for case in train for name in case.entities} & {
            name for case in held_out for name in case.entities
        }
        indicators = {case.alert["indicator"] for case in train + held_out}
        assert len(indicators) == len(train) + len(held_out)
        assert not seen & indicators
        seen |= indicators


def test_every_type_has_every_truth_and_both_contexts_share_titles(world: World) -> None:
    """At least twelve alert types per context, each with attacks, benign true positives and false positives."""
    titles = []
    for context in CONTEXTS:
        found: dict[str, set[Verdict]] = {}
        for case in range_cases(world, context, "train", 320):
            found.setdefault(case.alert["title"], set()).add(case.label)
        assert len(found) >= 12
        decided = {Verdict.TRUE_POSITIVE, Verdict.BENIGN_TRUE_POSITIVE, Verdict.FALSE_POSITIVE}
        assert all(decided <= labels for labels in found.values())
        titles.append(set(found))
    assert titles[0] == titles[1]


def test_telemetry_covers_thirty_days_and_holds_no_truth(folder: Path) -> None:
    """The store spans at least thirty days in eight sources, and no verdict, story or case id is in it."""
    database = sqlite3.connect(folder / "telemetry.sqlite")
    try:
        first, last = database.execute("SELECT min(ts), max(ts) FROM signins").fetchone()
        assert last - first >= 30 * DAY
        assert len(TRAIN_DAYS) + len(HOLDOUT_DAYS) >= 30
        for table in ("signins", "processes", "flows", "cloud_calls", "dns", "assets", "tickets", "intel"):
            assert database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] > 500
    finally:
        database.close()
    stored = (folder / "telemetry.sqlite").read_bytes()
    for word in ("benign_true_positive", "UNDECIDABLE", "log-gap", "-train-", "-holdout-", *CONTEXTS):
        assert word.encode() not in stored


def test_visible_alert_holds_no_hidden_field(world: World) -> None:
    """The visible part of a case has the seven visible fields and nothing else."""
    for case in range_cases(world, CONTEXTS[0], "holdout", 20):
        assert sorted(case.visible().fields) == ["detail", "host", "indicator", "sensor", "severity", "title", "user"]


def test_the_alert_in_the_readme_is_one_of_these(world: World) -> None:
    """Whoever pastes the example asks what no training met and the telemetry holds; `match` finds its context."""
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    asked = json.loads(text.partition("-d '")[2].partition("'\n")[0])
    case = range_cases(world, CONTEXTS[0], "holdout", 1)[0]
    assert asked == {"alert": case.alert, "observed_at": f"{_moment(case):%Y-%m-%dT%H:%M:%SZ}"}
    assert CONTEXTS[0].startswith(case.alert["sensor"])


def test_export_never_overwrites(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second export into the same folder is refused with a reason and leaves the first intact."""
    before = _digests(folder)
    assert main(["export", "--out", str(folder)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert before == _digests(folder)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--drift", "new-moon"], "new-moon", id="unknown drift"),
        pytest.param(["--drift", "moved-scanner@soon"], "moved-scanner@soon", id="day of a drift"),
        pytest.param(["--train", "5000"], "5000 train alerts", id="too many alerts"),
    ],
)
def test_impossible_exports_say_why(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A request that the range cannot meet ends with status 2 and names the value."""
    assert main(["export", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        pytest.param("export --out {tmp}/file", "{tmp}/file: File exists", id="a file in the place of the folder"),
        pytest.param("export --out /proc/nope", "/proc/nope", id="a folder that cannot be made"),
        pytest.param("check --dir {tmp}/file", "{tmp}/file", id="no folder"),
        pytest.param("check --dir {folder} --tokenizer /nonexist", "/nonexist holds no", id="no tokenizer"),
        pytest.param("check --dir {tiny}", "training alerts of {tiny}", id="too few alerts to judge"),
        pytest.param("serve --db {tmp}/file --faults [", "faults '['", id="faults that are no JSON"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    command: str, said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`error: ` with the path or value, status 2, and no traceback."""
    (tmp_path / "file").touch()
    names = {"tmp": tmp_path, "folder": folder, "tiny": tmp_path / "tiny"}
    if "{tiny}" in command:
        assert main(["export", "--train", "2", "--holdout", "2", "--out", str(names["tiny"])]) == 0
    capsys.readouterr()
    assert main(command.format(**names).split()) == 2
    told = capsys.readouterr().err
    assert (True, 1) == (told.startswith("error: ") and said.format(**names) in told, told.count("\n"))


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param("export --out out --train 0", id="no training alerts"),
        pytest.param("export --out out --holdout -1", id="holdout below nothing"),
        pytest.param("export --out out --extra-alerts -1", id="extra alerts below nothing"),
        pytest.param("export --out out --train many", id="no number"),
        pytest.param("serve --db db --port 65536", id="no port"),
    ],
)
def test_numbers_out_of_bounds_are_refused(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command line itself, with the option's name."""
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert (2, True) == (ended.value.code, f"argument {arguments.split()[3]}: " in capsys.readouterr().err)


@pytest.mark.parametrize("command", ["export", "serve", "check"])
def test_help_says_what_each_option_is(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No option stands without its words, and one with a number says its default."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    told = capsys.readouterr().out.partition("options:")[2]
    options = [" ".join(entry.split()) for entry in told.split("\n  --")]
    assert [] == [entry for entry in options[1:] if len(entry.split()) < 3]
    assert all(
        "default" in entry for entry in options if entry.startswith(("seed", "train", "holdout", "extra", "port"))
    )


def test_unknown_context_is_refused(world: World) -> None:
    """Cases of a context that the range does not have are refused by name."""
    with pytest.raises(SpecError, match="'payroll'"):
        range_cases(world, "payroll", "train", 1)


def test_export_says_what_it_was_made_from(world: World, folder: Path) -> None:
    """The export names its seed and drifts."""
    assert json.loads((folder / "world.json").read_text()) == {"seed": 7, "drift": []}
