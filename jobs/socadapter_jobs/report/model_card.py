"""The model card, ``adapter/README.md``: what the adapter is for, what it measured, and where it must not be trusted.

The card is one of the files that the version's digest is made of, so it names neither version nor digest of its own.
Called by the run's publish stage, before `socadapter_store.publication`.
"""

from collections.abc import Mapping
from typing import Any

import yaml

from socadapter_jobs.report import figures, view
from socadapter_jobs.report.reading import get, number, part, rows, text
from socadapter_jobs.report.words import count, decimal, percent, visible

_CARD_FIGURES = ("balanced_accuracy", "fnr", "auc", "utility", "closing_precision", "grounded_rate", "ece")


def model_card(evaluation: Mapping[str, Any], *, base_model: str, base_digest: str = "", trained_at: str = "") -> str:
    """The card as Markdown with YAML front matter, from the run's ``evaluation.json``.

    `base_model` is the base's URI as the run was told it. Whatever the evaluation lacks, the card says nothing about.
    """
    context = text(evaluation, "context") or "unnamed"
    sections = [
        f"# SOC triage adapter for `{_plain(context)}`",
        "A LoRA adapter that makes the base model investigate security alerts of one business context with tools, and"
        " conclude with a verdict, a short summary and citations of the evidence. It changes nothing else: the base"
        " stays frozen and is shared by every context.",
        _adapter(evaluation, base_model, base_digest, trained_at),
        "## What it measured",
        view.headline(evaluation),
        _figures(evaluation),
        _differences(evaluation),
        _gates(rows(evaluation, "gates")),
        _grpo(part(evaluation, "grpo")),
        "## Intended use",
        f"Alerts of the context `{_plain(context)}`, with the tools it was trained with, served by SocAdapter, which"
        " checks the chat format and the tool schemas before it loads the adapter. An alert that the adapter would"
        " close although its calibrated probability of an attack reaches the threshold in the manifest is escalated"
        " to a person instead.",
        "## Limits",
        _limits(evaluation),
        "## Training data",
        _data(part(evaluation, "data")),
    ]
    front = yaml.safe_dump(_front_matter(evaluation, base_model), sort_keys=False, allow_unicode=True, width=4096)
    body = "\n\n".join(section for section in sections if section)
    return f"---\n{front}---\n\n{body}\n"


def _front_matter(evaluation: Mapping[str, Any], base_model: str) -> dict[str, Any]:
    context = text(evaluation, "context") or "unnamed"
    metrics = view.metrics_of(view.arms(evaluation).get("candidate", {}))
    results = [
        {"type": key, "name": figures.title(key), "value": round(value, 6)}
        for key in _CARD_FIGURES
        if (value := number(metrics, key)) is not None
    ]
    front: dict[str, Any] = {
        "base_model": _one_line(base_model),
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "security", "soc", "alert-triage", "socadapter"],
    }
    if results:
        task = {"type": "text-generation", "name": "Alert triage"}
        dataset = {"type": "private", "name": f"{context} holdout ({count(number(metrics, 'n'))} alerts)"}
        front["model-index"] = [
            {"name": f"{context} adapter", "results": [{"task": task, "dataset": dataset, "metrics": results}]}
        ]
    return front


def _adapter(evaluation: Mapping[str, Any], base_model: str, base_digest: str, trained_at: str) -> str:
    facts = part(evaluation, "adapter")
    own, base = number(facts, "parameters"), number(facts, "base_parameters")
    modules = get(facts, "target_modules") or ()
    listed = [modules] if isinstance(modules, str) else [str(module) for module in modules]
    seed = get(evaluation, "seed")
    lines = [
        ("Base model", f"`{_plain(base_model)}`"),
        ("Base digest", f"`{base_digest}`" if base_digest else ""),
        ("Run", f"`{_plain(text(evaluation, 'run_id'))}`" if text(evaluation, "run_id") else ""),
        ("Trained", trained_at),
        ("Seed", "" if seed is None else str(seed)),
        ("Rank / alpha", f"{count(number(facts, 'rank'))} / {count(number(facts, 'alpha'))}" if facts else ""),
        ("Adapted modules", ", ".join(f"`{_plain(module)}`" for module in listed)),
        ("Parameters", f"{count(own)} ({percent(own / base, 2)} of the base)" if own and base else ""),
    ]
    return "\n".join(f"* {name}: {value}" for name, value in lines if value)


