"""One exported world for all tests of the range; making it takes about two seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from socadapter_range import RangeToolbox, World, export


@pytest.fixture(scope="session")
def world() -> World:
    """The world behind `folder` and `tools`."""
    return World(7)


@pytest.fixture(scope="session")
def folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export."""
    out = tmp_path_factory.mktemp("range") / "export"
    export(world, out, train=320, holdout=96, extra=64)
    return out


@pytest.fixture(scope="session")
def tools(folder: Path) -> Iterator[RangeToolbox]:
    """The tools over its telemetry."""
    toolbox = RangeToolbox(folder / "telemetry.sqlite")
    yield toolbox
    toolbox.close()
