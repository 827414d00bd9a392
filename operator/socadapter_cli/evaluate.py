"""``socadapter evaluate``: a base, or an adapter on it, scored on any file of labelled alerts."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import click
from rich.console import Console

from socadapter_cli.progress import duration
from socadapter_jobs.option_files import require_writable, write_whole

_EVERY_S = 5.0
_SHOWN = ("n", "balanced_accuracy", "fnr", "auc", "abstained")


@dataclass
class Progress:
    """Within its context, tells on stderr every few seconds how far scoring is; nothing where it is quick."""

    clock: Callable[[], float] = time.monotonic
    _begun: float = field(init=False)
    _scored: tuple[int, int] = (0, 0)
    _first: tuple[int, float] | None = None
    """How many were scored when the first were, and when: until then what scores is loaded."""
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        self._begun = self.clock()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._tell_on, name="progress", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def __call__(self, done: int, of: int) -> None:
        """`done` of `of` cases are scored."""
        self._scored = done, of
        self._first = self._first or (done, self.clock())

    def _tell_on(self) -> None:
        while not self._ended.wait(_EVERY_S):
            click.echo(self.line(), err=True)

    def line(self) -> str:
        """How far it is now."""
        now = self.clock()
        if self._first is None:
            return f"loading what scores, and scoring the first alerts: {duration(now - self._begun)} so far"
        (before, since), (done, of) = self._first, self._scored
        left = f", about {duration((now - since) / (done - before) * (of - done))} left" if done > before else ""
        return f"scored {done} of {of} alerts{left}"


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
    "--tools-url",
    "tools",
    multiple=True,
    help="MCP server to ask instead of the recorded evidence, as of each alert's observed_at (its argument as_of is "
    "filled in); without a token; repeatable.",
)
def evaluate(base: str, adapter: Path | None, alerts: str, out: Path, tools: tuple[str, ...]) -> None:
    """Score a base, or an adapter on it, on a file of labelled alerts."""
    require_writable("--json", out)
    with Progress() as progress:
        from socadapter_jobs.evaluation import evaluate_files

        figures: dict[str, Any] = evaluate_files(
            base=base, adapter=adapter, alerts=alerts, tools_urls=tools, done=progress
        )
    write_whole("--json", out, json.dumps(figures, indent=1) + "\n")
    console = Console()
    for name in _SHOWN:
        value = figures.get(name)
        shown = f"{value:.3f}" if isinstance(value, float) else value
        console.print(f"{name}: {shown}", markup=False)
    console.print(f"written to {out}", soft_wrap=True, markup=False)
