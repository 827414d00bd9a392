"""Renders one run's evaluation as a single HTML page that makes no request and runs no script.

The page must be safe to open: alerts, tool results and summaries in it are an attacker's to write. So every value is
escaped by the template engine, the page's policy allows no script, no frame and no fetch, and deceptive characters are
spelled out. Called by the run's evaluate and publish stages, by ``python -m socadapter_jobs.report`` and by the demo.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from socadapter_api.errors import SpecError
from socadapter_api.manifest import RunResult
from socadapter_jobs.provenance import public_uri
from socadapter_jobs.report import charts, investigations, neighbours, view, words
from socadapter_jobs.report.figures import FIGURES, Better
from socadapter_jobs.report.reading import get, number, part, rows, series, text
from socadapter_store import layout
from socadapter_store.run_folder import RunFolder

_TEMPLATES = Path(__file__).parent / "templates"
_WEAKEST_KINDS = 12
"""So many kinds of alert are shown at once; the others are folded away."""
_REWARD_LINES = ("reward", "verdict_reward", "shaping", "penalty", "accuracy")


def write_page(store: RunFolder, evaluation: Mapping[str, Any], result: RunResult | None = None) -> None:
    """The page of a run that has published nothing, or not yet, in its folder."""
    ended = result.model_dump(mode="json") if result is not None else None
    store.write(layout.REPORT, render(evaluation, ended).encode())


def of_run(run_uri: str, beside: Sequence[str] = ()) -> str:
    """The page of the run that is in a store at `run_uri`, its adapter beside those of the runs at `beside`.

    Raises:
        SpecError: nothing that a run ends with is there.
        StoreUnavailable, ManifestInvalid: it cannot be read.
    """
    folder = RunFolder.at(run_uri)
    store = folder.store
    names = (layout.EVALUATION, layout.RESULT, layout.MANIFEST)
    evaluation, result, manifest = (held if isinstance(held, dict) else {} for held in map(store.read_json, names))
    if not evaluation and not result:
        raise SpecError(f"{run_uri} holds neither {layout.EVALUATION} nor {layout.RESULT}; is it a run's folder?")
    evaluation |= {"seconds": folder.seconds() or part(evaluation, "seconds")}  # written before it had all of them
    own = text(evaluation, "context") or text(result, "context")
    others = part(evaluation, "other_adapters") | neighbours.read(beside, own)
    evaluation |= {"context": own, "other_adapters": others}
    return render(evaluation, result, manifest)


def render(
    evaluation: Mapping[str, Any], result: Mapping[str, Any] | None = None, manifest: Mapping[str, Any] | None = None
) -> str:
    """The page of one run. Any part of `evaluation` may be missing; its section is then left out.

    `evaluation` is the run's ``evaluation.json``, `result` and `manifest` are its other documents as parsed JSON.
    """
    style = Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8"))  # noqa: S704 - a file of this package
    page = _environment().get_template("page.html.j2")
    return page.render(style=style, **_sections(evaluation, result or {}, manifest or {}))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=_plain,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(words.FILTERS)
    environment.filters["difference"] = lambda value, figure: view.difference_text(figure, value)
    return environment


def _plain(value: Any) -> Any:
    """Every text that the template prints, with deceptive characters spelled out; markup of our own as it is."""
    return words.spelled(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _sections(evaluation: Mapping[str, Any], result: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    shown, columns = view.comparison(evaluation)
    context_titles, context_rows = view.contexts(evaluation)
    matrix_columns, matrix_rows = view.matrix(evaluation)
    slice_titles, slice_rows = view.slices(evaluation)
    learning = part(evaluation, "learning")
    return {
        "run": _run(evaluation, result, manifest),
        "headline": view.headline(evaluation),
        "tiles": view.tiles(evaluation),
        "gates": rows(evaluation, "gates") or rows(result, "gates"),
        "grpo": part(evaluation, "grpo") or part(result, "grpo"),
        "figures": shown,
        "columns": columns,
        "confusions": view.confusions(evaluation),
        "differences": view.difference_rows(evaluation),
        "interval_charts": _interval_charts(evaluation),
        "calibration": part(evaluation, "calibration"),
        "calibration_chart": _calibration_chart(evaluation),
        "context_titles": context_titles,
        "contexts": context_rows,
        "matrix_columns": matrix_columns,
        "matrix": matrix_rows,
        "slice_titles": slice_titles,
        "slices": slice_rows,
        "weakest": _WEAKEST_KINDS,
        "learning_charts": _learning_charts(learning),
        "reward_parts": view.reward_parts(evaluation),
        "examples": investigations.examples(evaluation),
        "data": part(evaluation, "data"),
        "sources": [
            source | {"uri": public_uri(text(source, "uri"))} for source in rows(part(evaluation, "data"), "sources")
        ],
        "checks": rows(part(evaluation, "data"), "checks"),
        "adapter": _adapter(evaluation, manifest),
        "digests": _digests(evaluation, result, manifest),
        "stages": view.stages(evaluation),
        "glossary": [figure for figure in FIGURES if figure in shown],
        "verdicts": view.VERDICTS,
    }


def _run(evaluation: Mapping[str, Any], result: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    gates = rows(evaluation, "gates") or rows(result, "gates")
    passed = all(gate.get("passed") is True for gate in gates)
    outcome = text(result, "outcome") or ("" if not gates else "Gates passed" if passed else "GateFailed")
    good = outcome in ("Published", "Gates passed")
    names = {"GateFailed": "Gate failed", "Gates passed": "All gates passed"}
    seed = get(evaluation, "seed")
    return {
        "context": text(evaluation, "context") or text(result, "context") or "unknown context",
        "id": text(evaluation, "run_id") or text(result, "run_id"),
        "version": text(result, "version") or text(manifest, "version"),
        "seed": "" if seed is None else str(seed),
        "created_at": text(manifest, "created_at"),
        "base": text(manifest, "base_uri") or text(part(evaluation, "base"), "uri"),
        "outcome": names.get(outcome, outcome),
        "kind": "good" if good else "bad" if outcome in ("GateFailed", "Failed") else "neutral",
        "message": text(result, "message"),
    }


def _interval_charts(evaluation: Mapping[str, Any]) -> list[Markup]:
    """One chart for each paired comparison, of those figures that live on a scale of one."""
    found = []
    for name, measured in view.difference_rows(evaluation).items():
        bars = []
        for title, figure, value, low, high in measured:
            if figure is None or figure.better is Better.NEITHER or max(abs(low), abs(high)) > 2:
                continue
            gain = (low * figure.better.value, high * figure.better.value)
            better = True if min(gain) > 0 else False if max(gain) < 0 else None
            bars.append(charts.Interval(title, value, low, high, better))
        if bars:
            found.append(charts.intervals(name, bars))
    return found


def _calibration_chart(evaluation: Mapping[str, Any]) -> Markup:
    calibration = part(evaluation, "calibration")
    found = [(number(entry, "p"), number(entry, "observed"), number(entry, "n")) for entry in rows(calibration, "bins")]
    bins = [(p, seen, int(n)) for p, seen, n in found if p is not None and seen is not None and n]
    return charts.reliability(bins, number(calibration, "escalate_at"))


def _learning_charts(learning: Mapping[str, Any]) -> list[Markup]:
    sft, grpo, development = rows(learning, "sft"), rows(learning, "grpo"), rows(learning, "development")
    drawn = [
        charts.lines("SFT: loss", [charts.Line("loss", series(sft, "loss"), "s1")]),
        charts.lines(
            "GRPO: reward and its parts",
            [
                charts.Line(key.replace("_", " "), series(grpo, key), f"s{index}")
                for index, key in enumerate(_REWARD_LINES, 1)
            ],
        ),
        charts.lines(
            "GRPO: entropy, and groups that all agree",
            [
                charts.Line("entropy", series(grpo, "entropy"), "s1"),
                charts.Line("groups without variance", series(grpo, "zero_variance"), "s2"),
            ],
        ),
        charts.lines(
            "Development set during GRPO",
            [
                charts.Line("utility", series(development, "utility"), "s1"),
                charts.Line("balanced accuracy", series(development, "balanced_accuracy"), "s3"),
                charts.Line("missed attacks", series(development, "fnr"), "s2"),
            ],
        ),
    ]
    return [chart for chart in drawn if chart]


def _adapter(evaluation: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    facts = part(evaluation, "adapter")
    own = number(facts, "parameters") or number(manifest, "adapter_parameters")
    base = number(facts, "base_parameters") or number(manifest, "base_parameters")
    modules = get(facts, "target_modules") or get(manifest, "target_modules") or ()
    return {
        "parameters": own,
        "base_parameters": base,
        "share": own / base if own and base else None,
        "bytes": number(facts, "bytes"),
        "rank": number(facts, "rank") or number(manifest, "rank"),
        "alpha": number(facts, "alpha") or number(manifest, "alpha"),
        "target_modules": [modules] if isinstance(modules, str) else [str(module) for module in modules],
    }


def _digests(
    evaluation: Mapping[str, Any], result: Mapping[str, Any], manifest: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """The manifest's, and of a run that published nothing those that it was judged with."""
    known = part(evaluation, "judged_with") | {"base_digest": text(part(evaluation, "base"), "digest")}

    def digest_of(key: str) -> str:
        return text(manifest, key) or text(known, key)

    inputs = part(manifest, "inputs") or part(result, "inputs")
    named = [
        ("Adapter", text(manifest, "adapter_digest")),
        ("Adapter's weights", text(part(evaluation, "weights_digests"), "candidate")),
        ("Base model", digest_of("base_digest")),
        ("Chat format", digest_of("template_digest")),
        ("Tools", digest_of("tools_digest")),
        ("Configuration", digest_of("config_digest")),
        ("Code", digest_of("code_digest")),
        ("Parent version", digest_of("parent_digest")),
        *((f"Input: {name}", str(value)) for name, value in sorted(inputs.items())),
    ]
    return [(name, value) for name, value in named if value]
