"""The log of a Ray job while it grows: Ray sends it over a WebSocket, and only there without repeating itself."""

import asyncio
from collections.abc import AsyncGenerator, Iterator

import aiohttp

from socadapter_api.errors import BackendUnavailable
from socadapter_operator.backends.ray_dashboard import RayDashboard


def follow_lines(dashboard: RayDashboard, path: str) -> Iterator[str]:
    """The lines of the log at `path` (``/api/jobs/ID/logs``), until the job ends.

    Raises:
        BackendUnavailable: the connection broke, or the dashboard refused it.
    """
    texts = _tail(f"{dashboard.url}{path}/tail", dashboard.headers())
    rest = ""
    # The operator's threads have no event loop; this one lives as long as the caller wants lines.
    with asyncio.Runner() as runner:
        try:
            while (text := runner.run(_next(texts))) is not None:
                *lines, rest = (rest + text).split("\n")
                yield from lines
            yield from filter(None, [rest])
        except (aiohttp.ClientError, OSError) as error:
            raise BackendUnavailable(f"the log of Ray at {dashboard.url} ended early: {error}") from error
        finally:
            runner.run(texts.aclose())


async def _next(texts: AsyncGenerator[str, None]) -> str | None:
    return await anext(texts, None)


async def _tail(url: str, headers: dict[str, str]) -> AsyncGenerator[str, None]:
    async with aiohttp.ClientSession(headers=headers) as session, session.ws_connect(url) as socket:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                yield message.data
