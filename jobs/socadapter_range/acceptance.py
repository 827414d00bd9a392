"""The figures that a range must reach to be worth learning from, measured on an export with simple classifiers.

What the visible alert and single tools give away is measured with a bag-of-words logistic regression, what the
expert's evidence holds with the same and with a decision tree. Called by the command line and by tests. scikit-learn
is needed here and nowhere else in the range.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import nan
from pathlib import Path
from statistics import mean, median
from typing import Any, Final

from socadapter_api.case import Case, Verdict
from socadapter_api.errors import SpecError
from socadapter_api.trajectory import ExpertTrajectory
from socadapter_range.dataset import TELEMETRY_FILE, solve, world_of
from socadapter_range.expert import decide, expert, phrase_of
from socadapter_range.tokenizer import find_tokenizer
from socadapter_range.toolbox import RangeToolbox
from socadapter_range.vocabulary import BY_TITLE, CONTEXTS, TOOLS
from socadapter_range.world import World

MEDIAN_RESULT: Final = "tokens of a tool result, median"
_KEPT: Final = r"(?u)[\w=.<>-]+"
Featurizer = Callable[[Case], str]


@dataclass(slots=True)
class Report:
    """Named figures with their bounds."""

    rows: list[tuple[str, float, str, bool]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, value: float, bound: str = "", held: bool = True) -> None:
        """One figure; `bound` is its requirement in words, `held` whether it is met."""
        self.rows.append((name, value, bound, held))

    @property
    def passed(self) -> bool:
        """Whether every bound holds."""
        return all(held for *_, held in self.rows)

    def value(self, name: str) -> float:
        """The figure called `name`."""
        return next(value for known, value, _, _ in self.rows if known == name)

    def table(self) -> str:
        """The figures as aligned text."""
        width = max(len(name) for name, *_ in self.rows)
        lines = [
            f"{name:<{width}}  {value:8.3f}  {bound:<10} {'' if held else 'NOT MET'}".rstrip()
            for name, value, bound, held in self.rows
        ]
        return "\n".join([*lines, *self.notes])


@dataclass(frozen=True, slots=True)
class ContextData:
    """One context's exported files. `train` includes the extra alerts."""

    context: str
    train: list[Case]
    holdout: list[Case]
    trajectories: list[ExpertTrajectory]


def load(folder: Path, context: str) -> ContextData:
    """The export of `context` under `folder`."""
    base = folder / context
    extra = base / "alerts_extra.jsonl"
    train = _lines(base / "alerts.jsonl", Case) + (_lines(extra, Case) if extra.is_file() else [])
    return ContextData(
        context, train, _lines(base / "holdout.jsonl", Case), _lines(base / "trajectories.jsonl", ExpertTrajectory)
    )


def _lines(path: Path, kind: Any) -> list[Any]:
    return [kind.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]


def balanced_accuracy(truths: Sequence[bool], guesses: Sequence[bool]) -> float:
    """Mean of the shares of positives and of negatives that `guesses` gets right."""
    return mean(
        mean(guess == side for truth, guess in zip(truths, guesses, strict=True) if truth is side)
        for side in (True, False)
    )


def separability(train: list[Case], test: list[Case], text: Featurizer, *, tree: bool = False) -> float:
    """Balanced accuracy, true positive against the rest, of a bag-of-words classifier from `train` to `test`."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.tree import DecisionTreeClassifier

    model = (
        DecisionTreeClassifier(random_state=0, class_weight="balanced")
        if tree
        else LogisticRegression(max_iter=2000, C=10.0, class_weight="balanced")
    )
    bag = CountVectorizer(ngram_range=(1, 2), token_pattern=_KEPT, binary=True)
    pipeline = make_pipeline(bag, model)
    pipeline.fit([text(case) for case in train], [case.is_attack for case in train])
    guesses = [bool(guess) for guess in pipeline.predict([text(case) for case in test])]
    return balanced_accuracy([case.is_attack for case in test], guesses)


def visible_text(case: Case) -> str:
    """The alert as the model sees it unasked."""
    return " ".join(f"{key}={value} {value}" for key, value in case.alert.items())


def tool_text(tool: str, *, with_type: bool = False) -> Featurizer:
    """What one tool says; `with_type` crosses its words with the alert's type."""

    def text(case: Case) -> str:
        answer = str(case.evidence[tool])
        if not with_type:
            return answer
        key = BY_TITLE[case.alert["title"]].key
        return f"{answer} {key}_{phrase_of(answer).replace(' ', '_')}"

    return text


def expert_text(world: World, tools: RangeToolbox, context: str) -> Featurizer:
    """The alert's type and what the expert of `context` was told, who may be foreign to the case."""

    def text(case: Case) -> str:
        kind = BY_TITLE[case.alert["title"]]
        asked = expert(case, tools, world.policy_on(context, case.observed_at)).calls
        found = [f"{call.tool}_{phrase_of(call.result).replace(' ', '_')}" for call in asked]
        return " ".join([kind.key, *found])

    return text


