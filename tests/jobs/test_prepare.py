"""Everything is pinned, checked and split before anything is trained; what is scored is never learned from."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from socadapter_agent.tools import ToolSpec
from socadapter_api import errors
from socadapter_api.case import Case, Verdict
from socadapter_api.feedback import Feedback, FeedbackRecord
from socadapter_api.manifest import Outcome
from socadapter_api.training import DataSource
from socadapter_jobs import prepare as preparation
from socadapter_jobs.data import case_files
from socadapter_jobs.stages import prepare_stage
from socadapter_jobs.workspace import Workspace

pytestmark = pytest.mark.slow

MakeWorkspace = Callable[..., Workspace]


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., DataSource]:
    """A case file of its own for a test."""

    def write(cases: list[Case], name: str = "cases.jsonl") -> DataSource:
        case_files.write_cases(str(tmp_path / name), cases)
        return DataSource(uri=str(tmp_path / name))

    return write


def prepared(workspace: Workspace) -> dict[str, tuple[Case, ...]]:
    preparation.prepare(workspace)
    return {name: preparation.read_set(workspace, name) for name in preparation.SETS}


def test_what_is_scored_is_never_learned_from(make_workspace: MakeWorkspace, blank_base: Path) -> None:
    """Train, development and holdout share no case; no expert's investigation is of a scored one."""
    workspace = make_workspace(blank_base)
    sets = prepared(workspace)
    ids = {name: {case.id for case in cases} for name, cases in sets.items()}
    assert 40 == sum(len(found) for found in ids.values()) == len(set.union(*ids.values()))
    assert {expert.case_id for expert in preparation.read_experts(workspace)} == ids["train"]
    for name, cases in sets.items():
        assert {Verdict.TRUE_POSITIVE, Verdict.FALSE_POSITIVE} == {case.label for case in cases}, name


def test_a_named_holdout_is_taken_out_of_training(
    make_workspace: MakeWorkspace, blank_base: Path, data: Any, written: Callable[..., DataSource]
) -> None:
    """By id and by content: a copy of a holdout alert under another id does not slip in, nor does its expert."""
    held = [case.model_copy(update={"id": f"held-{case.id}"}) for case in data.cases[:8]]
    workspace = make_workspace(blank_base, data={"holdout": [written(held)]})
    sets = prepared(workspace)
    assert {case.id for case in held} == {case.id for case in sets["holdout"]}
    left = {case.id for case in data.cases[8:]}
    assert left == {case.id for case in (*sets["train"], *sets["development"])}
    assert {expert.case_id for expert in preparation.read_experts(workspace)} <= left


def test_an_experts_alert_under_another_name_is_not_learned(
    make_workspace: MakeWorkspace, blank_base: Path, data: Any, tmp_path: Path
) -> None:
    """Trajectories have names of their own: what is scored is known by its alert, in development as in the holdout."""
    path = str(tmp_path / "renamed.jsonl")
    renamed = [e.model_copy(update={"case_id": f"incident-{e.case_id}"}) for e in data.experts]
    case_files.write_trajectories(path, renamed)
    workspace = make_workspace(blank_base, data={"trajectories": [{"uri": path}]})
    sets = prepared(workspace)
    learned = {expert.case_id for expert in preparation.read_experts(workspace)}
    assert {f"incident-{case.id}" for case in sets["train"]} == learned


def test_experts_of_what_was_set_aside_are_not_learned(
    make_workspace: MakeWorkspace, blank_base: Path, data: Any, written: Callable[..., DataSource]
) -> None:
    """A split by time and entity drops cases that are of the holdout's time or people: so are their experts'
    investigations, and those of a named holdout's alerts that were not sampled."""
    begun = datetime(2026, 3, 1, tzinfo=UTC)
    dated = [
        case.model_copy(update={"observed_at": begun + timedelta(hours=place), "entities": (case.alert["user"],)})
        for place, case in enumerate(data.cases)
    ]
    workspace = make_workspace(blank_base, data={"alerts": [written(dated, "dated.jsonl")], "holdout_percent": 25})
    sets = prepared(workspace)
    assert len(dated) > sum(len(cases) for cases in sets.values())
    assert {case.id for case in sets["train"]} == {expert.case_id for expert in preparation.read_experts(workspace)}


