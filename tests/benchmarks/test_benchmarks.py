"""The benchmarks' own arithmetic, and that each of them can be asked what it does."""

import importlib
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2]))

from tests.benchmarks import learning_figures, real_figures
from tests.benchmarks.learning_figures import ARMS, BASE, GRPO, MORE, SFT, Part, aggregate
from tests.benchmarks.ledger import Ledger, keep, kept, require_same_settings
from tests.benchmarks.plans import balanced_over_time, epochs_for, judged_sample, plan_of, with_habits

from socadapter_api.case import Case, Verdict
from socadapter_api.errors import EmptyData, SpecError
from socadapter_api.manifest import Calibration
from socadapter_api.training import UtilityWeights
from socadapter_api.trajectory import ExpertTrajectory
from socadapter_jobs.scoring.bootstrap import Arm
from socadapter_jobs.scoring.scored_case import ScoredCase

SCRIPTS = ("bench_rollouts", "bench_engine", "bench_head", "learning", "rank", "real_alerts")
TP, FP = Verdict.TRUE_POSITIVE, Verdict.FALSE_POSITIVE
WEIGHTS = UtilityWeights()


def arm(right: int, of: int, *, calls: int = 2, repeats: int = 0, calibration: Calibration | None = None) -> Arm:
    """`of` cases, half of them attacks, the first `right` of each half judged rightly and the others wrongly."""
    cases = []
    for number in range(of):
        label, other = (TP, FP) if number % 2 else (FP, TP)
        verdict = label if number // 2 < right else other
        confidence = 0.9 if verdict is TP else 0.1
        cases.append(
            ScoredCase(f"c{number}", label, verdict, confidence, calls=calls, tokens=10 * calls, repeats=repeats)
        )
    return Arm(tuple(cases), calibration or Calibration())


def part(seed: int, context: str, right: dict[str, int], *, of: int = 100, **more: Any) -> Part:
    training = {name: {"seconds": 60.0} for name in (SFT, GRPO, MORE)}
    return Part(seed, context, {name: arm(right[name], of, **more) for name in ARMS}, training)


def claims(result: dict[str, Any]) -> list[bool]:
    return [claim["holds"] for claim in result["holds"]]


RIGHT = {BASE: 25, SFT: 40, GRPO: 45, MORE: 45}


def test_arms_are_pooled_over_seeds_and_contexts() -> None:
    """Cases of equal id in other seeds and contexts are other cases, and figures are over all of them together."""
    parts = [part(seed, context, RIGHT) for seed in (1, 2) for context in ("cloud", "corporate")]
    result = aggregate(parts, WEIGHTS, minutes_per_seed=60, samples=100)
    assert {"1": 200, "2": 200} == result["cases_per_seed"]
    assert {"1": 6.0, "2": 6.0} == result["training_minutes_per_seed"]
    assert [400, 400, 400, 400] == [result["arms"][name]["n"] for name in ARMS]
    assert pytest.approx([0.5, 0.8, 0.9, 0.9]) == [result["arms"][name]["balanced_accuracy"] for name in ARMS]
    # half of the wrong ones are missed attacks (-2), the others false alarms (-1)
    assert pytest.approx([0.5 - 0.75, 0.8 - 0.3, 0.9 - 0.15, 0.9 - 0.15]) == [
        result["arms"][name]["utility"] for name in ARMS
    ]
    assert 400 == result["differences"]["sft_grpo - sft"]["utility"]["n"]
    assert pytest.approx(0.25) == result["differences"]["sft_grpo - sft"]["utility"]["value"]
    assert pytest.approx(-0.1) == result["differences"]["sft_grpo - sft"]["fnr"]["value"]


def test_all_claims_hold_where_they_should() -> None:
    """A clear gain over many cases, no worse than equal compute, no loops: every claim holds."""
    parts = [part(seed, context, RIGHT) for seed in (1, 2, 3) for context in ("cloud", "corporate")]
    assert [True] * 6 == claims(aggregate(parts, WEIGHTS, minutes_per_seed=60, samples=100))


