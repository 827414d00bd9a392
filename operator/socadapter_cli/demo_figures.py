"""What the demo shows at its end: each context's figures under the base, its own adapter and the other one."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from socadapter_api.adapter import SocAdapter
from socadapter_api.errors import SocAdapterError
from socadapter_api.pool import SocServingPool
from socadapter_cli import triage
from socadapter_jobs.option_files import write_whole
from socadapter_operator.backends import process
from socadapter_operator.local.reconciler import Pass
from socadapter_store import layout
from socadapter_store.store import Store

_FIGURES = ("balanced_accuracy", "fnr", "n")
_ARMS = ("base", "adapter", "other_adapter")


def collect(last: Pass) -> dict[str, dict[str, Any]]:
    """Per context: ``base``, ``adapter``, ``other_adapter`` (None where not measured), ``version`` and ``digest``."""
    evaluations = {adapter.spec.context: evaluation(adapter, last.pools) for adapter in last.adapters}
    found: dict[str, dict[str, Any]] = {}
    for adapter in last.adapters:
        context, stable = adapter.spec.context, adapter.status.versions.stable
        own = evaluations[context]
        others = [_at(held, "other_contexts", context) for name, held in evaluations.items() if name != context]
        found[context] = {
            "base": _figures(_at(own, "arms", "base")),
            "adapter": _figures(_at(own, "arms", "candidate")),
            "other_adapter": next((figures for figures in map(_figures, others) if figures), None),
            "version": stable.name if stable else "",
            "digest": stable.digest if stable else "",
        }
    return found


def evaluation(adapter: SocAdapter, pools: tuple[SocServingPool, ...]) -> Mapping[str, Any]:
    """``evaluation.json`` of the run that made the stable version, or of the last one; empty where there is none."""
    folder = run_folder(adapter, pools)
    held = Store(folder).read_json(layout.EVALUATION) if folder else None
    return held if isinstance(held, dict) else {}


def run_folder(adapter: SocAdapter, pools: tuple[SocServingPool, ...]) -> str:
    """The folder in the store of the run that made the stable version, or of the last one; empty without a run."""
    if adapter.status.versions.stable is not None:
        return adapter.status.versions.stable.uri
    pool = next((p for p in pools if p.metadata.name == adapter.spec.serving_pool_ref.name), None)
    last = adapter.status.last_run
    if pool is None or last is None:
        return ""
    return layout.run_uri(pool.spec.store, adapter.metadata.namespace, adapter.spec.context, last.run_id)


def write(path: Path, found: Mapping[str, Any], seconds: float) -> None:
    """Writes the demo's ``result.json``; one that holds `found` already stays, with the time that it took to find."""
    held = process.read_json(path)
    if isinstance(held, dict) and held.get("contexts") == found:
        return
    process.write_json(path, {"seconds": round(seconds, 1), "contexts": found})


def show(found: Mapping[str, dict[str, Any]], console: Console) -> None:
    """Prints the figures as a table."""
    table = Table(title="balanced accuracy / missed attacks on held-out alerts", title_justify="left")
    for head in ("context", "base", "its adapter", "the other's", "alerts"):
        table.add_column(head, overflow="fold")
    for context, held in found.items():
        n = next((str(held[arm]["n"]) for arm in _ARMS if held[arm]), "-")
        table.add_row(context, *(_cell(held[arm]) for arm in _ARMS), n)
    console.print(table)
    if any(held["base"] and held["base"]["balanced_accuracy"] == 0 for held in found.values()):
        console.print("0.00 is no misprint: the untrained base gives no verdict that can be read", style="dim")
    console.print("alerts that no evidence decides are counted apart", style="dim")
    for context, held in found.items():
        console.print(f"{context}: {held['version'] or 'not published'}", soft_wrap=True, markup=False)


def ask_one(url: str, context: str, holdout: Path, out: Path, console: Console) -> None:
    """Asks the running service about one held-out alert and prints the command that does the same."""
    with holdout.open(encoding="utf-8") as cases:
        case = json.loads(next(cases))
    body = triage.request_body(case, context)
    path = out / f"alert-{context}.json"
    path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    console.print(f"\n[bold]{context}[/bold]: {case['alert'].get('title', '')}", soft_wrap=True)
    try:
        triage.show(triage.ask(url, body), console)
    except SocAdapterError as error:
        console.print(f"  {error}", style="yellow", markup=False)
    asked = f"curl -s {url}/v1/triage -H 'content-type: application/json' -d @{shlex.quote(str(path))}"
    console.print(f"ask again: {asked}", soft_wrap=True, markup=False, style="dim")


def tell_reports(last: Pass, out: Path, console: Console) -> None:
    """Writes each run's report, with all adapters of the demo in it, to `out`; says where, or why there is none."""
    console.print()
    folders = {adapter.spec.context: run_folder(adapter, last.pools) for adapter in last.adapters}
    for adapter in last.adapters:
        context = adapter.spec.context
        others = [folder for name, folder in folders.items() if name != context and folder]
        told = _report(folders[context], others, out / f"report-{context}.html") or _why_none(adapter)
        console.print(f"report of {context}: {told}", soft_wrap=True, markup=False)
    console.print(f"figures: {out / 'result.json'}", soft_wrap=True, markup=False)


def _report(folder: str, others: Sequence[str], page: Path) -> str:
    """Where the report of the run in `folder` is: at `page`, or what the run itself wrote; empty where none is."""
    if not folder or not Store(folder).exists(layout.REPORT):
        return ""
    from socadapter_jobs.report.page import of_run

    try:
        write_whole("--out", page, of_run(folder, others))
    except SocAdapterError:
        return f"{folder}/{layout.REPORT}"
    return str(page)


def _why_none(adapter: SocAdapter) -> str:
    last = adapter.status.last_run
    if last is None:
        return "none, since no run has ended yet"
    return f"none, run {last.run_id} ended as {last.reason or last.state}{f': {last.message}' if last.message else ''}"


def _at(held: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        value = held.get(key)
        held = value if isinstance(value, dict) else {}
    return held


def _figures(arm: Mapping[str, Any]) -> dict[str, Any] | None:
    metrics = _at(arm, "metrics") or arm
    return {name: metrics[name] for name in _FIGURES} if all(name in metrics for name in _FIGURES) else None


def _cell(figures: Mapping[str, Any] | None) -> str:
    if not figures or figures["balanced_accuracy"] is None:
        return "-"
    missed = figures["fnr"]
    return f"{figures['balanced_accuracy']:.2f} / {'-' if missed is None else format(missed, '.2f')}"
