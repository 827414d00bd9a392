"""Ray Train's trainers without the helper processes that a run has no use for.

Each helper is an actor of its own, which imports Ray Train before it does nothing: three seconds of a processor, in
each of a run's five stages. Called by `run`.
"""

import os
from typing import Any

_DATASETS = "DatasetsCallback"
"""Shards Ray's own datasets. A run has none: its workers read the files that the first stage left."""

_CLEANER = "PlacementGroupCleanerCallback"
"""Frees what a controller that died had reserved. A Ray that ends with its run keeps no reservation."""


def trainer_class(workers: int) -> Any:
    """Ray Train's trainer: with torch's process group for several workers, without one for a worker on its own."""
    if workers > 1:
        from ray.train.torch import TorchTrainer

        return _lean(TorchTrainer)
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    return _lean(DataParallelTrainer)


def _lean(parent: Any) -> Any:
    class Lean(parent):
        def _create_default_callbacks(self) -> list[Any]:
            spare = {_DATASETS} if os.environ.get("RAY_ADDRESS") else {_DATASETS, _CLEANER}
            return [each for each in super()._create_default_callbacks() if type(each).__name__ not in spare]

    return Lean
