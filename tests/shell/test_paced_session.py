"""kopf's lists wait for what came before; its watches do not."""

import asyncio
from collections.abc import AsyncIterator

import kopf
import pytest
from aiohttp import web

from socadapter_operator.shell import paced_session

MANY = 60


@pytest.fixture
async def made() -> AsyncIterator[kopf.AiohttpSession]:
    """A session to a server that answers everything."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"authorization": request.headers.get("Authorization")})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    found = paced_session.session(kopf.ConnectionInfo(server=f"http://{host}:{port}", token="t0k"))
    yield found
    await found.aiohttp_session.close()
    await runner.cleanup()


async def test_a_page_waits_until_few_objects_are_left(made: kopf.AiohttpSession) -> None:
    """As long as many of kopf's workers are at work, no list goes on; a watch begins at once."""
    worked_off = asyncio.Event()
    workers = [asyncio.create_task(worked_off.wait(), name=f"{paced_session.WORKER_TASK}{n}") for n in range(MANY)]
    asked = asyncio.create_task(told(made, "pools?limit=500&continue=x"))
    assert "Bearer t0k" == await told(made, "pools?watch=true&resourceVersion=1")
    done, _ = await asyncio.wait({asked}, timeout=0.1)
    assert not done
    worked_off.set()
    assert "Bearer t0k" == await asked
    await asyncio.gather(*workers)


async def test_a_worker_that_hangs_ends_no_list(made: kopf.AiohttpSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while the next page is asked for all the same."""
    monkeypatch.setattr(paced_session, "_LONGEST_WAIT_S", 0.1)
    never = asyncio.Event()
    workers = [asyncio.create_task(never.wait(), name=f"{paced_session.WORKER_TASK}{n}") for n in range(MANY)]
    assert "Bearer t0k" == await told(made, "pools?limit=500")
    for worker in workers:
        worker.cancel()


async def told(made: kopf.AiohttpSession, path: str) -> str:
    """The credentials that a request showed."""
    async with made.aiohttp_session.get(f"{made.server}/{path}") as answer:
        return str((await answer.json())["authorization"])
