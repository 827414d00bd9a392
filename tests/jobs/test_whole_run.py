"""All five stages with the real trainers on a tiny base: what each way of ending leaves behind, and what it says.

The stages run in this process; `test_killed_runs` and `test_two_workers` run them as Ray Train does.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.jobs.scripted import Outage

from socadapter_agent.mcp_tools import McpToolbox
from socadapter_api import digest, errors
from socadapter_api.case import Verdict
from socadapter_api.manifest import Calibration, Outcome, RunResult, Stage
from socadapter_api.training import ReplayMiss, RewardSpec, RunSpec, ToolServer
from socadapter_api.trajectory import Trajectory
from socadapter_jobs import collapse
from socadapter_jobs.candidates import Parent, candidate_folder, sft_folder
from socadapter_jobs.development import DevelopmentScore, score_development
from socadapter_jobs.environment import ToolboxOf, open_environment
from socadapter_jobs.evaluation import evaluate_files, evaluate_run
from socadapter_jobs.policy import state_digest
from socadapter_jobs.report import view
from socadapter_jobs.rewards import Reward
from socadapter_jobs.workspace import Workspace
from socadapter_store import layout, signatures
from socadapter_store.run_folder import RunFolder
from socadapter_store.verify import read_manifest, verify_version

pytestmark = pytest.mark.slow

MakeSpec = Callable[..., RunSpec]
RunHere = Callable[[RunSpec], RunResult]
IMPOSSIBLE = {"gates": [{"metric": "balancedAccuracy", "min": 2.0}]}
QUICK: dict[str, Any] = {"grpo": {"steps": 0}, "evaluation": {"summaries": 0}}


def files(spec: RunSpec) -> set[str]:
    return set(Workspace.of(spec).store.store.list())


def document(spec: RunSpec, name: str) -> Any:
    return Workspace.of(spec).store.store.read_json(name)


def card(spec: RunSpec) -> str:
    return (Path(Workspace.of(spec).store.uri) / "adapter" / layout.MODEL_CARD).read_text()


def decided(arm: dict[str, Any]) -> dict[str, Any]:
    """What was concluded of each case, what was done with it, and the figures that hang on the calibration."""
    figures = {name: round(arm["metrics"][name], 4) for name in ("utility", "brier", "ece")}
    return figures | {case["id"]: (case["verdict"], case["served"]) for case in arm["cases"]}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run that has prepared and learned is kept, for others to go on from."""
    return tmp_path_factory.mktemp("taught")


@pytest.fixture
def spec_after_sft(make_spec: MakeSpec, run_here: RunHere, base: Path, taught: Path) -> MakeSpec:
    """A spec whose run has finished `prepare` and `sft` already; changes may concern later stages only."""

    def make(**changes: Any) -> RunSpec:
        spec = make_spec(base, **changes)
        if not (taught / "done").exists():
            first = make_spec(base, store=str(taught / "store"), scratch=str(taught / "scratch"), evaluation=IMPOSSIBLE)
            run_here(first.model_copy(update={"grpo": first.grpo.model_copy(update={"steps": 0})}))
            (taught / "done").touch()
        here, there = Workspace.of(spec), Path(taught / "store" / "soc" / "cloud" / spec.run_id)
        for name in ("prepared", "sft"):
            shutil.copytree(taught / "scratch" / name, here.scratch / name)
        for name in ("prepared.json", "precision.json", "sft_history.json"):
            shutil.copyfile(taught / "scratch" / name, here.scratch / name)
        for stage in (Stage.PREPARE, Stage.SFT):
            facts = json.loads((there / layout.stage_marker(stage)).read_text())
            here.store.finish_stage(stage, facts)
        return spec

    return make


