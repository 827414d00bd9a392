"""Expert investigations scripted from recorded evidence, for data sets that come without any.

Which tools an expert asks, and in which order, is learned from the training cases: greedily, the tool whose text most
lowers the held-out loss of a small logistic regression. Where the cases come from several contexts (organisations,
say), a whole one is held out at a time: evidence that tells an organisation's own incident apart, and no other's, is
not worth asking for. What the expert reads is what the agent would read in a replay
(`render_evidence`). The summary quotes the fragments that speak loudest for the case's verdict. Nothing here ever sees
a holdout case. Called by the prepare stage and by ``socadapter data import --experts``.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from socadapter_agent.replay import render_evidence
from socadapter_api.case import Case, Verdict
from socadapter_api.errors import EmptyData, OneClass
from socadapter_api.trajectory import ExpertTrajectory, ToolCall
from socadapter_jobs.data.titles import title_of
from socadapter_jobs.scoring.baselines import alert_text, text_classifier

MAX_CALLS = 3
MAX_SUMMARY_CHARACTERS = 120
"""An answer must fit a turn of the smallest models: about a third as many tokens as characters."""

_MAX_FRAGMENT = 44
_MAX_POLICY_CASES = 1000
_MIN_GAIN = 0.01
_FOLDS = 4
_NUMBER = re.compile(r"^([^=]*=)?([-+]?)(\d+(?:\.\d+)?)([a-z%]*)$")
_OPENING = {
    Verdict.TRUE_POSITIVE: "Attack",
    Verdict.BENIGN_TRUE_POSITIVE: "Real but benign",
    Verdict.FALSE_POSITIVE: "False alarm",
    Verdict.ESCALATE: "Undecided",
}

NO_DATA = "no data"
"""What a replay says where nothing was recorded; worth asking for, not worth quoting."""

Weigh = Callable[[str], float]
Labels = npt.NDArray[np.bool_]
Folds = list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]


@dataclass(frozen=True, slots=True)
class AskingPolicy:
    """The order in which the expert asks, and how loudly a fragment of an answer speaks for an attack."""

    tools: tuple[str, ...]
    losses: tuple[float, ...]
    """Held-out log loss with the alert alone, then after each tool."""
    weigh: Weigh = field(repr=False, compare=False, default=lambda fragment: 0.0)


def learn_policy(cases: Sequence[Case], *, max_calls: int = MAX_CALLS, seed: int = 0) -> AskingPolicy:
    """The most informative tools first, at least one, until a further one gains less than 0.01 nats.

    Raises:
        OneClass: the cases do not hold enough of both classes to learn from.
        EmptyData: they hold no evidence.
    """
    used = _sample([case for case in cases if case.decidable], seed)
    labels = np.array([case.is_attack for case in used], dtype=bool)
    if min(labels.sum(), (~labels).sum()) < _FOLDS:
        raise OneClass(
            f"{int(labels.sum())} attacks among {len(labels)} decidable cases: scripting experts needs at least "
            f"{_FOLDS} of each class"
        )
    tools = sorted({tool for case in used for tool in case.evidence})
    if not tools:
        raise EmptyData("the cases hold no recorded evidence: there is nothing that an expert could ask")
    shown = {tool: [_words(tool, _answer(case, tool)) for case in used] for tool in tools}
    texts = [alert_text(case) for case in used]
    folds = _folds([case.context for case in used], labels, seed)
    chosen: list[str] = []
    losses = [_loss(texts, labels, folds)]
    while len(chosen) < max_calls and (rest := [tool for tool in tools if tool not in chosen]):
        tried = {tool: _loss(_joined(texts, shown[tool]), labels, folds) for tool in rest}
        best = min(rest, key=lambda tool: (tried[tool], tool))
        if chosen and losses[-1] - tried[best] < _MIN_GAIN:
            break
        chosen.append(best)
        losses.append(tried[best])
        texts = _joined(texts, shown[best])
    return AskingPolicy(tuple(chosen), tuple(losses), _weigher(texts, labels))


def script(case: Case, policy: AskingPolicy) -> ExpertTrajectory:
    """The investigation of one case: the policy's calls that were recorded, the case's verdict, a cited summary."""
    calls = tuple(
        ToolCall(tool=tool, evidence_id=f"e{place}", result=_answer(case, tool))
        for place, tool in enumerate((tool for tool in policy.tools if tool in case.evidence), 1)
    )
    summary, citations = _summary(case, calls, policy.weigh)
    return ExpertTrajectory(
        case_id=case.id,
        alert=case.alert,
        calls=calls,
        verdict=case.label,
        summary=summary,
        citations=citations,
        observed_at=case.observed_at.isoformat() if case.observed_at else None,
        entities=case.entities,
        approved_by="scripted from recorded evidence",
    )


def script_all(
    cases: Sequence[Case], *, max_calls: int = MAX_CALLS, seed: int = 0
) -> tuple[tuple[ExpertTrajectory, ...], AskingPolicy]:
    """Expert investigations of the training cases `cases`, and the policy that was learned from them.

    Not of those that hold nothing of what it asks: concluding without asking is not what they should teach.
    """
    policy = learn_policy(cases, max_calls=max_calls, seed=seed)
    scripted = (script(case, policy) for case in cases)
    return tuple(expert for expert in scripted if expert.calls), policy


def _answer(case: Case, tool: str) -> str:
    return render_evidence(case.evidence[tool], case.observed_at) if tool in case.evidence else ""


def _sample(cases: Sequence[Case], seed: int) -> list[Case]:
    if len(cases) <= _MAX_POLICY_CASES:
        return list(cases)
    chosen = np.random.default_rng(seed).permutation(len(cases))[:_MAX_POLICY_CASES]
    return [cases[index] for index in sorted(chosen)]


def _words(tool: str, text: str) -> str:
    """The words of a tool's answer, told apart by tool, numbers by magnitude."""
    return " ".join(f"{tool}:{_magnitude(word)}" for word in text.split())


