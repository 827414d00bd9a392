"""``socadapter train``: one run here and now, or a request for one to whoever drives the state folder.

A run in the foreground is driven by the same planner as ``up``, in a state folder of its own below OUT, without
serving. What it published is then laid out in OUT itself, so that OUT is a run's folder like any in a store.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import yaml
from rich.console import Console

from socadapter_api.adapter import Rollout, RunStatus, SocAdapter
from socadapter_api.conditions import Condition, ConditionStatus
from socadapter_api.errors import AlreadyPublished, InternalError, SpecError
from socadapter_api.manifest import Outcome, RunResult
from socadapter_api.pool import SocServingPool
from socadapter_cli import failures
from socadapter_cli.places import Place, place_options
from socadapter_cli.progress import Display
from socadapter_cli.up import INTERRUPTED, announce, halt
from socadapter_cli.workspace import FILE, Workspace, await_bases, open_workspace
from socadapter_operator.backends.credentials import KEYS
from socadapter_operator.domain.state import RunState
from socadapter_operator.local import resource_files
from socadapter_operator.local.driver import Interrupts, drive
from socadapter_operator.local.reconciler import Pass
from socadapter_store import layout
from socadapter_store.run_folder import RunFolder
from socadapter_store.store import Store

_STATE = ".socadapter"
_STORE = "store"


@click.command()
@click.argument("arguments", nargs=-1, metavar="[NAME] [-f FILE...]")
@click.option(
    "-f",
    "--file",
    "first",
    type=FILE,
    multiple=True,
    metavar="FILE...",
    help="YAML files or folders with one adapter and its pool; may be repeated.",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for what the run leaves.")
@place_options
def train(arguments: tuple[str, ...], first: tuple[Path, ...], out: Path | None, place: Place) -> None:
    """One training run here and now, or a request for one.

    With -f and --out: trains the adapter in FILEs (NAME, if they hold several) in the foreground. Called again, it
    resumes. With NAME alone: asks the `up` that drives the state folder, or a cluster's operator, for a run.
    """
    name, files = _told_apart(arguments, first)
    if not files and out is None and name:
        click.echo(f"asked for a run of {name}: {place.request(name)}")
    elif files and out is not None:
        sys.exit(train_here(files, name, out))
    else:
        raise click.UsageError("name the files with -f and a folder with --out, or an adapter that `up` drives")


def _told_apart(arguments: Sequence[str], first: tuple[Path, ...]) -> tuple[str | None, tuple[Path, ...]]:
    """The adapter's name, if one is given, and all files: behind -f, what no name can be is one more of them."""
    names = [argument for argument in arguments if not (first and _is_path(argument))]
    more = [Path(argument) for argument in arguments if argument not in names]
    if len(names) > 1:
        raise click.UsageError(f"one adapter is trained at a time, and these are named: {', '.join(names)}")
    for path in more:
        if not path.exists():
            raise click.BadParameter(f"Path {str(path)!r} does not exist.", param_hint="'-f'")
    return names[0] if names else None, (*first, *more)


def _is_path(argument: str) -> bool:
    return argument.endswith(resource_files.SUFFIXES) or os.sep in argument or Path(argument).is_file()


def train_here(files: tuple[Path, ...], name: str | None, out: Path) -> int:
    """One run in the foreground; returns the exit code.

    Raises:
        AlreadyPublished: OUT holds the result of another run. Nothing is trained then.
    """
    out = out.absolute()
    console = Console()
    pool, adapter = _only(files, name, out)
    workspace = open_workspace(out / _STATE, serve=False)
    with Interrupts().caught() as interrupts, workspace.state.locked():
        resources = _written(pool, adapter, out)
        workspace.reconciler.apply([resources])
        if _finished(out) is None:
            workspace.reconciler.retry_failed()
        else:
            _require_nothing_to_train(workspace, out, interrupts)
        announce(workspace, console)
        with Display(console, workspace.backend.runs.scratch) as display:
            last = drive(workspace.reconciler, interrupts, until=lambda seen: _over(seen, adapter), seen=display.show)
        if interrupts.count:
            halt(workspace, interrupts, console, serving=False)
            console.print("interrupted; the same command resumes", soft_wrap=True)
            return INTERRUPTED
        return _ended(_find(last, adapter), workspace, out, console)


def _finished(out: Path) -> RunResult | None:
    """The result that OUT holds and that no other may replace; None where it has none, or one of a run that broke."""
    held = RunFolder.at(out).read_result()
    return None if held is None or held.outcome is Outcome.FAILED else held


def _require_nothing_to_train(workspace: Workspace, out: Path, interrupts: Interrupts) -> None:
    """Raises AlreadyPublished where the next passes would make a run whose result OUT could not take."""
    reconciler = workspace.reconciler
    await_bases(workspace.backend, reconciler.pools(), lambda: interrupts.count > 0)
    for pool in reconciler.pools():  # as a pass would: only with the base's digest in its status is a run planned
        workspace.state.write(pool.model_copy(update={"status": reconciler.plan_pool(pool).status}))
    for adapter in reconciler.adapters():
        if (coming := reconciler.plan_adapter(adapter).status.run) is not None:
            _require_free(out, _folder(out, adapter, coming.run_id))


def _require_free(out: Path, run: Path) -> None:
    """Raises AlreadyPublished where OUT holds a finished result that is not the one in the run's folder `run`."""
    held = _finished(out)
    if held is not None and held != RunFolder.at(run).read_result():
        raise AlreadyPublished(
            f"{out} holds the result of run {held.run_id!r} ({held.outcome}), and these files make another,"
            f" {run.name!r}: choose another --out"
        )


