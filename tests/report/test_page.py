"""The page of a run: complete, self-contained, safe to open, and there even when half of the evaluation is not."""

import copy
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from socadapter_api import digest
from socadapter_jobs.report import neighbours, render, view
from socadapter_jobs.report.__main__ import main
from socadapter_jobs.scoring.baselines import BASELINES
from socadapter_store import layout
from socadapter_store.run_folder import RunFolder

_VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """The page's tags, attributes and visible text; unbalanced tags are errors."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def sections(self) -> set[str]:
        return {attributes["id"] or "" for tag, attributes in self.tags if tag == "h2" and "id" in attributes}


def test_page_shows_everything_that_was_measured(
    evaluation: dict[str, Any], result: dict[str, Any], manifest: dict[str, Any]
) -> None:
    """Every part of an evaluation has its place, and the main figures are there in words."""
    page = Page(render(evaluation, result, manifest))
    assert page.sections() == {
        "gates",
        "figures",
        "differences",
        "confusion",
        "calibration",
        "contexts",
        "matrix",
        "slices",
        "examples",
        "learning",
        "data",
        "adapter",
    }
    missed = 40 - evaluation["arms"]["candidate"]["metrics"]["confusion"]["true_positive"]["true_positive"]
    assert f"This adapter missed {missed} of 40 attacks (95 % interval" in page.text
    for expected in (
        "Gate failed",
        "93.0 % (7 of 8 summaries complete)",
        "Always the commoner verdict",
        "Look-up by title",
        "Logistic regression on alert and evidence",
        "GRPO: aborted after 36 steps. The adapter of step 25 was kept.",
        "entropy fell below 0.05 at step 36",
        "corporate-network",
        "service account key",
        "m.lee",
        "claims without evidence: 2",
        "signins",
        "1.82 % of the base's 134 515 008",
        "field 'rule_id' alone predicts 71 % of labels",
        manifest["adapterDigest"],
        "GRPO: 21 min 00 s (63 %)",
    ):
        assert expected in page.text


@pytest.mark.parametrize(
    ("escalate_at", "told"),
    [
        pytest.param(0.0, "any probability of an attack: it closes no alert", id="nothing fitted"),
        pytest.param(0.27, "from 0.270 calibrated probability of an attack", id="threshold"),
        pytest.param(1.0, "never by threshold", id="none"),
    ],
)
def test_page_says_from_where_on_alerts_are_escalated(
    escalate_at: float, told: str, evaluation: dict[str, Any]
) -> None:
    """Where nothing could be fitted that is everything, which a bare 0.000 would not say."""
    evaluation["calibration"]["escalateAt"] = escalate_at
    assert told in Page(render(evaluation)).text


def test_page_shows_no_link_that_lets_its_reader_in(evaluation: dict[str, Any]) -> None:
    """An evaluation that was written with one is shown without."""
    evaluation["data"]["sources"][0]["uri"] = "https://ann:hunter2@h/alerts.jsonl?X-Amz-Signature=c0ffee"
    page = Page(render(evaluation)).text
    assert (True, False, False) == tuple(text in page for text in ("https://h/alerts.jsonl", "hunter2", "c0ffee"))


def test_baselines_are_named_as_the_evaluation_calls_them() -> None:
    """Every baseline that is run has a name for people, and stands in the page's order."""
    assert list(BASELINES) == list(view.BASELINES)


def test_rewards_are_drawn_part_by_part(evaluation: dict[str, Any]) -> None:
    """The reward's chart has a curve for each part that GRPO notes down at every step."""
    html = render(evaluation)
    chart = html[html.index("<figcaption>GRPO: reward and its parts") :]
    legend = chart[chart.index('class="legend"') : chart.index("</figure>")]
    for part in ("reward", "verdict reward", "shaping", "penalty", "accuracy"):
        assert f"</svg>{part}</span>" in legend


