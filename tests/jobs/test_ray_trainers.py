"""Ray Train's trainers start no helper that a run has no use for."""

import pytest
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from socadapter_jobs.ray_trainers import trainer_class

pytestmark = pytest.mark.slow


@pytest.mark.filterwarnings("ignore:.use_\\w+. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("workers", [pytest.param(1, id="one"), pytest.param(2, id="two")])
@pytest.mark.parametrize("address", [pytest.param("", id="own-ray"), pytest.param("ray:6379", id="a-cluster")])
def test_helpers_are_left_out(monkeypatch: pytest.MonkeyPatch, workers: int, address: str) -> None:
    """Nobody shards datasets; what a dead controller reserved is freed where Ray outlives the run, and only there."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    made = trainer_class(workers)(lambda: None)
    kinds = {type(callback) for callback in made._create_default_callbacks()}
    assert DatasetsCallback not in kinds
    assert (PlacementGroupCleanerCallback in kinds) is bool(address)
    assert len(kinds) >= 4
