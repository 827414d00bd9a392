"""The command group: names and one-line helps, without importing what they stand for, and one way to report errors.

``socadapter --help`` must answer at once, so nothing here imports pydantic, torch or ray.
"""

import importlib
import logging
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

COMMANDS: Mapping[str, tuple[str, str]] = {
    "up": ("socadapter_cli.up:up", "Train and serve the resources in FILEs on this machine."),
    "down": ("socadapter_cli.up:down", "Stop what `up` started; nothing trained is lost."),
    "demo": (
        "socadapter_cli.demo:demo",
        "The whole loop on simulated alerts: train, judge, sign and serve two contexts.",
    ),
    "get": ("socadapter_cli.inspection:get", "List resources and how they are."),
    "describe": (
        "socadapter_cli.inspection:describe",
        "Everything about one resource: conditions, runs, versions, gates.",
    ),
    "logs": ("socadapter_cli.inspection:logs", "What a training run, or a pool's service, printed."),
    "plan": ("socadapter_cli.plan:plan", "What `up` would do now; changes nothing."),
    "train": ("socadapter_cli.train:train", "One training run here and now, or a request for one."),
    "suspend": ("socadapter_cli.suspension:suspend", "Start no new run of an adapter in a cluster."),
    "resume": ("socadapter_cli.suspension:resume", "Let an adapter in a cluster train again."),
    "evaluate": (
        "socadapter_cli.evaluate:evaluate",
        "Score a base, or an adapter on it, on a file of labelled alerts.",
    ),
    "verify": ("socadapter_cli.verify:verify", "Check a published adapter: files, digests and signature."),
    "triage": ("socadapter_cli.triage:triage", "Ask the running service about one alert."),
    "data": ("socadapter_jobs.data.commands:data", "Import and check data sets."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"`socadapter {cmd_name}` needs the package {error.name!r}: "
                "from SocAdapter's source, pip install '.[train,serve,operator]'"
            ) from error
        if not isinstance(command, click.Command):
            raise TypeError(f"{COMMANDS[cmd_name][0]} is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # the process's rim: every error leaves through one door
            if ctx.params.get("debug"):
                raise
            from socadapter_cli.failures import report

            ctx.exit(report(error))


def _version() -> str:
    try:
        return version("socadapter")
    except PackageNotFoundError:
        return "unknown (not installed)"


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version=_version(), prog_name="socadapter")
@click.option("--debug", is_flag=True, help="Show tracebacks and log in detail.")
def cli(debug: bool) -> None:
    """Trains, judges, signs and serves one LoRA adapter per business context for a SOC's triage agent."""
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.ERROR,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )


def main() -> None:
    """The console script."""
    cli(prog_name="socadapter")


def plugin() -> None:
    """The console script of ``kubectl socadapter``, which looks into clusters."""
    cli(prog_name="kubectl-socadapter")


if __name__ == "__main__":
    main()
