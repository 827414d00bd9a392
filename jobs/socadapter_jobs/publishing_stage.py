"""The stage that publishes, as it runs inside its Ray Train worker. `stages` calls it.

It needs none of the training libraries: what only they know, the evaluation says.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from socadapter_api.errors import ResumeMismatch
from socadapter_api.manifest import GrpoOutcome, Outcome, RunResult
from socadapter_jobs import prepare as preparation
from socadapter_jobs.candidates import candidate_folder, continued_from
from socadapter_jobs.provenance import code_digest, config_digest, public_uri, surroundings
from socadapter_jobs.report.model_card import model_card
from socadapter_jobs.report.page import render, write_page
from socadapter_jobs.scoring.figures import NAMES
from socadapter_jobs.workspace import Workspace
from socadapter_store import layout, publication, verify

Facts = dict[str, Any]

CANDIDATE = "candidate"


def publish_stage(workspace: Workspace, rank: int) -> Facts:
    """Publishes the candidate where every gate passed; a failed gate is a finished run with its evidence."""
    spec = workspace.spec
    evaluation: Facts = workspace.noted("evaluation.json") or {}
    evaluation |= {"seconds": workspace.store.seconds()}  # its own time was not known when it was written
    result = _result(workspace, evaluation)
    if failed := [gate for gate in result.gates if not gate.passed]:
        words = "; ".join(f"{gate.metric} {gate.rule}: {gate.value}" for gate in failed)
        result = result.model_copy(
            update={"outcome": Outcome.GATE_FAILED, "reason": "GateFailed", "message": f"not published: {words}"}
        )
        write_page(workspace.store, evaluation, result)
        workspace.store.finish(result)
        return {"outcome": result.outcome.value}
    key = preparation.require_signing_key(spec)
    local = workspace.scratch / CANDIDATE
    _lay_out(workspace, local, evaluation)
    published = publication.publish(
        local,
        _manifest_fields(workspace, evaluation),
        result,
        workspace.store,
        key,
        spec.max_rank,
        report=lambda manifest, ended: render(
            evaluation, ended.model_dump(mode="json"), manifest.model_dump(mode="json")
        ),
    )
    return {"outcome": published.result.outcome.value, "digest": published.result.digest}


def _result(workspace: Workspace, evaluation: Facts) -> RunResult:
    spec = workspace.spec
    facts = preparation.read_facts(workspace)
    return RunResult(
        run_id=spec.run_id,
        context=spec.context,
        outcome=Outcome.PUBLISHED,
        metrics=_flat_metrics(evaluation),
        gates=tuple(evaluation["gates"]),
        grpo=GrpoOutcome.model_validate(evaluation["grpo"]) if evaluation["grpo"] else None,
        inputs=_inputs(facts),
        seconds=sum(evaluation["seconds"].values()),
    )


def _inputs(facts: Facts) -> dict[str, str]:
    """The digest of every source, by its purpose and file name; sources that share both are numbered."""
    inputs: dict[str, str] = {}
    for source in facts["sources"]:
        name = f"{source['name']}:{Path(public_uri(source['uri'])).name}"
        alike = sum(known == name or known.startswith(f"{name}#") for known in inputs)
        inputs[f"{name}#{alike + 1}" if alike else name] = source["digest"]
    return inputs | {"base": facts["base"]["digest"]}


def _lay_out(workspace: Workspace, local: Path, evaluation: Facts) -> None:
    """The adapter's folder as it will be published: weights, configuration, model card; nothing else.

    Made from nothing but what earlier stages left, so that a second attempt comes to the same bytes.

    Raises:
        ResumeMismatch: the candidate is not the one that was judged.
    """
    target = local / "adapter"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    source = candidate_folder(workspace)
    base = preparation.read_facts(workspace)["base"]
    shutil.copyfile(source / layout.WEIGHTS, target / layout.WEIGHTS)
    judged, found = evaluation["weights_digests"]["candidate"], verify.file_digest(target / layout.WEIGHTS)
    if found != judged:
        raise ResumeMismatch(
            f"{source} holds weights {found}, and {judged} were judged: they are not published. Start a new run"
        )
    settings = json.loads((source / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = base["uri"]  # instead of the path of this machine's copy
    (target / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    card = model_card(evaluation, base_model=base["uri"], base_digest=base["digest"])
    (target / "README.md").write_text(card)


def _manifest_fields(workspace: Workspace, evaluation: Facts) -> Facts:
    spec = workspace.spec
    facts = preparation.read_facts(workspace)
    judged_with = evaluation["judged_with"]
    parent = continued_from(spec)
    return {
        "context": spec.context,
        "namespace": spec.namespace,
        "run_id": spec.run_id,
        "number": spec.version_number,
        "base_uri": facts["base"]["uri"],
        "base_digest": facts["base"]["digest"],
        "precision": judged_with["precision"],
        "base_parameters": evaluation["adapter"]["base_parameters"],
        "template_digest": judged_with["template_digest"],
        "tools_digest": facts["tools_digest"],
        "calibration": {k: v for k, v in evaluation["calibration"].items() if k != "bins"},
        "budgets": {
            "max_turns": spec.grpo.max_turns,
            "max_calls": spec.grpo.max_calls,
            "max_turn_tokens": spec.grpo.max_turn_tokens,
            "max_summary_tokens": spec.grpo.max_summary_tokens,
            "max_context_tokens": spec.grpo.max_context_tokens,
        },
        "parent": parent.name if parent else "",
        "parent_digest": parent.digest if parent else None,
        "inputs": _inputs(facts),
        "config_digest": config_digest(spec),
        "code_digest": code_digest(),
        "metrics": _flat_metrics(evaluation),
        "grpo": evaluation["grpo"],
        "provenance": surroundings(spec, evaluation["seconds"], judged_with["accelerator"]) | {"tools": facts["tools"]},
    }


def _flat_metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The candidate's plain figures, under their own names and those that gates use."""
    metrics = evaluation["arms"]["candidate"]["metrics"]
    flat = {key: float(value) for key, value in metrics.items() if isinstance(value, (int, float))}
    return flat | {metric.value: flat[name] for metric, name in NAMES.items() if name in flat}
