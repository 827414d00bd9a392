"""``python -m socadapter_jobs``, where each worker of a training stage notes what its trainer sees and ends with.

Arguments: the folder for the notes, and ``ray`` or ``here`` for where these stages run; the others run here. A worker
of rank N writes ``sft.N`` and ``grpo.N`` (a line per batch, with its step and what is in it) and ``adapter.N`` (a line
per stage).
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from socadapter_api.manifest import Stage
from socadapter_jobs import __main__, run, stages
from socadapter_jobs.workspace import Workspace

FOLDER, WHERE = sys.argv[1:]


def watch(folder: str, rank: int) -> None:
    """Wraps what the training stages call, in this process."""
    from socadapter_jobs import training_stages
    from socadapter_jobs.policy import adapter_state, state_digest
    from socadapter_jobs.sampler import CASE_KEY, Sampler
    from socadapter_jobs.sft import WeightedTrainer

    def note(name: str, **facts: Any) -> None:
        with Path(folder, f"{name}.{rank}").open("a") as stream:
            stream.write(json.dumps(facts) + "\n")

    learn, sample = WeightedTrainer.training_step, Sampler.__call__
    train_sft, train_grpo = (vars(training_stages)[name] for name in ("train_sft", "train_grpo"))

    def learning(self: Any, model: Any, inputs: Any, *rest: Any) -> Any:
        pairs = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        note("sft", step=self.state.global_step, batch=[ids[mask.bool()].tolist() for ids, mask in pairs])
        return learn(self, model, inputs, *rest)

    def sampling(self: Any, prompts: Any, trainer: Any) -> Any:
        note("grpo", step=trainer.state.global_step, batch=[prompt[0][CASE_KEY] for prompt in prompts])
        return sample(self, prompts, trainer)

    def noted_sft(policy: Any, *rest: Any, **more: Any) -> Any:
        outcome = train_sft(policy, *rest, **more)
        note("adapter", stage="sft", digest=state_digest(adapter_state(policy)))
        return outcome

    def noted_grpo(job: Any) -> Any:
        report = train_grpo(job)
        note("adapter", stage="grpo", digest=state_digest(adapter_state(job.policy)))
        return report

    WeightedTrainer.training_step, Sampler.__call__ = learning, sampling  # type: ignore[method-assign]
    vars(training_stages).update(train_sft=noted_sft, train_grpo=noted_grpo)


def watched_work(config: dict[str, Any], folder: str = FOLDER) -> None:
    """`run.work` in a Ray Train worker that is watched."""
    import ray.train

    watch(folder, ray.train.get_context().get_world_rank())
    run.work(config)


in_ray_train = run._in_ray_train


def stage_there(workspace: Workspace, stage: Stage) -> dict[str, Any]:
    """A training stage on Ray, any other in this process."""
    return (in_ray_train if stage in (Stage.SFT, Stage.GRPO) else stage_here)(workspace, stage)


def stage_here(workspace: Workspace, stage: Stage) -> dict[str, Any]:
    """A stage in this process."""
    run._work(workspace, stage, 0, stages.STAGES[stage])
    facts = workspace.noted(run._facts_note(stage))
    assert isinstance(facts, dict)
    return facts


if __name__ == "__main__":
    if WHERE == "here":
        watch(FOLDER, 0)
        vars(run).update(ray_session=lambda spec, scratch: contextlib.nullcontext(), _in_ray_train=stage_here)
    else:
        vars(run).update(work=watched_work, _in_ray_train=stage_there)
    sys.exit(__main__.main())
