"""Whether experts' investigations are fit to learn from, beside the cases that they belong to.

The model repeats what experts did, slips included: a verdict that contradicts the label, a citation of evidence that
no call returned, an alert that judges it later. Called by `socadapter data check --experts` and by prepare.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from socadapter_agent.tools import ToolSpec, argument_problem
from socadapter_api import digest
from socadapter_api.case import Case
from socadapter_api.trajectory import ExpertTrajectory
from socadapter_jobs.data.check import Finding, Severity, finding

MIN_EXPERTS = 20
MAX_SHARE = 0.9
"""A verdict, or a sequence of tools, that more of the investigations share teaches little else."""


def check_experts(
    experts: Sequence[ExpertTrajectory], train: Sequence[Case], holdout: Sequence[Case] = ()
) -> list[Finding]:
    """What is found in `experts`; `train` and `holdout` are the cases of the same data."""
    if not experts:
        return [finding("empty", Severity.ERROR, "there are no experts' investigations")]
    return [
        *_amount(experts),
        *_holdout(experts, holdout),
        *_labels(experts, {case.id: case for case in train}),
        *_citations(experts),
        *_summaries(experts),
        *_monotony(experts),
    ]


def call_problem(expert: ExpertTrajectory, tools: Mapping[str, ToolSpec]) -> str | None:
    """The first of the expert's calls that `tools` (by name) would refuse, and why; None where they take all."""
    for call in expert.calls:
        spec = tools.get(call.tool)
        problem = "there is no such tool" if spec is None else argument_problem(spec, call.args)
        if problem:
            return f"{call.tool!r} ({problem})"
    return None


def _amount(experts: Sequence[ExpertTrajectory]) -> list[Finding]:
    if len(experts) >= MIN_EXPERTS:
        return []
    return [finding("few experts", Severity.WARNING, f"{len(experts)} investigations; the model will learn little")]


def _holdout(experts: Sequence[ExpertTrajectory], holdout: Sequence[Case]) -> list[Finding]:
    ids = {case.id for case in holdout}
    alerts = {digest.of_json(case.alert) for case in holdout}
    shared = [e.case_id for e in experts if e.case_id in ids or digest.of_json(e.alert) in alerts]
    if not shared:
        return []
    message = f"{len(shared)} investigations are of holdout alerts; a run leaves them out"
    return [finding("experts of the holdout", Severity.WARNING, message, shared)]


def _labels(experts: Sequence[ExpertTrajectory], cases: Mapping[str, Case]) -> list[Finding]:
    found = []
    strange = [expert.case_id for expert in experts if expert.case_id not in cases]
    if strange:
        message = f"{len(strange)} investigations belong to no training case: nothing says whether they are right"
        found.append(finding("experts without a case", Severity.WARNING, message, strange))
    wrong = [e.case_id for e in experts if e.case_id in cases and e.verdict.value != cases[e.case_id].label.value]
    if wrong:
        message = f"{len(wrong)} investigations come to another verdict than the label of their case"
        found.append(finding("experts against labels", Severity.WARNING, message, wrong))
    return found


def _citations(experts: Sequence[ExpertTrajectory]) -> list[Finding]:
    invented = [e.case_id for e in experts if not set(e.citations) <= set(e.evidence_ids)]
    silent = [e.case_id for e in experts if e.calls and not e.citations]
    found = []
    if invented:
        message = (
            f"{len(invented)} investigations cite evidence that none of their calls returned: the model would, too"
        )
        found.append(finding("invented citations", Severity.ERROR, message, invented))
    if silent:
        message = f"{len(silent)} investigations cite nothing of what they asked for"
        found.append(finding("no citations", Severity.WARNING, message, silent))
    return found


def _summaries(experts: Sequence[ExpertTrajectory]) -> list[Finding]:
    empty = [expert.case_id for expert in experts if not expert.summary.strip()]
    if not empty:
        return []
    return [finding("no summary", Severity.WARNING, f"{len(empty)} investigations end without a summary", empty)]


def _monotony(experts: Sequence[ExpertTrajectory]) -> list[Finding]:
    found = []
    for what, counted in (
        ("come to the verdict", Counter(expert.verdict.value for expert in experts)),
        ("ask the tools", Counter(" > ".join(call.tool for call in expert.calls) or "none" for expert in experts)),
    ):
        common, count = counted.most_common(1)[0]
        if count / len(experts) > MAX_SHARE:
            message = f"{count} of {len(experts)} investigations {what} {common!r}: the model will hardly do otherwise"
            found.append(finding("monotony", Severity.WARNING, message))
    return found
