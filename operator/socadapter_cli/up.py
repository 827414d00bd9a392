"""``socadapter up`` and ``socadapter down``: resources driven on this machine, until Ctrl-C or until they settle."""

import sys
from pathlib import Path

import click
from rich.console import Console

from socadapter_api.adapter import SocAdapter
from socadapter_api.errors import SpecError
from socadapter_api.pool import SocServingPool
from socadapter_cli import failures
from socadapter_cli.progress import Display
from socadapter_cli.workspace import Workspace, files_option, open_workspace, state_option
from socadapter_operator.backends import attached
from socadapter_operator.local.driver import Interrupts, drive, end_owner, stop_runs
from socadapter_operator.local.reconciler import Pass

INTERRUPTED = 130


@click.command()
@files_option("YAML files or folders; may be repeated.")
@click.option("--once", is_flag=True, help="One pass with the base at hand, then leave: what was started goes on.")
@click.option("--wait", is_flag=True, help="Until everything is ready or stuck, then leave: the service goes on.")
@state_option
def up(files: tuple[Path, ...], once: bool, wait: bool, state: Path) -> None:
    """Train and serve the resources in FILEs on this machine.

    Without FILEs, what the state folder holds goes on. Ctrl-C lets training write a checkpoint, stops serving, and the
    next `up` resumes; a second Ctrl-C kills.
    """
    console = Console()
    workspace = open_workspace(state)
    with Interrupts().caught() as interrupts, workspace.state.locked():
        if files:
            workspace.reconciler.apply(files)
        elif not workspace.reconciler.pools():
            for error in workspace.reconciler.unreadable():
                raise error
            raise SpecError(f"state folder {state} holds no resources: name them with -f FILE...")
        workspace.reconciler.retry_failed()
        announce(workspace, console)
        last = run(workspace, interrupts, console, once=once, wait=wait)
        if interrupts.count:
            halt(workspace, interrupts, console, serving=True)
            sys.exit(INTERRUPTED)
        if (wait and not last.ready) or (once and last.refused):
            sys.exit(tell_unready(last))
        if wait or once:
            tell_endpoints(last, state, console)


@click.command()
@state_option
def down(state: Path) -> None:
    """Stop what `up` started: runs write a checkpoint, services end. `up` starts them again where they were."""
    console = Console()
    workspace = open_workspace(state)
    with Interrupts().caught() as interrupts:
        if not state.is_dir():
            console.print(f"nothing to stop: there is no state folder {state}")
            return
        end_owner(workspace.state, interrupts)
        with workspace.state.locked():
            halt(workspace, interrupts, console, serving=True)
            for name in attached.end_all(state):
                console.print(f"stopped {name}")


def run(
    workspace: Workspace, interrupts: Interrupts, console: Console, *, once: bool = False, wait: bool = False
) -> Pass:
    """Drives the workspace and shows how it goes; returns the last pass."""
    with Display(console, workspace.backend.runs.scratch) as display:
        return drive(
            workspace.reconciler,
            interrupts,
            until=lambda seen: (once and not seen.fetching) or (wait and seen.settled),
            seen=display.show,
        )


def halt(workspace: Workspace, interrupts: Interrupts, console: Console, *, serving: bool) -> None:
    """Stops runs after their checkpoints, and with `serving` every pool's service."""
    stop_runs(
        workspace.backend,
        interrupts,
        lambda run_id: console.print(f"stopping run {run_id} after a checkpoint; Ctrl-C kills it", soft_wrap=True),
    )
    pools, unreadable = workspace.state.readable(SocServingPool) if serving else ((), ())
    for error in unreadable:
        failures.tell(error.reason, f"{error}; the service of that pool, if it runs, is not stopped")
    for pool in pools:
        if workspace.backend.services.running(pool):
            console.print(f"stopping the service of {pool.metadata.name}")
        workspace.backend.delete(pool)
    if serving:
        workspace.reconciler.mark_stopped()


def announce(workspace: Workspace, console: Console) -> None:
    """Says where the signing key lies that local mode makes."""
    for pool in workspace.reconciler.pools():
        if pool.spec.signing.key_secret_ref is None:
            key = workspace.backend.credentials.signing_key(pool)
            console.print(
                f"{pool.metadata.name}: adapters are signed with {key} (no signing key is named)", soft_wrap=True
            )


def tell_unready(last: Pass) -> int:
    """Prints what keeps resources from being ready; returns the exit code."""
    code = failures.OTHER
    for error in last.unreadable:
        failures.tell(error.reason, str(error))
        code = failures.exit_code(type(error))
    resources: list[SocServingPool | SocAdapter] = [*last.pools, *last.adapters]
    for resource in resources:
        told = {c.type: c for c in resource.status.conditions}
        stalled = told.get("Stalled")
        shown = stalled if stalled is not None and stalled.status == "True" else told.get("Ready")
        if shown is None or (shown.type == "Ready" and shown.status == "True"):
            continue
        failures.tell(shown.reason, f"{resource.kind} {resource.metadata.name}: {shown.message or 'is not ready'}")
        code = failures.code_of_reason(shown.reason)
    return code


def tell_endpoints(last: Pass, state: Path, console: Console) -> None:
    """Says where services answer and how to stop them."""
    for pool in last.pools:
        if pool.status.endpoint:
            console.print(f"{pool.metadata.name} answers at {pool.status.endpoint}", soft_wrap=True)
    console.print(f"stop with: socadapter down --state {state}", soft_wrap=True)
