"""What a cheap model gets from the same training cases: the bar that an adapter has to clear.

Majority, a look-up by title, and logistic regression on the words of the alert and of all its evidence (so it sees
what an agent would have to ask for). Each learns from the training cases only and judges the holdout; its judgements
are `ScoredCase`s and go through the same figures. Called by the evaluate stage and by `check`.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from socadapter_api.case import Case, Verdict
from socadapter_api.errors import EmptyData
from socadapter_jobs.data.titles import title_of
from socadapter_jobs.scoring.scored_case import ScoredCase

Baseline = Callable[[Sequence[Case], Sequence[Case]], tuple[ScoredCase, ...]]

_ABSOLUTE_TIME = re.compile(r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d|$)")
_WORD = re.compile(r"[^\s/|,;:=\"'(){}\[\]]+")
_MAX_FEATURES = 50_000
_MAX_VALUE_CHARACTERS = 400


def majority(train: Sequence[Case], holdout: Sequence[Case]) -> tuple[ScoredCase, ...]:
    """Says of every case what most training cases are."""
    rate = _attack_rate(_decidable(train))
    return tuple(_judged(case, rate) for case in holdout)


def title_lookup(train: Sequence[Case], holdout: Sequence[Case]) -> tuple[ScoredCase, ...]:
    """Says what most training cases of that title are, classes weighted alike. Unseen titles: majority."""
    cases = _decidable(train)
    rate = _attack_rate(cases)
    attacks = Counter(title_of(case) for case in cases if case.is_attack)
    others = Counter(title_of(case) for case in cases if not case.is_attack)

    def probability(case: Case) -> float:
        up, down = attacks[title_of(case)] / max(rate, 1e-9), others[title_of(case)] / max(1.0 - rate, 1e-9)
        return up / (up + down) if up + down else rate

    return tuple(_judged(case, probability(case)) for case in holdout)


def logistic_regression(train: Sequence[Case], holdout: Sequence[Case]) -> tuple[ScoredCase, ...]:
    """TF-IDF of word n-grams (one and two) of `case_text`, classes weighted alike."""
    cases = _decidable(train)
    if _attack_rate(cases) in (0.0, 1.0):
        return majority(train, holdout)
    model = text_classifier()
    model.fit([case_text(case) for case in cases], [case.is_attack for case in cases])
    probabilities = model.predict_proba([case_text(case) for case in holdout])[:, 1]
    return tuple(_judged(case, float(p)) for case, p in zip(holdout, probabilities, strict=True))


BASELINES: Mapping[str, Baseline] = {
    "majority": majority,
    "title look-up": title_lookup,
    "logistic regression": logistic_regression,
}


def run_baselines(train: Sequence[Case], holdout: Sequence[Case]) -> dict[str, tuple[ScoredCase, ...]]:
    """Every baseline's judgements of `holdout`, by its name."""
    return {name: baseline(train, holdout) for name, baseline in BASELINES.items()}


def text_classifier() -> Any:
    """An unfitted scikit-learn pipeline from text to probability of attack."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # costs a second to import
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(
        lowercase=True,
        token_pattern=r"\S+",  # noqa: S106 (no secret)
        ngram_range=(1, 2),
        min_df=2,
        max_features=_MAX_FEATURES,
        sublinear_tf=True,
    )
    return make_pipeline(words, LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000))


def case_text(case: Case) -> str:
    """The words of the alert and of all its evidence, absolute times left out and numbers by magnitude."""
    return " ".join([*_words("alert", case.alert), *_words("", case.evidence)])


def alert_text(case: Case) -> str:
    """The words of the visible alert alone, as in `case_text`."""
    return " ".join(_words("alert", case.alert))


def _words(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _words(f"{key}.{name}" if key else str(name), inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _words(key, inner)
    elif isinstance(value, bool) or value is None:
        yield f"{key}={json.dumps(value)}"
    elif isinstance(value, (int, float)):
        yield f"{key}~{_magnitude(value)}"
    else:
        text = str(value)[:_MAX_VALUE_CHARACTERS]
        if not _ABSOLUTE_TIME.match(text):
            yield from (f"{key}={word}" for word in _WORD.findall(text))


def _magnitude(value: float) -> str:
    if isinstance(value, int) and value:
        return f"{'-' if value < 0 else ''}2^{abs(value).bit_length() - 1}"
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "inf"
    return f"{'-' if value < 0 else ''}2^{math.floor(math.log2(abs(value)))}"


def _decidable(cases: Sequence[Case]) -> list[Case]:
    found = [case for case in cases if case.decidable]
    if not found:
        raise EmptyData("a baseline needs at least one training case whose label the evidence decides")
    return found


def _attack_rate(cases: Sequence[Case]) -> float:
    return sum(case.is_attack for case in cases) / len(cases)


def _judged(case: Case, probability: float) -> ScoredCase:
    verdict = Verdict.TRUE_POSITIVE if probability >= 0.5 else Verdict.FALSE_POSITIVE
    return ScoredCase(case.id, case.label, verdict, probability, group=case.group, ambiguous=case.ambiguous)
