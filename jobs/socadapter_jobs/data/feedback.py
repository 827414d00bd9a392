"""The day's verdicts as training data, within limits that make them hard to poison.

Only scorable investigations count. Cases that analysts disagree about are held out for a person. No analyst may give
more than a set share of what is taken, nor may a caller under many analysts' names. The window is kept to before, where
the pool is asked: what a run was given, no later night asks for. Called by the prepare stage.
"""

import random
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from socadapter_api import digest
from socadapter_api.case import ANSWERS, Case
from socadapter_api.errors import MalformedRow
from socadapter_api.feedback import FeedbackRecord
from socadapter_api.training import FeedbackSpec
from socadapter_api.trajectory import ExpertTrajectory, ToolCall, Trajectory
from socadapter_jobs.data.case_files import first_problem, stream_rows


@dataclass(frozen=True, slots=True)
class Night:
    """What one night may learn from, and what became of the rest (counts by reason)."""

    cases: tuple[Case, ...]
    trajectories: tuple[ExpertTrajectory, ...]
    disputed: tuple[str, ...]
    """Trajectory ids on which analysts disagree: for a person, not for training."""
    left_out: dict[str, int]
    skipped: str = ""
    """Why the night is skipped; empty where it is not."""


def read_feedback(uri: str) -> Iterator[FeedbackRecord]:
    """The records of a JSON lines export at `uri`.

    Raises:
        MalformedRow: the first wrong row, by file and line.
    """
    for where, row in stream_rows(uri):
        try:
            yield FeedbackRecord.model_validate(row)
        except ValidationError as error:
            raise MalformedRow(f"{where}: {first_problem(error)}") from None


def from_feedback(
    records: Iterable[FeedbackRecord],
    spec: FeedbackSpec,
    *,
    context: str,
    holdout: Iterable[Case] = (),
    seed: int = 0,
) -> Night:
    """The cases and expert trajectories that `records` of `context` yield; nothing of an alert in `holdout`."""
    left_out: dict[str, int] = {}
    held = {digest.of_json(case.alert) for case in holdout}
    usable = list(_usable(records, context, held, left_out))
    latest = _latest(usable, left_out)
    agreed, disputed = _agreed(latest)
    left_out["disputed"] = len(latest) - len(agreed)
    within = _within_limits(agreed, spec.max_per_analyst_percent, random.Random(seed), left_out)
    cases = _one_per_trajectory(within)
    experts = tuple(expert for record in within if (expert := _expert(record)) is not None)
    left_out = {reason: count for reason, count in left_out.items() if count}
    return Night(cases, _unique(experts), disputed, left_out, _why_skipped(len(cases), spec, left_out))


def _usable(
    records: Iterable[FeedbackRecord], context: str, held: Container[str], left_out: dict[str, int]
) -> Iterator[FeedbackRecord]:
    for record in records:
        if record.context != context:
            reason = "other context"
        elif record.feedback.verdict not in ANSWERS:
            reason = "no verdict"
        elif not record.trajectory.get("scorable", True):
            reason = "decided by an outage"
        elif _alert_key(record) in held:  # its id and its evidence are its own: only the alert tells
            reason = "in the holdout"
        else:
            yield record
            continue
        left_out[reason] = left_out.get(reason, 0) + 1


def _latest(records: Sequence[FeedbackRecord], left_out: dict[str, int]) -> list[FeedbackRecord]:
    """Each analyst's last word on each investigation. Analysts of two callers are two, whatever their names."""
    last: dict[tuple[str, str, str], FeedbackRecord] = {}
    for record in sorted(records, key=lambda record: record.given_at):
        last[record.feedback.trajectory_id, *_analyst(record)] = record
    left_out["revised"] = len(records) - len(last)
    return list(last.values())


def _agreed(records: Sequence[FeedbackRecord]) -> tuple[list[FeedbackRecord], tuple[str, ...]]:
    """The records whose alert got one verdict only, and the investigations of the others."""
    verdicts: dict[str, set[str]] = {}
    for record in records:
        verdicts.setdefault(_alert_key(record), set()).add(record.feedback.verdict)
    agreed = [record for record in records if len(verdicts[_alert_key(record)]) == 1]
    disputed = {record.feedback.trajectory_id for record in records if len(verdicts[_alert_key(record)]) > 1}
    return agreed, tuple(sorted(disputed))


def _alert_key(record: FeedbackRecord) -> str:
    return digest.of_json(record.alert)


def _analyst(record: FeedbackRecord) -> tuple[str, str]:
    """The caller, which is authenticated, and the name that it gave."""
    return record.caller, record.feedback.analyst


def _caller(record: FeedbackRecord) -> tuple[str, ...]:
    return (record.caller,)


