"""Stage one: every input resolved, pinned by digest, checked, and split so that training can never see the holdout.

Leaves the split as case files in the workspace. Later stages read only those and refuse them when they changed.
"""

from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any, TypeVar

from socadapter_agent.base_model import BaseModel, resolve_base
from socadapter_agent.tools import ToolSpec, tools_digest
from socadapter_api import digest
from socadapter_api.case import Case
from socadapter_api.errors import (
    DataError,
    DigestMismatch,
    EmptyData,
    MalformedRow,
    OneClass,
    RankTooHigh,
    SecretNotFound,
    SpecError,
    StoreUnavailable,
    ToolSchemaMismatch,
)
from socadapter_api.training import DataSource, RunSpec, refuse_unshared
from socadapter_api.trajectory import ExpertTrajectory
from socadapter_jobs.candidates import continued_from, parent_version
from socadapter_jobs.data import case_files, check, feedback, scripted_experts, split, titles
from socadapter_jobs.data.check_experts import call_problem, check_experts
from socadapter_jobs.environment import open_environment
from socadapter_jobs.readable_alerts import require_readable
from socadapter_jobs.rewarded_alerts import require_a_step, rewarded
from socadapter_jobs.rollouts import LoopThread
from socadapter_jobs.secret_files import signing_key
from socadapter_jobs.workspace import PREPARED_NOTE as _NOTE
from socadapter_jobs.workspace import Workspace
from socadapter_store import signatures
from socadapter_store.store import sync_tree

SETS = ("train", "development", "holdout")

Row = TypeVar("Row", Case, ExpertTrajectory)


def prepare(workspace: Workspace) -> dict[str, Any]:
    """Prepares the run's data and returns what there is: counts, sources, digests, findings.

    A night with too few verdicts comes back as ``skipped``, the reason, and nothing else.

    Raises:
        SpecError, DataError, ArtifactError: whatever keeps the run from being sound, before anything is trained.
    """
    spec = workspace.spec
    _require_possible(spec)
    require_signing_key(spec)
    base = resolve_base(spec.base)
    _require_parent(spec, base)
    sources: list[dict[str, Any]] = []
    cases = _load_cases("alerts", spec.data.alerts, sources)
    experts = _load_trajectories(spec.data.trajectories, sources)
    named_holdout = _load_cases("holdout", spec.data.holdout, sources)
    night = _night(spec, named_holdout, sources)
    if night is not None and night.skipped:
        return {"skipped": night.skipped}
    fresh, approved = (night.cases, night.trajectories) if night is not None else ((), ())
    if not cases and not fresh:
        raise EmptyData("data.alerts names no alert with a verdict: GRPO, calibration and evaluation all need some")
    known = titles.mark_ambiguous([*cases, *fresh])
    holdout = titles.mark_ambiguous(named_holdout)
    chosen = _split(spec, known, holdout, {case.id for case in fresh} if cases else set())
    for name, rows in chosen.items():
        require_readable(name, rows, spec.tools)
    report = check.check(chosen["train"], chosen["holdout"], seed=spec.seed)
    report.require()
    if spec.grpo.steps > 0:
        require_a_step(len(rewarded(chosen["train"], spec.grpo)), spec.grpo)
    specs = offered_tools(spec, chosen["train"])
    fitting, unfit = _fitting(approved, specs)
    experts = _experts(spec, chosen, (*known, *holdout), experts, fitting, specs)
    if experts:
        of_experts = check_experts(experts, chosen["train"], chosen["holdout"])
        report = report.model_copy(update={"findings": (*report.findings, *of_experts)})
        report.require()
    digests = _write(workspace, chosen, experts)
    others, left_out = _others(spec, sources)
    for name, rows in others.items():
        digests[f"other/{name}"] = case_files.write_cases(str(workspace.prepared / f"other-{name}.jsonl"), rows)
    facts = {
        "seed": spec.seed,
        "base": {"uri": base.uri, "digest": base.digest},
        "parent": start.digest if (start := continued_from(spec)) else None,
        "sources": sources,
        "counts": {name: len(rows) for name, rows in chosen.items()} | {"trajectories": len(experts)},
        "digests": digests,
        "checks": [
            {"severity": f.severity.value, "name": f.check, "message": f.message}
            for f in (*report.findings, *unfit, *left_out)
        ],
        "tools": [[tool.name, tool.description, tool.parameters] for tool in specs],
        "tools_digest": tools_digest(specs),
    }
    sync_tree(workspace.prepared)
    workspace.note(_NOTE, facts)
    return facts


