"""The number format of a frozen base's weights: what `Auto` means on this machine, for training and serving alike.

Judging and serving must agree on it: in another format near ties fall the other way, which changed one of 48 verdicts
where it was measured. Called by the jobs, which decide once a run, and by the service.
"""

import time

import torch

from socadapter_api.training import Precision

_DTYPES = {Precision.FLOAT32: torch.float32, Precision.BFLOAT16: torch.bfloat16}
_PROBE_SIZE = 768
_PROBE_ROWS = 512
_WORTH_IT = 1.4


def settled(precision: Precision) -> Precision:
    """`precision`, or what Auto means here; never Auto.

    Auto is bfloat16 on a GPU that has it; on a CPU it is bfloat16 only where a short matrix product proves it clearly
    faster than float32 (AVX-512 BF16 or AMX): elsewhere it is several times slower.
    """
    if precision is not Precision.AUTO:
        return precision
    if torch.cuda.is_available():
        faster = torch.cuda.is_bf16_supported()
    else:
        faster = _matmul_seconds(torch.float32) > _WORTH_IT * _matmul_seconds(torch.bfloat16)
    return Precision.BFLOAT16 if faster else Precision.FLOAT32


def dtype_of(precision: Precision) -> torch.dtype:
    """`settled`, as torch names it."""
    return _DTYPES[settled(precision)]


def precision_of(dtype: torch.dtype) -> Precision | None:
    """The format whose weights have `dtype`; None for one that no base is loaded in."""
    return next((precision for precision, known in _DTYPES.items() if known is dtype), None)


def _matmul_seconds(dtype: torch.dtype) -> float:
    left = torch.ones(_PROBE_ROWS, _PROBE_SIZE, dtype=dtype)
    right = torch.ones(_PROBE_SIZE, _PROBE_SIZE, dtype=dtype)
    taken = []
    for _ in range(6):
        started = time.perf_counter()
        torch.mm(left, right)
        taken.append(time.perf_counter() - started)
    return min(taken)