def test_a_run_ends_with_a_signed_version(
    make_spec: MakeSpec, run_here: RunHere, base: Path, key: signatures.KeyPair, data: Any, tmp_path: Path
) -> None:
    """Published, verified with the public key, complete, and able to score alerts."""
    neighbour = {"context": "network", "arms": {"candidate": {"metrics": {"balanced_accuracy": 0.9, "n": 40}}}}
    spec = make_spec(base, other_contexts={"network": {"uri": str(data.alerts)}}, other_runs=[str(tmp_path / "other")])
    RunFolder.at(tmp_path / "other").write_json(layout.EVALUATION, neighbour)
    result = run_here(spec)
    folder = Path(Workspace.of(spec).store.uri)
    assert (Outcome.PUBLISHED, "Completed", 2) == (result.outcome, result.grpo and result.grpo.status, 2)
    manifest = verify_version(folder, result.digest, [key.public_pem()], max_rank=spec.max_rank)
    assert (result.version, 4) == (manifest.version, manifest.rank)
    named = {"alerts:alerts.jsonl", "trajectories:trajectories.jsonl", "holdout of network:alerts.jsonl", "base"}
    assert named == set(result.inputs) == set(manifest.inputs)
    assert {f"stages/{stage.value}.json" for stage in Stage if stage is not Stage.PUBLISH} <= files(spec)
    assert {"evaluation.json", "report.html", "manifest.sig", "result.json", "_SUCCESS"} <= files(spec)
    page = (folder / layout.REPORT).read_text()
    digests = {str(value) for name, value in document(spec, layout.MANIFEST).items() if name.endswith("Digest")}
    assert [] == [value for value in {"Published", manifest.version} | digests - {"None"} if value not in page]
    drawn = ("reward", "verdict reward", "shaping", "penalty", "accuracy", "entropy", "missed attacks")
    assert [] == [name for name in drawn if f"</svg>{name}</span>" not in page]
    assert [] == [name for name in view.BASELINES.values() if name not in page]
    assert "_FAILED" not in files(spec)
    evaluation = document(spec, "evaluation.json")
    assert {"candidate", "base"} == set(evaluation["arms"])
    assert ["network"] == list(evaluation["other_contexts"])
    assert {"network": {"balanced_accuracy": 0.9, "n": 40}} == evaluation["other_adapters"]["network"]["on"]
    assert "Adapter of network" in page
    assert 6 == len(evaluation["learning"]["sft"])
    assert [1, 2] == [row["step"] for row in evaluation["learning"]["grpo"]]
    found = evaluate_files(base=str(base), adapter=folder, alerts=str(data.alerts))
    assert (40, 40) == (found["n"], len(found["cases"]))
    assert run_here(spec) == result


def test_a_failed_gate_publishes_nothing(spec_after_sft: MakeSpec, run_here: RunHere) -> None:
    """The run is finished, not broken; its evidence is there and its adapter is not."""
    spec = spec_after_sft(**QUICK | {"evaluation": IMPOSSIBLE})
    result = run_here(spec)
    assert (Outcome.GATE_FAILED, False, None, "") == (result.outcome, result.retryable, result.digest, result.version)
    assert "balancedAccuracy min 2" in result.message
    assert [False] == [gate.passed for gate in result.gates]
    assert {"evaluation.json", "report.html", "_SUCCESS"} <= files(spec)
    assert not {name for name in files(spec) if name.startswith(("adapter", "manifest", "_FAILED"))}
    page = (Path(Workspace.of(spec).store.uri) / layout.REPORT).read_text()
    evaluation = document(spec, "evaluation.json")
    digests = {value for name, value in evaluation["judged_with"].items() if name.endswith("digest") and value}
    digests |= {evaluation["base"]["digest"], evaluation["weights_digests"]["candidate"], *result.inputs.values()}
    assert 8 <= len(digests)
    assert [] == [value for value in {spec.base.uri, *digests} if value not in page]


