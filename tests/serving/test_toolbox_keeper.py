"""The tools stay connected, or are tried again, whatever goes wrong on the way."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from socadapter_agent.replay import ReplayToolbox
from socadapter_agent.tools import Toolbox
from socadapter_api.errors import ToolOutage
from socadapter_api.training import ReplayMiss
from socadapter_serve.toolbox_keeper import ToolboxKeeper


@pytest.mark.parametrize("error", [ToolOutage("away"), OSError("reset"), AttributeError("'bool' has no 'get'")])
async def test_what_fails_is_tried_again(error: Exception, until: Callable[..., Any]) -> None:
    """An outage and a defect alike: once the servers are mended, their tools are there."""
    failures, connected = [error, error], []

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Toolbox]:
        if failures:
            raise failures.pop()
        connected.append(True)
        yield ReplayToolbox({}, (), ReplayMiss.NO_DATA)

    keeper = ToolboxKeeper(opened, retry_s=0.01)
    await keeper.start()
    with pytest.raises(ToolOutage, match=str(error).replace("'", ".")):
        _ = keeper.toolbox
    await until(lambda: connected)
    assert () == keeper.toolbox.specs
    await keeper.stop()
