"""What a long benchmark has done, what is left, and how long that will take; and its results, kept as they come.

Every finished piece is a JSON file that a second run reads instead of repeating the work. Used by the benchmarks that
train.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from socadapter_agent.allocator import allocator
from socadapter_api.errors import SocAdapterError, SpecError
from socadapter_jobs.workspace import finite

LINE_EVERY_S = 15.0


def keep(path: Path, value: Any) -> Any:
    """Writes `value` as JSON, complete or not at all, and returns it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(finite(value), indent=1) + "\n")
    partial.replace(path)
    return value


def kept(path: Path) -> Any | None:
    """What `keep` wrote; None where nothing is."""
    return json.loads(path.read_text()) if path.is_file() else None


def require_same_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Notes the settings of a benchmark's folder on the first run, and refuses to go on with others.

    Raises:
        SpecError: the folder holds results of other settings.
    """
    asked = json.loads(json.dumps(settings))
    found = kept(path)
    if found is None:
        keep(path, asked)
        return
    if changed := sorted(key for key in found.keys() | asked.keys() if found.get(key) != asked.get(key)):
        differing = ", ".join(f"{key}: {found.get(key)!r} there, {asked.get(key)!r} asked for" for key in changed)
        raise SpecError(
            f"{path.parent} holds results of other settings ({differing}). Name another --out, or remove that folder"
        )


def run_as_script(main: Callable[[], int]) -> int:
    """A benchmark's exit status; what it cannot do, and being stopped, end in a line instead of a traceback."""
    try:
        return main()
    except SocAdapterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the next run goes on from here", file=sys.stderr)
        return 130


def run_with_model(main: Callable[[], int]) -> int:
    """`run_as_script` for a benchmark that runs a model: begins anew with the allocator that a run's processes have."""
    if more := allocator():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | more)
    return run_as_script(main)


@dataclass(slots=True)
class Ledger:
    """Tasks in their order with the seconds that each is expected to take; prints lines with an estimate of the rest.

    Tasks that a former run finished are taken off with `skip` and do not count.
    """

    expected: dict[str, float]
    say: Callable[[str], None] = lambda text: print(text, file=sys.__stdout__, flush=True)
    clock: Callable[[], float] = time.monotonic
    _took: dict[str, float] = field(default_factory=dict)
    _current: str | None = None
    _began: float = 0.0
    _share: float = 0.0
    _last_line: float = float("-inf")

    def skip(self, task: str) -> None:
        """Takes a task off that needs no work."""
        self.expected.pop(task, None)
        self.say(f"{task}: kept from before")

    def begin(self, task: str) -> None:
        self._current, self._began, self._share, self._last_line = task, self.clock(), 0.0, float("-inf")
        self.say(f"{task}: started; {self._rest()}")

    def at(self, done: int, of: int, figures: Mapping[str, float] | None = None) -> None:
        """Notes how far the current task is; prints a line now and then."""
        self._share = done / max(1, of)
        now = self.clock()
        if now - self._last_line < LINE_EVERY_S and done != of:
            return
        self._last_line = now
        shown = "".join(f", {name} {figures[name]:.3f}" for name in ("loss", "reward") if figures and name in figures)
        self.say(f"{self._current}: {done}/{of}{shown}; {self._rest()}")

    def finish(self) -> None:
        if self._current is None:
            return
        self._took[self._current] = took = self.clock() - self._began
        self.say(f"{self._current}: done in {took / 60:.1f} min")
        self._current = None

    def remaining_s(self) -> float:
        """Seconds that the tasks left will take, in proportion to how the finished ones kept to what was expected."""
        planned = sum(self.expected.get(task, 0.0) for task in self._took)
        pace = sum(self._took.values()) / planned if planned > 0 else 1.0
        left = sum(seconds for task, seconds in self.expected.items() if task not in self._took)
        if self._current in self.expected:
            left -= self._share * self.expected[self._current]
        return pace * left

    def _rest(self) -> str:
        return f"about {self.remaining_s() / 60:.0f} min left in all"