def test_grounding_is_of_the_sample_that_was_summarized(spec_after_sft: MakeSpec, run_here: RunHere) -> None:
    """Every arm is asked for summaries of the same few alerts; one that was not written is not grounded."""
    gates = [{"metric": "groundedRate", "min": 0.0}]
    spec = spec_after_sft(grpo={"steps": 0, "max_summary_tokens": 64}, evaluation={"summaries": 6, "gates": gates})
    result = run_here(spec)
    evaluation = document(spec, "evaluation.json")
    arms = evaluation["arms"]
    for name in ("candidate", "base"):
        told, rate = arms[name]["summaries"], arms[name]["metrics"]["grounded_rate"]
        assert 6 == told["n"], name
        assert rate == pytest.approx(told["grounded"] / 6), name
    rate = arms["candidate"]["metrics"]["grounded_rate"]
    assert [("groundedRate", rate, True)] == [(gate.metric, gate.value, gate.passed) for gate in result.gates]
    assert rate == result.metrics["groundedRate"]


def test_grpo_that_was_refused_says_so_everywhere(spec_after_sft: MakeSpec, run_here: RunHere) -> None:
    """Start gate, result, evaluation and model card; what SFT reached is published."""
    spec = spec_after_sft(grpo={"start_valid_percent": 100.0, "start_auc": 1.0, "temperature": 2.0})
    result = run_here(spec)
    assert result.grpo is not None
    assert ("Refused", "StartGate", 0) == (result.grpo.status, result.grpo.reason, result.grpo.steps)
    assert (Outcome.PUBLISHED, result.grpo.message) == (
        result.outcome,
        document(spec, "evaluation.json")["grpo"]["message"],
    )
    assert result.grpo.message in card(spec)
    assert not list((Workspace.of(spec).scratch / "grpo").glob("checkpoint-*"))


def test_a_refusal_outlives_a_kill(spec_after_sft: MakeSpec, run_here: RunHere) -> None:
    """Killed between the refusal and the stage's marker, the next start does not train after all."""
    spec = spec_after_sft(grpo={"start_auc": 1.0}, evaluation=IMPOSSIBLE)
    run_here(spec)
    workspace = Workspace.of(spec)
    remembered = json.loads((workspace.scratch / "grpo" / "state.json").read_text())
    assert "development AUC" in remembered["refusal"]
    again = spec.model_copy(update={"store": f"{spec.store}-again"})
    there = Workspace.of(again).store
    for stage in (Stage.PREPARE, Stage.SFT):
        there.finish_stage(stage, workspace.store.finished_stage(stage))
    result = run_here(again)
    assert result.grpo is not None
    assert ("Refused", remembered["refusal"]) == (result.grpo.status, result.grpo.message)
    assert 1 == len(document(again, "evaluation.json")["learning"]["development"])