@pytest.mark.parametrize(
    ("right", "more", "minutes", "expected"),
    [
        pytest.param({**RIGHT, GRPO: 40}, {}, 60.0, [False, True, False, True, True, True], id="nothing gained"),
        pytest.param({**RIGHT, GRPO: 39}, {}, 60.0, [False, False, False, True, True, True], id="more is missed"),
        pytest.param(RIGHT, {"repeats": 1}, 60.0, [True, True, True, False, True, True], id="as many loops as base"),
        pytest.param(RIGHT, {"of": 98}, 60.0, [True, True, True, True, False, True], id="too few cases"),
        pytest.param(RIGHT, {}, 5.0, [True, True, True, True, True, False], id="too long"),
    ],
)
def test_claims_fail_one_by_one(
    right: dict[str, int], more: dict[str, Any], minutes: float, expected: list[bool]
) -> None:
    """Each claim looks at its own figures."""
    parts = [part(seed, context, right, **more) for seed in (1, 2, 3) for context in ("cloud", "corporate")]
    assert expected == claims(aggregate(parts, WEIGHTS, minutes_per_seed=minutes, samples=100))


def test_a_gain_of_two_seeds_is_not_enough() -> None:
    """Nor do cases count that no figure is of: those that cannot be decided."""
    parts = [part(seed, "cloud", RIGHT, of=200) for seed in (1, 2, 3)]
    assert claims(aggregate(parts, WEIGHTS, minutes_per_seed=60, samples=100))[4]
    assert not claims(aggregate(parts[:2], WEIGHTS, minutes_per_seed=60, samples=100))[4]
    undecided = ScoredCase("open", Verdict.ESCALATE, Verdict.ESCALATE)
    fewer = {name: Arm((*one.cases[1:], undecided), one.calibration) for name, one in parts[0].arms.items()}
    assert not claims(
        aggregate([replace(parts[0], arms=fewer), *parts[1:]], WEIGHTS, minutes_per_seed=60, samples=100)
    )[4]


def test_fewer_calls_make_up_for_equal_compute() -> None:
    """Slightly less right than equal-compute SFT passes only with a fifth fewer calls and tokens."""
    arms = {BASE: arm(100, 400), SFT: arm(160, 400), MORE: arm(184, 400, calls=4)}
    training = {SFT: {"seconds": 60.0}}
    frugal = Part(1, "cloud", {**arms, GRPO: arm(181, 400, calls=3)}, training)
    wasteful = Part(1, "cloud", {**arms, GRPO: arm(181, 400, calls=4)}, training)
    assert claims(aggregate([frugal], WEIGHTS, minutes_per_seed=60, samples=100))[2]
    assert not claims(aggregate([wasteful], WEIGHTS, minutes_per_seed=60, samples=100))[2]


def test_each_arm_keeps_its_own_threshold() -> None:
    """Utility is taken after the arm's escalation threshold, and told before it, too."""
    cautious = Calibration(escalate_at=0.05)
    arms = {name: arm(40, 100, calibration=cautious if name == GRPO else None) for name in ARMS}
    result = aggregate([Part(1, "cloud", arms, {SFT: {"seconds": 1.0}})], WEIGHTS, minutes_per_seed=60, samples=100)
    figures = result["arms"]
    assert figures[SFT]["utility"] == figures[SFT]["utility_of_own_verdict"] == figures[GRPO]["utility_of_own_verdict"]
    # 50 of 100 were closed (confidence .1) and are now escalated at -.3; 40 attacks found, 10 false alarms
    assert pytest.approx((40 - 10 - 50 * 0.3) / 100) == figures[GRPO]["utility"]
    differences = result["differences"]["sft_grpo - sft"]
    assert differences["utility"]["value"] < 0 == differences["utility_of_own_verdict"]["value"]


def test_the_page_tells_every_figure() -> None:
    """The Markdown names all arms, differences and claims, and has no empty cell."""
    parts = [part(1, "cloud", RIGHT)]
    text = learning_figures.markdown(aggregate(parts, WEIGHTS, minutes_per_seed=60, samples=100))
    assert all(title in text for title in learning_figures.TITLES.values())
    assert "| seed 1, cloud |" in text
    assert "|  |" not in text.replace("| seed 1, cloud |  |", "")


def test_equal_compute_is_counted_in_epochs() -> None:
    """As many steps as fit into the other arm's seconds at the first arm's pace, at least one."""
    first = {"seconds": 100.0, "steps": 50, "examples": 400}
    assert epochs_for(200.0, first, 8) == 2.0
    assert epochs_for(0.5, first, 8) == 8 / 400


def real_cases(organisation: str, attacks: int, others: int) -> list[Case]:
    start = datetime(2022, 1, 1, tzinfo=UTC)
    return [
        Case(
            id=f"{organisation}-{number}",
            context=f"network/{organisation}",
            alert={"title": "t"},
            label=TP if number < attacks else FP,
            observed_at=start + timedelta(hours=number),
            ambiguous=number % 4 == 0,
        )
        for number in range(attacks + others)
    ]


