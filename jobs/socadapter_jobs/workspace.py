"""Where a run keeps what: its scratch folder on this machine, and its folder in the adapter store.

Also its live figures: ``metrics.jsonl`` in scratch for who watches, ``progress.json`` in the store for the operator.
"""

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from socadapter_api import digest
from socadapter_api.errors import SpecError, StoreUnavailable
from socadapter_api.manifest import Progress, Stage
from socadapter_api.training import RunSpec
from socadapter_jobs.latest_writer import LatestWriter
from socadapter_store import layout
from socadapter_store.run_folder import RunFolder
from socadapter_store.store import write_atomically

_log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 2.0
_SETTLE_S = 10.0
PREPARED_NOTE = "prepared.json"
"""What the prepare stage leaves in scratch for all others."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folders of one run."""

    spec: RunSpec
    scratch: Path
    store: RunFolder

    @classmethod
    def of(cls, spec: RunSpec) -> "Workspace":
        """The workspace of a spec, which keeps the seed that the run was prepared with, whatever it is by now.

        Raises:
            SpecError: no scratch folder is named and the store is not on this machine.
        """
        uri = layout.run_uri(spec.store, spec.namespace, spec.context, spec.run_id)
        if spec.scratch is None and "://" in spec.store:
            raise SpecError(f"the store {spec.store!r} is not on this machine: name a scratch folder for checkpoints")
        scratch = Path(spec.scratch).expanduser() if spec.scratch else Path(uri).parent / f".{spec.run_id}.scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        workspace = cls(spec, scratch.resolve(), RunFolder.at(uri))
        prepared = workspace.noted(PREPARED_NOTE) or {}
        return replace(workspace, spec=spec.model_copy(update={"seed": prepared.get("seed", spec.seed)}))

    @property
    def prepared(self) -> Path:
        return self.scratch / "prepared"

    @property
    def stop_request(self) -> Path:
        """Present while someone wants the run to checkpoint and end."""
        return self.scratch / "stop"

    @property
    def is_lost(self) -> bool:
        """Whether what the finished stages left in scratch is gone, as a pod's own folder is with its pod."""
        return self.store.finished_stage(Stage.PREPARE) is not None and self.noted(PREPARED_NOTE) is None

    def tell(self, progress: Progress) -> None:
        """Writes the run's progress, which is for readers alone: the work goes on while the store is away."""
        try:
            self.store.write_progress(progress)
        except StoreUnavailable as error:
            stage, step = progress.stage.value, progress.step
            _log.warning("progress_not_written run=%s stage=%s step=%s error=%s", self.spec.run_id, stage, step, error)

    def note(self, name: str, value: Any) -> None:
        """Keeps a JSON document in scratch, atomically; several workers may note the same."""
        data = digest.canonical_json(finite(value))
        write_atomically(self.scratch / name, lambda file: file.write(data))

    def noted(self, name: str) -> Any | None:
        """A JSON document that `note` kept; None where there is none."""
        path = self.scratch / name
        return json.loads(path.read_text()) if path.is_file() else None


def finite(value: Any) -> Any:
    """`value` with every number that JSON cannot hold replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return value


class LiveMetrics:
    """Figures of a stage in progress: every one in ``metrics.jsonl``, the latest every few seconds in the store.

    What is left is told from the second figure on, by the pace since the first: before it a stage loads and looks up.
    Nobody waits for the store, which onlookers alone read: a store that hangs would hold up steps and tool calls. A
    stage ends with `settle`.
    """

    def __init__(self, workspace: Workspace, stage: Stage, clock: Callable[[], float] = time.time) -> None:
        self.workspace, self.stage, self.clock = workspace, stage, clock
        self._store: LatestWriter[Progress] = LatestWriter(workspace.tell)
        self._first: tuple[int, float] | None = None
        self._last_write = 0.0
        self._last: Progress | None = None

    def __call__(self, step: int, steps: int, figures: dict[str, float]) -> None:
        now = self.clock()
        self._first = self._first or (step, now)
        done = step - self._first[0]
        eta_s = (now - self._first[1]) / done * (steps - step) if steps and done > 0 else None
        self._append({"step": step, "steps": steps, "eta_s": eta_s, "at": now, **figures})
        self._last = Progress(
            stage=self.stage,
            step=step,
            steps=steps,
            reward=finite(figures.get("reward")),
            loss=finite(figures.get("loss")),
            eta_s=eta_s,
            at=now,
        )
        if now - self._last_write < PROGRESS_EVERY_S and step != steps:
            return
        self._last_write = now
        self._store.put(self._last)

    def say(self, step: int, steps: int, what: str, done: int, of: int) -> None:
        """Tells how far something is that is done at `step` beside optimizing; every few seconds, and at its end.

        The figures of the last step stand beside it.
        """
        now = self.clock()
        if now - self._last_write < PROGRESS_EVERY_S and done != of:
            return
        self._last_write = now
        last = self._last or Progress(stage=self.stage, at=now)
        told = last.model_copy(update={"step": step, "steps": steps, "message": f"{what} {done}/{of}", "at": now})
        self._append(told.model_dump(mode="json", by_alias=False, exclude={"stage"}, exclude_none=True))
        self._store.put(told)

    def settle(self) -> None:
        """Waits a little for what is still being written, which would else replace what the next stage tells."""
        self._store.settle(_SETTLE_S)

    def _append(self, row: dict[str, Any]) -> None:
        with (self.workspace.scratch / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps(finite({"stage": self.stage.value, **row})) + "\n")
