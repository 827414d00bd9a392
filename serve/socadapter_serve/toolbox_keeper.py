"""Keeps the pool's tool servers connected for as long as a replica lives, and tries again while they are away.

The connections live in one task of their own, since they must be closed by the task that opened them. Called by
`replica`.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from socadapter_agent.tools import GuardedToolbox, Toolbox, tools_digest
from socadapter_api.errors import SocAdapterError, ToolOutage
from socadapter_api.names import Digest

_log = logging.getLogger(__name__)

OpenToolbox = Callable[[], AbstractAsyncContextManager[Toolbox]]


class ToolboxKeeper:
    """One guarded toolbox for all investigations of a replica."""

    def __init__(self, open_toolbox: OpenToolbox, *, timeout_s: float = 10.0, retry_s: float = 1.0) -> None:
        self._open_toolbox = open_toolbox
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._toolbox: GuardedToolbox | None = None
        self._problem = "not connected yet"
        self._tried = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns after the first attempt, whether the servers answered or not."""
        self._task = asyncio.create_task(self._keep(), name="toolbox")
        await self._tried.wait()

    async def stop(self) -> None:
        """Closes the connections."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=5.0)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    @property
    def toolbox(self) -> GuardedToolbox:
        """The connected toolbox.

        Raises:
            ToolOutage: the servers have not answered so far.
        """
        if self._toolbox is None:
            raise ToolOutage(f"the pool's tool servers cannot be reached: {self._problem}")
        return self._toolbox

    def digest(self) -> Digest:
        """The digest of the tool schemas; raises as `toolbox`."""
        return tools_digest(self.toolbox.specs)

    async def _keep(self) -> None:
        while not self._stopping.is_set():
            try:
                async with self._open_toolbox() as inner:
                    self._toolbox = GuardedToolbox(inner, timeout_s=self._timeout_s)
                    self._tried.set()
                    await self._stopping.wait()
            except (SocAdapterError, OSError) as error:
                self._note(error)
            except Exception as error:  # noqa: BLE001  the rim of the task that keeps the tools: it goes on trying
                _log.exception("tool_servers_failed")
                self._problem = f"{type(error).__name__}: {error}"
            finally:
                self._toolbox = None
                self._tried.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._retry_s)

    def _note(self, error: Exception) -> None:
        if str(error) != self._problem:
            _log.warning("tool_servers_unreachable error=%s", error)
        self._problem = str(error)