def test_experts_of_a_holdout_that_is_sampled_are_not_learned(
    make_workspace: MakeWorkspace, blank_base: Path, data: Any, written: Callable[..., DataSource]
) -> None:
    """Nor of those of its alerts that were not drawn."""
    workspace = make_workspace(blank_base, data={"holdout": [written(data.cases[:14])], "max_holdout": 10})
    sets = prepared(workspace)
    assert 10 == len(sets["holdout"])
    assert {expert.case_id for expert in preparation.read_experts(workspace)} <= {case.id for case in data.cases[14:]}


def test_the_same_inputs_are_prepared_alike(make_workspace: MakeWorkspace, blank_base: Path, tmp_path: Path) -> None:
    """Digests of every set, twice; another seed splits otherwise."""
    first = preparation.prepare(make_workspace(blank_base))
    again = preparation.prepare(make_workspace(blank_base))
    other = preparation.prepare(make_workspace(blank_base, seed=1, scratch=str(tmp_path / "other")))
    assert first == again
    assert first["sources"] == other["sources"]
    assert first["digests"]["holdout"] != other["digests"]["holdout"]


def test_a_run_keeps_the_seed_that_it_was_prepared_with(make_workspace: MakeWorkspace, blank_base: Path) -> None:
    """Edited while it is interrupted, the spec's seed is for the next run: later stages go on with the split's own."""
    assert 1 == make_workspace(blank_base, seed=1).spec.seed
    preparation.prepare(make_workspace(blank_base, seed=1))
    resumed = make_workspace(blank_base, seed=2)
    assert 1 == resumed.spec.seed


def test_experts_are_scripted_where_none_are_named(make_workspace: MakeWorkspace, blank_base: Path) -> None:
    """From the training cases' evidence alone; they ask for what decides."""
    workspace = make_workspace(blank_base, data={"trajectories": []})
    sets = prepared(workspace)
    experts = preparation.read_experts(workspace)
    assert {case.id for case in sets["train"]} == {expert.case_id for expert in experts}
    assert {"signins"} == {call.tool for expert in experts for call in expert.calls}


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        pytest.param(
            {"lora": {"rank": 65}}, errors.RankTooHigh, "lora.rank is 65, the pool's maxLoraRank 64", id="rank"
        ),
        pytest.param(
            {"compute": {"strategy": "DeepSpeedZero3"}},
            errors.UnsupportedStrategy,
            "DeepSpeedZero2 or DDP",
            id="zero-3",
        ),
        pytest.param(
            {"compute": {"workers": 3}, "grpo": {"alerts_per_step": 6}},
            errors.SpecError,
            "sft.batchSize is 4 and compute.workers 3",
            id="examples that cannot be shared",
        ),
        pytest.param(
            {"compute": {"workers": 4}},
            errors.SpecError,
            "grpo.alertsPerStep is 2 and compute.workers 4",
            id="alerts that cannot be shared",
        ),
        pytest.param({"base": {"uri": "/nowhere"}}, errors.BaseNotFound, "no such folder", id="missing base"),
        pytest.param(
            {"base": {"digest": f"sha256:{'0' * 64}"}}, errors.BaseMismatch, "but the spec pins", id="another base"
        ),
        pytest.param({"data": {"alerts": []}}, errors.EmptyData, "data.alerts names no alert", id="no alerts"),
        pytest.param(
            {"data": {"alerts": [{"uri": "/nowhere.jsonl"}]}},
            errors.EmptyData,
            "neither a file nor a folder",
            id="missing file",
        ),
        pytest.param({"grpo": {"alerts_per_step": 64}}, errors.TooFewAlerts, "one step takes", id="no whole step"),
    ],
)
def test_what_cannot_be_is_refused(
    make_workspace: MakeWorkspace, blank_base: Path, changes: dict[str, Any], kind: type[Exception], told: str
) -> None:
    """With its reason, before anything is read or trained."""
    with pytest.raises(kind, match=told):
        preparation.prepare(make_workspace(blank_base, **changes))


