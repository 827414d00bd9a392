"""The evidence decides: every alert follows from what the tools say as of its time, and from nothing else."""

import random
import shutil
import sqlite3
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from socadapter_agent.grounding import ungrounded
from socadapter_agent.protocol import Answer
from socadapter_agent.tools import ToolSpec
from socadapter_api.case import Case, Verdict
from socadapter_api.trajectory import CallOutcome
from socadapter_jobs.data.check import Severity
from socadapter_jobs.data.check_experts import call_problem, check_experts
from socadapter_range import CONTEXTS, RangeToolbox, World, decide, range_cases, solve
from socadapter_range.expert import FIELD_OF, next_call, phrase_of
from socadapter_range.telemetry import DAY, Telemetry
from socadapter_range.tools import ARGUMENT_OF, LOG_COMPLETE, LOG_MISSING, TOOL_SPECS
from socadapter_range.vocabulary import (
    ALERT_TYPES,
    BY_TITLE,
    MISSING,
    NO_TICKET,
    ORDINARY,
    STANDING,
    TELEMETRY,
    TOOLS,
    WORDS,
    policy_of,
)
from socadapter_range.world import CAPACITY

pytestmark = pytest.mark.slow  # builds worlds of weeks

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EVERY_PHRASE = [
    pytest.param(tool, phrase, id=f"{tool}-{phrase.replace(' ', '-')}")
    for tool in (*TELEMETRY, "tickets")
    for part in (WORDS[tool].bad, WORDS[tool].good, WORDS[tool].good_in_cloud, WORDS[tool].good_in_corporate)
    for phrase in part
]


def _moment(case: Case) -> datetime:
    assert case.observed_at is not None
    return case.observed_at


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("split", CAPACITY)
def test_expert_is_right_on_every_alert_of_the_world(
    world: World, tools: RangeToolbox, context: str, split: str
) -> None:
    """The expert's verdict is the truth for all alerts, the undecidable ones included, in one to four calls."""
    cases = range_cases(world, context, split, CAPACITY[split])
    rows = solve(world, cases, tools)
    assert [(case.id, case.label) for case in cases] == [(row.case_id, row.verdict) for row in rows]
    assert {len(row.calls) for row in rows} <= {1, 2, 3, 4}
    assert sum(len(row.calls) for row in rows) / len(rows) <= 2.6


@pytest.mark.parametrize("context", CONTEXTS)
def test_verdicts_follow_from_the_recorded_calls_alone(world: World, tools: RangeToolbox, context: str) -> None:
    """Recomputing a verdict from a trajectory's own results gives it again, and any result less leaves it open."""
    cases = range_cases(world, context, "train", 200)
    for case, row in zip(cases, solve(world, cases, tools), strict=True):
        kind = BY_TITLE[case.alert["title"]].key
        results = {call.tool: call.result for call in row.calls}
        assert row.verdict is decide(context, kind, results)
        if row.verdict is not Verdict.ESCALATE:
            results.popitem()
            assert decide(context, kind, results) is Verdict.ESCALATE
            assert next_call(policy_of(context), kind, results) is not None


@pytest.mark.parametrize("context", CONTEXTS)
def test_summaries_cite_and_quote_evidence(world: World, tools: RangeToolbox, context: str) -> None:
    """Citations are ids of own calls, and the summary quotes what the cited calls returned."""
    cases = range_cases(world, context, "train", 200)
    for row in solve(world, cases, tools):
        answers = {call.evidence_id: call.result for call in row.calls}
        assert row.citations
        assert set(row.citations) <= set(answers)
        assert ungrounded(Answer(row.verdict, row.summary, row.citations), row.calls) == 0
        phrases = [phrase_of(answers[cited]) for cited in row.citations]
        assert all(phrase in row.summary for phrase in phrases if phrase not in (ORDINARY, MISSING))


