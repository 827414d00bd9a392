"""Where the weights of a base stand: on the GPU that this process was given, else on the CPU.

Called by the in-process engine and by the stages that train.
"""

import os

import torch


def own_device() -> torch.device:
    """The GPU of this process, of several workers on a machine the one with its local rank, as the trainer counts; the
    CPU where it was given none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