def test_a_signing_key_that_cannot_be_used_is_told_at_once(
    make_workspace: MakeWorkspace, blank_base: Path, tmp_path: Path
) -> None:
    """Missing, unnamed or no key at all: hours of training could not be published."""
    garbage = tmp_path / "key.pem"
    garbage.write_text("no key")
    for path, told in ((None, "no signing key"), ("/nowhere.pem", "No such file"), (str(garbage), "cannot be used")):
        with pytest.raises(errors.SecretNotFound, match=told):
            preparation.prepare(make_workspace(blank_base, signing_key=path))


def test_one_class_is_refused(
    make_workspace: MakeWorkspace, blank_base: Path, making: Any, written: Callable[..., DataSource]
) -> None:
    """Nothing can be judged on attacks alone."""
    attacks = [making.case(number, attack=True) for number in range(40)]
    with pytest.raises(errors.OneClass, match="40 cases with 40 attacks"):
        preparation.prepare(make_workspace(blank_base, data={"alerts": [written(attacks)]}))


@pytest.mark.parametrize(
    ("line", "kind", "told"),
    [
        pytest.param('{"id": "x", "alert": {}, "label": "MAYBE"}', errors.UnknownLabel, "label 'MAYBE'", id="label"),
        pytest.param('{"id": "x", "alert": {}}', errors.MalformedRow, "'label'", id="no label"),
        pytest.param("{", errors.MalformedRow, "not a line of JSON", id="no JSON"),
    ],
)
def test_a_wrong_row_is_named(
    make_workspace: MakeWorkspace, blank_base: Path, tmp_path: Path, data: Any, line: str, kind: Any, told: str
) -> None:
    """By file and line."""
    path = tmp_path / "rows.jsonl"
    path.write_text(Path(data.alerts).read_text() + line + "\n")
    with pytest.raises(kind, match=told) as caught:
        preparation.prepare(make_workspace(blank_base, data={"alerts": [{"uri": str(path)}]}))
    assert f"{path}:41" in str(caught.value)


def test_ids_are_unique_over_all_sources(
    make_workspace: MakeWorkspace, blank_base: Path, data: Any, making: Any, written: Callable[..., DataSource]
) -> None:
    """What two files both hold counts once; another alert under the same id is told with both files."""
    whole = DataSource(uri=str(data.alerts))
    copies = written(list(data.cases[:5]), "copies.jsonl")
    facts = preparation.prepare(make_workspace(blank_base, data={"alerts": [whole, copies]}))
    assert 40 == sum(facts["counts"][name] for name in preparation.SETS)
    others = written([making.case(0, attack=False)], "others.jsonl")
    with pytest.raises(errors.MalformedRow, match=r"id 'c0' stands in \S*alerts\.jsonl and, .*others\.jsonl"):
        preparation.prepare(make_workspace(blank_base, data={"alerts": [whole, others]}))


def test_investigations_are_unique_over_all_sources(
    make_workspace: MakeWorkspace, blank_base: Path, data: Any, tmp_path: Path
) -> None:
    """As alerts are: SFT reads each once, and learns no two answers to one case."""
    whole, path = {"uri": str(data.trajectories)}, str(tmp_path / "more.jsonl")
    case_files.write_trajectories(path, data.experts[:5])
    facts = preparation.prepare(make_workspace(blank_base, data={"trajectories": [whole, {"uri": path}]}))
    assert facts["counts"]["train"] == facts["counts"]["trajectories"]
    case_files.write_trajectories(path, [data.experts[0].model_copy(update={"summary": "otherwise"})])
    with pytest.raises(errors.MalformedRow, match=r"id 'c0' stands in \S*trajectories\.jsonl and, .*more\.jsonl"):
        preparation.prepare(make_workspace(blank_base, data={"trajectories": [whole, {"uri": path}]}))


def test_a_pinned_source_that_changed_is_refused(make_workspace: MakeWorkspace, blank_base: Path, data: Any) -> None:
    """The spec's digest is that of the bytes that were approved."""
    changed = {"uri": str(data.alerts), "digest": f"sha256:{'0' * 64}"}
    with pytest.raises(errors.DigestMismatch, match=r"alerts\.jsonl"):
        preparation.prepare(make_workspace(blank_base, data={"alerts": [changed]}))