def _magnitude(word: str) -> str:
    found = _NUMBER.match(word.rstrip(";,|"))
    if found is None:
        return word.rstrip(";,|")
    key, sign, number, unit = found.groups()
    return f"{key or ''}{sign}2^{int(number.partition('.')[0]).bit_length()}{unit}"


def _joined(texts: Sequence[str], more: Sequence[str]) -> list[str]:
    return [f"{text} {extra}" for text, extra in zip(texts, more, strict=True)]


def _folds(contexts: Sequence[str], labels: Labels, seed: int) -> Folds:
    """Row numbers to learn from and to judge by, fold by fold: by context where each can be spared, else at random."""
    from sklearn.model_selection import GroupKFold, StratifiedKFold

    names = np.array(contexts)
    rest = [labels[names != name] for name in set(contexts)]
    if len(rest) > 1 and all(min(part.sum(), (~part).sum()) >= _FOLDS for part in rest):
        by_context = list(GroupKFold(min(_FOLDS, len(rest))).split(names, labels, names))
        if all(len(set(labels[learned])) > 1 for learned, _ in by_context):  # a fold may hold several contexts
            return by_context
    return list(StratifiedKFold(_FOLDS, shuffle=True, random_state=seed).split(names, labels))


def _loss(texts: Sequence[str], labels: Labels, folds: Folds) -> float:
    """Cross-validated log loss, both classes weighing alike."""
    from sklearn.model_selection import cross_val_predict

    told = cross_val_predict(text_classifier(), list(texts), labels, cv=folds, method="predict_proba")
    p = np.clip(told[:, 1], 1e-4, 1.0 - 1e-4)
    return float((-np.log(p[labels]).mean() - np.log(1.0 - p[~labels]).mean()) / 2.0)


def _weigher(texts: Sequence[str], labels: Labels) -> Weigh:
    model: Any = text_classifier().fit(list(texts), labels)
    words, regression = model[0], model[1]

    def weigh(fragment: str) -> float:
        return float((words.transform([fragment]) @ regression.coef_.ravel())[0])

    return weigh


def _summary(case: Case, calls: Sequence[ToolCall], weigh: Weigh) -> tuple[str, tuple[str, ...]]:
    """One or two quoted fragments with their citations, within `MAX_SUMMARY_CHARACTERS`."""
    sign = 1.0 if case.is_attack else -1.0
    quoted = [(call, _loudest(call, sign, weigh)) for call in calls]
    text = _shortened(f"{_OPENING.get(case.label, 'Undecided')}: {title_of(case)}", MAX_SUMMARY_CHARACTERS // 2)
    cited: list[str] = []
    for call, (fragment, _) in sorted(quoted, key=lambda pair: -pair[1][1]):
        addition = f"; {fragment} [{call.evidence_id}]"
        if fragment and len(text) + len(addition) <= MAX_SUMMARY_CHARACTERS:
            text += addition
            cited.append(call.evidence_id)
    return text, tuple(sorted(cited))


def _loudest(call: ToolCall, sign: float, weigh: Weigh) -> tuple[str, float]:
    """The fragment of a tool's answer that speaks most for the verdict, and how loudly."""
    fragments = [part.strip() for part in re.split(r"[;|\n]", call.result) if part.strip() not in ("", NO_DATA)]
    if not fragments:
        return "", 0.0
    weighed = [(fragment, sign * weigh(_words(call.tool, fragment))) for fragment in fragments]
    fragment, weight = max(weighed, key=lambda pair: pair[1])
    return _shortened(fragment, _MAX_FRAGMENT), weight


def _shortened(text: str, most: int) -> str:
    """`text` cut between words where it can be, so that what is quoted stands in the evidence as it is."""
    if len(text) <= most:
        return text
    head = text[: most + 1]
    return head.rsplit(" ", 1)[0] if " " in head else text[:most]
