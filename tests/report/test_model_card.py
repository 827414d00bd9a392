"""The model card: machine-readable front matter, honest figures, and nothing that depends on the version's digest."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from socadapter_jobs.report import model_card

BASE = "builtin://smollm2-135m-instruct"


def _front_matter(card: str) -> dict[str, Any]:
    _, front, _ = card.split("---\n", 2)
    loaded = yaml.safe_load(front)
    assert isinstance(loaded, dict)
    return loaded


def test_front_matter_names_base_library_and_figures(evaluation: dict[str, Any]) -> None:
    """Hubs and catalogues read these fields."""
    front = _front_matter(model_card(evaluation, base_model=BASE))
    assert front["base_model"] == BASE
    assert front["library_name"] == "peft"
    measured = front["model-index"][0]["results"][0]
    assert measured["dataset"]["name"] == "cloud-infrastructure holdout (120 alerts)"
    values = {metric["type"]: metric["value"] for metric in measured["metrics"]}
    assert values["balanced_accuracy"] == pytest.approx(0.93)
    assert values["fnr"] == pytest.approx(evaluation["arms"]["candidate"]["metrics"]["fnr"], abs=1e-6)


def test_card_tells_use_limits_grpo_gates_and_data(evaluation: dict[str, Any]) -> None:
    """What a person must know before serving the adapter, with the failed gate and the aborted stage not hidden."""
    card = model_card(evaluation, base_model=BASE, base_digest="sha256:ab", trained_at="2026-01-02")
    for expected in (
        "## Intended use",
        "## Limits",
        "of 40 attacks (95 % interval",
        "**failed**: `groundedRate` min 0.95, measured –",
        "GRPO: **Aborted** after 36 steps, keeping step 25. Collapse entropy fell below 0.05 at step 36",
        "| Balanced accuracy | 93.0 % | 90.0 % | 84.0 % | 52.0 % | 50.0 % | 71.0 % | 80.0 % |",
        "| Grounded summaries | 93.0 % (7 of 8 summaries complete) | 90.0 % (7 of 8 summaries complete) |",
        "* This adapter minus look-up by title: Balanced accuracy +22.0 pp (+14.0 pp to +30.0 pp)\n",
        "* This adapter minus base model: Balanced accuracy +41.0 pp (+33.0 pp to +49.0 pp)",
        "Parameters: 2 442 240 (1.82 % of the base)",
        "trajectories: 412",
        evaluation["data"]["sources"][0]["digest"],
        "`sha256:ab`",
    ):
        assert expected in card


def test_card_of_what_could_not_be_calibrated_says_that_it_closes_nothing(evaluation: dict[str, Any]) -> None:
    """Under its limits, and only there where it is so."""
    told = "It closes no alert: its development split left nothing to calibrate by"
    assert told not in model_card(evaluation, base_model=BASE)
    evaluation["calibration"] = {"slope": 1.0, "intercept": 0.0, "escalate_at": 0.0, "fitted_on": 0}
    assert told in model_card(evaluation, base_model=BASE)


def test_card_of_little_says_little() -> None:
    """Figures that were not measured are left out, not made up."""
    card = model_card({}, base_model=BASE)
    assert "model-index" not in _front_matter(card)
    assert "| Figure |" not in card
    assert "missed" not in card.split("## Limits")[0]


def test_card_is_the_same_for_the_same_evaluation(evaluation: dict[str, Any]) -> None:
    """The version's digest covers the card, so it may not hold a clock's or a dict's whim."""
    assert model_card(evaluation, base_model=BASE) == model_card(evaluation, base_model=BASE)


def test_foreign_text_adds_no_markup(evaluation: dict[str, Any], tmp_path: Path) -> None:
    """Names of sources and messages of gates cannot open a table, a link, a tag or a front matter."""
    attack = "a|b\n---\n# title <script> [x](http://evil) `code`\u202e"
    evaluation["data"]["sources"][0]["name"] = attack
    evaluation["grpo"]["message"] = attack
    evaluation["gates"][0]["rule"] = attack
    card = model_card(evaluation, base_model=attack)
    assert _front_matter(card)["base_model"].startswith("a|b --- # title")
    body = card.split("---\n\n", 1)[1]
    assert "\n# title" not in body
    assert "<script" not in body.replace("\\<", "")
    assert "\u202e" not in body
    assert "[x](" not in body.replace("\\[", "").replace("\\]", "")
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