def _require_possible(spec: RunSpec) -> None:
    if spec.lora.rank > spec.max_rank:
        raise RankTooHigh(
            f"lora.rank is {spec.lora.rank}, the pool's maxLoraRank {spec.max_rank}: lower one or raise the other"
        )
    refuse_unshared(spec.sft, spec.grpo, spec.compute)


def require_signing_key(spec: RunSpec) -> Path:
    """The key that will sign what the run publishes.

    Raises:
        SecretNotFound: none is named, or it cannot be used.
    """
    key = signing_key(spec)
    if key is None:
        raise SecretNotFound("the run has no signing key (signingKey): name one in the pool's signing.keySecretRef")
    signatures.public_key_of(key)
    return key


def _require_parent(spec: RunSpec, base: BaseModel) -> None:
    """The version to continue from or to compete with can be had, is trusted, and has the shape to continue from."""
    parent, start = parent_version(spec, base.digest), continued_from(spec)
    if parent is None or start is None:
        return
    from socadapter_jobs.adapter_shape import require_shape  # imports the training libraries

    require_shape(start.name, parent.folder, base, spec.lora)


def _load_cases(name: str, sources: Sequence[DataSource], into: list[dict[str, Any]]) -> list[Case]:
    return _merged(name, [case_files.load_cases(source) for source in sources], lambda case: case.id, into)


def _load_trajectories(sources: Sequence[DataSource], into: list[dict[str, Any]]) -> list[ExpertTrajectory]:
    loaded = [case_files.load_trajectories(source) for source in sources]
    return _merged("trajectories", loaded, lambda expert: expert.case_id, into)


def _merged(
    name: str,
    sources: Sequence[case_files.Source[Row]],
    identity: Callable[[Row], str],
    into: list[dict[str, Any]],
) -> list[Row]:
    """The rows of all `sources`, one that stands in several of them once.

    Raises:
        MalformedRow: two sources hold different rows under one id.
    """
    found: dict[str, tuple[str, Row]] = {}
    for source in sources:
        into.append({"name": name, "uri": source.uri, "digest": source.digest, "rows": len(source.rows)})
        for row in source.rows:
            where, known = found.setdefault(identity(row), (source.uri, row))
            if known != row:
                raise MalformedRow(
                    f"{name}: id {identity(row)!r} stands in {where} and, with other content, in {source.uri}; ids "
                    "must be unique over all sources. Rename one of them, or take one out"
                )
    return [row for _, row in found.values()]


def _night(spec: RunSpec, holdout: Sequence[Case], sources: list[dict[str, Any]]) -> feedback.Night | None:
    if spec.feedback is None or spec.data.feedback is None:
        return None
    records = list(feedback.read_feedback(spec.feedback))
    night = feedback.from_feedback(records, spec.data.feedback, context=spec.context, holdout=holdout, seed=spec.seed)
    content = digest.of_json([record.model_dump(mode="json") for record in records])
    sources.append({"name": "feedback", "uri": spec.feedback, "digest": content, "rows": len(night.cases)})
    return night


def _split(
    spec: RunSpec, cases: Sequence[Case], named_holdout: Sequence[Case], fresh: Container[str]
) -> dict[str, tuple[Case, ...]]:
    """The sets of a run. `fresh` are the ids of what analysts judged lately: the newest of all cases and without
    entities, they would be what a split holds out, and no night would learn from them."""
    unique = split.dedupe(cases).cases
    if named_holdout:
        held = {case.id for case in named_holdout} | {split.content_key(case) for case in named_holdout}
        train = tuple(case for case in unique if case.id not in held and split.content_key(case) not in held)
        holdout = tuple(named_holdout)
    else:
        settled = [case for case in unique if case.id not in fresh]
        parts = split.split_holdout(settled, spec.data.holdout_percent, spec.seed, spec.data.max_holdout)
        held = {digest.of_json(case.alert) for case in parts.held_out}
        added = (case for case in unique if case.id in fresh and digest.of_json(case.alert) not in held)
        train, holdout = (*parts.kept, *added), parts.held_out
    holdout = split.sample(holdout, spec.data.max_holdout, spec.seed)
    development = _development(spec, train, fresh)
    return {"train": development.kept, "development": development.held_out, "holdout": holdout}