def test_collapse_ends_grpo_with_the_best_adapter_kept(
    spec_after_sft: MakeSpec, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aborted at its first sign, with its reason in result and model card."""
    monkeypatch.setattr(collapse, "ENTROPY_SHARE", 100.0)
    monkeypatch.setattr(collapse, "ENTROPY_STEPS", 1)
    spec = spec_after_sft(grpo={"steps": 6})
    result = run_here(spec)
    assert result.grpo is not None
    assert ("Aborted", "EntropyCollapse", 1) == (result.grpo.status, result.grpo.reason, result.grpo.steps)
    assert Outcome.PUBLISHED is result.outcome
    assert "EntropyCollapse" in card(spec) or "entropy fell" in card(spec)


def test_an_aborted_run_publishes_its_best_and_not_its_last_step(
    spec_after_sft: MakeSpec, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 1 is the best of those that were scored, step 2 the first sign of collapse."""
    monkeypatch.setattr(collapse, "ENTROPY_SHARE", 100.0)
    monkeypatch.setattr(collapse, "ENTROPY_STEPS", 2)

    def score(step: int, *args: Any, **more: Any) -> DevelopmentScore:
        return replace(score_development(step, *args, **more), utility={0: 0.1, 1: 0.9, 2: 0.2}[step])

    def reward(spec: RewardSpec, label: Verdict, weight: float, group: Sequence[Trajectory]) -> list[Reward]:
        return [Reward(float(place % 2), 0.0, 0.0) for place in range(len(group))]  # so that every step learns

    monkeypatch.setattr("socadapter_jobs.grpo.score_development", score)
    monkeypatch.setattr("socadapter_jobs.sampler.group_rewards", reward)
    spec = spec_after_sft(grpo={"steps": 6, "eval_every": 1}, evaluation={"summaries": 0})
    result = run_here(spec)
    assert result.grpo is not None
    assert ("Aborted", 2, 1) == (result.grpo.status, result.grpo.steps, result.grpo.best_step)
    scratch = Workspace.of(spec).scratch
    first, last, published = (
        state_digest(load_file(folder / layout.WEIGHTS))
        for folder in (
            scratch / "grpo" / "checkpoint-1",
            scratch / "grpo" / "checkpoint-2",
            Path(Workspace.of(spec).store.uri) / layout.ADAPTER,
        )
    )
    assert first != last
    assert first == published


def test_an_abort_outlives_a_kill(spec_after_sft: MakeSpec, run_here: RunHere, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the abort and the stage's marker, the next start makes no further step and says the same."""
    spec = spec_after_sft(grpo={"steps": 6}, evaluation=IMPOSSIBLE)
    with monkeypatch.context() as patch:
        patch.setattr(collapse, "ENTROPY_SHARE", 100.0)
        patch.setattr(collapse, "ENTROPY_STEPS", 1)
        first = run_here(spec)
    workspace = Workspace.of(spec)
    remembered = json.loads((workspace.scratch / "grpo" / "state.json").read_text())
    assert [1] == [row["step"] for row in remembered["window"]]
    again = spec.model_copy(update={"store": f"{spec.store}-again"})
    there = Workspace.of(again).store
    for stage in (Stage.PREPARE, Stage.SFT):
        there.finish_stage(stage, workspace.store.finished_stage(stage))
    result = run_here(again)
    assert result.grpo is not None
    assert ("Aborted", "EntropyCollapse", 1) == (result.grpo.status, result.grpo.reason, result.grpo.steps)
    assert first.grpo == result.grpo
    assert [1] == [row["step"] for row in document(again, "evaluation.json")["learning"]["grpo"]]
    made = [json.loads(line) for line in (workspace.scratch / "metrics.jsonl").read_text().splitlines()]
    assert [1] == [row["step"] for row in made if row["stage"] == Stage.GRPO.value and "message" not in row]


def test_grpo_ends_when_its_time_is_up(spec_after_sft: MakeSpec, run_here: RunHere) -> None:
    """After the step under way."""
    result = run_here(spec_after_sft(grpo={"steps": 6, "time_limit": "1ms"}, evaluation=IMPOSSIBLE))
    assert result.grpo is not None
    assert ("TimeLimit", 1) == (result.grpo.status, result.grpo.steps)


def test_both_trainings_can_be_left_out(make_spec: MakeSpec, run_here: RunHere, base: Path) -> None:
    """Zero epochs and zero steps: the fresh adapter is judged as it is, and fails its gate."""
    spec = make_spec(base, **QUICK | {"sft": {"epochs": 0.0}, "evaluation": IMPOSSIBLE})
    result = run_here(spec)
    assert (Outcome.GATE_FAILED, "Skipped") == (result.outcome, result.grpo and result.grpo.status)
    assert 0 == document(spec, "stages/sft.json")["steps"]


def test_a_run_goes_on_from_its_parent(
    spec_after_sft: MakeSpec, make_spec: MakeSpec, run_here: RunHere, base: Path
) -> None:
    """The parent's adapter is where training starts, its KL is in the loss; the champion is judged as it was."""
    before = spec_after_sft(**QUICK)
    first = run_here(before)
    parent = {"name": first.version, "uri": first.uri, "digest": first.digest}
    spec = make_spec(
        base,
        run_id="cloud-2-a",
        version_number=2,
        parent=parent,
        continue_from="Parent",
        scratch=None,
        sft={"epochs": 0.0},
        grpo={"kl_coefficient": 0.1},
        evaluation={
            "gates": [{"metric": "falseNegativeRate", "nonInferiority": {"to": "Champion", "margin": 1.0}}],
        },
    )
    result = run_here(spec)
    assert (Outcome.PUBLISHED, "Completed") == (result.outcome, result.grpo and result.grpo.status)
    evaluation = document(spec, "evaluation.json")
    assert {"candidate", "base", "champion"} == set(evaluation["arms"])
    was = document(before, "evaluation.json")
    assert decided(was["arms"]["candidate"]) == decided(evaluation["arms"]["champion"])
    manifest = document(spec, "manifest.json")
    assert (first.version, first.digest) == (manifest["parent"], manifest["parentDigest"])
    assert layout.ADAPTER_FILES == {
        name.removeprefix("adapter/") for name in files(spec) if name.startswith("adapter/")
    }
    assert first.digest != result.digest


def test_the_champion_is_judged_as_it_serves(spec_after_sft: MakeSpec, run_here: RunHere) -> None:
    """With the calibration of its own manifest, whatever was fitted on the candidate's development split."""
    spec = spec_after_sft(**QUICK)
    run_here(spec)
    workspace = Workspace.of(spec)
    folder = Path(workspace.store.uri)
    own = Calibration(slope=0.5, intercept=2.0, escalate_at=0.01, fitted_on=40)
    champion = Parent(folder / layout.ADAPTER, read_manifest(folder).model_copy(update={"calibration": own}))
    told: list[tuple[int, int]] = []
    arms = evaluate_run(workspace, candidate_folder(workspace), champion, lambda done, of: told.append((done, of)))[
        "arms"
    ]
    assert told[-1][0] == told[-1][1], "one count over all its investigations, those that were kept included"
    for name, calibrated in (("champion", own), ("candidate", read_manifest(folder).calibration)):
        rows = arms[name]["cases"]
        squares = [
            (calibrated.calibrated(row["confidence"]) - (row["label"] == Verdict.TRUE_POSITIVE)) ** 2 for row in rows
        ]
        assert pytest.approx(sum(squares) / len(squares)) == arms[name]["metrics"]["brier"], name
        decisions = [calibrated.decide(Verdict(row["verdict"]), row["confidence"]) for row in rows]
        assert decisions == [Verdict(row["served"]) for row in rows], name


def test_a_parent_of_another_shape_is_refused_before_training(
    spec_after_sft: MakeSpec, make_spec: MakeSpec, run_here: RunHere, base: Path
) -> None:
    """The version would have the parent's rank, whatever the spec says."""
    first = run_here(spec_after_sft(**QUICK))
    parent = {"name": first.version, "uri": first.uri, "digest": first.digest}
    spec = make_spec(
        base,
        run_id="cloud-2-a",
        version_number=2,
        parent=parent,
        continue_from="Parent",
        scratch=None,
        lora={"rank": 8},
    )
    with pytest.raises(errors.SpecError, match=f"lora.rank: 4 in {first.version}, 8 in the spec"):
        run_here(spec)
    assert not {name for name in files(spec) if name.startswith("stages/")}


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        pytest.param({"signing_key": None}, errors.SecretNotFound, "no signing key", id="no key"),
        pytest.param({"grpo": {"alerts_per_step": 64}}, errors.TooFewAlerts, "one step takes", id="too small a night"),
    ],
)
def test_what_cannot_be_finished_fails_with_its_reason(
    spec_after_sft: MakeSpec, run_here: RunHere, changes: dict[str, Any], kind: type[errors.SocAdapterError], told: str
) -> None:
    """The error, the result and its marker agree; no part of a version is in the store."""
    spec = spec_after_sft(**QUICK | changes)
    with pytest.raises(kind, match=told):
        run_here(spec)
    result = Workspace.of(spec).store.read_result()
    assert result is not None
    assert (Outcome.FAILED, kind.reason, kind.retryable) == (result.outcome, result.reason, result.retryable)
    assert {"_FAILED", "report.html"} <= files(spec)
    page = (Path(Workspace.of(spec).store.uri) / layout.REPORT).read_text()
    assert [] == [words for words in ("Failed", told) if words not in page]
    assert not {name for name in files(spec) if name.startswith(("adapter", "manifest"))}


