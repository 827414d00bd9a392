"""The HTTP session that kopf works with: its lists come back empty.

What kopf needs of a list is the version to watch from; the objects are listed by `listing`, page by page and packed. As
kopf would take them, each as dictionaries and with a task of its own, those of a large installation cost it more
memory and time than all the rest of the operator's start.
"""

from collections.abc import Callable, Mapping

import aiohttp
import kopf

from socadapter_operator.kube.resources import Kind

_NOTHING = "metadata.name=-"
"""No object has this name."""


def session(
    info: kopf.ConnectionInfo,
    kinds: Mapping[str, Kind],
    as_of: Callable[[Kind, str], str],
    on_list: Callable[[Kind], None],
) -> kopf.AiohttpSession:
    """What `info` says, as a session of the running loop, which kopf closes.

    `kinds`: what is watched, by the plural that ends a URL. `as_of` tells the version, if any, at which our own list of
    a kind and namespace was taken: kopf watches from there. Where the server has none of that version any more, it is
    another, and `on_list` is told: what happened in between no watch will tell.
    """

    async def empty(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        asked = request.url
        kind = kinds.get(asked.name)
        if kind is None or "watch" in asked.query:
            return await handler(request)
        if version := as_of(kind, _namespace(asked.path)):
            exactly = {"resourceVersion": version, "resourceVersionMatch": "Exact"}
            request.url = asked.update_query(fieldSelector=_NOTHING, **exactly)
            answer = await handler(request)
            if answer.ok:
                return answer
            answer.release()
        request.url = asked.update_query(fieldSelector=_NOTHING)
        answer = await handler(request)
        if answer.ok:
            on_list(kind)
        return answer

    made = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
        headers=info.as_http_headers(),
        proxy=info.proxy_url,
        middlewares=(empty,),
    )
    return kopf.AiohttpSession(server=info.server, default_namespace=info.default_namespace, aiohttp_session=made)


def _namespace(path: str) -> str:
    """The namespace that a list at `path` is of; empty for all."""
    *_, parent, name, _plural = ("", "", *path.split("/"))
    return name if parent == "namespaces" else ""
