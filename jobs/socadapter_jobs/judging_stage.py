"""The stage that judges, as it runs inside its Ray Train worker. `stages` calls it."""

import json
from pathlib import Path
from typing import Any

import torch

from socadapter_agent.chat_format import ChatFormat, chat_format
from socadapter_api import digest
from socadapter_api.errors import RunInterrupted
from socadapter_api.manifest import Stage
from socadapter_jobs import prepare as preparation
from socadapter_jobs.candidates import candidate_digest, candidate_folder, parent_version
from socadapter_jobs.evaluation import evaluate_run
from socadapter_jobs.handover import require_left, require_same_chat
from socadapter_jobs.number_format import decided_precision
from socadapter_jobs.policy import load_tokenizer
from socadapter_jobs.provenance import code_digest, config_digest, public_uri
from socadapter_jobs.report import neighbours
from socadapter_jobs.report.page import write_page
from socadapter_jobs.workspace import LiveMetrics, Workspace, finite

Facts = dict[str, Any]


def evaluate_stage(workspace: Workspace, rank: int) -> Facts:
    """Judges the candidate and leaves ``evaluation.json`` and ``report.html``."""
    spec = workspace.spec
    live = LiveMetrics(workspace, Stage.EVALUATE)

    def scored(done: int, of: int) -> None:
        live(done, of, {})
        if workspace.stop_request.exists():
            raise RunInterrupted("stopped on request; the next start scores what is not scored yet")

    chat = chat_format(load_tokenizer(preparation.pinned_base(workspace)))
    require_same_chat(workspace, chat)
    candidate = candidate_folder(workspace)
    require_left(candidate, candidate_digest(workspace))
    champion = parent_version(spec, preparation.read_facts(workspace)["base"]["digest"])
    evaluation = evaluate_run(workspace, candidate, champion, scored)
    live.settle()
    evaluation |= _circumstances(workspace, candidate, chat)
    evaluation = finite(evaluation)
    workspace.note("evaluation.json", evaluation)
    workspace.store.write_json("evaluation.json", evaluation)
    write_page(workspace.store, evaluation)
    return {"evaluation": digest.of_json(evaluation)}


def _circumstances(workspace: Workspace, candidate: Path, chat: ChatFormat) -> Facts:
    """What report and manifest say beside the figures: data, curves, the adapter's size, GRPO's outcome, digests."""
    spec = workspace.spec
    facts = preparation.read_facts(workspace)
    sft = workspace.store.finished_stage(Stage.SFT) or {}
    grpo = (workspace.store.finished_stage(Stage.GRPO) or {}).get("grpo")
    curves = workspace.noted("grpo_history.json") or {"steps": [], "development": []}
    counts = sft.get("parameters", {})
    config = json.loads((candidate / "adapter_config.json").read_text())
    return {
        "learning": {
            "sft": workspace.noted("sft_history.json") or [],
            "grpo": curves["steps"],
            "development": curves["development"],
        },
        "data": {
            "counts": facts["counts"],
            "sources": [source | {"uri": public_uri(source["uri"])} for source in facts["sources"]],
            "checks": facts["checks"],
        },
        "adapter": {
            "parameters": counts.get("adapter"),
            "base_parameters": counts.get("base"),
            "bytes": (candidate / "adapter_model.safetensors").stat().st_size,
            "rank": config["r"],
            "alpha": config["lora_alpha"],
            "target_modules": sorted(config["target_modules"]),
        },
        "grpo": grpo,
        "other_adapters": neighbours.read(spec.other_runs, spec.context),
        "base": facts["base"],
        "seconds": workspace.store.seconds(),
        "judged_with": {
            "precision": decided_precision(workspace).value,
            "template_digest": chat.digest,
            "tools_digest": facts["tools_digest"],
            "config_digest": config_digest(spec),
            "code_digest": code_digest(),
            "parent_digest": spec.parent.digest if spec.parent else None,
            "accelerator": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none",
        },
    }
