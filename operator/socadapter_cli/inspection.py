"""``socadapter get``, ``describe`` and ``logs``: what the state folder, or a cluster, says. They change nothing."""

import json
from collections.abc import Sequence

import click
import yaml
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from socadapter_api.adapter import RunStatus, SocAdapter, SocAdapterVersion
from socadapter_api.conditions import Condition
from socadapter_api.errors import ObjectNotFound, SpecError
from socadapter_api.pool import SocServingPool
from socadapter_api.training import Metric
from socadapter_cli.places import Place, place_options
from socadapter_cli.progress import running
from socadapter_operator.local.state_folder import Resource

_WIDTH = 200
_KINDS: dict[str, tuple[str, ...]] = {
    "SocServingPool": ("socservingpools", "socservingpool", "pools", "pool", "socpool"),
    "SocAdapter": ("socadapters", "socadapter", "adapters", "adapter", "soca"),
    "SocAdapterVersion": ("socadapterversions", "socadapterversion", "versions", "version", "socver"),
}


@click.command()
@click.argument("kind", default="all")
@click.argument("name", required=False)
@click.option(
    "-o", "--output", type=click.Choice(["table", "json", "yaml", "name"]), default="table", show_default=True
)
@place_options
def get(kind: str, name: str | None, output: str, place: Place) -> None:
    """List resources and how they are. KIND: pools, adapters, versions or all."""
    found = [r for r in _resources(place, kind) if name in (None, r.metadata.name)]
    if name is not None and not found:
        raise ObjectNotFound(f"{place.told} holds no {kind} {name!r}; `get` alone lists what it holds")
    if output == "table":
        if not found:
            click.echo(f"{place.told} holds no {'resources' if kind == 'all' else kind}", err=True)
        _print_tables(found, _console())
    elif output == "name":
        for resource in found:
            click.echo(f"{resource.kind.lower()}/{resource.metadata.name}")
    else:
        values = [resource.model_dump(mode="json") for resource in found]
        shown = values[0] if name is not None and len(values) == 1 else {"kind": "List", "items": values}
        click.echo(
            json.dumps(shown, indent=2) if output == "json" else yaml.safe_dump(shown, sort_keys=False), nl=False
        )
        if output == "json":
            click.echo()


@click.command()
@click.argument("name")
@place_options
def describe(name: str, place: Place) -> None:
    """Everything about one resource: conditions, runs, versions, gates."""
    console = _console()
    for resource in _named(place, name):
        if isinstance(resource, SocAdapter):
            _describe_adapter(resource, place, console)
        elif isinstance(resource, SocServingPool):
            _describe_pool(resource, console)
        else:
            console.print(yaml.safe_dump(resource.model_dump(mode="json"), sort_keys=False), soft_wrap=True)


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Until the run, or the service, ends.")
@click.option("--run", "run_id", help="A run other than the last one of the adapter.")
@place_options
def logs(name: str, follow: bool, run_id: str | None, place: Place) -> None:
    """What a training run, or a pool's service, printed."""
    resource = _named(place, name)[0]
    for line in place.logs(resource, run_id or _run_of(resource), follow=follow):
        click.echo(line)


def _run_of(resource: Resource) -> str:
    """The id of the run that `resource` speaks of; empty for a pool."""
    if isinstance(resource, SocServingPool):
        return ""
    if isinstance(resource, SocAdapterVersion):
        return resource.spec.run_id
    run = resource.status.run or resource.status.last_run
    if run is None:
        name = resource.metadata.name
        raise SpecError(f"SocAdapter {name!r} has had no run yet; `describe {name}` says why")
    return run.run_id


def _resources(place: Place, kind: str) -> list[Resource]:
    wanted = [name for name, aliases in _KINDS.items() if kind.lower() in ("all", *aliases)]
    if not wanted:
        raise SpecError(f"kind {kind!r} is none of all, pools, adapters, versions")
    found: list[Resource] = []
    found += place.list(SocServingPool) if "SocServingPool" in wanted else ()
    found += place.list(SocAdapter) if "SocAdapter" in wanted else ()
    found += place.list(SocAdapterVersion) if "SocAdapterVersion" in wanted else ()
    return found


def _named(place: Place, name: str) -> list[Resource]:
    """The resources called `name`, or ``kind/name``."""
    kind, _, plain = name.rpartition("/")
    found = [resource for resource in _resources(place, kind or "all") if resource.metadata.name == plain]
    if not found:
        raise ObjectNotFound(f"{place.told} holds no resource {name!r}; `get` lists what it holds")
    return sorted(found, key=lambda resource: not isinstance(resource, SocAdapter))


def _print_tables(found: list[Resource], console: Console) -> None:
    pools = [r for r in found if isinstance(r, SocServingPool)]
    adapters = [r for r in found if isinstance(r, SocAdapter)]
    versions = [r for r in found if isinstance(r, SocAdapterVersion)]
    if pools:
        rows = [
            (p.metadata.name, *_ready(p.status.conditions), p.spec.base.uri, p.status.endpoint or "-") for p in pools
        ]
        console.print(_table(("POOL", "READY", "REASON", "BASE", "ENDPOINT"), rows))
    if adapters:
        console.print(
            _table(("ADAPTER", "READY", "REASON", "STABLE", "RUN", "NEXT"), [_adapter_row(a) for a in adapters])
        )
    if versions:
        version_rows = [
            (v.metadata.name, v.spec.digest[7:19], v.spec.parent or "-", _figures(v.spec.metrics)) for v in versions
        ]
        console.print(_table(("VERSION", "DIGEST", "PARENT", "METRICS"), version_rows))


