"""``socadapter demo``: simulated alerts in, two trained, judged, signed and served adapters out.

The wiring only. The alerts and tools are the cyber range's, in a process of its own; training, gates, signing and
serving are driven by the same reconciler as ``up``, from the same resource files as ``manifests/samples``.
"""

import shlex
import shutil
import sys
import time
from pathlib import Path

import click
from rich.console import Console

from socadapter_cli import demo_figures, demo_world
from socadapter_cli.up import INTERRUPTED, announce, halt, run, tell_unready
from socadapter_cli.workspace import Workspace, open_workspace
from socadapter_operator.local.driver import Interrupts
from socadapter_operator.local.reconciler import Pass


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("build/demo"), show_default=True)
@click.option(
    "--minutes",
    type=click.FloatRange(min=1.0),
    help="Give reinforcement learning 30 % of this. Kept for later runs; another value trains anew.",
)
@click.option("--stay", is_flag=True, help="Keep driving until Ctrl-C, which also stops the service.")
def demo(out: Path, minutes: float | None, stay: bool) -> None:
    """The whole loop on simulated alerts: train, judge, sign and serve two contexts.

    Stop it whenever you like: started again, it resumes; once trained, it serves again in seconds.
    """
    started = time.monotonic()
    console = Console()
    workspace = open_workspace(out)
    with Interrupts().caught() as interrupts, workspace.state.locked():
        files = demo_world.prepare(out.absolute(), minutes, console)
        workspace.reconciler.apply(files)
        workspace.reconciler.retry_failed()
        announce(workspace, console)
        last = run(workspace, interrupts, console, wait=True)
        if interrupts.count:
            _leave(workspace, interrupts, console)
        found = demo_figures.collect(last)
        demo_figures.write(out / "result.json", found, time.monotonic() - started)
        demo_figures.show(found, console)
        _ask_and_tell(last, out, console)
        if stay and last.ready:
            run(workspace, interrupts, console)
            _leave(workspace, interrupts, console)
    console.print(f"what runs goes on; stop it with: {_called()} down --state {out}", soft_wrap=True, markup=False)
    if not last.ready:
        _tell_how_to_train(last, out, console)
        sys.exit(tell_unready(last))


def _called() -> str:
    """The program as it can be called again: ``make demo`` has it on no PATH."""
    called = Path(sys.argv[0])
    nowhere = called.name == "socadapter" and shutil.which(called.name) is None
    return shlex.quote(str(called)) if nowhere else "socadapter"


def _ask_and_tell(last: Pass, out: Path, console: Console) -> None:
    """Asks about an alert of each context that has an adapter; says where every context's report is."""
    url = next((pool.status.endpoint for pool in last.pools if pool.status.endpoint), None)
    for adapter in last.adapters:
        if url and adapter.status.versions.stable:
            holdout = Path(adapter.spec.data.holdout[0].uri)
            demo_figures.ask_one(url, adapter.spec.context, holdout, out.absolute(), console)
    demo_figures.tell_reports(last, out, console)


def _tell_how_to_train(last: Pass, out: Path, console: Console) -> None:
    """A run that missed a gate has ended well, and is not done again unasked."""
    for adapter in last.adapters:
        if adapter.status.versions.stable is None:
            again = f"{_called()} train {adapter.metadata.name} --state {out}, then the demo"
            console.print(f"to train {adapter.spec.context} again: {again}", soft_wrap=True, markup=False)


def _leave(workspace: Workspace, interrupts: Interrupts, console: Console) -> None:
    """Ends what the demo drives after an interrupt."""
    halt(workspace, interrupts, console, serving=True)
    demo_world.end_tools(workspace.state.path)
    console.print("stopped; `socadapter demo` goes on from here", markup=False)
    sys.exit(INTERRUPTED)