@pytest.mark.parametrize("context", CONTEXTS)
def test_undecidable_alerts_fit_an_attack_as_well_as_harmless_work(
    world: World, tools: RangeToolbox, context: str
) -> None:
    """What the missing log could have held leads to different verdicts, all else as recorded."""
    policy = policy_of(context)
    cases = [case for case in range_cases(world, context, "train", 600, tools) if not case.decidable]
    assert len(cases) > 30
    for case in cases:
        kind = BY_TITLE[case.alert["title"]]
        deciding = (kind.first, kind.second, kind.cover)
        hidden = [tool for tool in deciding if case.evidence[tool] == LOG_MISSING]
        assert hidden
        verdicts = set()
        for phrase in [phrase for part in (*policy.good(hidden[0]), *policy.bad(hidden[0])) for phrase in part]:
            results: dict[str, str] = {}
            full = dict(case.evidence) | {hidden[0]: f"1 row: {phrase}"}
            while (tool := next_call(policy, kind.key, results)) is not None:
                results[tool] = full[tool]
            verdicts.add(decide(context, kind.key, results))
        assert len(verdicts - {Verdict.ESCALATE}) >= 2


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_gap_holds_under_every_visible_name(world: World, tools: RangeToolbox, context: str) -> None:
    """What a log lost about a machine is not found by asking for its user, nor the other way about, of any tool; and
    nothing else is missing under either name."""
    lost = set()
    for incident in world.incidents(context, "train")[:600]:
        for tool in TOOLS:
            gone = incident.story.phrases.get(tool) == MISSING
            names = (incident.indicator,) if tool == "intel" else (incident.entity.user, incident.entity.host)
            for name in names:
                answer = tools.answer(tool, {ARGUMENT_OF[tool]: name}, incident.observed_at)
                assert gone is (answer.text == LOG_MISSING), (incident.id, tool, name)
            lost |= {tool} if gone else set()
    assert set(TOOLS) == lost


@pytest.mark.parametrize("context", CONTEXTS)
def test_experts_call_what_the_tools_take(world: World, tools: RangeToolbox, context: str) -> None:
    """No run refuses their investigations."""
    cases = range_cases(world, context, "train", 200)
    rows = solve(world, cases, tools)
    offered = {spec.name: ToolSpec(spec.name, spec.description, spec.parameters) for spec in TOOL_SPECS}
    assert {None} == {call_problem(row, offered) for row in rows}
    assert Severity.ERROR not in {found.severity for found in check_experts(rows, cases)}


def test_same_evidence_has_opposite_verdicts_in_the_two_contexts() -> None:
    """For every alert type some evidence is an attack in one context and harmless in the other, both ways."""
    cloud, corporate = CONTEXTS
    for kind in ALERT_TYPES:
        words = WORDS[kind.first]
        for routine, attacked in (
            (words.good_in_cloud, (cloud, corporate)),
            (words.good_in_corporate, (corporate, cloud)),
        ):
            results = {
                kind.first: f"3 rows, hours=day: {routine[0]}",
                kind.second: f"2 rows, hours=day: {ORDINARY}",
                kind.cover: f"0 rows: {NO_TICKET}" if kind.cover == "tickets" else "1 row: workstation",
            }
            calm, alarmed = attacked
            assert decide(calm, kind.key, results) is Verdict.FALSE_POSITIVE
            assert decide(alarmed, kind.key, results) is Verdict.TRUE_POSITIVE


@pytest.mark.parametrize(("tool", "phrase"), EVERY_PHRASE)
def test_rows_of_a_phrase_read_as_that_phrase(tool: str, phrase: str, tmp_path: Path) -> None:
    """Raw rows made for a phrase come back as it from the tool's SQL, for many draws, and only as of their time."""
    now, path = 1_750_000_000, tmp_path / "t.sqlite"
    telemetry = Telemetry(random.Random(3))
    for index in range(30):
        telemetry.add("assets", f"host{index}", f"user{index}", "workstation", "data", "linux")
        if tool in ("signins", "cloud_api"):
            getattr(telemetry, tool)(f"user{index}", now - 600, phrase)
        elif tool == "processes":
            telemetry.processes(f"host{index}", now - 600, phrase)
        elif tool in ("flows", "dns"):
            getattr(telemetry, tool)(f"host{index}", now - 600, phrase, f"remote{index}.net")
        elif tool == "intel":
            telemetry.intel(f"remote{index}.net", now, phrase)
        else:
            telemetry.ticket(f"host{index}", f"user{index}", now, phrase)
    telemetry.write(str(path))
    tools = RangeToolbox(path)
    when = timedelta(seconds=now)
    try:
        for index in range(30):
            key = {"user": f"user{index}", "host": f"host{index}", "indicator": f"remote{index}.net"}[FIELD_OF[tool]]
            args = {ARGUMENT_OF[tool]: key}
            assert phrase_of(tools.answer(tool, args, _EPOCH + when).text) == phrase
            long_ago = _EPOCH + when - timedelta(days=400)
            assert phrase_of(tools.answer(tool, args, long_ago).text) in (ORDINARY, NO_TICKET)
    finally:
        tools.close()