def test_a_prepared_file_that_changed_is_refused(make_workspace: MakeWorkspace, blank_base: Path) -> None:
    """Between two stages nobody slips another example in."""
    workspace = make_workspace(blank_base)
    prepared(workspace)
    for name, read in (
        ("train", lambda: preparation.read_set(workspace, "train")),
        ("trajectories", lambda: preparation.read_experts(workspace)),
    ):
        path = workspace.prepared / f"{name}.jsonl"
        path.write_text(path.read_text().replace("known", "unknown", 1))
        with pytest.raises(errors.DigestMismatch, match=f"{name}.jsonl"):
            read()


def test_a_base_that_changed_since_is_refused(
    make_workspace: MakeWorkspace, blank_base: Path, tmp_path: Path, tokenizer: Any
) -> None:
    """Later stages load the very base that was prepared with."""
    import shutil

    base = tmp_path / "base"
    shutil.copytree(blank_base, base)
    workspace = make_workspace(base)
    prepared(workspace)
    preparation.pinned_base(workspace)
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(settings | {"rms_norm_eps": 1e-3}))
    with pytest.raises(errors.BaseMismatch, match="but the spec pins"):
        preparation.pinned_base(workspace)


def test_another_contexts_holdout_is_kept_apart(
    make_workspace: MakeWorkspace, blank_base: Path, making: Any, written: Callable[..., DataSource]
) -> None:
    """For the matrix of contexts and adapters; never mixed into this one's sets."""
    others = making.cases(12, start=500)
    workspace = make_workspace(blank_base, other_contexts={"network": written(others, "network.jsonl")})
    sets = prepared(workspace)
    assert {case.id for case in others} >= {case.id for case in preparation.read_set(workspace, "other/network")}
    assert not {case.id for case in others} & {case.id for found in sets.values() for case in found}


def test_another_contexts_holdout_that_cannot_be_had_is_left_out(
    make_workspace: MakeWorkspace, blank_base: Path, making: Any, written: Callable[..., DataSource], tmp_path: Path
) -> None:
    """Malformed, gone or changed: a warning that names it, and this context's run goes on with the others."""
    (tmp_path / "malformed.jsonl").write_text("{")
    workspace = make_workspace(
        blank_base,
        other_contexts={
            "mail": {"uri": str(tmp_path / "malformed.jsonl")},
            "network": written(making.cases(12, start=500), "network.jsonl"),
            "office": {"uri": "/nowhere.jsonl"},
            "plant": {"uri": str(tmp_path / "network.jsonl"), "digest": f"sha256:{'0' * 64}"},
            "yard": {"uri": "nosuchscheme://bucket/holdout.jsonl"},
        },
    )
    facts = preparation.prepare(workspace)
    assert ["network"] == list(preparation.read_others(workspace))
    told = [row["message"] for row in facts["checks"] if (row["severity"], row["name"]) == ("warning", "other context")]
    assert ["mail", "office", "plant", "yard"] == [message.partition(" ")[0] for message in told]
    assert f"{tmp_path / 'malformed.jsonl'}:1" in told[0]
    assert not [row for row in facts["sources"] if row["name"] in {"holdout of mail", "holdout of plant"}]


def verdict(number: int, case: Case, observed_at: datetime | None = None, tool: str = "signins") -> FeedbackRecord:
    """An analyst's word on a served investigation of `case`, in which `tool` told of its sign-ins."""
    trajectory = {
        "verdict": case.label,
        "calls": [{"tool": tool, "evidence_id": "e1", "result": f"device={case.evidence['signins']['device']}"}],
    }
    return FeedbackRecord.model_validate(
        {
            "feedback": Feedback.model_validate(
                {
                    "trajectory_id": f"t{number}",
                    "verdict": case.label,
                    "analyst": ("ann", "bob")[number % 2],
                    "approved": True,
                }
            ),
            "context": "cloud",
            "alert": case.alert,
            "trajectory": trajectory,
            "version": "cloud-v1-00000000",
            "digest": f"sha256:{'0' * 64}",
            "given_at": 1000.0 + number,
            "observed_at": observed_at,
        }
    )


