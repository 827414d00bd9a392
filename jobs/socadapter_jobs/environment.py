"""The tools of a run: live MCP servers where the spec names them, recorded evidence where it does not."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from socadapter_agent.mcp_tools import McpToolbox
from socadapter_agent.replay import ReplayToolbox, specs_of_cases
from socadapter_agent.tools import GuardedToolbox, Toolbox, ToolSpec
from socadapter_api.case import Case
from socadapter_api.model import parse_duration
from socadapter_api.training import ReplayMiss, ToolServer

ToolboxOf = Callable[[Case], Toolbox]


@asynccontextmanager
async def open_environment(
    servers: tuple[ToolServer, ...],
    cases: Iterable[Case],
    miss: ReplayMiss,
    specs: tuple[ToolSpec, ...] | None = None,
) -> AsyncIterator[ToolboxOf]:
    """A function from a case to its toolbox, valid while the context is open.

    Live tools are shared by all cases and guarded once, so that a circuit opened by one investigation spares the
    others. Recorded evidence offers `specs`, or what `cases` hold where none are given.
    """
    if servers:
        timeout_s = max(parse_duration(server.timeout).total_seconds() for server in servers)
        async with McpToolbox(servers) as live:
            guarded = GuardedToolbox(live, timeout_s=timeout_s)
            yield lambda _case: guarded
        return
    offered = specs_of_cases(cases) if specs is None else specs
    yield lambda case: ReplayToolbox(case.evidence, offered, miss)
