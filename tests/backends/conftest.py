"""Every backend that there is, as `bench`: the local one with real processes, and a real Ray."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.backends.benches import Bench, LocalBench, RayBench, small_ray, tiny_base


@pytest.fixture(scope="module")
def ray_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One small Ray for a module's tests."""
    with small_ray(tmp_path_factory.mktemp("ray")) as address:
        yield address


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(params=["local", "rayjobs"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A backend with nothing started."""
    if request.param == "local":
        made: Bench = LocalBench(tmp_path)
    else:
        made = RayBench(tmp_path, request.getfixturevalue("ray_address"), request.getfixturevalue("base"))
    yield made
    made.end()
