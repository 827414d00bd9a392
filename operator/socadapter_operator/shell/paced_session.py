"""The HTTP session that kopf works with: the next page of a list waits until the last one's objects were worked off.

kopf reads a list as fast as it comes and gives each object to a task: at the start of a large installation all of its
objects would be in memory at once, as dictionaries.
"""

import asyncio
from typing import Any

import aiohttp
import kopf

WORKER_TASK = "worker for "
"""How kopf names the task of each object with events to be worked off."""

_FEW = 50
_LOOK_S = 0.02
_LONGEST_WAIT_S = 10.0


def session(info: kopf.ConnectionInfo) -> kopf.AiohttpSession:
    """What `info` says, as a session of the running loop, that paces lists. kopf closes it."""
    pacing = aiohttp.TraceConfig()
    pacing.on_request_start.append(_wait_for_workers)
    made = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
        headers=info.as_http_headers(),
        proxy=info.proxy_url,
        trace_configs=[pacing],
    )
    return kopf.AiohttpSession(server=info.server, default_namespace=info.default_namespace, aiohttp_session=made)


async def _wait_for_workers(_session: Any, _context: Any, request: aiohttp.TraceRequestStartParams) -> None:
    """Before a list, or a page of one: until few objects are left, and no longer than a request may take."""
    if "watch" in request.url.query:
        return
    loop = asyncio.get_running_loop()
    gives_up = loop.time() + _LONGEST_WAIT_S
    while _at_work() > _FEW and loop.time() < gives_up:  # noqa: ASYNC110  kopf's tasks tell nobody that they end
        await asyncio.sleep(_LOOK_S)


def _at_work() -> int:
    return sum(task.get_name().startswith(WORKER_TASK) for task in asyncio.all_tasks())