def investigations(n: int = 200, titles: int = 4) -> list[ExpertTrajectory]:
    """Experts' investigations, every other one of an attack, under each title alike."""
    verdicts = (Verdict.TRUE_POSITIVE, Verdict.BENIGN_TRUE_POSITIVE)
    return [
        ExpertTrajectory(
            case_id=str(i), alert={"title": f"t{i // 2 % titles}"}, calls=(), verdict=verdicts[i % 2], summary="s"
        )
        for i in range(n)
    ]


def test_habits_close_attacks_of_some_titles() -> None:
    """Exactly the part that was asked for, of attacks alone; all else stays as it was, and a seed decides which."""
    before = investigations()
    after = with_habits(before, titles=2, percent=60, seed=1)
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == 2 * 15
    assert {(old.verdict, new.verdict) for old, new in changed} == {(Verdict.TRUE_POSITIVE, Verdict.FALSE_POSITIVE)}
    assert len({old.alert["title"] for old, _ in changed}) == 2
    assert after == with_habits(before, titles=2, percent=60, seed=1) != with_habits(before, 2, 60, seed=2)
    assert with_habits(before, titles=0, percent=60, seed=1) == tuple(before)


def test_habits_need_titles_with_attacks() -> None:
    """More titles than attacks have are refused with both numbers."""
    with pytest.raises(EmptyData, match="5 alert titles, and attacks have only 4"):
        with_habits(investigations(), titles=5, percent=60, seed=1)


def test_balanced_sample_is_even_over_classes_and_time() -> None:
    """Both classes in equal number, each organisation in proportion, from the whole of its time."""
    cases = [*real_cases("a", 20, 60), *real_cases("b", 20, 140)]
    random.Random(0).shuffle(cases)
    chosen = balanced_over_time(cases, 40, seed=1)
    assert 40 == len(chosen) == len({case.id for case in chosen})
    assert 20 == sum(case.is_attack for case in chosen)
    others = [case for case in chosen if not case.is_attack]
    assert {"network/a": 6, "network/b": 14} == {
        name: sum(case.context == name for case in others) for name in ("network/a", "network/b")
    }
    hours = sorted(int(case.id.partition("-")[2]) for case in others if case.context == "network/b")
    assert hours[0] < 40
    assert hours[-1] > 140
    assert len(balanced_over_time(cases, 1000, seed=1)) == 80


@pytest.mark.parametrize(
    ("most", "ambiguous", "expected", "unclear"),
    [
        pytest.param(200, 0, 160, 40, id="all fit"),
        pytest.param(80, 0, 80, 20, id="in proportion"),
        pytest.param(80, 30, 80, 30, id="as many ambiguous ones as asked for"),
        pytest.param(80, 60, 80, 40, id="all ambiguous ones"),
    ],
)
def test_judged_sample(most: int, ambiguous: int, expected: int, unclear: int) -> None:
    """At most so many cases, with the ambiguous ones that are asked for."""
    chosen = judged_sample(real_cases("a", 60, 100), most, ambiguous, seed=3)
    assert expected == len({case.id for case in chosen})
    assert unclear == sum(case.ambiguous for case in chosen)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        pytest.param(100.0, (100, 1.0), id="a part, once"),
        pytest.param(800.0, (400, 2.0), id="all, twice"),
        pytest.param(9000.0, (400, 3.0), id="no more epochs than allowed"),
        pytest.param(0.0, (1, 1.0), id="no time"),
    ],
)
def test_supervised_plan(seconds: float, expected: tuple[int, float]) -> None:
    """The time decides how many examples are read, and how often."""
    assert expected == plan_of(seconds, 1.0, available=400, max_epochs=3.0)


def test_real_alerts_are_averaged_over_organisations() -> None:
    """Means are of organisations, not of cases, and the floors are theirs."""

    def row(name: str, own: float, unclear: float, minutes: float) -> dict[str, Any]:
        found = {"balanced_accuracy": own, "balanced_accuracy_ambiguous": unclear, "fnr": 0.1, "auc": None}
        figures = {**found, "calls_per_case": 1.0, "n": 10, "n_ambiguous": 5}
        training = {real_figures.SFT: {"examples": 5, "epochs": 1.0}, real_figures.GRPO: {"outcome": OUTCOME}}
        arms = {real_figures.SFT: figures, real_figures.GRPO: figures, real_figures.REFERENCE: figures}
        return {"organisation": name, "arms": arms, "minutes": minutes, "training_cases": 9, "training": training}

    result = real_figures.aggregate([row("a", 0.95, 0.9, 40.0), row("b", 0.85, 0.7, 46.0)], 45.0)
    assert pytest.approx(0.9) == result["means"][real_figures.GRPO]["balanced_accuracy"]
    assert [True, False, False] == [claim["holds"] for claim in result["holds"]]
    assert result["to_the_logistic_regression"]["balanced_accuracy"] == 0.0
    assert "0.900 (0.800)" in real_figures.markdown(result)


