"""The number format of a run's base, decided once a run: one that changed half way would change the numbers.

The first worker of the first stage that needs it decides, by measurement where the spec says Auto; every worker and
every later stage keeps to it. Called by the training stages and by evaluation.
"""

import torch
import torch.distributed as dist

from socadapter_agent.precision import dtype_of
from socadapter_api.training import Precision
from socadapter_jobs.workspace import Workspace

_NOTE = "precision.json"
_FORMATS = {"float32": Precision.FLOAT32, "bfloat16": Precision.BFLOAT16}


def decided_precision(workspace: Workspace, rank: int = 0) -> Precision:
    """The run's number format, never Auto. All workers of a stage must call it together."""
    kept = workspace.noted(_NOTE)
    if kept is None and rank == 0:
        kept = str(dtype_of(workspace.spec.compute.precision)).removeprefix("torch.")
        workspace.note(_NOTE, kept)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        told = [kept]
        dist.broadcast_object_list(told, src=0)
        kept = told[0]
    return _FORMATS[str(kept)]


def decided_dtype(workspace: Workspace, rank: int = 0) -> torch.dtype:
    """`decided_precision` as torch names it."""
    return dtype_of(decided_precision(workspace, rank))