def test_an_outage_while_the_candidate_is_judged_is_tried_again(
    spec_after_sft: MakeSpec, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No calibration is fitted on what it left, and nothing that was investigated in it is kept."""

    @contextlib.asynccontextmanager
    async def failing(*args: Any) -> AsyncIterator[ToolboxOf]:
        async with open_environment(*args) as toolbox_of:
            yield lambda case: Outage(toolbox_of(case), True)

    spec = spec_after_sft(**QUICK | {"evaluation": IMPOSSIBLE})
    workspace = Workspace.of(spec)
    with monkeypatch.context() as patch:
        patch.setattr("socadapter_jobs.examiner.open_environment", failing)
        with pytest.raises(errors.ToolOutage, match="of the development split"):
            run_here(spec)
    result = workspace.store.read_result()
    assert result is not None
    assert (Outcome.FAILED, "ToolOutage", True) == (result.outcome, result.reason, result.retryable)
    workspace.store.reopen()
    assert Outcome.GATE_FAILED is run_here(spec).outcome
    evaluation = document(spec, "evaluation.json")
    assert {0} == {arm["metrics"]["unscorable"] for arm in evaluation["arms"].values()}
    assert 8 == evaluation["calibration"]["fitted_on"]


def test_a_base_that_training_changed_is_refused(
    make_spec: MakeSpec, run_here: RunHere, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that writes into the frozen weights ends the run."""
    from socadapter_jobs.sft import train_sft

    def careless(policy: Any, *args: Any, **more: Any) -> Any:
        outcome = train_sft(policy, *args, **more)
        next(p for name, p in policy.named_parameters() if "lora_" not in name).data.mul_(1.0001)
        return outcome

    monkeypatch.setattr("socadapter_jobs.training_stages.train_sft", careless)
    with pytest.raises(errors.BaseChanged, match="the frozen base had digest"):
        run_here(make_spec(base))


def test_tools_that_changed_since_are_refused(spec_after_sft: MakeSpec, run_here: RunHere) -> None:
    """A run that was prepared with other tools samples nothing with these, recorded or live."""
    spec = spec_after_sft()
    path = Workspace.of(spec).scratch / "prepared.json"
    facts = json.loads(path.read_text())
    facts["tools"][0][0] = "ledger"
    path.write_text(json.dumps(facts))
    with pytest.raises(errors.ToolSchemaMismatch, match=r"the tools in .*prepared\.json changed"):
        run_here(spec)


async def test_live_tools_that_changed_are_refused() -> None:
    """Whatever a server offers must be what the run was prepared with."""
    command = [sys.executable, str(Path(__file__).parent / "tool_server.py")]
    before, after = (
        (ToolServer.model_validate({"name": "telemetry", "command": [*command, name]}),) for name in ("signins", "log")
    )
    async with McpToolbox(before) as live:
        specs = live.specs
    async with open_environment(before, (), ReplayMiss.NO_DATA, specs):
        pass
    with pytest.raises(errors.ToolSchemaMismatch, match=r"\['signins'\] became \['log'\]"):
        async with open_environment(after, (), ReplayMiss.NO_DATA, specs):
            pass


def flip(path: Path) -> None:
    """Changes one bit of a number in a file of weights, which every loader takes."""
    content = bytearray(path.read_bytes())
    content[-2] ^= 0x01
    path.write_bytes(content)


@pytest.mark.parametrize("steps", [pytest.param(2, id="before grpo"), pytest.param(0, id="before evaluate")])
def test_an_adapter_that_changed_since_sft_is_refused(spec_after_sft: MakeSpec, run_here: RunHere, steps: int) -> None:
    """Neither trained on nor judged; the page of the run says why."""
    spec = spec_after_sft(grpo={"steps": steps}, evaluation={"summaries": 0})
    flip(sft_folder(Workspace.of(spec)) / layout.WEIGHTS)
    with pytest.raises(errors.ResumeMismatch, match="it was changed or damaged since"):
        run_here(spec)
    page = (Path(Workspace.of(spec).store.uri) / layout.REPORT).read_text()
    assert [] == [told for told in ("Failed", "it was changed or damaged since") if told not in page]


def test_a_best_adapter_that_changed_since_grpo_is_refused(spec_after_sft: MakeSpec, run_here: RunHere) -> None:
    """By the digest that GRPO remembers."""
    spec = spec_after_sft(evaluation=IMPOSSIBLE)
    run_here(spec)
    workspace = Workspace.of(spec)
    again = spec.model_copy(update={"store": f"{spec.store}-again"})
    there = Workspace.of(again).store
    for stage in (Stage.PREPARE, Stage.SFT, Stage.GRPO):
        there.finish_stage(stage, workspace.store.finished_stage(stage))
    best = candidate_folder(workspace)
    assert best.name.startswith("best-")
    flip(best / layout.WEIGHTS)
    with pytest.raises(errors.ResumeMismatch, match=f"was left in .*{best.name}"):
        run_here(again)


@pytest.mark.parametrize("steps", [pytest.param(2, id="before grpo"), pytest.param(0, id="before evaluate")])
def test_a_chat_format_that_changed_since_sft_is_refused(
    spec_after_sft: MakeSpec, run_here: RunHere, steps: int
) -> None:
    """A run that goes on under other code may write conversations otherwise than its adapter was taught."""
    spec = spec_after_sft(grpo={"steps": steps}, evaluation={"summaries": 0})
    store = Workspace.of(spec).store
    other = digest.of_bytes(b"other")
    store.finish_stage(Stage.SFT, (store.finished_stage(Stage.SFT) or {}) | {"template": other})
    with pytest.raises(errors.TemplateUnsupported, match=f"SFT taught chat format {other}"):
        run_here(spec)


@pytest.mark.parametrize("stage", [pytest.param(Stage.SFT, id="sft"), pytest.param(Stage.GRPO, id="grpo")])
def test_a_stop_leaves_a_checkpoint_to_go_on_from(
    make_spec: MakeSpec, run_here: RunHere, base: Path, stage: Stage
) -> None:
    """SIGTERM in the middle of a stage: no result, no marker; the next start goes on behind the checkpoint."""
    spec = make_spec(
        base, sft={"epochs": 8.0}, grpo={"steps": 6, "eval_every": 3, "start_valid_percent": 0.0}, evaluation=IMPOSSIBLE
    )
    workspace = Workspace.of(spec)
    metrics = workspace.scratch / "metrics.jsonl"
    ended = threading.Event()

    def steps() -> list[int]:
        rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else []
        return [row["step"] for row in rows if row["stage"] == stage.value and "message" not in row]

    def stop_soon() -> None:
        while not ended.wait(0.002):
            if len(steps()) >= 2:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=stop_soon, daemon=True).start()
    with pytest.raises(errors.RunInterrupted):
        run_here(spec)
    ended.set()
    made = steps()
    assert workspace.store.read_result() is None
    assert workspace.store.finished_stage(stage) is None
    assert (workspace.scratch / stage.value / f"checkpoint-{made[-1]}" / "sealed.json").is_file()
    result = run_here(spec)
    assert Outcome.GATE_FAILED is result.outcome
    last = 44 if stage is Stage.SFT else 6  # eight epochs of 44 examples, eight a step
    assert list(range(1, last + 1)) == steps()
    if stage is Stage.GRPO:
        rows = document(spec, "evaluation.json")["learning"]["grpo"]
        assert list(range(1, 7)) == [row["step"] for row in rows]
