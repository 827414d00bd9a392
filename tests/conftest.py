"""What every test runs under: one thread per library, no network that a test did not ask for, a repeatable search."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# At the end: `operator` must go on meaning the standard library's.
sys.path.append(str(Path(__file__).parents[1]))

from tests.controlplane.fixtures import cluster, control_plane, namespace

__all__ = ["cluster", "control_plane", "namespace"]

# Set before any test module is imported: libraries read these once, on import.
os.environ.update(
    {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Beside other tests, workers that yield to everything take several times as long.
        "RAY_worker_niceness": "0",
        "DS_ACCELERATOR": "cpu",
    }
)

# A shared machine's pauses are no failures, and a failing example must fail again on the next run.
settings.register_profile("suite", deadline=None, derandomize=True, max_examples=50, print_blob=True)
settings.load_profile("suite")

_CLUSTER = {"builders", "chart", "controlplane", "kube", "life_cycle", "shell"}
"""Folders whose slow tests work with an API server and start no Ray. Two that start at a time take Ray too long."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests that train and serve are one group, so that no two run at a time; other folders are one group each."""
    root = Path(__file__).parent
    for item in items:
        if item.get_closest_marker("slow"):
            folder = item.path.relative_to(root).parts[0]
            item.add_marker(pytest.mark.xdist_group(folder if folder in _CLUSTER else "machine"))
