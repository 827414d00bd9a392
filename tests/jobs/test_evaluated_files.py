"""``socadapter evaluate`` on files of anyone's: nothing is loaded that was not judged, and progress goes to stderr."""

import contextlib
import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from socadapter_agent.tools import ToolSpec, tools_digest
from socadapter_api import digest, errors
from socadapter_api.case import Case, Verdict
from socadapter_cli.evaluate import Progress
from socadapter_jobs.evaluation import evaluate_files
from socadapter_jobs.scoring.scored_case import ScoredCase
from socadapter_store import layout

Published = Callable[..., Path]


def evaluated(blank_base: Path, adapter: Path, data: Any, **more: Any) -> dict[str, Any]:
    return evaluate_files(base=str(blank_base), adapter=adapter, alerts=str(data.alerts), **more)


def test_a_published_adapter_is_scored(published: Published, blank_base: Path, data: Any) -> None:
    """Out of its run's folder, or alone; whoever asked is told how far it is."""
    folder, seen = published(), []
    found = evaluated(blank_base, folder, data, done=lambda done, of: seen.append((done, of)))
    assert 40 == len(found["cases"])
    assert (40, 40) == seen[-1]
    alone = evaluated(blank_base, folder / layout.ADAPTER, data)
    assert [row["verdict"] for row in found["cases"]] == [row["verdict"] for row in alone["cases"]]


class Boom:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_a_pickle_is_refused_unopened(published: Published, blank_base: Path, data: Any, tmp_path: Path) -> None:
    """In the place of the weights or beside them, where PEFT would fall back to it."""
    folder = published() / layout.ADAPTER
    boom = pickle.dumps(Boom(tmp_path / "opened"))
    weights = (folder / layout.WEIGHTS).read_bytes()
    (folder / layout.WEIGHTS).write_bytes(boom)
    with pytest.raises(errors.UnsafeFormat, match="does not start as safetensors do"):
        evaluated(blank_base, folder, data)
    (folder / layout.WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(boom)
    with pytest.raises(errors.UnsafeFormat, match=r"adapter_model\.bin is of a kind that can carry code"):
        evaluated(blank_base, folder, data)
    (folder / layout.WEIGHTS).write_bytes(weights)
    with pytest.raises(errors.UnsafeFormat, match=r"adapter_model\.bin"):
        evaluated(blank_base, folder, data)
    assert not (tmp_path / "opened").exists()


def test_a_foreign_file_is_refused(published: Published, blank_base: Path, data: Any) -> None:
    """Whatever it holds."""
    folder = published()
    (folder / layout.ADAPTER / "notes.txt").write_text("harmless")
    with pytest.raises(errors.ForeignFile, match=r"notes\.txt does not belong in an adapter"):
        evaluated(blank_base, folder, data)


def test_weights_that_are_not_the_manifests_are_refused(published: Published, blank_base: Path, data: Any) -> None:
    """One byte of a tensor, in a run's folder or by the adapter's own."""
    folder = published()
    path = folder / layout.ADAPTER / layout.WEIGHTS
    content = bytearray(path.read_bytes())
    content[-2] ^= 0x01
    path.write_bytes(content)
    for adapter in (folder, folder / layout.ADAPTER):
        with pytest.raises(errors.DigestMismatch, match=r"adapter_model\.safetensors has sha256:"):
            evaluated(blank_base, adapter, data)


def test_another_base_is_refused(published: Published, blank_base: Path, data: Any) -> None:
    """An adapter means nothing on weights that it was not trained on."""
    other = digest.of_bytes(b"other base")
    with pytest.raises(errors.BaseMismatch, match=f"was trained on base {other}"):
        evaluated(blank_base, published(other), data)


@dataclass
class Examining:
    """An examiner without an engine, whose tools were not there for the first alert."""

    offered: tuple[ToolSpec, ...]

    def tools_of(self, case: Case) -> tuple[ToolSpec, ...]:
        return self.offered

    def load(self, name: str, folder: Path) -> None:
        """Nothing to load."""

    def score(self, cases: Sequence[Case], adapter: str | None, done: object) -> list[ScoredCase]:
        first, *others = (ScoredCase(case.id, case.label, Verdict.INVALID) for case in cases)
        return [replace(first, scorable=False, outage=True), *others]


@pytest.fixture
def offering(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has tool servers offer these."""

    def offer(*specs: ToolSpec) -> None:
        @contextlib.contextmanager
        def examiner(*_: object) -> Iterator[Examining]:
            yield Examining(specs)

        monkeypatch.setattr("socadapter_jobs.evaluation.examiner", examiner)

    return offer


SIGNINS = ToolSpec("signins", "Sign-ins of a user.", {"type": "object", "properties": {}})


def test_live_tools_other_than_it_was_trained_with_are_refused(
    published: Published, blank_base: Path, data: Any, offering: Callable[..., None]
) -> None:
    """By the digest in its manifest; a base, or an adapter without a manifest, takes what there is."""
    folder = published(tools=tools_digest((SIGNINS,)))
    offering(replace(SIGNINS, description="Sign-ins of a host."))
    with pytest.raises(errors.ToolSchemaMismatch, match=r"the servers offer sha256:\w+: \['signins'\]"):
        evaluated(blank_base, folder, data, tools_urls=["http://127.0.0.1:9"])
    shutil.copytree(folder / layout.ADAPTER, folder.parent / "alone")
    assert evaluated(blank_base, folder.parent / "alone", data, tools_urls=["http://127.0.0.1:9"])
    offering(SIGNINS)
    assert evaluated(blank_base, folder, data, tools_urls=["http://127.0.0.1:9"])


def test_what_was_not_judged_is_told_from_what_was(blank_base: Path, data: Any, offering: Callable[..., None]) -> None:
    """An unreadable verdict leans neither way, and what an outage decided is told from what the model did."""
    offering()
    rows = evaluate_files(base=str(blank_base), adapter=None, alerts=str(data.alerts))["cases"]
    assert [True, *[False] * 39] == [row["outage"] for row in rows]
    assert {0.5} == {row["confidence"] for row in rows}


def test_long_scoring_tells_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, every quarter of a minute and not before; quick scoring says nothing."""
    times = iter((0.0, 14.0, 15.0, 29.0, 200.0, 300.0))
    progress = Progress(lambda: next(times))
    for done in (1, 5, 10, 20, 40):
        progress(done, 40)
    told = capsys.readouterr()
    assert "" == told.out
    assert ["scored 5 of 40 alerts, about 2 min left", "scored 20 of 40 alerts, about 3 min left"] == (
        told.err.splitlines()
    )
