"""kopf as an informer: it watches in a thread and event loop of its own, and only tells what it saw.

`on.event` alone is used, so kopf writes nothing: no annotation, finalizer, patch or event. It is supervised, as in
1.45 it ends as a whole on a watch's ERROR frame other than 410, on a page of a list that expired, on a kind whose
definition was deleted, on credentials that were refused twice, and on a defect in a worker of its own. It is then
started anew, with a growing pause, and a full list follows (`listing`). Between the death of one stream and its own end
kopf waits for its other streams, and can wait for ever: so the death of any stream ends it here, at once.
"""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import kopf

from socadapter_operator.kube.client import PAGE_SIZE
from socadapter_operator.kube.connection import Connection
from socadapter_operator.kube.credentials import Credentials
from socadapter_operator.kube.resources import Kind, Object
from socadapter_operator.shell import watch_session
from socadapter_operator.shell.cache import Cache
from socadapter_operator.shell.forgetful import NoDiffs, NoMemories, NoProgress
from socadapter_operator.shell.listing import Listener, Lister, Watched

log = logging.getLogger(__name__)

CAP_S = 30.0
"""The longest pause before kopf tries something again."""

_CONNECT_S = 10.0
_REQUEST_S = 60.0
_STREAM_S = 600
_KNOWN_POLL_S = 30.0
_LONG_LIFE_S = 60.0
_LOOK_S = 0.5
_END_S = 5.0
_IDLE_S = 0.1
_STREAM_TASK = "watcher for "
"""How kopf names the task of each stream."""


class JitteredBackoffs:
    """Pauses between repetitions of one request, for ever: doubling from `first_s` to `cap_s`, half to all of it."""

    def __init__(self, first_s: float = 0.5, cap_s: float = CAP_S) -> None:
        self._first_s = first_s
        self._cap_s = cap_s

    def __iter__(self) -> Iterator[float]:
        pause = self._first_s
        while True:
            yield pause * random.uniform(0.5, 1.0)
            pause = min(pause * 2, self._cap_s)


class StreamDied(Exception):
    """One of kopf's streams ended; kopf itself has logged why."""


