"""Stage four: the candidate against champion, base and cheap baselines, on alerts that training never saw.

`evaluate_run` is the stage; `evaluate_files` scores any case file with any base and adapter (``socadapter evaluate``).
Investigations stop at the verdict; every arm writes summaries, and is scored on their grounding, for a seeded sample.
Each arm's investigations are kept in scratch once all are there: an interrupted evaluation goes on where it was, with
those that answer what is asked now.
"""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from socadapter_agent.base_model import resolve_base
from socadapter_agent.tools import ToolSpec, tools_digest
from socadapter_api import digest
from socadapter_api.case import Case, Verdict
from socadapter_api.errors import BaseMismatch, EmptyData, ToolSchemaMismatch
from socadapter_api.manifest import AdapterManifest, Calibration
from socadapter_api.names import Digest
from socadapter_api.training import BaseModelRef, DataSource, GrpoSpec, Precision, ReplayMiss, RunSpec, ToolServer
from socadapter_api.trajectory import Trajectory
from socadapter_jobs.candidates import DEVELOPMENT, Parent, best_of_grpo
from socadapter_jobs.data import case_files
from socadapter_jobs.data.split import attack_share
from socadapter_jobs.development import read_scored
from socadapter_jobs.examiner import Examiner, Round, examiner
from socadapter_jobs.number_format import decided_precision
from socadapter_jobs.outages import MOST_PERCENT, require_answers, too_many
from socadapter_jobs.prepare import pinned_base, read_others, read_set, read_tools
from socadapter_jobs.readable_alerts import require_readable
from socadapter_jobs.rollouts import budgets_of
from socadapter_jobs.scoring import baselines, bootstrap, calibration, gates
from socadapter_jobs.scoring.bootstrap import Arm
from socadapter_jobs.scoring.figures import UNDECIDED
from socadapter_jobs.scoring.metrics import Metrics, summarize
from socadapter_jobs.scoring.scored_case import verdicts
from socadapter_jobs.workspace import Workspace
from socadapter_store import layout, static_checks, verify

_BASE, _CANDIDATE, _CHAMPION = "base", "candidate", "champion"
_DEVELOPMENT = "development"
_COMPARED = ("balanced_accuracy", "fnr", "utility")
_EXAMPLES = 4

Done = Callable[[int, int], None]


def evaluate_run(workspace: Workspace, candidate: Path, champion: Parent | None, done: Done) -> dict[str, Any]:
    """Everything that the gates, the report and the model card need, as ``evaluation.json``.

    The champion is judged as it serves: with the threshold and the calibration of its own manifest.
    """
    spec = workspace.spec
    sets = {name: read_set(workspace, name) for name in ("train", "development", "holdout")}
    others = read_others(workspace)
    everything = [*sets["holdout"], *sets["development"], *(case for rows in others.values() for case in rows)]
    with examiner(
        pinned_base(workspace),
        spec.grpo,
        spec.tools,
        everything,
        spec.data.replay_miss,
        read_tools(workspace),
        decided_precision(workspace),
    ) as examining:
        return _compare(workspace, examining, sets, others, candidate, champion, done)


