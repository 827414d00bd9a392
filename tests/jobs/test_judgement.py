"""What the last two stages make of investigations. The engine is scripted: a test says how each one ends."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from socadapter_agent.base_model import resolve_base
from socadapter_agent.chat_format import chat_format
from socadapter_api.case import Case, Verdict
from socadapter_api.errors import ResumeMismatch, ToolOutage
from socadapter_api.manifest import Outcome, Stage
from socadapter_api.training import BaseModelRef, LoraSpec
from socadapter_api.trajectory import CallOutcome, ToolCall, Trajectory
from socadapter_jobs import prepare as preparation
from socadapter_jobs.candidates import sft_folder
from socadapter_jobs.evaluation import _compare
from socadapter_jobs.examiner import Ended, Round
from socadapter_jobs.judging_stage import evaluate_stage
from socadapter_jobs.policy import load_policy, load_tokenizer, save_adapter
from socadapter_jobs.publishing_stage import publish_stage
from socadapter_jobs.scoring.baselines import BASELINES
from socadapter_jobs.workspace import Workspace
from socadapter_store import layout, verify

pytestmark = pytest.mark.slow

MakeWorkspace = Callable[..., Workspace]
Ends = Callable[[Case, Round], Trajectory]

HOLDOUT = range(28, 40)


def right(case: Case, asked: Round) -> Trajectory:
    """The case's own verdict, and a grounded summary where one is asked for."""
    told: dict[str, Any] = {"summary": "Sign-in [e1]", "citations": ("e1",)} if asked.summary else {}
    return Trajectory(verdict=case.label, confidence=0.9 if case.is_attack else 0.1, **told)


def without(outcome: CallOutcome) -> Trajectory:
    """An investigation whose one call ended in `outcome`."""
    call = ToolCall(tool="signins", outcome=outcome)
    return Trajectory(verdict=Verdict.FALSE_POSITIVE, confidence=0.1, calls=(call,), scorable=False)


def of_arm(asked: Round) -> str:
    return asked.adapter or "base"


@dataclass
class Examining:
    """An examiner without an engine."""

    ends: Ends

    def load(self, name: str, folder: Path) -> None:
        """Nothing to load."""

    def investigate(self, rounds: Sequence[Round], ended: Ended) -> list[list[Trajectory]]:
        found = [[self.ends(case, each) for case in each.cases] for each in rounds]
        for number, trajectories in enumerate(found):
            for index, trajectory in enumerate(trajectories):
                ended(number, index, trajectory)
        return found