def _folder(out: Path, adapter: SocAdapter, run_id: str) -> Path:
    """The run's folder in the store of this run."""
    return out / _STATE / _STORE / adapter.metadata.namespace / adapter.spec.context / run_id


def _only(files: tuple[Path, ...], name: str | None, out: Path) -> tuple[SocServingPool, SocAdapter]:
    pools, adapters = resource_files.load(files)
    chosen = [adapter for adapter in adapters if name in (None, adapter.metadata.name)]
    if len(chosen) != 1:
        held = ", ".join(adapter.metadata.name for adapter in adapters) or "none"
        raise SpecError(f"one run trains one adapter; the files hold {held}: name one of them")
    adapter = chosen[0]
    wanted = (adapter.metadata.namespace, adapter.spec.serving_pool_ref.name)
    pool = next((pool for pool in pools if (pool.metadata.namespace, pool.metadata.name) == wanted), None)
    if pool is None:
        raise SpecError(
            f"the files hold no SocServingPool {wanted[1]!r} in namespace {wanted[0]!r}, which the adapter names"
        )
    stored = pool.spec.model_copy(update={"store": str(out / _STATE / _STORE)})
    here_and_now = adapter.spec.model_copy(update={"schedule": None, "suspend": False, "rollout": Rollout()})
    return pool.model_copy(update={"spec": stored}), adapter.model_copy(update={"spec": here_and_now})


def _written(pool: SocServingPool, adapter: SocAdapter, out: Path) -> Path:
    """The resources of this run as a file: the adapter, its pool with OUT for a store, nothing scheduled or pinned."""
    path = out / _STATE / "resources.yaml"
    documents = [resource.model_dump(mode="json", exclude={"status"}) for resource in (pool, adapter)]
    path.write_text(yaml.safe_dump_all(documents, sort_keys=False), encoding="utf-8")
    return path


def _over(seen: Pass, adapter: SocAdapter) -> bool:
    found = _find(seen, adapter)
    return found.status.run is None and (found.status.last_run is not None or _refusal(found) is not None)


def _refusal(adapter: SocAdapter) -> Condition | None:
    """What keeps the spec as it stands from being trained; None where `Stalled` only says how the last run ended."""
    last = adapter.status.last_run
    ended = (last.reason, last.message) if last else None
    for told in adapter.status.conditions:
        if told.type == "Stalled" and told.status is ConditionStatus.TRUE and (told.reason, told.message) != ended:
            return told
    return None


def _find(seen: Pass, adapter: SocAdapter) -> SocAdapter:
    for error in seen.unreadable:
        raise error
    return next(found for found in seen.adapters if found.metadata.name == adapter.metadata.name)


def _ended(adapter: SocAdapter, workspace: Workspace, out: Path, console: Console) -> int:
    if (refused := _refusal(adapter)) is not None:
        failures.tell(refused.reason, refused.message)
        return failures.code_of_reason(refused.reason)
    last = adapter.status.last_run
    if last is None:
        raise InternalError(f"the run of {adapter.metadata.name!r} is over, and there was none: please report it")
    _lay_out(_folder(out, adapter, last.run_id), out)
    _tell(last, out, console)
    if last.reason == Outcome.PUBLISHED.value:
        key = _public_key(workspace)
        console.print(f"  adapter: {out / layout.ADAPTER}", soft_wrap=True, markup=False)
        console.print(
            f"  verify with: socadapter verify {shlex.quote(str(out))} --public-key {shlex.quote(str(key))}",
            soft_wrap=True,
            markup=False,
        )
    if last.reason in (Outcome.PUBLISHED.value, Outcome.SKIPPED.value):
        return 0
    failures.tell(
        last.reason,
        f"{last.message or 'the candidate was not published'} (log: {out / _STATE}/runs/{last.run_id}/run.log)",
    )
    return failures.code_of_reason(last.reason)


def _lay_out(run: Path, out: Path) -> None:
    """Copies what the run left into OUT itself, its marker last, so that OUT never counts half copied.

    What a run that failed had left there goes.

    Raises:
        AlreadyPublished: OUT holds the result of another run.
    """
    if not run.is_dir():
        return
    _require_free(out, run)
    source, target = Store(run), Store(out)
    markers = (layout.SUCCESS, layout.FAILED)
    for marker in markers:
        target.remove(marker)
    left = source.list()
    for path in target.list():
        if path.partition("/")[0] in layout.ALL and path not in left:
            target.remove(path)
    for path in sorted(left, key=lambda path: path in markers):
        target.upload(run / path, path)


def _public_key(workspace: Workspace) -> Path:
    """A file with the public half of the key that signs here."""
    from socadapter_store.signatures import PUBLIC_KEY, public_key_of

    (pool,) = workspace.reconciler.pools()
    ref = pool.spec.signing.key_secret_ref
    path = workspace.state.path / KEYS / (PUBLIC_KEY if ref is None else f"{ref.name}.pub")
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text(public_key_of(workspace.backend.credentials.signing_key(pool)), encoding="ascii")
    return path


def _tell(last: RunStatus, out: Path, console: Console) -> None:
    if last.state != RunState.SUCCEEDED:
        return
    console.print(f"run {last.run_id}: {last.reason} {last.message}", soft_wrap=True, markup=False)
    for gate in last.gates:
        value = "-" if gate.value is None else f"{gate.value:.3f}"
        console.print(
            f"  gate {gate.metric} {gate.rule}: {value} {'passed' if gate.passed else 'failed'}", markup=False
        )
    if last.grpo is not None:
        console.print(f"  GRPO: {last.grpo.status} {last.grpo.reason}".rstrip(), soft_wrap=True, markup=False)
    if (out / "report.html").is_file():
        console.print(f"  report: {out / 'report.html'}", soft_wrap=True, markup=False)