def _compare(
    workspace: Workspace,
    examining: Examiner,
    sets: Mapping[str, Sequence[Case]],
    others: Mapping[str, Sequence[Case]],
    candidate: Path,
    champion: Parent | None,
    done: Done,
) -> dict[str, Any]:
    spec = workspace.spec
    adapters = {_CANDIDATE: candidate} | ({_CHAMPION: champion.folder} if champion is not None else {})
    for name, folder in adapters.items():
        examining.load(name, folder)
    judges: dict[str, str | None] = {_BASE: None} | {name: name for name in adapters}
    holdout = sets["holdout"]
    chosen = random.Random(spec.seed).sample(list(holdout), min(spec.evaluation.summaries, len(holdout)))
    best = best_of_grpo(workspace.scratch / "grpo")
    rounds: dict[str, Round] = {}
    for name, adapter in judges.items():  # what takes longest goes first, and an adapter's rounds follow each other
        rounds[f"{name}-summaries"] = Round(chosen, adapter, summary=True)
        rounds[name] = Round(holdout, adapter)
        if name == _CANDIDATE:
            rounds |= {f"other-{context}": Round(cases, adapter) for context, cases in others.items()}
            if not best:  # GRPO scored its best checkpoint on them itself
                rounds[_DEVELOPMENT] = Round(sets["development"], adapter)
    digests = {name: verify.file_digest(folder / layout.WEIGHTS) for name, folder in adapters.items()}
    found = _investigated(workspace, examining, rounds, digests, done)
    scored = {name: tuple(verdicts(each.cases, found[name])) for name, each in rounds.items() if not each.summary}
    ids = [case.id for case in chosen]
    sampled = {name: dict(zip(ids, found[f"{name}-summaries"], strict=True)) for name in judges}
    development = read_scored(best / DEVELOPMENT) if best else scored[_DEVELOPMENT]
    allowed_percent = spec.evaluation.max_unscorable_percent
    if not best:  # GRPO keeps no score that is not fit to calibrate by
        require_answers([case.outage for case in development], allowed_percent, "the development split")
    for name in judges:
        require_answers([case.outage for case in scored[name]], allowed_percent, f"the holdout by the {name}")
        summarized = [trajectory.outage for trajectory in sampled[name].values()]
        require_answers(summarized, max(allowed_percent, MOST_PERCENT), f"the summaries by the {name}")
    share = attack_share((*sets["train"], *sets["development"]))
    fitted = calibration.fit(development, spec.evaluation.miss_budget, share)
    fits = {_BASE: Calibration(), _CANDIDATE: fitted}
    if champion is not None:
        fits[_CHAMPION] = champion.manifest.calibration
    arms = {name: _grounded(Arm(scored[name], fits[name]), sampled[name]) for name in judges}
    other_arms = {context: Arm(scored[f"other-{context}"], fitted) for context in others}
    judged = gates.evaluate(
        spec.evaluation.gates,
        arms[_CANDIDATE],
        champion=arms.get(_CHAMPION),
        base=arms[_BASE],
        max_unscorable_percent=allowed_percent,
        weights=spec.evaluation.utility,
        seed=spec.seed,
    )
    cheap = baselines.run_baselines([*sets["train"], *sets["development"]], holdout)
    against = {name: arm for name, arm in arms.items() if name != _CANDIDATE}
    against |= {name: Arm(rows) for name, rows in cheap.items()}
    return {
        "context": spec.context,
        "run_id": spec.run_id,
        "seed": spec.seed,
        "weights_digests": digests,
        "arms": {
            name: _arm_json(spec, arm) | {"summaries": _summaries(sampled[name].values())} for name, arm in arms.items()
        },
        "other_contexts": {name: _arm_json(spec, arm) for name, arm in other_arms.items()},
        "baselines": {
            name: summarize(rows, weights=spec.evaluation.utility).model_dump(mode="json")
            for name, rows in cheap.items()
        },
        "paired": {f"{_CANDIDATE}-{name}": _paired(spec, arms[_CANDIDATE], arm) for name, arm in against.items()},
        "calibration": fitted.model_dump(mode="json", by_alias=False) | {"bins": _reliability(arms[_CANDIDATE])},
        "examples": _examples(holdout, sampled),
        "gates": [gate.model_dump(mode="json") for gate in judged],
    }


def _investigated(
    workspace: Workspace, examining: Examiner, rounds: Mapping[str, Round], digests: Mapping[str, str], done: Done
) -> dict[str, list[Trajectory]]:
    """The investigations of all rounds, by name: those that an interrupted evaluation kept are not run again.

    `digests` are those of the adapters by name: the champion may be another one by now. A round of which outages took
    out too much is not kept.
    """
    allowed_percent = workspace.spec.evaluation.max_unscorable_percent
    asked = {name: _asked(workspace.spec, each, digests) for name, each in rounds.items()}
    found = {name: rows for name in rounds if (rows := _kept(workspace, name, asked[name])) is not None}
    names = [name for name in rounds if name not in found]
    ended: list[dict[int, Trajectory]] = [{} for _ in names]
    of = sum(len(each.cases) for each in rounds.values())
    before = sum(map(len, found.values()))

    def keep(number: int, index: int, trajectory: Trajectory) -> None:
        ended[number][index] = trajectory
        name = names[number]
        if len(ended[number]) == len(rounds[name].cases):
            round_ = [ended[number][at] for at in sorted(ended[number])]
            if not too_many([each.outage for each in round_], allowed_percent):
                _keep(workspace, name, asked[name], round_)
        done(before + sum(map(len, ended)), of)

    new = examining.investigate([rounds[name] for name in names], keep)
    return found | dict(zip(names, new, strict=True))


def _asked(spec: RunSpec, asked: Round, digests: Mapping[str, str]) -> Digest:
    """What tells a round from another of its name, in a spec that was edited since or with another champion."""
    adapter = None if asked.adapter is None else digests[asked.adapter]
    budgets = asdict(budgets_of(spec.grpo, summary=asked.summary))
    ids = [case.id for case in asked.cases]
    return digest.of_json([adapter, asked.summary, budgets, spec.data.replay_miss.value, ids])