def exported(folder: Path, cases: list[Case], observed_at: datetime | None = None, tool: str = "signins") -> str:
    """A file of analysts' verdicts on `cases`."""
    path = folder / "feedback.jsonl"
    records = [verdict(number, case, observed_at, tool) for number, case in enumerate(cases)]
    path.write_text("".join(f"{record.model_dump_json()}\n" for record in records))
    return str(path)


def test_a_verdict_on_the_named_holdout_is_not_learned(
    make_workspace: MakeWorkspace, blank_base: Path, making: Any, written: Callable[..., DataSource], tmp_path: Path
) -> None:
    """Served and voted on, an alert of the holdout comes back under another id: neither case nor expert."""
    cases = making.cases(20, start=900)
    feedback = exported(tmp_path, cases)
    workspace = make_workspace(
        blank_base, feedback=feedback, data={"feedback": {"minVerdicts": 10}, "holdout": [written(cases[:8])]}
    )
    sets = prepared(workspace)
    learned = {case.id for case in (*sets["train"], *sets["development"])}
    assert {f"feedback-t{number}" for number in range(8, 20)} == {name for name in learned if "feedback" in name}
    alerts = [case.alert for case in cases[:8]]
    assert not [expert for expert in preparation.read_experts(workspace) if expert.alert in alerts]


def test_the_newest_verdicts_are_learned_where_no_holdout_is_named(
    make_workspace: MakeWorkspace,
    blank_base: Path,
    making: Any,
    data: Any,
    written: Callable[..., DataSource],
    tmp_path: Path,
) -> None:
    """Verdicts are of the latest alerts and name no entities: a split by time would hold all of them out."""
    begun = datetime(2026, 3, 1, tzinfo=UTC)
    dated = [
        case.model_copy(update={"observed_at": begun + timedelta(hours=place)}) for place, case in enumerate(data.cases)
    ]
    feedback = exported(tmp_path, making.cases(12, start=900), begun + timedelta(days=30))
    workspace = make_workspace(
        blank_base,
        feedback=feedback,
        data={"feedback": {"minVerdicts": 10}, "alerts": [written(dated, "dated.jsonl")]},
    )
    sets = prepared(workspace)
    learned = {case.id for case in (*sets["train"], *sets["development"])}
    assert 12 == len([name for name in learned if name.startswith("feedback-")])
    assert not [case.id for case in sets["holdout"] if case.id.startswith("feedback-")]


def test_no_night_is_calibrated_on_what_an_earlier_one_learned(
    make_workspace: MakeWorkspace, blank_base: Path, making: Any, tmp_path: Path
) -> None:
    """A night's verdicts move no other alert to another side, nor does one of them change sides the night after."""
    learned: set[str] = set()
    for night, start in enumerate((0, 900, 930, 960)):
        nightly: dict[str, Any] = {"run_id": f"night-{night}"}
        if night:
            (folder := tmp_path / f"night-{night}").mkdir()
            nightly["feedback"] = exported(folder, making.cases(60, start=start))
            nightly["data"] = {"feedback": {"minVerdicts": 10}}
        sets = prepared(make_workspace(blank_base, **nightly))
        assert not learned & {str(case.alert) for case in sets["development"]}, night
        learned |= {str(case.alert) for case in sets["train"]}


def test_what_no_agent_could_investigate_is_told_before_anything_trains(
    make_workspace: MakeWorkspace, blank_base: Path, data: Any, written: Callable[..., DataSource]
) -> None:
    """An alert longer than any model reads ends the run here, and in another context's holdout is a warning."""
    long = data.cases[3].model_copy(update={"alert": {"title": "x" * 20_000}})
    cases = written([*data.cases[:3], long, *data.cases[4:]], "long.jsonl")
    with pytest.raises(errors.MalformedRow, match=rf"case '{long.id}': the alert renders to 20007 characters"):
        preparation.prepare(make_workspace(blank_base, data={"alerts": [cases]}))
    facts = preparation.prepare(make_workspace(blank_base, other_contexts={"mail": cases}))
    assert [long.id in row["message"] for row in facts["checks"] if row["name"] == "other context"] == [True]