def _development(spec: RunSpec, cases: Sequence[Case], fresh: Container[str]) -> split.Split:
    """The development set apart. The `fresh` cases, which are others every night, move none of the rest to the other
    side, so that theirs come beside: up to `maxDevelopment` once more."""
    percent, most = spec.evaluation.development_percent, spec.evaluation.max_development
    settled, added = ([case for case in cases if (case.id in fresh) is new] for new in (False, True))
    try:
        parts = split.split_development(settled, percent, spec.seed, most)
    except OneClass:  # those alone do not do
        return split.split_development(cases, percent, spec.seed, most)
    return split.divide_beside(parts, added, percent, spec.seed, most)


def _others(spec: RunSpec, into: list[dict[str, Any]]) -> tuple[dict[str, tuple[Case, ...]], tuple[check.Finding, ...]]:
    """Other contexts' holdouts, and a warning for each that cannot be had: theirs to mend, and no gate of this run."""
    found: dict[str, tuple[Case, ...]] = {}
    left_out: list[check.Finding] = []
    for name, source in spec.other_contexts.items():
        try:
            loaded = _load_cases(f"holdout of {name}", (source,), into)
            require_readable(f"holdout of {name}", loaded, spec.tools)
        except (DataError, DigestMismatch, SpecError, StoreUnavailable) as error:
            message = f"{name} is left out of the matrix of contexts, its holdout cannot be had: {error}"
            left_out.append(check.Finding(check="other context", severity=check.Severity.WARNING, message=message))
            continue
        found[name] = split.sample(loaded, spec.data.max_holdout, spec.seed)
    return found, tuple(left_out)


def _experts(
    spec: RunSpec,
    chosen: dict[str, tuple[Case, ...]],
    known: Sequence[Case],
    given: Sequence[ExpertTrajectory],
    approved: Sequence[ExpertTrajectory],
    tools: Sequence[ToolSpec],
) -> list[ExpertTrajectory]:
    """Experts' investigations of nothing that is scored later, nor of what the split set aside among `known`: it is of
    the holdout's time or entities. Scripted from the evidence where none are `given`; what analysts `approved` comes
    beside either.

    Raises:
        SpecError: there are neither, and the tools take arguments that no evidence tells.
        EmptyData: none is left.
        ToolSchemaMismatch: one calls what the tools do not take: it would teach calls that are refused.
    """
    if spec.sft.epochs == 0:
        return []
    experts = [*given, *approved]
    asking = [tool.name for tool in tools if tool.required]
    if not given and not asking:
        done = {expert.case_id for expert in approved}
        scripted, _ = scripted_experts.script_all(chosen["train"], max_calls=spec.grpo.max_calls, seed=spec.seed)
        experts += [expert for expert in scripted if expert.case_id not in done]
    if asking and not experts:
        raise SpecError(
            f"data.trajectories names no expert's investigation, and none can be made up from recorded evidence: "
            f"the tools {asking[:4]} take arguments. Name investigations, or set sft.epochs to 0"
        )
    scored = {digest.of_json(case.alert) for name in ("development", "holdout") for case in chosen[name]}
    trained = {split.content_key(case) for case in chosen["train"]}
    alerts = {digest.of_json(case.alert) for case in chosen["train"]} - scored
    aside = [case for case in known if split.content_key(case) not in trained]
    ids, others = {case.id for case in aside}, {digest.of_json(case.alert) for case in aside} - alerts
    kept = [e for e in experts if e.case_id not in ids and digest.of_json(e.alert) not in others | scored]
    if not kept:
        raise EmptyData("no expert trajectory is left for SFT once development and holdout alerts are taken out")
    offered = {tool.name: tool for tool in tools}
    for expert in kept:
        if problem := call_problem(expert, offered):
            raise ToolSchemaMismatch(
                f"the expert's investigation of case {expert.case_id!r} calls {problem}; the run offers "
                f"{sorted(offered)}. Offer the tools that experts have, or take such investigations out"
            )
    return kept


