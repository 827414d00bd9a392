"""Which GPU a process takes. Where there is none, all tests of engines and trainers show that it takes the CPU."""

import pytest
import torch

from socadapter_agent.device import own_device

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("gpus", "rank", "device"),
    [
        pytest.param(0, None, "cpu", id="none"),
        pytest.param(0, "1", "cpu", id="none-for-two-workers"),
        pytest.param(1, None, "cuda:0", id="alone"),
        pytest.param(2, "1", "cuda:1", id="second-worker-sees-both"),
        pytest.param(1, "1", "cuda:0", id="second-worker-sees-its-own"),
    ],
)
def test_a_process_takes_the_gpu_of_its_rank(
    monkeypatch: pytest.MonkeyPatch, gpus: int, rank: str | None, device: str
) -> None:
    """As many workers as a machine has GPUs take one each, however many of them each may see."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert torch.device(device) == own_device()
