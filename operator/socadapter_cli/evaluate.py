"""``socadapter evaluate``: a base, or an adapter on it, scored on any file of labelled alerts."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from socadapter_api.errors import SpecError
from socadapter_cli.progress import duration

_QUIET_S = 15.0
_SHOWN = ("n", "balanced_accuracy", "fnr", "auc", "abstained")


@dataclass
class Progress:
    """Tells on stderr how far scoring is, now and then; nothing where it is quick."""

    clock: Callable[[], float] = time.monotonic
    _begun: float = field(init=False)
    _told: float = field(init=False)

    def __post_init__(self) -> None:
        self._begun = self._told = self.clock()

    def __call__(self, done: int, of: int) -> None:
        """`done` of `of` cases are scored."""
        now = self.clock()
        if now - self._told < _QUIET_S or not 0 < done < of:
            return
        self._told = now
        left_s = (now - self._begun) / done * (of - done)
        click.echo(f"scored {done} of {of} alerts, about {duration(left_s)} left", err=True)


@click.command()
@click.option("--base", required=True, help="A folder, a Hugging Face id, or builtin://smollm2-135m-instruct.")
@click.option(
    "--adapter",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A run's folder, or the adapter's own.",
)
@click.option("--alerts", required=True, help="Case file: JSON lines with alert, evidence and label.")
@click.option(
    "--json", "out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Where figures and cases go."
)
@click.option(
    "--tools-url", "tools", multiple=True, help="MCP server to ask instead of the recorded evidence; repeatable."
)
def evaluate(base: str, adapter: Path | None, alerts: str, out: Path, tools: tuple[str, ...]) -> None:
    """Score a base, or an adapter on it, on a file of labelled alerts."""
    _require_writable(out)
    from socadapter_jobs.evaluation import evaluate_files

    figures: dict[str, Any] = evaluate_files(
        base=base, adapter=adapter, alerts=alerts, tools_urls=tools, done=Progress()
    )
    out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    console = Console()
    for name in _SHOWN:
        value = figures.get(name)
        shown = f"{value:.3f}" if isinstance(value, float) else value
        console.print(f"{name}: {shown}", markup=False)
    console.print(f"written to {out}", soft_wrap=True, markup=False)


def _require_writable(out: Path) -> None:
    """Makes the folder of `out` and tries to write there, since scoring takes long; an earlier `out` stays as it is.

    Raises:
        SpecError: the figures could not be written there.
    """
    new = not out.exists()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a", encoding="utf-8"):
            pass
        if new:
            out.unlink()
    except OSError as error:
        raise SpecError(
            f"--json {out} cannot be written: {error.strerror or error}; nothing was scored, name another file"
        ) from error