def test_page_makes_no_request_and_runs_no_script(evaluation: dict[str, Any]) -> None:
    """Nothing is loaded, by tag, attribute or style; and a policy forbids it should anything slip through."""
    html = render(evaluation)
    page = Page(html)
    assert {tag for tag, _ in page.tags}.isdisjoint(
        {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    )
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") or name in ("src", "srcset", "xlink:href") for name in attributes), tag
        assert (attributes.get("href") or "#").startswith("#")
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policies = [attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"]


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a JSON value at which text stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _places(inner, (*path, index))
    elif isinstance(value, str):
        yield path


def test_foreign_text_stays_text_wherever_it_stands(
    evaluation: dict[str, Any], result: dict[str, Any], manifest: dict[str, Any]
) -> None:
    """With an attack in every text of every document, the page has no tag, handler or direction mark of theirs."""
    attack = "\"><script>alert(1)</script><svg onload=alert(2)>\u202e\x00{{ 7*7 }}']"
    documents = (evaluation, result, manifest)
    honest = Page(render(*documents))
    hostile = copy.deepcopy(documents)
    for document in hostile:
        for *way, last in list(_places(document)):
            holder: Any = document
            for step in way:
                holder = holder[step]
            holder[last] = attack
    html = render(*hostile)
    page = Page(html)

    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in honest.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "<script" not in html
    assert "\u202e" not in html
    assert "\x00" not in html
    assert "{{ 7*7 }}" in page.text


def test_names_are_foreign_too(evaluation: dict[str, Any]) -> None:
    """Keys of alerts, groups, contexts, tools and stages are escaped like values."""
    attack = "<script>x</script>"
    example = evaluation["examples"][0]
    example["alert"] = {attack: 1}
    example["arms"][attack] = {"calls": [{"tool": attack, "args": {attack: attack}}]}
    evaluation["arms"]["candidate"]["metrics"]["slices"][attack] = {"n": 1}
    evaluation["other_contexts"][attack] = evaluation["other_contexts"]["identity"]
    evaluation["other_adapters"][attack] = {"base": {}, "on": {attack: {"balanced_accuracy": 0.5}}}
    evaluation["baselines"][attack] = {"n": 3, "auc": 0.5}
    evaluation["paired"][f"candidate-{attack}"] = {attack: {"difference": 0.1, "low": 0.0, "high": 0.2}}
    evaluation["data"]["counts"][attack] = 1
    evaluation["seconds"][attack] = 1.0
    html = render(evaluation)
    Page(html)
    assert "<script" not in html


PARTS = (
    *(
        "arms",
        "other_contexts",
        "other_adapters",
        "baselines",
        "paired",
        "calibration",
        "examples",
        "learning",
        "data",
        "adapter",
    ),
    *("gates", "grpo", "seconds", "context", "run_id", "seed", "base", "judged_with", "weights_digests"),
)


@pytest.mark.parametrize("part", PARTS)
def test_page_opens_without_any_one_part(part: str, evaluation: dict[str, Any]) -> None:
    """A part that is missing or not what it should be is left out; the rest is shown."""
    instead: tuple[Any, ...] = (None, {}, [], "text", 3)
    for left in instead:
        page = Page(render(evaluation | {part: left}))
        assert "adapter" in page.sections()
    del evaluation[part]
    Page(render(evaluation))


def test_page_of_a_run_that_published_nothing_has_its_digests(
    evaluation: dict[str, Any], result: dict[str, Any]
) -> None:
    """There is no manifest then; the evaluation and the result know what was judged, and on what."""
    page = Page(render(evaluation, result)).text
    named = ("candidate", "base", "template", "tools", "config", "code", "a")
    for expected in (evaluation["base"]["uri"], *(digest.of_bytes(name.encode()) for name in named)):
        assert expected in page
    assert "Input: alerts:alerts.jsonl" in page


def test_page_tells_how_sure_it_beats_a_cheap_baseline(evaluation: dict[str, Any]) -> None:
    """Beside the comparisons with base and champion."""
    page = Page(render(evaluation)).text
    assert "This adapter minus look-up by title Figure Difference 95 % interval Balanced accuracy +22.0 pp" in page
    assert "+14.0 pp to +30.0 pp" in page


def test_page_of_a_run_that_broke_says_so(result: dict[str, Any]) -> None:
    """Without any evaluation there is still the outcome and its message."""
    page = Page(render({}, result | {"outcome": "Failed", "message": "no space left"}, None))
    assert "Failed" in page.text
    assert "no space left" in page.text
    assert page.sections() == {"adapter"}
    Page(render({}))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_malformed_evaluation_breaks_the_page(evaluation: dict[str, Any], data: st.DataObject) -> None:
    """Any value anywhere: the page is still well-formed."""
    damaged = copy.deepcopy(evaluation)
    holder: Any = damaged
    while True:
        keys = sorted(holder) if isinstance(holder, dict) else range(len(holder))
        key = data.draw(st.sampled_from(keys))
        inner = holder[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            holder[key] = data.draw(_JSON)
            break
        holder = inner
    Page(render(damaged))


def test_charts_are_well_formed_and_named(evaluation: dict[str, Any]) -> None:
    """Every chart is valid XML, has a name for those who cannot see it, and draws within its frame."""
    html = render(evaluation)
    starts = [index for index in range(len(html)) if html.startswith('<svg viewBox="', index)]
    assert len(starts) == 3 + 1 + 4
    for start in starts:
        svg = ElementTree.fromstring(html[start : html.index("</svg>", start) + 6])
        assert svg.get("aria-label")
        width, height = map(float, (svg.get("viewBox") or "").split()[2:])
        for circle in svg.iter("circle"):
            assert 0 <= float(circle.get("cx") or -1) <= width
            assert 0 <= float(circle.get("cy") or -1) <= height


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        pytest.param({"fnr_interval": [0.1, 0.2]}, "10.0 % to 20.0 %", id="pair"),
        pytest.param({"fnr_low": 0.1, "fnr_high": 0.2}, "10.0 % to 20.0 %", id="two fields"),
    ],
)
def test_interval_is_read_however_it_is_written(metrics: dict[str, Any], expected: str) -> None:
    """Figures come from the scoring's own dump or flattened."""
    confusion = {"confusion": {"true_positive": {"true_positive": 9, "escalate": 1}}}
    page = Page(render({"arms": {"candidate": {"metrics": confusion | metrics}}}))
    assert f"missed 1 of 10 attacks (95 % interval {expected})" in page.text


@pytest.mark.parametrize(
    ("name", "change", "kind"),
    [
        pytest.param("better", {"difference": 0.2, "low": 0.1, "high": 0.3}, "better", id="higher is better"),
        pytest.param("worse", {"difference": -0.2, "low": -0.3, "high": -0.1}, "worse", id="lower is worse"),
        pytest.param("open", {"difference": 0.2, "low": -0.1, "high": 0.3}, "unsure", id="holds zero"),
    ],
)
def test_difference_is_judged_by_its_whole_interval(name: str, change: dict[str, float], kind: str) -> None:
    """No difference is called an improvement while its interval holds zero; for misses, lower is better."""
    flipped = {"difference": -change["difference"], "low": -change["high"], "high": -change["low"]}
    html = render({"paired": {"candidate-base": {"auc": change, "fnr": flipped}}})
    assert html.count(f'class="interval {kind}"') == 2, name


def test_command_writes_the_page_of_a_stored_run(
    evaluation: dict[str, Any], result: dict[str, Any], tmp_path: Path
) -> None:
    """`python -m socadapter_jobs.report` reads a run's folder, and says when there is none."""
    run = RunFolder.at(tmp_path / "run")
    run.write_json(layout.EVALUATION, evaluation)
    run.write_json(layout.RESULT, result)
    out = tmp_path / "pages/run.html"
    done = CliRunner().invoke(main, ["--run", str(tmp_path / "run"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert out.read_text(encoding="utf-8") == render(json.loads(json.dumps(evaluation, sort_keys=True)), result)

    missing = CliRunner().invoke(main, ["--run", str(tmp_path / "none"), "--out", str(out)])
    assert missing.exit_code == 1
    assert "is it a run's folder?" in missing.output


def test_figures_that_no_group_has_are_left_out(evaluation: dict[str, Any]) -> None:
    """Groups of one class have no balanced accuracy; one group that has it brings the column back."""
    for arm in evaluation["arms"].values():
        for group in arm["metrics"]["slices"].values():
            group["balanced_accuracy"] = None
    assert "Balanced accuracy" not in view.slices(evaluation)[0]
    one = next(iter(evaluation["arms"]["candidate"]["metrics"]["slices"].values()))
    one["balanced_accuracy"] = 0.9
    titles, rows = view.slices(evaluation)
    assert "Balanced accuracy" == titles[0]
    assert {2 * len(titles)} == {len(cells) for _, _, _, cells in rows}


def test_adapters_of_other_contexts_stand_beside_it(evaluation: dict[str, Any], tmp_path: Path) -> None:
    """Every adapter on every context, as each run measured its own; what cannot be read is left out."""

    def measured(accuracy: float, missed: float, n: int = 100) -> dict[str, Any]:
        return {"metrics": {"balanced_accuracy": accuracy, "fnr": missed, "n": n}}

    there = {
        "context": "corporate-network",
        "arms": {"base": measured(0.501, 1.0), "candidate": measured(0.97, 0.02)},
        "other_contexts": {evaluation["context"]: measured(0.604, 0.3, 90)},
    }
    for name, held in (("here", evaluation), ("there", there), ("own", evaluation)):
        RunFolder.at(tmp_path / name).write_json(layout.EVALUATION, held)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / layout.EVALUATION).write_text("{")
    beside = [part for name in ("there", "own", "broken", "none") for part in ("--beside", str(tmp_path / name))]
    out = tmp_path / "run.html"
    done = CliRunner().invoke(main, ["--run", str(tmp_path / "here"), *beside, "--out", str(out)])
    assert done.exit_code == 0, done.output
    page = Page(out.read_text(encoding="utf-8"))
    assert {"contexts", "matrix"} <= page.sections()
    assert "On alerts of cloud-infrastructure corporate-network identity Base model" in page.text
    assert "Adapter of corporate-network 60.4 % / 30.0 % of 90 97.0 % / 2.0 % of 100 - By kind" in page.text
    assert "50.1 % / 100.0 % of 100 - Adapter of cloud-infrastructure" in page.text


@pytest.mark.parametrize(
    "held",
    [
        pytest.param({"context": "\ud800", "arms": {}}, id="no name"),
        pytest.param({"context": "network" * 90, "arms": {}}, id="a long name"),
        pytest.param({"arms": {}}, id="nameless"),
        pytest.param([1], id="no object"),
    ],
)
def test_what_is_no_evaluation_is_left_out(held: Any, tmp_path: Path) -> None:
    """Another run's file is nobody's to trust."""
    run = tmp_path / "run"
    run.mkdir()
    (run / layout.EVALUATION).write_text(json.dumps(held))
    assert {} == neighbours.read([str(run), str(tmp_path / "none")], "cloud")


def test_figures_of_another_run_are_numbers_under_plain_names(tmp_path: Path) -> None:
    """Whatever else it wrote does not reach this run's evaluation."""
    huge = int("1" + "0" * 400)
    metrics = {"metrics": {"balanced_accuracy": huge, "fnr": "<b>", "n": 40, "more": {"x": 1}}}
    others = {"cloud": metrics, "<script>": metrics, "\ud800": metrics}
    run = tmp_path / "run"
    run.mkdir()
    held = {"context": "network", "arms": {"base": metrics, "candidate": metrics}, "other_contexts": others}
    (run / layout.EVALUATION).write_text(json.dumps(held))
    expected = {"base": {"n": 40.0}, "on": {"network": {"n": 40.0}, "cloud": {"n": 40.0}}}
    assert {"network": expected} == neighbours.read([str(run)], "cloud")


def test_many_points_are_thinned(evaluation: dict[str, Any]) -> None:
    """A long run's curves do not make the page large."""
    evaluation["learning"]["sft"] = [{"step": step, "loss": 1 / (step + 1)} for step in range(20_000)]
    short: Callable[[str], int] = len
    assert short(render(evaluation)) < 100_000