def _keep(workspace: Workspace, name: str, asked: Digest, round_: Sequence[Trajectory]) -> None:
    rows = [trajectory.model_dump(mode="json") for trajectory in round_]
    workspace.note(_note(name), {"asked": asked, "investigations": rows})


def _kept(workspace: Workspace, name: str, asked: Digest) -> list[Trajectory] | None:
    kept = workspace.noted(_note(name))
    if not isinstance(kept, dict) or kept["asked"] != asked:
        return None
    return [Trajectory.model_validate(row) for row in kept["investigations"]]


def _note(name: str) -> str:
    return f"investigations/{name}.json"


def _arm_json(spec: RunSpec, arm: Arm) -> dict[str, Any]:
    figures: Metrics = summarize(arm.cases, calibration=arm.calibration, weights=spec.evaluation.utility)
    metrics = figures.model_dump(mode="json")
    metrics["fnr_low"], metrics["fnr_high"] = figures.fnr_interval or (None, None)
    return {
        "metrics": metrics,
        "cases": [
            {
                "id": case.id,
                "label": case.label.value,
                "verdict": case.verdict.value,
                "served": calibration.apply(arm.calibration, case).value,
                "confidence": case.confidence,
                "calls": case.calls,
                "tokens": case.tokens,
            }
            for case in arm.cases
        ],
    }


def _paired(spec: RunSpec, first: Arm, second: Arm) -> dict[str, Any]:
    """How the arms differ; nothing where a replay recorded too little for a case that both could be judged on."""
    try:
        compared = bootstrap.compare(first, second, _COMPARED, weights=spec.evaluation.utility, seed=spec.seed)
    except EmptyData:
        return {}
    return {name: {"difference": d.value, "low": d.low, "high": d.high, "n": d.n} for name, d in compared.items()}


def _reliability(arm: Arm, bins: int = 8) -> list[dict[str, float]]:
    """Calibrated probability against what was observed, in bins of equal width that hold any case."""
    points = [
        (arm.calibration.calibrated(case.confidence), case.is_attack)
        for case in arm.cases
        if case.decidable and case.scorable and case.confidence is not None
    ]
    found: dict[int, list[tuple[float, bool]]] = {}
    for probability, attack in points:
        found.setdefault(min(bins - 1, int(probability * bins)), []).append((probability, attack))
    return [
        {
            "p": sum(p for p, _ in rows) / len(rows),
            "observed": sum(a for _, a in rows) / len(rows),
            "n": float(len(rows)),
        }
        for _, rows in sorted(found.items())
    ]


def _grounded(arm: Arm, sampled: Mapping[str, Trajectory]) -> Arm:
    """`arm` with what is wrong in the summaries of its sample: the grounded rate is of those, and of nothing else.

    One that was asked for and not written grounds nothing, and counts as wrong; what an outage took out does not count.
    """
    faults = {name: t.ungrounded if _is_written(t) else 1 for name, t in sampled.items() if t.scorable}
    return replace(arm, cases=tuple(replace(case, ungrounded=faults.get(case.id)) for case in arm.cases))


def _is_written(trajectory: Trajectory) -> bool:
    return trajectory.verdict is not Verdict.INVALID and bool(trajectory.summary or trajectory.citations)


def _summaries(sampled: Collection[Trajectory]) -> dict[str, int]:
    """What the sample's summaries are worth."""
    return {
        "n": len(sampled),
        "complete": sum(bool(t.summary) for t in sampled),
        "cited": sum(bool(t.citations) for t in sampled if _is_written(t)),
        "grounded": sum(t.ungrounded == 0 for t in sampled if _is_written(t)),
    }


def _examples(holdout: Sequence[Case], sampled: Mapping[str, Mapping[str, Trajectory]]) -> list[dict[str, Any]]:
    """A few of the sample's cases, with the base's investigation beside the candidate's."""
    by_id = {case.id: case for case in holdout}
    return [
        {
            "case_id": name,
            "alert": by_id[name].alert,
            "label": by_id[name].label.value,
            "arms": {arm: sampled[arm][name].model_dump(mode="json", by_alias=False) for arm in (_BASE, _CANDIDATE)},
        }
        for name in list(sampled[_CANDIDATE])[:_EXAMPLES]
    ]


