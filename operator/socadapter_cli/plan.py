"""``socadapter plan``: what ``up``, or a cluster's operator, would do now. Runs the same planner; starts nothing."""

import shutil
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console

from socadapter_api.adapter import SocAdapter
from socadapter_api.conditions import Condition, ConditionStatus
from socadapter_api.errors import EmptyData
from socadapter_api.pool import SocServingPool
from socadapter_cli.failures import code_of_reason, exit_code, tell
from socadapter_cli.places import Cluster, Folder, Place, place_options
from socadapter_cli.workspace import await_bases, default_cache, files_option, open_workspace
from socadapter_operator.domain.actions import (
    Action,
    ApplyTable,
    ForgetRun,
    ForgetVersion,
    Plan,
    PoolPlan,
    RecordVersion,
    StartRun,
    StopRun,
)
from socadapter_operator.local.reconciler import Reconciler
from socadapter_operator.local.state_folder import StateFolder


@click.command()
@files_option("YAML files or folders; may be repeated. Default: what the state folder holds.")
@place_options
def plan(files: tuple[Path, ...], place: Place) -> None:
    """What `up`, or a cluster's operator, would do now; changes nothing.

    Where something is stalled, the exit code is that of its reason.
    """
    if isinstance(place, Cluster):
        if files:
            raise click.UsageError("-f is for local mode: a cluster's plan is that of what was applied to it")
        _plan_cluster(place)
    elif isinstance(place, Folder):
        _plan_folder(files, place.path)


def _plan_cluster(place: Cluster) -> None:
    """As the operator would see the namespace now, by live reads."""
    from socadapter_operator.shell.looking import Looking

    console = Console()
    stalled: list[Condition] = []
    looking = Looking(place.client, place.backends(), default_cache())
    for pool in place.list(SocServingPool):
        if (planned := looking.plan_pool(pool)) is not None:
            _tell(pool, planned, console)
            stalled += _stalled(planned.status.conditions)
    for adapter in place.list(SocAdapter):
        if (adapter_plan := looking.plan_adapter(adapter)) is not None:
            _tell(adapter, adapter_plan, console)
            stalled += _stalled(adapter_plan.status.conditions)
    if stalled:
        sys.exit(code_of_reason(stalled[0].reason))


def _plan_folder(files: tuple[Path, ...], state: Path) -> None:
    console = Console()
    workspace = open_workspace(state)
    stalled: list[Condition] = []
    missing: list[str] = []
    with tempfile.TemporaryDirectory(prefix="socadapter-plan-") as copied:
        _copy_resources(state, Path(copied))
        folder = StateFolder(Path(copied))
        reconciler = Reconciler(folder, workspace.backend, workspace.cache)
        for error in reconciler.unreadable():
            raise error
        if files:
            reconciler.apply(files)
        await_bases(workspace.backend, reconciler.pools())
        for pool in reconciler.pools():
            planned = reconciler.plan_pool(pool)
            _tell(pool, planned, console)
            stalled += _stalled(planned.status.conditions)
            folder.write(pool.model_copy(update={"status": planned.status}))
        for adapter in reconciler.adapters():
            adapter_plan = reconciler.plan_adapter(adapter)
            _tell(adapter, adapter_plan, console)
            stalled += _stalled(adapter_plan.status.conditions)
            missing += [m for action in adapter_plan.actions if isinstance(action, StartRun) for m in _missing(action)]
    for text in missing:
        tell(EmptyData.reason, text)
    if missing:
        sys.exit(exit_code(EmptyData))
    if stalled:
        sys.exit(code_of_reason(stalled[0].reason))


def _missing(start: StartRun) -> list[str]:
    """The inputs on this machine that the run would not find. What lies elsewhere is not asked for."""
    data = start.spec.data
    named = {"trajectories": data.trajectories, "alerts": data.alerts, "holdout": data.holdout}
    return [
        f"spec.data.{kind}[{place}].uri of {start.spec.adapter!r} names {source.uri}, and no such file or folder is "
        "there: the run would end in `prepare`; write it, or mend the path (relative ones count from this folder)"
        for kind, sources in named.items()
        for place, source in enumerate(sources)
        if "://" not in source.uri and not Path(source.uri).exists()
    ]


def _stalled(conditions: tuple[Condition, ...]) -> list[Condition]:
    return [c for c in conditions if c.type == "Stalled" and c.status == ConditionStatus.TRUE]


def _copy_resources(state: Path, target: Path) -> None:
    for path in (*state.glob("*/Soc*/*.json"), *state.glob("*/requests/*")):
        copy = target / path.relative_to(state)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def _tell(resource: SocServingPool | SocAdapter, planned: Plan | PoolPlan, console: Console) -> None:
    console.print(f"{resource.kind} {resource.metadata.namespace}/{resource.metadata.name}", style="bold")
    for action in [_told(action) for action in planned.actions] or ["nothing to do"]:
        console.print(f"  {action}", soft_wrap=True, markup=False)
    for note in planned.notes:
        if note.warning:
            console.print(f"  warning: {note.reason} {note.message}", soft_wrap=True, markup=False)
    for condition in planned.status.conditions:
        if condition.type in ("Ready", "Reconciling", "Stalled") and condition.status != "False":
            console.print(
                f"  then {condition.type}: {condition.reason} {condition.message}", soft_wrap=True, markup=False
            )


def _told(action: Action) -> str:
    match action:
        case StartRun(spec=spec, attempt=attempt):
            return f"{'resume' if attempt else 'start'} run {spec.run_id} (version number {spec.version_number})"
        case StopRun(run_id=run_id, reason=reason):
            return f"stop run {run_id}: {reason}"
        case RecordVersion(version=version):
            return f"record version {version.version}"
        case ForgetVersion(name=name):
            return f"let go of version {name} (spec.history); its artifact stays in the store"
        case ForgetRun(run_id=run_id):
            return f"remove what this machine keeps of run {run_id} (spec.history)"
        case ApplyTable(table=table):
            named = ", ".join(sorted(table.versions())) or "the base alone"
            return f"serve table {table.generation}: {named}"
