"""An alert's title, and which titles do not decide: those that occur with both labels are the honest test.

Pure; called by importers, `check`, the baselines and the order of training.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from socadapter_api.case import Case

_TITLE_FIELDS = ("title", "name", "rule", "signature", "alert_title", "rule_name")


def title_in(alert: Mapping[str, Any]) -> str:
    """The title among an alert's fields, under any of its usual names; empty where it has none."""
    return next((str(alert[key]) for key in _TITLE_FIELDS if key in alert), "")


def title_of(case: Case) -> str:
    """The title of the case's alert."""
    return title_in(case.alert)


def ambiguous_titles(cases: Sequence[Case]) -> frozenset[str]:
    """The titles that occur both on attacks and on alerts that are none."""
    attacks = {title_of(case) for case in cases if case.is_attack}
    others = {title_of(case) for case in cases if case.decidable and not case.is_attack}
    return frozenset((attacks & others) - {""})


def mark_ambiguous(cases: Sequence[Case]) -> tuple[Case, ...]:
    """The cases with `ambiguous` set by what their title alone would say."""
    unclear = ambiguous_titles(cases)
    return tuple(case.model_copy(update={"ambiguous": title_of(case) in unclear}) for case in cases)