def evaluate_files(
    *,
    base: str,
    adapter: Path | None,
    alerts: str,
    tools_urls: Sequence[str] = (),
    spec: GrpoSpec | None = None,
    done: Done | None = None,
) -> dict[str, Any]:
    """Scores the case file `alerts` with `base`, or with the adapter folder (or run folder) `adapter` on it.

    Evidence is what the cases recorded, or what the MCP servers at `tools_urls` answer as of each alert's time. The
    adapter is judged before anything loads it: static checks always, digests where a run's manifest lies beside it. No
    signature is asked for, since an adapter that was never published has none. `done` is told how many cases of how
    many are scored.

    Returns:
        ``n``, ``balanced_accuracy``, ``fnr``, ``auc``, ``abstained``, further figures, and ``cases``: a confidence is
        0.5 where no verdict could be read, as ``auc`` takes it, and those that an outage decided, which no figure is
        about, are marked.

    Raises:
        ForeignFile, UnsafeFormat, ManifestInvalid, DigestMismatch: the adapter is not safe to load.
        BaseMismatch, ToolSchemaMismatch: the adapter's manifest names another base, or other tools.
        MalformedRow: an alert is too long, or has no time while tools are asked as of it.
    """
    manifest, folder = _checked(adapter)
    resolved = resolve_base(BaseModelRef(uri=base))
    cases = case_files.load_cases(DataSource(uri=alerts)).rows
    servers = tuple(
        ToolServer(name=f"tools-{number}", url=url, bind={"as_of": "alert.observedAt"})
        for number, url in enumerate(tools_urls)
    )
    require_readable(alerts, cases, servers)
    fitted = manifest.calibration if manifest else Calibration()
    budgets = spec or GrpoSpec.model_validate(_budget_fields(manifest))
    if manifest is not None and manifest.base_digest != resolved.digest:
        raise BaseMismatch(
            f"the adapter in {adapter} was trained on base {manifest.base_digest}, and {base!r} is {resolved.digest}"
        )

    specs = None if servers else _recorded_tools(manifest, cases)
    precision = (manifest.precision if manifest else None) or Precision.AUTO
    with examiner(resolved, budgets, servers, cases, ReplayMiss.NO_DATA, specs, precision) as examining:
        if manifest is not None and servers:
            _require_tools(manifest, examining.tools_of(cases[0]))
        if folder is not None:
            examining.load(_CANDIDATE, folder)
        rows = examining.score(cases, _CANDIDATE if folder is not None else None, done)
    figures = summarize(rows, calibration=fitted).model_dump(mode="json")
    figures["cases"] = [
        {
            "id": row.id,
            "label": row.label.value,
            "verdict": row.verdict.value,
            "confidence": UNDECIDED if row.confidence is None else row.confidence,
            "calls": row.calls,
            "tokens": row.tokens,
            "outage": row.outage,
        }
        for row in rows
    ]
    return figures


def _checked(adapter: Path | None) -> tuple[AdapterManifest | None, Path | None]:
    """The manifest, where there is one, and the files' folder of a run's folder or an adapter's own, fit to load."""
    if adapter is None:
        return None, None
    adapter = adapter.resolve()
    folder = adapter / layout.ADAPTER if (adapter / layout.ADAPTER).is_dir() else adapter
    static_checks.check_folder(folder)
    run_folder = folder.parent
    if folder.name != layout.ADAPTER or not (run_folder / layout.MANIFEST).exists():
        return None, folder
    manifest = verify.read_manifest(run_folder)
    verify.check_digests(folder, manifest)
    return manifest, folder


def _budget_fields(manifest: AdapterManifest | None) -> dict[str, int]:
    known = set(GrpoSpec.model_fields)
    return {key: value for key, value in (manifest.budgets if manifest else {}).items() if key in known}


def _require_tools(manifest: AdapterManifest, offered: tuple[ToolSpec, ...]) -> None:
    if (found := tools_digest(offered)) != manifest.tools_digest:
        raise ToolSchemaMismatch(
            f"{manifest.version} was trained with tools {manifest.tools_digest}; the servers offer {found}: "
            f"{sorted(spec.name for spec in offered)}. Name those that it was trained with"
        )


def _recorded_tools(manifest: AdapterManifest | None, cases: Sequence[Case]) -> tuple[ToolSpec, ...] | None:
    """The tools that the adapter was trained with, where the manifest carries them; else what the cases recorded."""
    if manifest is None or "tools" not in manifest.provenance:
        return None
    specs = tuple(ToolSpec(*tool) for tool in manifest.provenance["tools"])
    if tools_digest(specs) != manifest.tools_digest:
        raise ToolSchemaMismatch("the manifest's tools do not have the digest that it names")
    offered = {name for case in cases for name in case.evidence}
    if not offered & {spec.name for spec in specs}:
        raise ToolSchemaMismatch(
            f"the adapter was trained with tools {sorted(s.name for s in specs)}, the cases recorded {sorted(offered)}"
        )
    return specs
