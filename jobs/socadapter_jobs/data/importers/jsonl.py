"""JSON lines in the case format or close to it.

Taken as it is: ``{"id", "alert", "evidence", "label", ...}``. Also understood: ``case_id`` for `id`, ``verdict`` or
``classification`` for `label`, ``tools`` for `evidence`, and labels spelt such as ``TruePositive`` or ``benign
positive``. Options hide keys, make times relative, and say which fields hold the alert's time, its entities and its
group. Run on 1,588 network alerts and 1,832 cloud and identity detections prepared in this shape from AIT-ADS and
panther-analysis.
"""

from dataclasses import dataclass
from typing import Any

from socadapter_api.case import Case
from socadapter_api.errors import EmptyData, MalformedRow, SpecError
from socadapter_jobs.data.case_files import parse_case, stream_rows
from socadapter_jobs.data.importers.imported import Imported
from socadapter_jobs.data.titles import mark_ambiguous
from socadapter_jobs.data.visibility import at_path, parse_time, with_relative_times, without

_ALIASES = {"case_id": "id", "verdict": "label", "classification": "label", "tools": "evidence"}
_SPELLINGS = {
    "truepositive": "TP",
    "malicious": "TP",
    "benignpositive": "BTP",
    "benigntruepositive": "BTP",
    "falsepositive": "FP",
    "undecided": "UNDECIDABLE",
}


@dataclass(frozen=True, slots=True)
class JsonlOptions:
    """How rows become cases. Fields are dotted paths into a row, such as ``alert.last_seen``."""

    hide: frozenset[str] = frozenset()
    """Keys that the model must not see: a plain name anywhere in alert and evidence, or a dotted path."""
    relative_times: bool = False
    time_field: str = ""
    """When the alert was raised: what relative times are told from, and what splits go by."""
    entity_fields: tuple[str, ...] = ()
    group_field: str = ""


def import_jsonl(uri: str, options: JsonlOptions = JsonlOptions()) -> Imported:
    """The cases at `uri`.

    Raises:
        MalformedRow, UnknownLabel, AlertTooLarge: the first wrong row, by file and line.
        EmptyData: there is no row.
        SpecError: a path of `options` that no row has.
    """
    unmet = {"hide": set(options.hide), "entity-field": set(options.entity_fields), "group-field": set[str]()}
    if options.group_field:
        unmet["group-field"].add(options.group_field)
    cases: list[Case] = []
    seen: dict[str, str] = {}
    for where, row in stream_rows(uri):
        case = _case(where, row, options)
        if case.id in seen:
            raise MalformedRow(f"{where}: id {case.id!r} was already used at {seen[case.id]}; ids must be unique")
        seen[case.id] = where
        unmet["hide"] -= {name for name in unmet["hide"] if _holds(case, name)}
        for option in ("entity-field", "group-field"):
            unmet[option] -= {path for path in unmet[option] if at_path(row, path) is not None}
        cases.append(_shown(case, options))
    if not cases:
        raise EmptyData(f"{uri} holds no rows. Expected JSON lines: one object a line, in a file or *.jsonl files")
    for option, paths in unmet.items():
        if paths:
            raise SpecError(
                f"--{option} {min(paths)}: no row of {uri} has such a field; correct the path or leave it out"
            )
    return Imported(mark_ambiguous(cases))


def _case(where: str, row: dict[str, Any], options: JsonlOptions) -> Case:
    named = {_ALIASES.get(key, key) if _ALIASES.get(key, key) not in row else key: value for key, value in row.items()}
    if isinstance(label := named.get("label"), str):
        named["label"] = _SPELLINGS.get(label.lower().replace("_", "").replace(" ", ""), label)
    observed = named.get("observed_at")
    if options.time_field:
        observed = at_path(row, options.time_field)
        if parse_time(observed) is None:
            raise MalformedRow(f"{where}: field {options.time_field!r} is no ISO 8601 time (value {observed!r})")
    if isinstance(observed, str):
        named["observed_at"] = parse_time(observed)
        if observed and named["observed_at"] is None:
            raise MalformedRow(f"{where}: field 'observed_at' is no ISO 8601 time (value {observed!r})")
    else:
        named["observed_at"] = observed
    if options.entity_fields:
        context = str(named.get("context", ""))
        values = [at_path(row, path) for path in options.entity_fields]
        named["entities"] = tuple(f"{context}/{value}" if context else str(value) for value in values if value)
    if options.group_field:
        named["group"] = str(at_path(row, options.group_field) or "")
    return parse_case(where, named)


def _holds(case: Case, name: str) -> bool:
    """Whether hiding `name` would hide anything of the case."""
    hidden = frozenset({name})
    sides = ((case.alert, "alert"), (case.evidence, "evidence"))
    return any(bool(without(side, hidden, path) != side) for side, path in sides)


def _shown(case: Case, options: JsonlOptions) -> Case:
    """The case without what `options` hide, its times told as they ask."""
    alert, evidence = without(case.alert, options.hide, "alert"), without(case.evidence, options.hide, "evidence")
    if options.relative_times:
        alert = _relative_alert(alert, case)
        evidence = with_relative_times(evidence, case.observed_at)
    return case.model_copy(update={"alert": alert, "evidence": evidence})


def _relative_alert(alert: dict[str, Any], case: Case) -> dict[str, Any]:
    """The alert with its times told from its own; one that says nothing any more (``+0s``) goes."""
    shown: dict[str, Any] = with_relative_times(alert, case.observed_at)
    return {key: value for key, value in shown.items() if value != "+0s" or alert[key] == "+0s"}
