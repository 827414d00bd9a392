"""A watch stream on its way from the API server to a client: events get lost, come twice, wait, or the stream ends."""

import json
from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp import web
from tests.faults.answers import status
from tests.faults.kinds import Fault, Faults

_LONGEST_S = 4.0
_REMEMBERED = 16

_POSSIBLE = (Fault.CUT, Fault.DROPPED, Fault.DUPLICATED, Fault.HELD_BACK, Fault.GONE_EVENT)


async def relay(
    source: aiohttp.StreamReader,
    target: web.StreamResponse,
    faults: Faults,
    held: Callable[[float], Awaitable[None]],
) -> bool:
    """Copies `source` to `target` until it ends; False where the stream was cut, so that it must not end properly.

    `held` waits for so many seconds, or until the faults end.
    """
    earlier: list[bytes] = []
    while line := await source.readline():
        fault = faults.draw(*_POSSIBLE) if b'"BOOKMARK"' not in line[:40] else None
        if fault is not None:
            faults.count(fault)
        if fault is Fault.DROPPED:
            continue
        if fault is Fault.CUT:
            await target.write(line[: len(line) // 2])
            return False
        if fault is Fault.GONE_EVENT:
            await target.write(json.dumps({"type": "ERROR", "object": status(fault)}).encode() + b"\n")
            return True
        if fault is Fault.HELD_BACK:
            await held(faults.between(0.2, _LONGEST_S))
        earlier = [*earlier[-_REMEMBERED:], line]
        await target.write(line)
        if fault is Fault.DUPLICATED:
            await target.write(earlier[faults.chosen(len(earlier))])
    return True
