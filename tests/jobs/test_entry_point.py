"""``python -m socadapter_jobs``: where its spec comes from, and what its exit status says."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from socadapter_api import errors
from socadapter_api.manifest import Outcome, RunResult
from socadapter_api.training import RunSpec
from socadapter_jobs import __main__ as entry_point
from socadapter_jobs.workspace import Workspace

pytestmark = pytest.mark.slow

MakeSpec = Callable[..., RunSpec]


def result(spec: RunSpec, outcome: Outcome, **more: object) -> RunResult:
    return RunResult.model_validate({"run_id": spec.run_id, "context": spec.context, "outcome": outcome, **more})


def test_the_spec_is_a_path_or_the_json_itself(make_spec: MakeSpec, blank_base: Path, tmp_path: Path) -> None:
    """Either way in the environment, in the contract's own names."""
    spec = make_spec(blank_base)
    path = tmp_path / "run.json"
    path.write_text(spec.model_dump_json())
    assert spec == entry_point.read_spec(str(path)) == entry_point.read_spec(f"\n {spec.model_dump_json()}")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("/nowhere/run.json", id="no such file"),
        pytest.param("{}", id="no spec"),
        pytest.param("{", id="no JSON"),
        pytest.param('{"runId": "a", "typo": 1}', id="unknown field"),
    ],
)
def test_what_is_no_spec_is_told(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2 and the reason on one line."""
    monkeypatch.setenv(entry_point.VARIABLE, text)
    assert 2 == entry_point.main()
    assert capsys.readouterr().err.startswith("error[InvalidSpec]: SOCADAPTER_RUN_SPEC does not hold a run spec")


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        pytest.param(errors.RunInterrupted("stopped"), 130, "interrupted: stopped", id="stopped"),
        pytest.param(errors.DiskFull("full"), 3, "error[DiskFull]: full", id="retryable"),
        pytest.param(errors.OneClass("one"), 2, "error[OneClass]: one", id="final"),
    ],
)
def test_the_exit_status_says_whether_to_try_again(
    make_spec: MakeSpec,
    blank_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    status: int,
    told: str,
) -> None:
    """130 stopped on request, 3 worth another try, 2 not."""

    def execute(spec: RunSpec) -> RunResult:
        raise error

    monkeypatch.setattr(entry_point, "execute", execute)
    monkeypatch.setenv(entry_point.VARIABLE, make_spec(blank_base).model_dump_json())
    assert status == entry_point.main()
    assert told == capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    ("outcome", "more", "status"),
    [
        pytest.param(Outcome.PUBLISHED, {"version": "cloud-v1-00000000"}, 0, id="published"),
        pytest.param(Outcome.GATE_FAILED, {}, 0, id="gate failed"),
        pytest.param(Outcome.SKIPPED, {}, 0, id="skipped"),
        pytest.param(Outcome.FAILED, {"retryable": True}, 3, id="failed, retryable"),
        pytest.param(Outcome.FAILED, {"retryable": False}, 2, id="failed"),
    ],
)
def test_a_run_that_is_over_is_told_again(
    make_spec: MakeSpec,
    blank_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    outcome: Outcome,
    more: dict[str, object],
    status: int,
) -> None:
    """Without starting Ray, from the result in the store, which stays as it is."""
    spec = make_spec(blank_base)
    store = Workspace.of(spec).store
    store.finish(result(spec, outcome, **more))
    before = json.dumps(store.store.read_json("result.json"))
    monkeypatch.setenv(entry_point.VARIABLE, spec.model_dump_json())
    assert status == entry_point.main()
    assert before == json.dumps(store.store.read_json("result.json"))
