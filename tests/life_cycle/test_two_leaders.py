"""Two operators that both believe they lead: neither elector nor fence, one namespace, the same events."""

from pathlib import Path

import pytest
from tests.controlplane.cluster import Cluster
from tests.life_cycle.grounds import grounds
from tests.life_cycle.lives import FIRST, SECOND, Life

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ADAPTERS = tuple(f"context-{number}" for number in range(12))


def test_two_operators_that_both_lead_make_no_child_twice(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dozen adapters, trained and trained anew: one run and one version for each spec, as under one operator."""
    with grounds("kuberay", cluster, tmp_path, monkeypatch, 2) as (one, two):
        alone = Life(one, adapters=ADAPTERS)
        expected = alone.live((FIRST, SECOND), (None, None))
        alone.end()
        together = Life(two, adapters=ADAPTERS, operators=2)
        together.live((FIRST, SECOND), expected)
        together.die()
        together.end()
