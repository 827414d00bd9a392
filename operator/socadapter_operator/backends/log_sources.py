"""Several logs as one, such as those of a pool's replicas.

They are read one after another; while they are followed, line by line as they come.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from socadapter_api.errors import SocAdapterError


@dataclass(frozen=True, slots=True)
class Source:
    """One log. `name` stands before its lines where there are several; `read` gives them."""

    name: str
    read: Callable[[], Iterator[str]]


def lines(sources: Sequence[Source], *, follow: bool = False) -> Iterator[str]:
    """The lines of all `sources`; with `follow` until every one of them has ended.

    Raises:
        SocAdapterError: what reading one of them raised.
    """
    named = [Source(f"{source.name} | " if len(sources) > 1 else "", source.read) for source in sources]
    if follow and len(named) > 1:
        yield from _as_they_come(named)
        return
    for source in named:
        for line in source.read():
            yield f"{source.name}{line}"


def _as_they_come(sources: Sequence[Source]) -> Iterator[str]:
    news: queue.SimpleQueue[str | SocAdapterError | None] = queue.SimpleQueue()

    def read(source: Source) -> None:
        try:
            for line in source.read():
                news.put(f"{source.name}{line}")
        except SocAdapterError as error:
            news.put(error)
        finally:
            news.put(None)

    for source in sources:
        # A daemon: whoever stops reading leaves it waiting for a line that may never come.
        threading.Thread(target=read, args=(source,), name=f"log {source.name}", daemon=True).start()
    left = len(sources)
    while left:
        told = news.get()
        if isinstance(told, SocAdapterError):
            raise told
        if told is None:
            left -= 1
        else:
            yield told
