"""JSON logs, one object a line, with the reconcile that a line belongs to.

``ts``, ``level``, ``logger``, ``msg``, and inside a reconcile ``controller``, ``namespace``, ``name``, ``uid``,
``generation``, ``reconcile_id``. Only these are written: what a library hangs on a record (a whole object, say) is not.
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO
from uuid import uuid4

FIELDS = ("controller", "namespace", "name", "uid", "generation", "reconcile_id", "run_id", "backend")

QUIET = {
    # kopf's object loggers print whole bodies below INFO, and its client every retry at ERROR.
    "kopf": logging.WARNING,
    # It warns, at each start, that it does not run in the main thread.
    "kopf._core.reactor.running": logging.ERROR,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "aiohttp": logging.WARNING,
    "asyncio": logging.WARNING,
}
"""The least level at which these loggers are heard."""

_bound: ContextVar[dict[str, str | int]] = ContextVar("socadapter_log_fields")


@contextmanager
def bound(**fields: str | int) -> Iterator[None]:
    """Lines that this thread writes inside the block carry `fields`, which are of `FIELDS`."""
    if unknown := set(fields) - set(FIELDS):
        raise ValueError(f"{sorted(unknown)} are no fields of a log line; those are {', '.join(FIELDS)}")
    token = _bound.set({**_bound.get({}), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


@contextmanager
def reconcile(controller: str, namespace: str, name: str, uid: str = "", generation: int = 0) -> Iterator[str]:
    """Lines inside the block belong to one reconcile, whose id is returned."""
    reconcile_id = uuid4().hex[:16]
    about: dict[str, str | int] = {"controller": controller, "namespace": namespace, "name": name}
    known: dict[str, str | int] = {"uid": uid, "generation": generation}
    with bound(**about, **{key: value for key, value in known.items() if value}, reconcile_id=reconcile_id):
        yield reconcile_id


class JsonFormatter(logging.Formatter):
    """One line of JSON for each record; a traceback goes into ``exc``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, str | int] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
        }
        line |= _bound.get({})
        if record.exc_info:
            line["exc"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(level: str = "INFO", stream: TextIO = sys.stderr) -> None:
    """All logging of this process goes to `stream` as JSON, from `level` on."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    for present in list(root.handlers):
        root.removeHandler(present)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for name, least in QUIET.items():
        logging.getLogger(name).setLevel(max(least, root.level))