def _adapter_row(adapter: SocAdapter) -> tuple[str, ...]:
    status = adapter.status
    run = status.run
    stage = f" {run.progress.stage.value}" if run and run.progress else ""
    return (
        adapter.metadata.name,
        *_ready(status.conditions),
        status.versions.stable.name if status.versions.stable else "-",
        f"{run.state}{stage}" if run else (status.last_run.reason if status.last_run else "-"),
        status.next_schedule_time or "-",
    )


def _describe_adapter(adapter: SocAdapter, place: Place, console: Console) -> None:
    spec, status = adapter.spec, adapter.status
    console.print(Text(f"SocAdapter {adapter.metadata.namespace}/{adapter.metadata.name}", style="bold"))
    console.print(
        f"context {spec.context}, pool {spec.serving_pool_ref.name}, match {spec.match or '(none)'}", markup=False
    )
    if spec.schedule:
        nights = f"schedule {spec.schedule.cron} {spec.schedule.time_zone}"
        console.print(f"{nights}, last {status.last_schedule_time or '-'}, next {status.next_schedule_time or '-'}")
    console.print(_conditions(status.conditions))
    for title, run in (("run in progress", status.run), ("last run", status.last_run)):
        if run is not None:
            _describe_run(title, run, place.log_place(adapter.metadata.name, run.run_id), console)
    named = {
        "stable": status.versions.stable,
        "canary": status.versions.canary,
        "previous": status.versions.previous,
        "candidate": status.versions.candidate,
    }
    rows = [(role, ref.name, ref.digest, ref.uri) for role, ref in named.items() if ref]
    if rows:
        console.print(_table(("ROLE", "VERSION", "DIGEST", "URI"), rows))
    if status.metrics:
        console.print(f"stable measured: {_figures(status.metrics)}", soft_wrap=True)


def _describe_run(title: str, run: RunStatus, log: str, console: Console) -> None:
    head = f"{title}: {run.run_id} {run.state} {run.reason} number {run.number} retry {run.attempt}"
    console.print(Text(head, style="bold"))
    console.print(f"  started {run.started_at or '-'}, finished {run.finished_at or '-'}, log {log}", soft_wrap=True)
    if run.progress:
        console.print(Text(f"  {running(run, run.progress.model_dump(by_alias=False))}"), soft_wrap=True)
    if run.message:
        console.print(Text(f"  {run.message}"), soft_wrap=True)
    if run.grpo:
        console.print(Text(f"  GRPO: {run.grpo.status} {run.grpo.reason} {run.grpo.message}".rstrip()), soft_wrap=True)
    rows = [
        (g.metric, g.rule, "-" if g.value is None else f"{g.value:.3f}", "passed" if g.passed else "failed", g.message)
        for g in run.gates
    ]
    if rows:
        console.print(_table(("GATE", "RULE", "VALUE", "", "WHY"), rows))


def _describe_pool(pool: SocServingPool, console: Console) -> None:
    console.print(Text(f"SocServingPool {pool.metadata.namespace}/{pool.metadata.name}", style="bold"))
    console.print(f"base {pool.spec.base.uri} {pool.status.base_digest or '(digest not known yet)'}", soft_wrap=True)
    console.print(f"endpoint {pool.status.endpoint or '-'}, serving table {pool.status.table_generation}")
    console.print(_conditions(pool.status.conditions))
    rows = [
        (
            report.replica,
            str(report.generation),
            load.name,
            "ready" if load.ready else load.reason or "loading",
            load.message,
        )
        for report in pool.status.replicas
        for load in report.loaded
    ]
    if rows:
        console.print(_table(("REPLICA", "TABLE", "VERSION", "STATE", "WHY"), rows))


def _conditions(conditions: tuple[Condition, ...]) -> RenderableType:
    rows = [(c.type, c.status.value, c.reason, c.last_transition_time, c.message) for c in conditions]
    return _table(("CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE"), rows)


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in heads:
        table.add_column(head, overflow="fold", no_wrap=head != heads[-1])
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _ready(conditions: tuple[Condition, ...]) -> tuple[str, str]:
    ready = next((c for c in conditions if c.type == "Ready"), None)
    return (ready.status.value, ready.reason) if ready else ("Unknown", "New")


def _figures(metrics: dict[str, float]) -> str:
    """The figures that gates look at; the others are in the run's report."""
    shown = [metric.value for metric in Metric if metric.value in metrics]
    return " ".join(f"{name}={metrics[name]:.3f}" for name in shown) or "-"


def _console() -> Console:
    """Wide enough that a row stays a row, as kubectl's do: the terminal may break it, nothing is cut off."""
    console = Console()
    return console if console.width >= _WIDTH else Console(width=_WIDTH)
