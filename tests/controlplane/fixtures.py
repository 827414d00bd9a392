"""Fixtures for tests against a Kubernetes API server; `tests/conftest.py` offers them to every folder.

Nothing is started, built or imported for a test that asks for none of them.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.controlplane.cluster import Cluster
    from tests.controlplane.plane import ControlPlane

FOREIGN = "SOCADAPTER_TEST_KUBECONFIG"
REQUIRED = "SOCADAPTER_TEST_CLUSTER_REQUIRED"


def program(name: str) -> Path:
    """One of `binaries.PROGRAMS`; where it has not been built, the test is skipped, or fails under `make test-slow`."""
    from tests.controlplane import binaries

    try:
        return binaries.find(name)
    except binaries.ProgramMissing as missing:
        if os.environ.get(REQUIRED):
            raise
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def cluster() -> Iterator["Cluster"]:
    """An API server with our definitions and KubeRay's: that of SOCADAPTER_TEST_KUBECONFIG, or one started here."""
    from tests.controlplane import plane
    from tests.controlplane.cluster import OUR_CRDS, RAY_CRDS, Cluster

    if foreign := os.environ.get(FOREIGN):
        borrowed = Cluster(Path(foreign), Path(shutil.which("kubectl") or program("kubectl")))
        borrowed.install(OUR_CRDS)
        if borrowed.get("/apis/ray.io/v1") is None:
            borrowed.install(RAY_CRDS)
        yield borrowed
        borrowed.close()
        return
    for name in plane.PROGRAMS:
        program(name)
    started = plane.start()
    yield started
    started.stop()


@pytest.fixture
def control_plane(cluster: "Cluster") -> "ControlPlane":
    """The cluster, where it was started here: with users, an audit log, and programs that can be stopped."""
    from tests.controlplane.plane import ControlPlane

    if not isinstance(cluster, ControlPlane):
        pytest.skip(f"the cluster of {FOREIGN} has neither the users nor the audit log of one started here")
    return cluster


@pytest.fixture
def namespace(cluster: "Cluster", request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a new namespace that goes with the test; pods in it must be restricted ones."""
    with cluster.namespace(request.node.name.removeprefix("test_")) as name:
        yield name