def test_no_answer_depends_on_rows_after_the_alert(
    world: World, folder: Path, tools: RangeToolbox, tmp_path: Path
) -> None:
    """Cutting off everything later than an alert changes no answer about it."""
    cases = range_cases(world, CONTEXTS[1], "train", 60, tools)
    latest = sorted(map(_moment, cases))[30]
    copy = tmp_path / "cut.sqlite"
    shutil.copy(folder / "telemetry.sqlite", copy)
    until = int(latest.timestamp())
    with sqlite3.connect(copy) as database:
        for table in ("signins", "processes", "flows", "cloud_calls", "dns"):
            database.execute(f"DELETE FROM {table} WHERE ts > ?", (until,))
        database.execute("DELETE FROM tickets WHERE opened > ?", (until,))
        database.execute("DELETE FROM intel WHERE listed > ?", (until,))
    database.close()
    cut = RangeToolbox(copy)
    try:
        for other in cases:
            if _moment(other) <= latest:
                for tool, answer in other.evidence.items():
                    args = {ARGUMENT_OF[tool]: other.alert[FIELD_OF[tool]]}
                    assert cut.answer(tool, args, other.observed_at).text == answer
    finally:
        cut.close()


def test_recorded_evidence_is_what_the_tools_say(world: World, tools: RangeToolbox) -> None:
    """A case's evidence holds the answers of all eight tools about its own fields."""
    for case in range_cases(world, CONTEXTS[0], "holdout", 40, tools):
        assert set(case.evidence) == set(TOOLS)
        assert {spec.name for spec in TOOL_SPECS} == set(TOOLS)


@pytest.mark.parametrize("context", CONTEXTS)
def test_dead_ends_are_boring(world: World, tools: RangeToolbox, context: str) -> None:
    """A telemetry tool that is no part of an alert's story shows everyday rows, no rows or a missing log."""
    for case in range_cases(world, context, "train", 200, tools):
        kind = BY_TITLE[case.alert["title"]]
        for tool in set(TELEMETRY) - {kind.first, kind.second}:
            answer = case.evidence[tool]
            assert answer in (LOG_COMPLETE, LOG_MISSING) or phrase_of(answer) == ORDINARY


@pytest.mark.parametrize("context", CONTEXTS)
def test_planted_texts_are_in_attacks_and_seldom_elsewhere(world: World, tools: RangeToolbox, context: str) -> None:
    """Some attacks carry texts meant for the reader; such texts occur in harmless stories too and decide nothing."""
    counts = {True: 0, False: 0}
    texts: dict[bool, set[str]] = {True: set(), False: set()}
    cases = range_cases(world, context, "train", 1200, tools)
    for case in cases:
        for answer in case.evidence.values():
            if 'note="' in answer:
                counts[case.is_attack] += 1
                texts[case.is_attack].add(answer.split('note="')[1])
    attacks = sum(case.is_attack for case in cases)
    assert counts[True] / attacks > 0.05
    assert 0.01 < counts[False] / (len(cases) - attacks) < counts[True] / attacks
    assert texts[True] & texts[False]


@pytest.mark.parametrize(
    ("tool", "args", "outcome"),
    [
        pytest.param("logs", {"host": "x"}, CallOutcome.UNKNOWN_TOOL, id="unknown tool"),
        pytest.param("dns", {}, CallOutcome.INVALID_ARGUMENTS, id="no argument"),
        pytest.param("dns", {"host": "x", "n": 1}, CallOutcome.INVALID_ARGUMENTS, id="argument too many"),
        pytest.param("dns", {"host": 3}, CallOutcome.INVALID_ARGUMENTS, id="wrong type"),
        pytest.param("dns", {"host": "x' OR 1=1 --"}, CallOutcome.OK, id="SQL in a value"),
    ],
)
def test_bad_calls_are_answered_in_words(
    tools: RangeToolbox, tool: str, args: dict[str, Any], outcome: CallOutcome
) -> None:
    """A call that makes no sense gets a short text and its outcome; values never become SQL."""
    answer = tools.answer(tool, args, None)
    assert answer.outcome is outcome
    assert answer.text.startswith("error: ") or answer.text == "no such name"


def test_standing_approval_sends_the_expert_to_the_inventory() -> None:
    """A ticket that approves by role leaves it to the machine's role, which costs one more call."""
    policy = policy_of(CONTEXTS[0])
    results = {"flows": "2 rows: steady beacon", "tickets": f"1 row: {STANDING}"}
    assert next_call(policy, "large-transfer", results) == "asset"
    for role, verdict in (("scanner", Verdict.BENIGN_TRUE_POSITIVE), ("database", Verdict.TRUE_POSITIVE)):
        assert decide(CONTEXTS[0], "large-transfer", results | {"asset": f"1 row: {role}"}) is verdict


def test_windows_of_one_machine_never_overlap(world: World) -> None:
    """Two alerts about one machine are at least a day apart, so that neither shows in the other's answers."""
    for context in CONTEXTS:
        for split in CAPACITY:
            by_host: dict[str, list[int]] = {}
            for incident in world.incidents(context, split):
                by_host.setdefault(incident.entity.host, []).append(incident.ts)
            for times in map(sorted, by_host.values()):
                assert all(later - earlier > DAY for earlier, later in pairwise(times))
