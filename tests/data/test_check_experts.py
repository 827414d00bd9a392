"""`data check --experts`: what is found in experts' investigations."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from socadapter_agent.tools import ToolSpec
from socadapter_api.case import Case
from socadapter_api.trajectory import ExpertTrajectory
from socadapter_jobs.data.case_files import write_cases, write_trajectories
from socadapter_jobs.data.check import Severity
from socadapter_jobs.data.check_experts import call_problem, check_experts
from socadapter_jobs.data.commands import data


def case(place: int, prefix: str = "c") -> Case:
    row = {
        "id": f"{prefix}{place}",
        "alert": {"title": "abc"[place % 3], "n": f"{prefix}{place}", "score": place * 37 % 101},
        "evidence": {"get": {"x": place % 7}, "asset": {"y": place % 5}},
        "label": "TP" if place % 2 else "FP",
    }
    return Case.model_validate(row)


def expert(of: Case, place: int, **changes: Any) -> ExpertTrajectory:
    """A sound investigation of `of`; which tool comes first changes from one to the next."""
    tools = ("get", "asset") if place % 4 < 2 else ("asset", "get")
    calls = [{"tool": tool, "evidenceId": f"e{n}", "result": "1 row"} for n, tool in enumerate(tools, start=1)]
    row = {"caseId": of.id, "alert": of.alert, "calls": calls, "verdict": of.label.value}
    return ExpertTrajectory.model_validate({**row, "summary": "Seen before.", "citations": ["e1"], **changes})


CASES = [case(place) for place in range(40)]
SOUND = [expert(of, place) for place, of in enumerate(CASES)]


def test_sound_investigations_raise_nothing() -> None:
    """Cited, summed up, in accord with the labels, and not all alike."""
    assert [] == check_experts(SOUND, CASES, [case(1, "h")])


@pytest.mark.parametrize(
    ("changes", "check", "severity"),
    [
        pytest.param({"citations": ["e1", "e9"]}, "invented citations", Severity.ERROR, id="evidence nobody returned"),
        pytest.param({"citations": []}, "no citations", Severity.WARNING, id="nothing cited"),
        pytest.param({"summary": "  "}, "no summary", Severity.WARNING, id="empty summary"),
        pytest.param({"verdict": "escalate"}, "experts against labels", Severity.WARNING, id="another verdict"),
        pytest.param({"caseId": "nobody"}, "experts without a case", Severity.WARNING, id="unknown case"),
    ],
)
def test_one_that_is_not_sound_is_named(changes: dict[str, Any], check: str, severity: Severity) -> None:
    """The finding says how grave it is, and of which case."""
    spoilt = expert(CASES[3], 3, **changes)
    (found,) = check_experts([*SOUND[:3], spoilt, *SOUND[4:]], CASES)
    assert (check, severity, (spoilt.case_id,)) == (found.check, found.severity, found.cases)


def test_a_call_without_an_id_is_cited_by_its_place() -> None:
    """As the model reads it: only what no call can have returned is invented."""
    calls = [{"tool": "get", "result": "1 row"}, {"tool": "asset", "result": "1 row"}]
    nameless = expert(CASES[3], 3, calls=calls, citations=["e2"])
    assert [] == check_experts([*SOUND[:3], nameless, *SOUND[4:]], CASES)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        pytest.param({"tool": "get", "args": {"host": "web"}}, None, id="fits"),
        pytest.param({"tool": "ledger"}, "'ledger' (there is no such tool)", id="unknown tool"),
        pytest.param({"tool": "get", "args": {}}, "'get' (missing argument host)", id="missing argument"),
        pytest.param(
            {"tool": "get", "args": {"host": "a", "n": 1}}, "'get' (no argument n; known: host)", id="unknown"
        ),
    ],
)
def test_calls_that_the_tools_would_refuse_are_told(call: dict[str, Any], problem: str | None) -> None:
    """The first of them, and why."""
    schema = {"type": "object", "properties": {"host": {"type": "string"}}, "required": ["host"]}
    tools = {"get": ToolSpec("get", "", schema)}
    assert problem == call_problem(expert(CASES[3], 3, calls=[call]), tools)


def test_investigations_of_the_holdout_are_told_by_id_and_by_alert() -> None:
    """Under another id it is still the alert that judges the model later."""
    renamed = CASES[5].model_copy(update={"id": "h5"})
    (found,) = check_experts(SOUND, CASES, [CASES[4], renamed])
    assert ("experts of the holdout", ("c4", "c5")) == (found.check, found.cases)


def test_investigations_all_alike_are_told() -> None:
    """One sequence of tools for everything, one verdict for everything."""
    alike = [expert(of, 0, verdict="true_positive") for of in CASES]
    found = [
        f.message
        for f in check_experts(
            alike, [c.model_copy(update={"label": a.verdict}) for c, a in zip(CASES, alike, strict=True)]
        )
    ]
    assert (2, True, True) == (len(found), "'true_positive'" in found[0], "'get > asset'" in found[1])


@pytest.mark.parametrize("count", [0, 5])
def test_few_or_none_are_told(count: int) -> None:
    """None is an error, few are a warning."""
    severities = {found.severity for found in check_experts(SOUND[:count], CASES)}
    assert (Severity.WARNING if count else Severity.ERROR) in severities


def test_the_command_reports_both(tmp_path: Path) -> None:
    """One report over cases and experts; an error of either fails the command."""
    write_cases(str(tmp_path / "train.jsonl"), CASES)
    write_trajectories(str(tmp_path / "experts.jsonl"), [*SOUND[1:], expert(CASES[0], 0, citations=["e7"])])
    paths = {name: str(tmp_path / name) for name in ("train.jsonl", "experts.jsonl", "report.json")}
    arguments = ["--experts", paths["experts.jsonl"], "--json", paths["report.json"]]
    result = CliRunner().invoke(data, ["check", paths["train.jsonl"], *arguments])
    report = json.loads(Path(paths["report.json"]).read_text())
    assert (True, "invented citations") == (result.exit_code != 0, report["findings"][0]["check"])