class Watch:
    """Watches what the lister found served. `stale_s`: how long a silent stream is trusted."""

    def __init__(
        self,
        credentials: Credentials,
        cache: Cache,
        lister: Lister,
        listener: Listener,
        *,
        namespaces: Sequence[str] = (),
        on_restart: Callable[[], None] = lambda: None,
        backoffs: JitteredBackoffs | None = None,
        stale_s: float = 70.0,
    ) -> None:
        self._credentials = credentials
        self._cache = cache
        self._lister = lister
        self._listener = listener
        self._namespaces = tuple(namespaces)
        self._on_restart = on_restart
        self._backoffs = backoffs or JitteredBackoffs()
        self._stale_s = stale_s
        self._up = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._end_round: Callable[[], None] = lambda: None
        self._wanted_round = False
        self._watching: tuple[Watched, ...] | None = None
        self._problem = "it was not started"
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Watches from now on."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ends kopf and the thread; says whether they ended within `timeout_s`."""
        self._stopping.set()
        with self._lock:
            self._end_round()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def begin_anew(self) -> None:
        """Ends kopf's present round where it watches something else than what is served by now."""
        with self._lock:
            if self._watching not in (None, self._lister.served()):
                self._wanted_round = True
                self._end_round()

    @property
    def alive(self) -> bool:
        """Whether the supervisor runs."""
        return self._thread.is_alive()

    def running(self) -> str | None:
        """None while kopf runs; else why it does not. A check for readiness."""
        return None if self._up.is_set() else f"the watch is not running: {self._problem}"

    def _run(self) -> None:
        pauses = iter(self._backoffs)
        while not self._stopping.is_set():
            if not self._lister.wait_until_known(_KNOWN_POLL_S):
                continue
            started = time.monotonic()
            asked = self._round()
            if self._stopping.is_set():
                return
            if asked or time.monotonic() - started > _LONG_LIFE_S:
                pauses = iter(self._backoffs)
            if not asked:
                self._on_restart()
                self._stopping.wait(next(pauses))

    def _round(self) -> bool:
        """Runs kopf until it ends; True where that was asked for."""
        try:  # the rim of a thread that must go on: whatever ends kopf is logged, and kopf is started anew
            self._run_loop()
        except StreamDied as died:
            self._problem = str(died)
        except Exception as error:
            self._problem = f"kopf ended with {type(error).__name__}"
            log.exception("watch_ended")
        else:
            self._problem = "kopf ended"
        finally:
            self._up.clear()
            with self._lock:
                self._end_round, self._watching = lambda: None, None
                asked, self._wanted_round = self._wanted_round, False
        if not asked and not self._stopping.is_set():
            log.warning("watch_begins_anew because=%s", self._problem)
        return asked

    def _run_loop(self) -> None:
        """One event loop's life. `asyncio.run` would wait for every task; what does not end in time is left behind."""
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(_already_told)
        try:
            loop.run_until_complete(self._kopf())
        finally:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left, timeout=_END_S))
            loop.close()

    async def _kopf(self) -> None:
        """Runs kopf until it ends, one of its streams does, or `begin_anew` is called.

        Raises:
            whatever ended it.
        """
        ended = asyncio.Event()
        with self._lock:
            if self._stopping.is_set():
                return
            self._watching = kinds = self._lister.served()
            self._end_round = partial(_set_soon, asyncio.get_running_loop(), ended)
        settings = self._settings(kinds)
        running = kopf.operator(
            registry=self._registry(kinds),
            settings=settings,
            memories=NoMemories(),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=ended,
            ready_flag=self._up,
        )
        operator = asyncio.create_task(running)
        try:
            await _until_ended(operator, ended, streams=len(kinds) * max(1, len(self._namespaces)))
        finally:
            operator.cancel()
            await asyncio.wait({operator}, timeout=_END_S)
            settings.execution.executor.shutdown(wait=False)
            await _close_left_over()

    def _registry(self, kinds: Sequence[Watched]) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        shown: list[kopf.ConnectionInfo] = []
        plurals = {one.kind.plural: one.kind for one in kinds}

        async def login(**_: Any) -> kopf.AiohttpSession:
            found = await asyncio.to_thread(self._login, again=bool(shown))
            if found in shown:
                raise kopf.LoginError("there are no other credentials than those that were refused")
            shown[:] = [found]
            return watch_session.session(found, plurals, self._lister.taken_as_of, self._lister.request)

        kopf.on.login(registry=registry, id="login", errors=kopf.ErrorsMode.PERMANENT)(login)
        for one in kinds:
            kind = one.kind
            handler = self._handler(kind)
            kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=kind.plural)(handler)
        return registry

    def _login(self, *, again: bool) -> kopf.ConnectionInfo:
        if again:
            self._credentials.refused()
        return connection_info(self._credentials.connection())

    def _handler(self, kind: Kind) -> Callable[..., Any]:
        async def seen(event: Any, **_: Any) -> None:
            self._seen(kind, event.get("type"), dict(event["object"]))

        return seen

    def _seen(self, kind: Kind, how: str | None, item: Object) -> None:
        """Takes one event; `how` is None for what a server lists all the same."""
        if how == "DELETED":
            if self._cache.remove(kind, item):
                self._listener.changed(kind, item, deleted=True)
        elif self._cache.upsert(kind, item):
            self._listener.changed(kind, item, deleted=False)

    def _settings(self, kinds: Sequence[Watched]) -> kopf.OperatorSettings:
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.scanning.disabled = True
        settings.process.ultimate_exiting_timeout = None  # it would kill the thread that a supervisor starts anew
        settings.networking.connect_timeout = _CONNECT_S
        settings.networking.request_timeout = _REQUEST_S
        settings.networking.error_backoffs = self._backoffs
        settings.networking.enforce_retry_after = True
        settings.watching.server_timeout = _STREAM_S
        settings.watching.inactivity_timeout = self._stale_s
        settings.watching.chunk_size = PAGE_SIZE
        # Until then a worker holds the last event of its object, as dictionaries: at the start, of all of them.
        settings.queueing.idle_timeout = _IDLE_S
        settings.persistence.diffbase_storage = NoDiffs()
        settings.persistence.progress_storage = NoProgress()
        for one in kinds:
            if one.labels:
                settings.watching.label_selectors[one.kind.group, one.kind.version, one.kind.plural] = one.labels
        return settings


async def _close_left_over() -> None:
    """Ends the tasks and connections that kopf leaves to a loop which is about to close: nobody else would."""
    loop = asyncio.get_running_loop()
    if others := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in others:
            task.cancel()
        await asyncio.wait(others, timeout=_END_S)
    for transport in list(getattr(loop, "_transports", {}).values()):
        transport.abort()
    await asyncio.sleep(0)  # a transport lets its socket go in the loop's next turn


async def _until_ended(operator: asyncio.Task[None], ended: asyncio.Event, *, streams: int) -> None:
    """Returns once kopf has ended as it was asked to.

    Raises:
        StreamDied: one of the `streams` is no more.
        whatever else kopf died of.
    """
    begun, looks = False, 0
    while not ended.is_set():
        await asyncio.wait({operator}, timeout=_LOOK_S)
        if operator.done():
            operator.result()
            return
        alive = sum(task.get_name().startswith(_STREAM_TASK) for task in asyncio.all_tasks())
        begun = begun or alive > 0
        looks = looks + 1 if begun and alive < streams else 0
        if looks > 1 and not ended.is_set():
            raise StreamDied(f"{alive} of {streams} streams are left")
    await asyncio.wait({operator}, timeout=_END_S)


def _already_told(_loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """What nobody asked a task of kopf's for; kopf has logged what matters of it."""
    log.debug("watch_left_behind what=%s", context.get("message"))


def _set_soon(loop: asyncio.AbstractEventLoop, flag: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the loop has ended by itself meanwhile
        loop.call_soon_threadsafe(flag.set)


def connection_info(connection: Connection) -> kopf.ConnectionInfo:
    """The same connection, as kopf takes it."""
    return kopf.ConnectionInfo(
        server=connection.server,
        ca_data=connection.ca or None,
        insecure=connection.insecure or None,
        token=connection.token or None,
        certificate_data=connection.client_certificate or None,
        private_key_data=connection.client_key or None,
        proxy_url=connection.proxy or None,
        default_namespace=connection.namespace,
    )