def _fitting(
    approved: Sequence[ExpertTrajectory], tools: Sequence[ToolSpec]
) -> tuple[list[ExpertTrajectory], list[check.Finding]]:
    """Those of the investigations that analysts approved which the tools would take, and a warning of the others:
    they were served with the tools of their day, and nobody can mend them."""
    offered = {tool.name: tool for tool in tools}
    problems = {expert.case_id: problem for expert in approved if (problem := call_problem(expert, offered))}
    fitting = [expert for expert in approved if expert.case_id not in problems]
    if not problems:
        return fitting, []
    some = next(iter(problems.values()))
    message = f"{len(problems)} approved investigations are not learned from: they call what no tool takes, as {some}"
    return fitting, [check.finding("experts of other tools", check.Severity.WARNING, message, list(problems))]


def _write(
    workspace: Workspace, chosen: dict[str, tuple[Case, ...]], experts: Sequence[ExpertTrajectory]
) -> dict[str, str]:
    workspace.prepared.mkdir(parents=True, exist_ok=True)
    digests: dict[str, str] = {
        name: case_files.write_cases(str(workspace.prepared / f"{name}.jsonl"), rows) for name, rows in chosen.items()
    }
    digests["trajectories"] = case_files.write_trajectories(str(workspace.prepared / "trajectories.jsonl"), experts)
    return digests


def offered_tools(spec: RunSpec, train: Sequence[Case]) -> tuple[ToolSpec, ...]:
    """The tools that the run's agent may call, as the model sees them."""

    async def ask() -> tuple[ToolSpec, ...]:
        async with open_environment(spec.tools, train, spec.data.replay_miss) as toolbox_of:
            return toolbox_of(train[0]).specs

    with LoopThread() as loop:
        return loop.run(ask())


def read_facts(workspace: Workspace) -> dict[str, Any]:
    """What `prepare` returned."""
    facts = workspace.noted(_NOTE)
    if not isinstance(facts, dict):
        raise EmptyData(f"{workspace.scratch} holds no {_NOTE}: the prepare stage did not finish here")
    return facts


def read_others(workspace: Workspace) -> dict[str, tuple[Case, ...]]:
    """The other contexts' holdouts that could be had, by context; refused when a file changed since."""
    prepared = read_facts(workspace)["digests"]
    return {
        name: read_set(workspace, f"other/{name}")
        for name in workspace.spec.other_contexts
        if f"other/{name}" in prepared
    }


def read_set(workspace: Workspace, name: str) -> tuple[Case, ...]:
    """A prepared set of cases, refused when its file changed since."""
    path = workspace.prepared / f"{name.replace('other/', 'other-')}.jsonl"
    expected = read_facts(workspace)["digests"][name]
    if Path(path).stat().st_size == 0:
        return ()
    return case_files.load_cases(DataSource(uri=str(path), digest=expected)).rows


def read_experts(workspace: Workspace) -> tuple[ExpertTrajectory, ...]:
    """The prepared expert investigations, refused when their file changed since."""
    path = workspace.prepared / "trajectories.jsonl"
    if path.stat().st_size == 0:
        return ()
    expected = read_facts(workspace)["digests"]["trajectories"]
    return case_files.load_trajectories(DataSource(uri=str(path), digest=expected)).rows


def read_tools(workspace: Workspace) -> tuple[ToolSpec, ...]:
    """The tools as they were when the run was prepared.

    Raises:
        ToolSchemaMismatch: what was written down does not have the digest that was written with it.
    """
    facts = read_facts(workspace)
    specs = tuple(ToolSpec(*tool) for tool in facts["tools"])
    if tools_digest(specs) != facts["tools_digest"]:
        raise ToolSchemaMismatch(f"the tools in {workspace.scratch / _NOTE} changed since: start the run anew")
    return specs


def pinned_base(workspace: Workspace) -> BaseModel:
    """The base, refused when it is no longer the one that the run was prepared with.

    Raises:
        BaseMismatch: its files changed.
    """
    facts = read_facts(workspace)["base"]
    return resolve_base(workspace.spec.base.model_copy(update={"digest": facts["digest"]}))
