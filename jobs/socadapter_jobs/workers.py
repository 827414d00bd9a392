"""What the workers of a stage tell each other. Called by the grpo and training stages."""

from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def gathered(own: list[T]) -> list[T]:
    """The rows of all workers, in the order of their ranks; all of them must call it together.

    Through torch's process group: on CPUs accelerate's own gathering returns `own` unless a trainer exists already, and
    then takes every worker for the only one, for the rest of the process.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return own
    parts: list[list[T]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, own)
    return [row for part in parts for row in part]
