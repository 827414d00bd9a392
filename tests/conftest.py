"""What every test runs under: one thread per library, no network that a test did not ask for, a repeatable search."""

import os
import re
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
        # One machine: nobody takes a node away. One process less for each stage of a run.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "DS_ACCELERATOR": "cpu",
    }
)

_SLOW = re.compile(r"^pytestmark = \[?\s*pytest\.mark\.slow\b", re.MULTILINE)

_LONG = (
    "jobs/test_builtin_base.py",
    "life_cycle/test_crashes.py",
    "benchmarks/test_benchmarks.py",
    "serving/test_local_process.py",
    "life_cycle/test_every_property.py",
    "backends/test_conformance.py",
)
"""Files of minutes, the longest first: begun last, one of them would leave the other workers without anything to do."""

# A shared machine's pauses are no failures, and a failing example must fail again on the next run.
settings.register_profile("suite", deadline=None, derandomize=True, max_examples=50, print_blob=True)
settings.load_profile("suite")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The unit layer does not read modules that are slow as a whole: torch alone takes ten seconds to import."""
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    return True if _SLOW.search(collection_path.read_text("utf-8")) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with what takes longest; with ``--no-loadscope-reorder`` workers do, too."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: places.get(item.path, len(_LONG)))
