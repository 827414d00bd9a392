"""A bench on the real API server, with the gateway of its services on loopback."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.controlplane.cluster import Cluster
from tests.faults.bench import Bench
from tests.life_cycle.conftest import Site

from socadapter_operator.builders import rayservice

SEED = int(os.environ.get("SOCADAPTER_TEST_FAULTS_SEED") or secrets.randbelow(2**31))


@pytest.fixture
def bench(cluster: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """An operator behind a proxy that draws its faults by `SEED`."""
    site = Site(cluster, namespace, tmp_path)
    made = Bench(site, SEED)
    monkeypatch.setattr(rayservice, "endpoint", made.kuberay.endpoint)
    made.start()
    yield made
    made.close()
    site.end()