def check(folder: Path, tokenizer: Path | None = None) -> Report:
    """All acceptance figures of the export in `folder`; `tokenizer` is the folder of one, as `find_tokenizer` takes it.

    A figure that cannot be measured does not hold.

    Raises:
        SpecError: `folder` holds no export or one that is too small to be judged, or `tokenizer` holds none.
    """
    report, world = Report(), world_of(folder)
    find_tokenizer(tokenizer)
    tools = RangeToolbox(folder / TELEMETRY_FILE)
    try:
        data = [load(folder, context) for context in CONTEXTS]
        for context in data:
            _require_both_classes(folder, context)
        for own, other in zip(data, reversed(data), strict=True):
            _check_context(report, world, own, other, tools)
        _check_tokens(report, data, tokenizer)
    finally:
        tools.close()
    return report


def _decidable(cases: list[Case]) -> list[Case]:
    return [case for case in cases if case.decidable]


def _require_both_classes(folder: Path, data: ContextData) -> None:
    for name, cases in (("training", data.train), ("held-out", data.holdout)):
        if len({case.is_attack for case in _decidable(cases)}) < 2:
            raise SpecError(
                f"the {len(cases)} {name} alerts of {folder / data.context} are not both attacks and others: "
                "export more"
            )


def _check_context(report: Report, world: World, own: ContextData, other: ContextData, tools: RangeToolbox) -> None:
    name, train, test = own.context, _decidable(own.train), _decidable(own.holdout)
    report.add(f"{name}: held-out decidable alerts", len(test), ">= 90", len(test) >= 90)
    visible = separability(train, test, visible_text)
    report.add(f"{name}: visible alert alone", visible, "< .60", visible < 0.60)
    for tool in TOOLS:
        alone = separability(train, test, tool_text(tool))
        report.add(f"{name}: {tool} alone", alone, "< .75", alone < 0.75)
        typed = separability(train, test, tool_text(tool, with_type=True))
        report.add(f"{name}: {tool} with alert type", typed, "< .75", typed < 0.75)
    evidence = expert_text(world, tools, name)
    best = max(separability(train, test, evidence, tree=tree) for tree in (False, True))
    report.add(f"{name}: expert's evidence", best, ">= .95", best >= 0.95)
    borrowed = expert_text(world, tools, other.context)
    foreign = max(separability(_decidable(other.train), test, borrowed, tree=tree) for tree in (False, True))
    report.add(f"{name}: same, learned in the other context", foreign, "<= .75", foreign <= 0.75)
    _check_expert(report, world, own, tools)
    mix = Counter(case.label for case in own.train)
    for verdict, share in (
        (Verdict.TRUE_POSITIVE, 0.40),
        (Verdict.BENIGN_TRUE_POSITIVE, 0.25),
        (Verdict.FALSE_POSITIVE, 0.35),
    ):
        found = mix[verdict] / len(train)
        report.add(f"{name}: share {verdict}", found, f"{share:.2f} ± .03", abs(found - share) <= 0.03)
    undecidable = mix[Verdict.ESCALATE] / len(own.train)
    report.add(f"{name}: share undecidable", undecidable, ".06 - .08", 0.06 <= undecidable <= 0.08)


def _check_expert(report: Report, world: World, own: ContextData, tools: RangeToolbox) -> None:
    name, rows = own.context, own.trajectories
    truths = {case.id: case.label for case in own.train}
    solved = [row.verdict is truths[row.case_id] for row in rows]
    solved += [
        row.verdict is case.label for row, case in zip(solve(world, own.holdout, tools), own.holdout, strict=True)
    ]
    report.add(f"{name}: expert right", mean(solved), "= 1", all(solved))
    grounded = [_recomputed(world, name, row) is row.verdict for row in rows]
    report.add(f"{name}: verdict follows from own calls", mean(grounded), "= 1", all(grounded))
    calls = mean(len(row.calls) for row in rows)
    report.add(f"{name}: expert calls per alert", calls, "<= 2.6", calls <= 2.6)
    most = max(len(row.calls) for row in rows)
    report.add(f"{name}: expert calls, most", most, "<= 4", most <= 4)


def _recomputed(world: World, context: str, row: ExpertTrajectory) -> Verdict:
    results = {call.tool: call.result for call in row.calls}
    moment = datetime.fromisoformat(row.observed_at) if row.observed_at else None
    return decide(context, BY_TITLE[row.alert["title"]].key, results, world.policy_on(context, moment))


def _check_tokens(report: Report, data: list[ContextData], folder: Path | None) -> None:
    tokenizer = find_tokenizer(folder)
    if tokenizer is None:
        report.add(MEDIAN_RESULT, nan, "< 120", False)
        report.notes.append("tokens: not measured, no tokenizer at hand; name its folder with --tokenizer")
        return

    def sizes(texts: Sequence[str]) -> list[int]:
        return [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]

    results = sizes([str(text) for part in data for case in part.holdout for text in case.evidence.values()])
    report.add(MEDIAN_RESULT, median(results), "< 120", median(results) < 120)
    report.add("tokens of a tool result, most", max(results))
    summaries = sizes([row.summary for part in data for row in part.trajectories])
    report.add("tokens of a summary, most", max(summaries), "<= 35", max(summaries) <= 35)
    alerts = sizes([json.dumps(case.alert) for part in data for case in part.holdout])
    report.add("tokens of an alert, median", median(alerts))