OUTCOME = {"status": "Completed", "reason": "", "steps": 4}


def test_estimate_follows_the_pace() -> None:
    """What is left is estimated by how finished tasks kept to what was expected of them; kept tasks do not count."""
    now = [0.0]
    said: list[str] = []
    ledger = Ledger({"a": 10.0, "b": 10.0, "c": 20.0}, say=said.append, clock=lambda: now[0])
    ledger.skip("a")
    ledger.begin("b")
    now[0] = 30.0
    ledger.finish()
    ledger.begin("c")
    ledger.at(5, 20, {"loss": 0.5})
    assert ledger.remaining_s() == 3.0 * 15.0
    assert said[-1] == "c: 5/20, loss 0.500; about 1 min left in all"


def test_other_settings_are_refused(tmp_path: Path) -> None:
    """A folder goes on with the settings that it was begun with, and says which one differs."""
    path = tmp_path / "settings.json"
    require_same_settings(path, {"rank": 4})
    require_same_settings(path, {"rank": 4})
    with pytest.raises(SpecError, match="rank: 4 there, 8 asked for"):
        require_same_settings(path, {"rank": 8})


def test_results_are_kept_whole(tmp_path: Path) -> None:
    """What was kept is read back, numbers that JSON cannot hold as nothing; nothing is read where nothing was kept."""
    path = tmp_path / "deep" / "result.json"
    assert kept(path) is None
    keep(path, {"a": 1.5, "b": float("nan")})
    assert kept(path) == {"a": 1.5, "b": None}
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_benchmark_tells_what_it_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``--help`` names the benchmark's options."""
    module = importlib.import_module(f"tests.benchmarks.{name}")
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    assert "--out" in capsys.readouterr().out


@pytest.mark.slow
def test_real_alerts_say_what_they_skip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the data nothing is measured, and that is said."""
    from tests.benchmarks import real_alerts

    monkeypatch.setenv(real_alerts.DATA, str(tmp_path))
    assert real_alerts.main(["--out", str(tmp_path / "out")]) == 0
    assert "skipped: SOCADAPTER_REAL_DATA" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def run(name: str, *arguments: str, out: Path) -> subprocess.CompletedProcess[str]:
    """A benchmark as `make` starts it, from another folder."""
    script = Path(__file__).with_name(f"{name}.py")
    command: Sequence[str] = [sys.executable, "-P", str(script), "--out", str(out), *arguments]
    return subprocess.run(command, cwd=out, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_tool_calls_of_a_batch_overlap(tmp_path: Path) -> None:
    """Eight calls of a quarter of a second in one batch take less than 0.6 s together, TRL's loop two seconds."""
    done = run("bench_rollouts", "--repeats", "2", out=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "rollouts.json").read_text())
    assert result["ours_s"] < 0.6
    assert result["trl_s"] > 1.9
    assert {"ours_s", "trl_s", "ratio", "rollouts", "tool_s"} <= result.keys()


@pytest.mark.slow
def test_every_arm_is_trained_judged_and_kept(tmp_path: Path) -> None:
    """The learning benchmark runs through on a tiny base, and a second run repeats nothing."""
    from tests.benchmarks.tiny import save_tiny_base

    base = save_tiny_base(tmp_path / "base")
    small = ("--seeds", "1", "--contexts", "cloud-infrastructure", "--train", "40", "--holdout", "10")
    settings = (*small, "--base", str(base), "--max-development", "8", "--max-turn-tokens", "8", "--habit-titles", "1")
    first = run("learning", *settings, out=tmp_path)
    assert first.returncode == 1, first.stderr  # it runs through, and a base of noise holds no claim
    result = json.loads((tmp_path / "learning.json").read_text())
    assert result["complete"]
    assert dict.fromkeys(ARMS, 10) == {name: _judged(result, name) for name in ARMS}
    second = run("learning", *settings, out=tmp_path)
    assert ": started" not in second.stdout
    assert result == json.loads((tmp_path / "learning.json").read_text())


def _judged(result: dict[str, Any], name: str) -> int:
    figures = result["arms"][name]
    return int(figures["n"] + figures["undecidable"] + figures["unscorable"])
