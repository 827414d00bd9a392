"""The five stages as `run` calls them inside a Ray Train worker.

Each takes the workspace and the worker's rank, does its work from and into the workspace, and returns the facts of its
marker. Training libraries take ten seconds to import, so that only the stages that need them import them.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

from socadapter_api.manifest import GrpoOutcome, Outcome, RunResult, Stage
from socadapter_jobs import prepare as preparation
from socadapter_jobs.report.page import write_page
from socadapter_jobs.workspace import Workspace

Facts = dict[str, Any]


def prepare_stage(workspace: Workspace, rank: int) -> Facts:
    """Pins, checks and splits the data; a night with too few verdicts is a finished run that trained nothing."""
    facts = preparation.prepare(workspace)
    if reason := facts.get("skipped"):
        spec = workspace.spec
        result = RunResult(
            run_id=spec.run_id, context=spec.context, outcome=Outcome.SKIPPED, reason="Skipped", message=reason
        )
        write_page(workspace.store, {}, result)
        workspace.store.finish(result)
        return {}
    return {"digests": facts["digests"], "counts": facts["counts"], "base": facts["base"]["digest"]}


def sft_stage(workspace: Workspace, rank: int) -> Facts:
    """Teaches the adapter the experts' investigations."""
    from socadapter_jobs import training_stages

    return training_stages.sft_stage(workspace, rank)


def grpo_stage(workspace: Workspace, rank: int) -> Facts:
    """Sharpens the adapter on alerts with verified verdicts, where any steps are asked for."""
    if workspace.spec.grpo.steps == 0:
        outcome = GrpoOutcome(status="Skipped", reason="NotAsked", message="grpo.steps is 0")
        return {"grpo": outcome.model_dump(mode="json")}
    from socadapter_jobs import training_stages

    return training_stages.grpo_stage(workspace, rank)


def evaluate_stage(workspace: Workspace, rank: int) -> Facts:
    """Judges the candidate on the holdout."""
    from socadapter_jobs import judging_stage

    return judging_stage.evaluate_stage(workspace, rank)


def publish_stage(workspace: Workspace, rank: int) -> Facts:
    """Publishes the candidate where every gate passed."""
    from socadapter_jobs import publishing_stage

    return publishing_stage.publish_stage(workspace, rank)


STAGES: dict[Stage, Callable[[Workspace, int], Facts]] = {
    Stage.PREPARE: prepare_stage,
    Stage.SFT: sft_stage,
    Stage.GRPO: grpo_stage,
    Stage.EVALUATE: evaluate_stage,
    Stage.PUBLISH: publish_stage,
}


def set_threads(cpus: float) -> None:
    """Gives torch the processors that the worker was granted: when it is imported, or now where it was already."""
    threads = max(1, int(cpus))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)
