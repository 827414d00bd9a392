"""``socadapter evaluate`` on files of anyone's: nothing is loaded that was not judged, and progress goes to stderr."""

import contextlib
import json
import pickle
import queue
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.jobs.test_full_disk import no_file_larger_than

from socadapter_agent.tools import ToolSpec, tools_digest
from socadapter_api import digest, errors
from socadapter_api.case import Case, Verdict
from socadapter_cli import evaluate as command
from socadapter_cli.main import cli
from socadapter_jobs.data import case_files
from socadapter_jobs.evaluation import evaluate_files
from socadapter_jobs.scoring.scored_case import ScoredCase
from socadapter_store import layout

pytestmark = pytest.mark.slow

Published = Callable[..., Path]


def written(cases: Sequence[Case], path: Path) -> Path:
    case_files.write_cases(str(path), cases)
    return path


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
    published: Published, blank_base: Path, data: Any, offering: Callable[..., None], tmp_path: Path
) -> None:
    """By the digest in its manifest; a base, or an adapter without a manifest, takes what there is."""
    folder = published(tools=tools_digest((SIGNINS,)))
    dated = [case.model_copy(update={"observed_at": datetime(2026, 3, 1, tzinfo=UTC)}) for case in data.cases]
    data = replace(data, alerts=written(dated, tmp_path / "dated.jsonl"))
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


@pytest.mark.parametrize(
    ("long", "tools", "told"),
    [
        pytest.param(True, [], r"case 'c3': the alert renders to \d+ characters", id="too long"),
        pytest.param(
            False, ["http://127.0.0.1:9"], r"case 'c0' has no observed_at, and tool server 'tools-0'", id="no time"
        ),
    ],
)
def test_alerts_that_no_agent_can_investigate_are_refused_first(
    data: Any,
    blank_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    long: bool,
    tools: list[str],
    told: str,
) -> None:
    """By the case's id, before the engine is loaded: as prepare does, and not in the middle of all the others."""
    monkeypatch.setattr("socadapter_jobs.evaluation.examiner", lambda *_: pytest.fail("it was loaded"))
    case = data.cases[3].model_copy(update={"alert": {"title": "x" * 20_000 if long else "short"}})
    alerts = written([*data.cases[:3], case, *data.cases[4:]], tmp_path / "alerts.jsonl")
    with pytest.raises(errors.MalformedRow, match=told):
        evaluate_files(base=str(blank_base), adapter=None, alerts=str(alerts), tools_urls=tools)


def call(base: Path, data: Any, out: Path) -> Result:
    return CliRunner().invoke(cli, ["evaluate", "--base", str(base), "--alerts", str(data.alerts), "--json", str(out)])


def test_the_command_writes_what_it_scored(base: Path, data: Any, tmp_path: Path) -> None:
    """Figures, and of each case what it is, what was concluded and what that took."""
    out = tmp_path / "figures.json"
    done = call(base, data, out)
    assert 0 == done.exit_code, done.output
    found = json.loads(out.read_text())
    assert {"n", "balanced_accuracy", "fnr", "auc", "abstained", "cases"} <= found.keys()
    assert [(case.id, case.label.value) for case in data.cases] == [(row["id"], row["label"]) for row in found["cases"]]
    words = {"true_positive", "benign_true_positive", "false_positive", "escalate", "invalid"}
    for row in found["cases"]:
        assert {"id", "label", "verdict", "confidence", "calls", "tokens"} <= row.keys()
        assert row["verdict"] in words
        assert 0.0 <= row["confidence"] <= 1.0
        assert row["tokens"] > 0
    assert {"true_positive", "false_positive"} & {row["verdict"] for row in found["cases"]}
    assert f"balanced_accuracy: {found['balanced_accuracy']:.3f}" in done.stdout
    assert str(out) in done.stdout


def test_figures_that_a_full_disk_does_not_take_cost_no_earlier_ones(
    data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is told, and what was measured before is still there."""
    out = tmp_path / "figures.json"
    out.write_text("{}")
    monkeypatch.setattr("socadapter_jobs.evaluation.evaluate_files", lambda **_: {"cases": ["x" * 9_000]})
    with no_file_larger_than(4_096):
        done = call(tmp_path, data, out)
    assert (3, True) == (done.exit_code, f"error[DiskFull]: --json {out}" in done.stderr), done.output
    assert "{}" == out.read_text()


def test_scoring_tells_how_far_it_is() -> None:
    """First that it loads; then what is left, by the pace since the first alerts."""
    now = 0.0
    progress = command.Progress(lambda: now)
    now = 5.0
    assert "loading what scores, and scoring the first alerts: 5 s so far" == progress.line()
    now = 10.0
    progress(1, 40)
    assert "scored 1 of 40 alerts" == progress.line()
    now = 20.0
    progress(11, 40)
    assert "scored 11 of 40 alerts, about 29 s left" == progress.line()


def test_scoring_is_never_silent_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """On stderr, whatever it waits for."""
    assert command._EVERY_S <= 5.0
    said: queue.Queue[tuple[str, bool]] = queue.Queue()
    monkeypatch.setattr(command, "_EVERY_S", 0.001)
    monkeypatch.setattr("click.echo", lambda text, err: said.put((text, err)))
    with command.Progress():
        for _ in range(2):
            text, on_stderr = said.get(timeout=60)
            assert (True, True) == (text.startswith("loading"), on_stderr)