@pytest.fixture
def judge(make_workspace: MakeWorkspace, making: Any, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The evaluation of a candidate on 12 alerts of the holdout, half of them attacks."""
    cases: list[Case] = making.cases(40)
    sets = {"train": cases[:20], "development": cases[20:28], "holdout": cases[28:]}
    candidate = tmp_path / "candidate"
    candidate.mkdir()
    (candidate / layout.WEIGHTS).write_bytes(b"weights")

    def run(ends: Ends = right, **evaluation: Any) -> dict[str, Any]:
        workspace = make_workspace(tmp_path, evaluation=evaluation)
        examining: Any = Examining(ends)
        return _compare(workspace, examining, sets, {}, candidate, None, lambda done, of: None)

    return run


def number_of(case: Case) -> int:
    return int(case.id[1:])


@pytest.mark.parametrize("arm", ["base", "candidate"])
def test_an_outage_on_the_holdout_decides_nothing(judge: Callable[..., dict[str, Any]], arm: str) -> None:
    """Neither a gate nor a comparison: the attempt ends, and the next one investigates that arm's alerts again."""

    def failing(case: Case, asked: Round) -> Trajectory:
        out = of_arm(asked) == arm and number_of(case) in HOLDOUT[:2] and not asked.summary
        return without(CallOutcome.OUTAGE) if out else right(case, asked)

    with pytest.raises(ToolOutage, match=f"2 of 12 investigations of the holdout by the {arm}"):
        judge(failing)
    again = judge()
    assert [0, 0] == [again["arms"][name]["metrics"]["unscorable"] for name in ("base", "candidate")]


def test_an_outage_within_the_bound_is_left_out(judge: Callable[..., dict[str, Any]]) -> None:
    """One of twelve is less than the tenth that is allowed."""

    def failing(case: Case, asked: Round) -> Trajectory:
        out = number_of(case) == HOLDOUT[0] and not asked.summary
        return without(CallOutcome.TIMEOUT) if out else right(case, asked)

    found = judge(failing)["arms"]["candidate"]["metrics"]
    assert (11, 1, 1.0) == (found["n"], found["unscorable"], found["balanced_accuracy"])


def test_what_a_replay_never_recorded_fails_the_gate(judge: Callable[..., dict[str, Any]]) -> None:
    """It will be missing the next time, too: no candidate passes, and where nothing is left nothing is compared."""

    def unrecorded(case: Case, asked: Round) -> Trajectory:
        return without(CallOutcome.REPLAY_MISS) if number_of(case) in HOLDOUT else right(case, asked)

    found = judge(unrecorded)
    assert [("unscorableRate", 1.0, False)] == [(g["metric"], g["value"], g["passed"]) for g in found["gates"]]
    assert {f"candidate-{name}": {} for name in ("base", *BASELINES)} == found["paired"]


def test_the_candidate_is_compared_with_the_cheap_baselines(judge: Callable[..., dict[str, Any]]) -> None:
    """Case by case and with an interval, on what they have: none of them asks for anything."""
    paired = judge()["paired"]
    assert {f"candidate-{name}" for name in ("base", *BASELINES)} == set(paired)
    for name, compared in paired.items():
        assert {"balanced_accuracy", "fnr", "utility"} == set(compared), name
    assert {"difference": 0.5, "low": 0.5, "high": 0.5, "n": 12} == paired["candidate-majority"]["balanced_accuracy"]


GROUNDED = {"gates": [{"metric": "groundedRate", "min": 0.9}], "summaries": 8}


def test_a_summary_that_was_not_written_is_not_grounded(judge: Callable[..., dict[str, Any]]) -> None:
    """Seven of eight end without a readable answer where a summary is asked for: the one good one is an eighth."""
    good: list[str] = []

    def one_good(case: Case, asked: Round) -> Trajectory:
        if not asked.summary:
            return right(case, asked)
        good.append(case.id)
        return right(case, asked) if case.id == good[0] else Trajectory(verdict=Verdict.INVALID)

    found = judge(one_good, **GROUNDED)
    candidate = found["arms"]["candidate"]
    assert 1 / 8 == candidate["metrics"]["grounded_rate"]
    assert {"n": 8, "complete": 1, "cited": 1, "grounded": 1} == candidate["summaries"]
    assert [("groundedRate", 1 / 8, False)] == [(g["metric"], g["value"], g["passed"]) for g in found["gates"]]


def test_a_summary_that_an_outage_prevented_is_left_out(judge: Callable[..., dict[str, Any]]) -> None:
    """The rate is of the others, as long as these are most of the few; else the attempt ends."""
    lost: list[str] = []

    def failing(case: Case, asked: Round, out: int) -> Trajectory:
        if not asked.summary or of_arm(asked) != "candidate" or len(lost) >= out:
            return right(case, asked)
        lost.append(case.id)
        return without(CallOutcome.OUTAGE)

    with pytest.raises(ToolOutage, match="5 of 8 investigations of the summaries by the candidate"):
        judge(lambda case, asked: failing(case, asked, 5), **GROUNDED)
    lost.clear()
    found = judge(lambda case, asked: failing(case, asked, 1), **GROUNDED)
    assert 1.0 == found["arms"]["candidate"]["metrics"]["grounded_rate"]
    assert [True] == [gate["passed"] for gate in found["gates"]]


@dataclass
class Run:
    """A run that has prepared and learned, and then judges and publishes."""

    workspace: Workspace
    save: Callable[[int], str]
    """Replaces what SFT reached by an adapter of another seed, and returns its digest."""

    def finish(self, stage: Stage, seconds: float) -> None:
        self.workspace.store.finish_stage(stage, {"seconds": seconds})

    def document(self, path: str) -> str:
        return (self.workspace.store.store.read(path) or b"").decode()


@pytest.fixture
def begun(make_workspace: MakeWorkspace, blank_base: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    @contextlib.contextmanager
    def examiner(*_: object) -> Iterator[Examining]:
        yield Examining(right)

    monkeypatch.setattr("socadapter_jobs.evaluation.examiner", examiner)
    workspace = make_workspace(blank_base, grpo={"steps": 0})
    preparation.prepare(workspace)
    base = resolve_base(BaseModelRef(uri=str(blank_base)))

    def save(seed: int) -> str:
        policy = load_policy(base, LoraSpec(rank=4, alpha=8), dtype=torch.float32, seed=seed)
        return save_adapter(policy, sft_folder(workspace))

    chat = chat_format(load_tokenizer(base))
    facts = {"adapter": save(0), "template": chat.digest, "parameters": {"adapter": 1, "base": 1}}
    workspace.store.finish_stage(Stage.SFT, facts)
    return Run(workspace, save)


def test_what_is_published_tells_the_time_of_every_stage_before_it(begun: Run) -> None:
    """Of the evaluation, too, which was not over when its own document was written."""
    begun.finish(Stage.PREPARE, 1.0)
    evaluate_stage(begun.workspace, 0)
    begun.finish(Stage.EVALUATE, 83.0)
    publish_stage(begun.workspace, 0)
    result = begun.workspace.store.read_result()
    manifest = verify.read_manifest(Path(begun.workspace.store.uri))
    assert result is not None
    assert (Outcome.PUBLISHED, 84.0) == (result.outcome, result.seconds)
    assert {"prepare": 1.0, "evaluate": 83.0} == manifest.provenance["seconds"]
    assert "Evaluate: 1 min 23 s" in begun.document(layout.REPORT)


def test_no_link_that_lets_its_reader_in_is_published(begun: Run) -> None:
    """Presigned or with a password: neither in the manifest, which is signed for good, nor in anything for people."""
    facts = preparation.read_facts(begun.workspace)
    facts["sources"][0]["uri"] = "https://ann:hunter2@data.example/soc/alerts.jsonl?X-Amz-Signature=c0ffee"
    begun.workspace.note("prepared.json", facts)
    evaluate_stage(begun.workspace, 0)
    publish_stage(begun.workspace, 0)
    paths = set(begun.workspace.store.store.list()) - {layout.adapter_file(layout.WEIGHTS)}
    told = {path: begun.document(path) for path in paths}
    assert {layout.MANIFEST, layout.RESULT, layout.REPORT, layout.EVALUATION} <= told.keys()
    assert [] == [path for path, text in told.items() if "hunter2" in text or "c0ffee" in text]
    assert "alerts:alerts.jsonl" in verify.read_manifest(Path(begun.workspace.store.uri)).inputs
    assert "https://data.example/soc/alerts.jsonl" in begun.document(layout.REPORT)


def test_only_what_was_judged_is_published(begun: Run) -> None:
    """Another adapter in the candidate's place since: nothing is signed."""
    evaluate_stage(begun.workspace, 0)
    begun.save(1)
    with pytest.raises(ResumeMismatch, match="were judged: they are not published"):
        publish_stage(begun.workspace, 0)
    assert not {layout.MANIFEST, layout.SUCCESS} & set(begun.workspace.store.store.list())
    begun.save(0)
    publish_stage(begun.workspace, 0)
    assert layout.SUCCESS in begun.workspace.store.store.list()
