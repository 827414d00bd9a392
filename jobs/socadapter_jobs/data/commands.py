"""``socadapter data``: import public data sets, check what a run would train on, split off a holdout.

The shell around `importers`, `check`, `split` and `scripted_experts`: options in, files and a table out. Mounted by the
command line, which turns a `SocAdapterError` into its text and an exit status.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource
from rich.console import Console
from rich.markup import escape

from socadapter_api.case import Case
from socadapter_api.errors import SpecError

if TYPE_CHECKING:
    from socadapter_jobs.data.importers.imported import Imported

FORMATS = ("jsonl", "ait-ads", "guide", "panther")

_ONLY_FOR = {
    "hide": "jsonl",
    "relative_times": "jsonl",
    "time_field": "jsonl",
    "entity_field": "jsonl",
    "group_field": "jsonl",
    "max_per_title": "ait-ads",
    "max_incidents": "guide",
}
"""Options of an import that one format alone heeds."""


_COUNT = click.IntRange(min=0)


@click.group("data")
def data() -> None:
    """Import, check and split labelled alerts."""


@data.command("import")
@click.argument("format_", metavar="FORMAT", type=click.Choice(FORMATS))
@click.argument("source")
@click.option("--out", required=True, help="Case file to write (.jsonl; any fsspec address).")
@click.option("--experts", default="", help="Also write scripted expert investigations to this file.")
@click.option("--hide", multiple=True, metavar="KEY", help="jsonl: a key, or dotted path, that the model must not see.")
@click.option("--relative-times", is_flag=True, help="jsonl: tell all times from the alert's own; needs --time-field.")
@click.option("--time-field", default="", metavar="PATH", help="jsonl: when it was raised, e.g. alert.last_seen.")
@click.option("--entity-field", multiple=True, metavar="PATH", help="jsonl: user or host, for disjoint splits.")
@click.option("--group-field", default="", metavar="PATH", help="jsonl: what reports are sliced by.")
@click.option(
    "--max-per-title", default=50, type=_COUNT, show_default=True, help="ait-ads: cases of one title and label; 0: all."
)
@click.option(
    "--max-incidents", default=2000, type=_COUNT, show_default=True, help="guide: incidents to sample; 0: all."
)
@click.option("--seed", default=0, show_default=True)
@click.pass_context
def import_command(
    context: click.Context,
    format_: str,
    source: str,
    out: str,
    experts: str,
    hide: tuple[str, ...],
    relative_times: bool,
    time_field: str,
    entity_field: tuple[str, ...],
    group_field: str,
    max_per_title: int,
    max_incidents: int,
    seed: int,
) -> None:
    """Read SOURCE, a data set in its published layout, and write it as cases."""
    from socadapter_jobs.data.case_files import require_apart, write_cases, write_trajectories
    from socadapter_jobs.data.importers.jsonl import JsonlOptions
    from socadapter_jobs.data.scripted_experts import script_all

    for option, fitting in _ONLY_FOR.items():
        if format_ != fitting and context.get_parameter_source(option) is not ParameterSource.DEFAULT:
            shown = option.replace("_", "-")
            raise SpecError(f"--{shown} is for {fitting}, not for {format_}, which would not heed it; leave it out")
    require_apart({"SOURCE": source, "--out": out, **({"--experts": experts} if experts else {})})
    if relative_times and not time_field:
        raise SpecError("--relative-times needs --time-field: times are told from when the alert was raised")
    options = JsonlOptions(frozenset(hide), relative_times, time_field, entity_field, group_field)
    console = Console(markup=False)
    with console.status(f"reading {escape(source)}"):
        imported = _import(format_, source, options, max_per_title, max_incidents, seed)
        found = write_cases(out, imported.cases)
    console.print(f"{len(imported.cases)} cases ({_labels(imported.cases)}) to {out}, {found}", soft_wrap=True)
    for reason, count in imported.left_out.items():
        console.print(f"left out: {count} {reason}")
    if experts:
        with console.status("scripting experts"):
            scripted, policy = script_all(imported.cases, seed=seed)
            found = write_trajectories(experts, scripted)
        losses = ", ".join(f"{loss:.3f}" for loss in policy.losses)
        console.print(f"{len(scripted)} expert investigations to {experts}, {found}", soft_wrap=True)
        console.print(f"they ask {', then '.join(policy.tools)}; held-out loss {losses}")


@data.command("check")
@click.argument("train")
@click.option("--holdout", default="", help="Cases that training must not share anything with.")
@click.option("--experts", default="", help="Experts' investigations of the training cases, to be looked at as well.")
@click.option("--json", "json_out", type=click.Path(path_type=Path, dir_okay=False), help="Write the report as JSON.")
def check_command(train: str, holdout: str, experts: str, json_out: Path | None) -> None:
    """Look for duplicates, label leaks, imbalance and overlap. Fails on an error."""
    from socadapter_jobs.data.case_files import read_cases, read_trajectories
    from socadapter_jobs.data.check import check
    from socadapter_jobs.data.check_experts import check_experts
    from socadapter_jobs.option_files import write_whole

    cases, held_out = read_cases(train), read_cases(holdout) if holdout else ()
    of_experts = check_experts(read_trajectories(experts), cases, held_out) if experts else ()
    report = check(cases, held_out, further=of_experts)
    if json_out:
        write_whole("--json", json_out, report.model_dump_json(indent=2) + "\n")
    Console().print(report.rendered())
    report.require()


@data.command("split")
@click.argument("source")
@click.option("--train", required=True, help="Case file to write for training.")
@click.option("--holdout", required=True, help="Case file to write for judging.")
@click.option("--percent", default=20, show_default=True, type=click.IntRange(5, 50))
@click.option("--hold-out", default="", metavar="PREFIX", help="Hold out the groups or contexts that start so instead.")
@click.option("--seed", default=0, show_default=True)
def split_command(source: str, train: str, holdout: str, percent: int, hold_out: str, seed: int) -> None:
    """Divide SOURCE into training cases and a holdout that shares nothing with them."""
    from socadapter_jobs.data.case_files import read_cases, require_apart, write_cases
    from socadapter_jobs.data.split import dedupe, hold_out_group, split_holdout

    require_apart({"SOURCE": source, "--train": train, "--holdout": holdout})
    distinct = dedupe(read_cases(source))
    split = hold_out_group(distinct.cases, hold_out) if hold_out else split_holdout(distinct.cases, percent, seed)
    write_cases(train, split.kept)
    write_cases(holdout, split.held_out)
    console = Console(markup=False)
    console.print(f"split by {split.how}; {len(split.dropped)} cases belong to neither side")
    console.print(f"repeats left out: {len(distinct.repeats)}; contradictory: {len(distinct.contradictory)}")
    console.print(f"train: {len(split.kept)} cases ({_labels(split.kept)}) to {train}", soft_wrap=True)
    console.print(f"holdout: {len(split.held_out)} cases ({_labels(split.held_out)}) to {holdout}", soft_wrap=True)


def _import(
    format_: str, source: str, options: object, max_per_title: int, max_incidents: int, seed: int
) -> "Imported":
    """Importers are loaded when they are asked for: each brings its own readers."""
    from socadapter_jobs.data.importers.jsonl import JsonlOptions, import_jsonl

    if format_ == "ait-ads":
        from socadapter_jobs.data.importers.ait_ads import import_ait_ads

        return import_ait_ads(source, max_per_title=max_per_title, seed=seed)
    if format_ == "guide":
        from socadapter_jobs.data.importers.guide import import_guide

        return import_guide(source, max_incidents=max_incidents, seed=seed)
    if format_ == "panther":
        from socadapter_jobs.data.importers.panther import import_panther

        return import_panther(source)
    assert isinstance(options, JsonlOptions)
    return import_jsonl(source, options)


def _labels(cases: Sequence[Case]) -> str:
    counts: dict[str, int] = {}
    for case in cases:
        counts[case.label.value] = counts.get(case.label.value, 0) + 1
    return ", ".join(f"{label} {count}" for label, count in sorted(counts.items()))