def _figures(evaluation: Mapping[str, Any]) -> str:
    """Candidate beside base, served version and the cheap baselines, on the same alerts."""
    measured = view.arms(evaluation)
    order = ["candidate", "champion", "sft", "base"]
    columns = [(view.arm_name(key), measured[key]) for key in order if key in measured]
    columns += view.baselines(evaluation)
    found = view.figures_of([arm for _, arm in columns])
    if not found:
        return ""
    header = ["Figure", *(_plain(name) for name, _ in columns)]
    table = [header, ["---", *("---:" for _ in columns)]]
    table += [[figure.title, *(view.cell(figure, arm) for _, arm in columns)] for figure in found]
    return "\n".join(f"| {' | '.join(row)} |" for row in table)


def _differences(evaluation: Mapping[str, Any]) -> str:
    """How sure the differences to what else judged the same alerts are."""
    lines = [
        f"* {_plain(name)}: " + "; ".join(_difference(*measured) for measured in compared)
        for name, compared in view.difference_rows(evaluation).items()
    ]
    return "\n".join(["Paired differences on the same alerts, with their 95 % intervals:", "", *lines]) if lines else ""


def _difference(title: str, figure: figures.Figure | None, value: float, low: float, high: float) -> str:
    shown, *ends = (view.difference_text(figure, each) for each in (value, low, high))
    return f"{_plain(title)} {shown} ({' to '.join(ends)})"


def _gates(gates: list[dict[str, Any]]) -> str:
    lines = [
        f"* {'passed' if gate.get('passed') is True else '**failed**'}: `{_plain(text(gate, 'metric'))}`"
        f" {_plain(text(gate, 'rule'))}, measured {decimal(number(gate, 'value'))}"
        for gate in gates
    ]
    return "\n".join(["Gates:", "", *lines]) if lines else ""


def _grpo(grpo: Mapping[str, Any]) -> str:
    if not grpo:
        return ""
    kept = number(grpo, "best_step")
    steps = count(number(grpo, "steps") or 0)
    said = f"GRPO: **{_plain(text(grpo, 'status'))}** after {steps} steps"
    if kept is not None:
        said += f", keeping step {count(kept)}" if kept else ", keeping the adapter that it started from"
    reason = " ".join(word for word in (text(grpo, "reason"), text(grpo, "message")) if word)
    return f"{said}. {_plain(reason)}".strip()


def _limits(evaluation: Mapping[str, Any]) -> str:
    metrics = view.metrics_of(view.arms(evaluation).get("candidate", {}))
    lines = [
        "Alerts of other contexts: it was not trained for them, and often does worse on them than the base.",
        "Kinds of attack that the training alerts did not hold. The figures above are about alerts like those.",
        "Text inside alerts and tool results is written by attackers and may try to talk the model into a verdict.",
        "It does not act on alerts. A verdict that closes one is only as good as the figures above.",
    ]
    if number(part(evaluation, "calibration"), "escalate_at") == 0.0:
        lines.append(
            "It closes no alert: its development split left nothing to calibrate by, so that each is escalated instead."
        )
    if interval := figures.fnr_interval(metrics):
        found = figures.attacks(metrics)
        of = f" ({found[1]} attacks were measured)" if found else ""
        lines.append(f"The true share of missed attacks may be up to {percent(interval[1])} at 95 % confidence{of}.")
    return "\n".join(f"* {line}" for line in lines)


def _data(data: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{_plain(name)}: {count(n)}" for name, n in part(data, "counts").items())
    sources = [
        f"| {_plain(text(source, 'name'))} | {count(number(source, 'rows'))} | `{_plain(text(source, 'digest'))}` |"
        for source in rows(data, "sources")
    ]
    table = "\n".join(["| Source | Rows | Digest |", "| --- | ---: | --- |", *sources]) if sources else ""
    return "\n\n".join(section for section in (counts, table) if section)


def _plain(value: str) -> str:
    """Text without what Markdown would take as markup, a line end or a table's edge."""
    return "".join(f"\\{character}" if character in "|<>[]*`" else character for character in _one_line(value))


def _one_line(value: str) -> str:
    return visible(" ".join(value.split()), 300)