def _within_limits(
    records: Sequence[FeedbackRecord], percent: int, rng: random.Random, left_out: dict[str, int]
) -> list[FeedbackRecord]:
    """Records of which no analyst gives more than `percent`, and no caller more than that or than an equal share.

    A caller may invent analysts: its own share bounds what all of them together give. The only caller vouches for its
    analysts. One limit's cut can break the other, so they alternate until both hold.
    """
    left_out |= {"analyst limit": 0, "caller limit": 0}
    kept = list(records)
    while True:
        of_analysts = _capped(kept, percent, rng, _analyst)
        equal_share = -(-100 // max(len({_caller(record) for record in of_analysts}), 1))
        of_callers = _capped(of_analysts, max(percent, equal_share), rng, _caller)
        left_out["analyst limit"] += len(kept) - len(of_analysts)
        left_out["caller limit"] += len(of_analysts) - len(of_callers)
        if len(of_callers) == len(kept):
            return of_callers
        kept = of_callers


def _capped(
    records: Sequence[FeedbackRecord],
    percent: int,
    rng: random.Random,
    giver: Callable[[FeedbackRecord], tuple[str, ...]],
) -> list[FeedbackRecord]:
    """The most records of which no giver gives more than `percent`."""
    by_giver: dict[tuple[str, ...], list[FeedbackRecord]] = {}
    for record in sorted(records, key=lambda record: (record.given_at, record.feedback.trajectory_id)):
        by_giver.setdefault(giver(record), []).append(record)
    cap = max((len(given) for given in by_giver.values()), default=0)
    while cap and cap * 100 > percent * sum(min(len(given), cap) for given in by_giver.values()):
        cap -= 1
    taken: list[FeedbackRecord] = []
    for name in sorted(by_giver):
        given = by_giver[name]
        taken += given if len(given) <= cap else rng.sample(given, cap)
    return taken


def _one_per_trajectory(records: Sequence[FeedbackRecord]) -> tuple[Case, ...]:
    cases: dict[str, Case] = {}
    for record in records:
        cases.setdefault(record.feedback.trajectory_id, _case(record))
    return tuple(cases[key] for key in sorted(cases))


def _case(record: FeedbackRecord) -> Case:
    answerer = "the base" if record.role == "base" or not record.version else record.version
    return Case(
        id=f"feedback-{record.feedback.trajectory_id}",
        context=record.context,
        alert=record.alert,
        evidence=_evidence(_calls(record)),
        label=record.feedback.verdict,
        observed_at=record.observed_at,
        source=f"verdict of {record.feedback.analyst} on an answer of {answerer}",
    )


def _calls(record: FeedbackRecord) -> tuple[ToolCall, ...]:
    """The calls that were answered."""
    try:
        trajectory = Trajectory.model_validate(record.trajectory)
    except ValidationError as error:
        raise MalformedRow(
            f"the stored investigation {record.feedback.trajectory_id!r} cannot be read: {first_problem(error)}"
        ) from None
    return tuple(call for call in trajectory.calls if call.outcome.answered)


def _evidence(calls: Sequence[ToolCall]) -> dict[str, Any]:
    """What each tool answered; several answers of one tool under each other, since a replay ignores arguments."""
    texts: dict[str, list[str]] = {}
    for call in calls:
        texts.setdefault(call.tool, []).append(call.result)
    return {tool: "\n".join(dict.fromkeys(answers)) for tool, answers in texts.items()}


def _expert(record: FeedbackRecord) -> ExpertTrajectory | None:
    """The investigation as an expert's, where the analyst approved all of it and it came to the analyst's verdict."""
    said = record.trajectory.get("verdict")
    if not record.feedback.approved or said != record.feedback.verdict:
        return None
    calls = _calls(record)
    known = {call.evidence_id for call in calls}
    cited = tuple(name for name in record.trajectory.get("citations", ()) if name in known)
    return ExpertTrajectory(
        case_id=f"feedback-{record.feedback.trajectory_id}",
        alert=record.alert,
        calls=calls,
        verdict=record.feedback.verdict,
        summary=str(record.trajectory.get("summary", "")),
        citations=cited,
        observed_at=record.observed_at.isoformat() if record.observed_at else None,
        approved_by=record.feedback.analyst,
    )


def _unique(experts: Sequence[ExpertTrajectory]) -> tuple[ExpertTrajectory, ...]:
    found: dict[str, ExpertTrajectory] = {}
    for expert in experts:
        found.setdefault(expert.case_id, expert)
    return tuple(found[key] for key in sorted(found))


def _why_skipped(count: int, spec: FeedbackSpec, left_out: dict[str, int]) -> str:
    if count >= spec.min_verdicts:
        return ""
    lost = "; left out: " + ", ".join(f"{n} {reason}" for reason, n in left_out.items()) if left_out else ""
    return f"{count} usable verdicts in the last {spec.window}, fewer than minVerdicts {spec.min_verdicts}{lost}"
