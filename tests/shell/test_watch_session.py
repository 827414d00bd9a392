"""kopf's lists come back empty, and are told of; nothing else that it asks for is changed."""

from collections.abc import AsyncIterator

import kopf
import pytest
from aiohttp import web

from socadapter_operator.kube.resources import ADAPTER, Kind
from socadapter_operator.shell import watch_session

GONE = "1"
GROUP = "apis/socadapter.io/v1alpha1"
LISTED: list[Kind] = []
AS_OF: dict[tuple[Kind, str], str] = {}


@pytest.fixture
async def made() -> AsyncIterator[kopf.AiohttpSession]:
    """A session to a server that answers with what it was asked for."""

    async def answer(request: web.Request) -> web.Response:
        if request.query.get("resourceVersion") == GONE:
            return web.json_response({"code": 410}, status=410)
        told = {"query": dict(request.query), "authorization": request.headers.get("Authorization")}
        return web.json_response(told, status=int(request.query.get("status", 200)))

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    LISTED.clear()
    AS_OF.clear()
    info = kopf.ConnectionInfo(server=f"http://{host}:{port}", token="t0k")
    found = watch_session.session(info, {"socadapters": ADAPTER}, lambda *key: AS_OF.pop(key, ""), LISTED.append)
    yield found
    await found.aiohttp_session.close()
    await runner.cleanup()


async def asked(made: kopf.AiohttpSession, path: str) -> dict[str, str]:
    """The query that the server saw; the credentials are shown with each."""
    async with made.aiohttp_session.get(f"{made.server}/{path}") as answer:
        told = await answer.json()
    assert "Bearer t0k" == told["authorization"]
    query: dict[str, str] = told["query"]
    return query


async def test_a_list_is_empty_and_told_of(made: kopf.AiohttpSession) -> None:
    """Of all namespaces or of one; what else was asked for stays."""
    nothing = {"fieldSelector": "metadata.name=-"}
    selected = await asked(made, f"{GROUP}/socadapters?limit=500&labelSelector=a%3Db")
    assert {"limit": "500", "labelSelector": "a=b", **nothing} == selected
    assert nothing == await asked(made, f"{GROUP}/namespaces/soc/socadapters")
    assert [ADAPTER, ADAPTER] == LISTED


@pytest.mark.parametrize(
    ("path", "query"),
    [
        pytest.param(f"{GROUP}/socadapters?watch=true&resourceVersion=7", {"watch": "true", "resourceVersion": "7"}),
        pytest.param(GROUP, {}),
        pytest.param(f"{GROUP}/socservingpools?limit=1", {"limit": "1"}),
    ],
    ids=["watch", "discovery", "kind that is not watched"],
)
async def test_nothing_else_is_changed(path: str, query: dict[str, str], made: kopf.AiohttpSession) -> None:
    """Streams, and what there is to watch."""
    assert query == await asked(made, path)
    assert [] == LISTED


async def test_a_watch_goes_on_where_our_list_ended(made: kopf.AiohttpSession) -> None:
    """Of one namespace or of all; the next list is of what is there by then."""
    AS_OF.update({(ADAPTER, ""): "7", (ADAPTER, "soc"): "8"})
    exactly = {"fieldSelector": "metadata.name=-", "resourceVersionMatch": "Exact"}
    assert {"resourceVersion": "8", **exactly} == await asked(made, f"{GROUP}/namespaces/soc/socadapters")
    assert {"resourceVersion": "7", **exactly} == await asked(made, f"{GROUP}/socadapters")
    assert [] == LISTED
    assert "resourceVersion" not in await asked(made, f"{GROUP}/socadapters")
    assert [ADAPTER] == LISTED


async def test_where_that_is_gone_another_list_tells(made: kopf.AiohttpSession) -> None:
    """The server has compacted it away; what happened since is asked for."""
    AS_OF[ADAPTER, ""] = GONE
    assert {"fieldSelector": "metadata.name=-"} == await asked(made, f"{GROUP}/socadapters")
    assert [ADAPTER] == LISTED


async def test_a_list_that_failed_is_none(made: kopf.AiohttpSession) -> None:
    """kopf asks again."""
    await asked(made, f"{GROUP}/socadapters?status=503")
    assert [] == LISTED