def test_tools_that_answer_as_of_an_alert_need_its_time(
    make_workspace: MakeWorkspace, blank_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it they would tell what came after."""
    server = {"name": "telemetry", "url": "http://127.0.0.1:9/mcp", "bind": {"as_of": "alert.observedAt"}}
    with pytest.raises(errors.MalformedRow, match=r"no observed_at, and tool server 'telemetry' answers as of"):
        preparation.prepare(make_workspace(blank_base, tools=[server]))


def test_no_investigation_is_made_up_for_tools_that_take_arguments(
    make_workspace: MakeWorkspace, blank_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded evidence does not tell what was asked."""
    asking = ToolSpec("signins", "", {"type": "object", "properties": {"user": {}}, "required": ["user"]})
    monkeypatch.setattr(preparation, "offered_tools", lambda *_: (asking,))
    with pytest.raises(errors.SpecError, match=r"the tools \['signins'\] take arguments"):
        preparation.prepare(make_workspace(blank_base, data={"trajectories": []}))


def test_what_analysts_approved_comes_beside_what_is_made_up(
    make_workspace: MakeWorkspace, blank_base: Path, making: Any, tmp_path: Path
) -> None:
    """Where no expert is named, SFT must not be left with the few investigations that a night approves."""
    feedback = exported(tmp_path, making.cases(20, start=900))
    workspace = make_workspace(
        blank_base, feedback=feedback, data={"trajectories": [], "feedback": {"minVerdicts": 10}}
    )
    sets = prepared(workspace)
    ids = [expert.case_id for expert in preparation.read_experts(workspace)]
    assert {case.id for case in sets["train"]} == set(ids)
    assert len(ids) == len(set(ids)), "one of each, the analyst's where there is one"


def test_verdicts_given_with_the_tools_of_another_day_teach_no_calls(
    make_workspace: MakeWorkspace,
    blank_base: Path,
    making: Any,
    data: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Nobody can mend them: alerts are learned from, investigations are left out, and the report says so."""
    monkeypatch.setattr(preparation, "offered_tools", lambda *_: data.specs)
    feedback = exported(tmp_path, making.cases(20, start=900), tool="ledger")
    workspace = make_workspace(blank_base, feedback=feedback, data={"feedback": {"minVerdicts": 10}})
    sets = prepared(workspace)
    assert [case.id for case in sets["train"] if case.id.startswith("feedback-")]
    assert not [e.case_id for e in preparation.read_experts(workspace) if e.case_id.startswith("feedback-")]
    (told,) = [row for row in preparation.read_facts(workspace)["checks"] if row["name"] == "experts of other tools"]
    assert ("warning", True) == (told["severity"], told["message"].startswith("20 approved investigations"))


@pytest.mark.parametrize(
    ("least", "learns"), [pytest.param(10, True, id="enough"), pytest.param(30, False, id="too few")]
)
def test_a_night_of_verdicts(
    make_workspace: MakeWorkspace, blank_base: Path, making: Any, tmp_path: Path, least: int, learns: bool
) -> None:
    """Enough verdicts are learned from, however long the run waited since they were asked for; with too few the run is
    over, skipped, and says why."""
    feedback = exported(tmp_path, making.cases(20, start=900))
    workspace = make_workspace(blank_base, feedback=feedback, data={"feedback": {"minVerdicts": least}})
    facts = prepare_stage(workspace, 0)
    result = workspace.store.read_result()
    if learns:
        assert result is None
        assert 60 == sum(facts["counts"][name] for name in preparation.SETS)
        assert "feedback" in {source["name"] for source in preparation.read_facts(workspace)["sources"]}
    else:
        assert result is not None
        assert Outcome.SKIPPED is result.outcome
        assert "20 usable verdicts" in result.message
        assert "20 usable verdicts" in (Path(workspace.store.uri) / "report.html").read_text()
