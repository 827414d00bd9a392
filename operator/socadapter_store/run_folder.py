"""A run's folder in the adapter store: progress, stage markers, evidence, and the result that counts.

The result counts only with its marker, which is written last and holds the result's digest. After that nothing in the
folder changes. There is one writer, the run; readers (the operator, the command line) may come at any moment.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import ValidationError

from socadapter_api import digest
from socadapter_api.errors import AlreadyPublished, DigestMismatch, ManifestInvalid, StoreUnavailable
from socadapter_api.manifest import STAGES, Outcome, Progress, RunResult, Stage
from socadapter_api.model import Contract
from socadapter_store import layout
from socadapter_store.store import Store

Document = TypeVar("Document", bound=Contract)


class RunFolder:
    """One run's folder. `uri` is ``<store>/<namespace>/<context>/<run-id>``, as `layout.run_uri` makes it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.uri = store.uri

    @classmethod
    def at(cls, uri: str | Path, options: Mapping[str, Any] | None = None) -> Self:
        """The folder of the run at `uri`; it need not exist yet."""
        return cls(Store(uri, options))

    def write_progress(self, progress: Progress) -> None:
        """Replaces ``progress.json``."""
        self._write(layout.PROGRESS, progress)

    def read_progress(self) -> Progress | None:
        """The last progress; None before the first, and where a reader met a torn write."""
        try:
            return self._read(layout.PROGRESS, Progress)
        except ManifestInvalid:
            return None

    def finish_stage(self, stage: Stage, facts: Mapping[str, Any] | None = None) -> None:
        """Marks `stage` as finished, with what a resumed run must know of it."""
        self.write_json(layout.stage_marker(stage), {"stage": stage.value, **(facts or {})})

    def finished_stage(self, stage: Stage) -> dict[str, Any] | None:
        """What `finish_stage` recorded; None where the stage has not finished, or its marker was torn."""
        try:
            facts = self.store.read_json(layout.stage_marker(stage))
        except ManifestInvalid:
            return None
        return facts if isinstance(facts, dict) and facts.get("stage") == stage.value else None

    def seconds(self) -> dict[str, float]:
        """How long each stage took, by its name: of those that have finished and were timed."""
        every = {stage.value: (self.finished_stage(stage) or {}).get("seconds") for stage in STAGES}
        return {name: float(seconds) for name, seconds in every.items() if isinstance(seconds, int | float)}

    def forget_stages(self) -> None:
        """Takes every stage's marker back, the last stage's first: what they left outside the store is gone.

        Raises:
            AlreadyPublished: the run finished, and what it left stays as it is.
        """
        self._guard()
        for stage in reversed(STAGES):
            self.store.remove(layout.stage_marker(stage))

    def write_json(self, path: str, value: Any) -> None:
        """Writes a JSON document of the run, such as ``evaluation.json``."""
        self._guard()
        self.store.write_json(path, value)

    def write(self, path: str, data: bytes) -> None:
        """Writes a file of the run, such as ``report.html``."""
        self._guard()
        self.store.write(path, data)

    def upload(self, source: Path, path: str) -> None:
        """Copies a local file into the run's folder."""
        self._guard()
        self.store.upload(source, path)

    def finish(self, result: RunResult) -> RunResult:
        """Writes the result, then its marker; returns the result that now counts.

        `_FAILED` marks a run that broke; every other outcome, a failed gate included, is a finished run and `_SUCCESS`.
        Finishing again with an equal result changes nothing.

        Raises:
            AlreadyPublished: the folder already holds another result.
        """
        if (present := self.read_result()) is not None:
            if present == result:
                return present
            raise AlreadyPublished(f"{self.uri} already holds the result of run {present.run_id!r} ({present.outcome})")
        self.store.sweep()
        data = _encoded(result)
        self.store.write(layout.RESULT, data)
        marker = layout.FAILED if result.outcome is Outcome.FAILED else layout.SUCCESS
        self.store.write_json(marker, {"result": digest.of_bytes(data)})
        return result

    def read_result(self) -> RunResult | None:
        """The run's result; None while there is no marker.

        Raises:
            DigestMismatch: the result is not the one that the marker was written for.
            ManifestInvalid: the result cannot be read.
            StoreUnavailable: the marker is not whole, as it is while it is being written to some stores.
        """
        marker = self._marker()
        if marker is None:
            return None
        data = self.store.read(layout.RESULT)
        if data is None:
            raise ManifestInvalid(f"{self.uri} is marked as finished but has no {layout.RESULT}")
        expected = marker.get("result") if isinstance(marker, dict) else None
        if (actual := digest.of_bytes(data)) != expected:
            raise DigestMismatch(
                f"{self.uri}/{layout.RESULT} has digest {actual}, its marker names {expected}; one of them was changed"
            )
        return _decoded(data, RunResult, f"{self.uri}/{layout.RESULT}")

    def reopen(self) -> None:
        """Lets a run that broke try again in the same folder; its failure no longer counts.

        Raises:
            AlreadyPublished: the run finished, and what it left stays as it is.
        """
        if self.store.exists(layout.SUCCESS):
            raise AlreadyPublished(f"{self.uri} holds a finished run, which cannot be reopened; start a new run")
        self.store.remove(layout.FAILED)

    def drop_torn_markers(self) -> None:
        """Removes what a writer that was killed left of a marker: nothing counts by it. For the run itself alone."""
        for marker in (layout.SUCCESS, layout.FAILED):
            try:
                self.store.read_json(marker)
            except ManifestInvalid:
                self.store.remove(marker)

    def _marker(self) -> Any | None:
        try:
            success = self.store.read_json(layout.SUCCESS)
            return success if success is not None else self.store.read_json(layout.FAILED)
        except ManifestInvalid as error:
            raise StoreUnavailable(
                f"the marker of {self.uri} is not whole: it is being written, or its writer was killed ({error}). The "
                "run's next attempt writes it anew"
            ) from error

    def _guard(self) -> None:
        for marker in (layout.SUCCESS, layout.FAILED):
            if self.store.exists(marker):
                raise AlreadyPublished(f"{self.uri} already holds a result ({marker}) and cannot be written to again")

    def _write(self, path: str, document: Contract) -> None:
        self.write(path, _encoded(document))

    def _read(self, path: str, kind: type[Document]) -> Document | None:
        data = self.store.read(path)
        return None if data is None else _decoded(data, kind, f"{self.uri}/{path}")


def read_result(run_uri: str | Path) -> RunResult | None:
    """The result of the run at `run_uri`; None while it has none that counts. Raises as `RunFolder.read_result`."""
    return RunFolder.at(run_uri).read_result()


def read_progress(run_uri: str | Path) -> Progress | None:
    """The last progress of the run at `run_uri`; None where it has none."""
    return RunFolder.at(run_uri).read_progress()


def _encoded(document: Contract) -> bytes:
    return digest.canonical_json(document.model_dump(mode="json"))


def _decoded(data: bytes, kind: type[Document], where: str) -> Document:
    try:
        return kind.model_validate(json.loads(data))
    except (ValidationError, ValueError, RecursionError) as error:
        raise ManifestInvalid(f"{where} is not a {kind.__name__}: {error}") from error
