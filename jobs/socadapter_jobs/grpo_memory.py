"""What GRPO knows of itself after a kill: ``state.json`` in the stage's folder, written by `grpo` after each step."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from socadapter_jobs.collapse import StepSigns
from socadapter_store.store import write_atomically


@dataclass(slots=True)
class GrpoMemory:
    """What outlives an interruption: the best score so far, the curve, the time spent."""

    best: str | None = None
    """The folder of the best adapter and its scores: complete once it is named here."""
    best_digest: str | None = None
    """Of the adapter in that folder."""
    best_step: int = 0
    best_utility: float = -math.inf
    start_entropy: float | None = None
    start_sequences: tuple[tuple[str, ...], ...] = ()
    refusal: str | None = None
    """Why the start gate refused; empty where it let the run in, None before it was asked."""
    stop: tuple[str, str, str] | None = None
    """Status, reason and message with which the stage ended itself, None while it goes on."""
    spent_s: float = 0.0
    window: list[StepSigns] = field(default_factory=list)
    """The steps that the collapse watch looks back on."""
    rows: list[dict[str, float]] = field(default_factory=list)
    development: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> "GrpoMemory":
        if not path.is_file():
            return cls()
        memory = cls(**json.loads(path.read_text()))
        memory.start_sequences = tuple(tuple(sequence) for sequence in memory.start_sequences)
        memory.window = [StepSigns.of_json(row) for row in memory.window]  # type: ignore[arg-type]
        return memory

    def forget_after(self, step: int) -> None:
        """Drops what is known of steps after `step`: training resumes there and makes them again."""
        for rows in (self.rows, self.development):
            rows[:] = [row for row in rows if row["step"] <= step]
        self.window = [signs for signs in self.window if signs.step <= step]

    def save(self, path: Path) -> None:
        text = json.dumps(asdict(self)).replace("-Infinity", "-1e308")
        write_atomically(path, lambda file: file.write(text.encode()))
