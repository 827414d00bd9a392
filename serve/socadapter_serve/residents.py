"""Which adapters one engine holds: verified before it sees a file, pinned or on demand, never dropped while in use.

Versions named by `pin` stay; any other is loaded when asked for and leaves when its place is needed, the longest
unused first. A refused version is remembered with its reason and not read again until `forget_refusals`, unless the
reason may pass: then it is tried again for who asks some seconds later. Called by `replica`; fetching and judging files
is `loading`'s.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from socadapter_agent.engine import Engine
from socadapter_api.errors import EngineUnavailable, PrecisionMismatch, SocAdapterError
from socadapter_api.manifest import AdapterManifest
from socadapter_api.serving_table import LOADING, LoadedVersion, ServedVersion

_log = logging.getLogger(__name__)
_TRIED_AGAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class VerifiedAdapter:
    """An adapter folder on this machine that may be loaded, and what its manifest says.

    `difference`: in what it is not served as it was judged, in words.
    """

    directory: Path
    manifest: AdapterManifest
    difference: PrecisionMismatch | None = None


class Residence(StrEnum):
    """Where a version stands."""

    LOADING = "Loading"
    READY = "Ready"
    REFUSED = "Refused"


@dataclass(slots=True)
class Resident:
    """One version as this engine knows it."""

    version: ServedVersion
    residence: Residence = Residence.LOADING
    manifest: AdapterManifest | None = None
    error: SocAdapterError | None = None
    refused_at: float = 0.0
    difference: PrecisionMismatch | None = None
    leases: int = 0
    used_at: int = 0
    loading: "asyncio.Task[None] | None" = field(default=None, repr=False)

    def reported(self) -> LoadedVersion:
        """The version in the form of a replica's report."""
        ready = self.residence is Residence.READY
        told = self.error or self.difference
        return LoadedVersion(
            name=self.version.name,
            digest=self.version.digest,
            ready=ready,
            reason=told.reason if told else ("" if ready else LOADING),
            message=str(told) if told else "",
        )


class Residents:
    """The adapters of one engine, at most `capacity` at once."""

    def __init__(
        self,
        engine: Engine,
        fetch: Callable[[ServedVersion], Awaitable[VerifiedAdapter]],
        capacity: int,
        wait_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._fetch = fetch
        self._capacity = capacity
        self._wait_s = wait_s
        self._clock = clock
        self._known: dict[str, Resident] = {}
        self._pinned: frozenset[str] = frozenset()
        self._wanted: frozenset[str] = frozenset()
        self._ticks = itertools.count(1)
        self._leaving: set[str] = set()
        self._unloading: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self._room = asyncio.Lock()

    @property
    def ready(self) -> frozenset[str]:
        """Names of the versions that can answer now."""
        return frozenset(name for name, found in self._known.items() if found.residence is Residence.READY)

    def reports(self) -> tuple[LoadedVersion, ...]:
        """Every version that is loaded, loading or refused, by name."""
        return tuple(self._known[name].reported() for name in sorted(self._known))

    def find(self, name: str) -> Resident | None:
        """What is known about the version `name`."""
        return self._known.get(name)

    async def pin(self, pinned: Collection[str], wanted: Collection[str]) -> None:
        """Keeps `pinned` loaded once they are; drops what is not in `wanted` as soon as nothing uses it."""
        self._pinned, self._wanted = frozenset(pinned), frozenset(wanted)
        for resident in list(self._known.values()):
            await self._drop_if_unwanted(resident)

    def forget_refusals(self) -> None:
        """Lets refused versions be tried again: a table with a new generation may have come with mended files."""
        refused = [name for name, found in self._known.items() if found.residence is Residence.REFUSED]
        for name in refused:
            del self._known[name]

    def forget_refusal(self, name: str) -> None:
        """Lets one version be tried again, if it was refused."""
        found = self._known.get(name)
        if found is not None and found.residence is Residence.REFUSED:
            del self._known[name]

    async def ensure(self, version: ServedVersion) -> Resident:
        """The loaded version; many callers share one load.

        Raises:
            SocAdapterError: it was refused, now or before; the error says why.
        """
        resident = self._resident(version)
        if resident.loading is not None:
            await asyncio.shield(resident.loading)
        if resident.error is not None:
            raise resident.error
        resident.used_at = next(self._ticks)
        return resident

    @asynccontextmanager
    async def lease(self, version: ServedVersion) -> AsyncIterator[AdapterManifest]:
        """Holds the version loaded for as long as the block runs, whatever the table does meanwhile.

        The lease begins before the load, so that no other load takes the place in between.
        """
        resident = self._resident(version)
        resident.leases += 1
        try:
            await self.ensure(version)
            if resident.manifest is None:
                raise EngineUnavailable(f"version {version.name!r} left before it could be used: ask again")
            yield resident.manifest
        finally:
            resident.leases -= 1
            await self._drop_if_unwanted(resident)
            async with self._changed:
                self._changed.notify_all()

    def _resident(self, version: ServedVersion) -> Resident:
        """What is known of the version; its load begins where nothing is."""
        resident = self._known.get(version.name)
        if resident is not None and resident.version.digest != version.digest:
            raise EngineUnavailable(
                f"version {version.name!r} is known here with digest {resident.version.digest}, not {version.digest}: "
                "a name is never reused for other bytes"
            )
        if resident is None or self._may_have_passed(resident):
            resident = self._known[version.name] = Resident(version)
            resident.loading = asyncio.create_task(self._load(resident), name=f"load {version.name}")
        return resident

    def _may_have_passed(self, resident: Resident) -> bool:
        """Whether what the version was refused for may be over by now."""
        retryable = resident.error is not None and resident.error.retryable
        return retryable and self._clock() - resident.refused_at >= _TRIED_AGAIN_S

    def _refuse(self, resident: Resident, error: SocAdapterError) -> None:
        resident.error, resident.residence, resident.refused_at = error, Residence.REFUSED, self._clock()

    async def _load(self, resident: Resident) -> None:
        name = resident.version.name
        try:
            verified = await self._fetch(resident.version)
            async with self._room:
                await self._make_room(name)
                await self._engine.load_adapter(name, verified.directory)
                resident.manifest, resident.difference = verified.manifest, verified.difference
                resident.residence = Residence.READY
        except SocAdapterError as error:
            self._refuse(resident, error)
            _log.warning("adapter_refused version=%s reason=%s message=%s", name, error.reason, error)
        except Exception as error:  # noqa: BLE001  the rim of one load: whatever fails refuses this version only
            told = f"version {name!r} could not be loaded: {type(error).__name__}: {error}"
            self._refuse(resident, EngineUnavailable(told))
            _log.exception("adapter_load_failed version=%s", name)
        else:
            _log.info("adapter_loaded version=%s digest=%s", name, resident.version.digest)
        finally:
            resident.loading = None
        await self._drop_if_unwanted(resident)  # the table may have let go of it meanwhile

    async def _make_room(self, name: str) -> None:
        """Frees a place, waiting for one that is in use if need be."""
        try:
            async with asyncio.timeout(self._wait_s):
                while not self._has_room(name):
                    victim = self._next_to_leave()
                    if victim is not None:
                        await self._unload(victim)
                        continue
                    async with self._changed:
                        await self._changed.wait_for(lambda: self._has_room(name) or self._next_to_leave() is not None)
        except TimeoutError:
            raise EngineUnavailable(
                f"version {name!r}: all {self._capacity} places are pinned or in use; raise the pool's maxLoras"
            ) from None

    def _has_room(self, name: str) -> bool:
        return name not in self._leaving and len(self.ready) + len(self._leaving) < self._capacity

    def _next_to_leave(self) -> Resident | None:
        """The version that is missed least of those that nobody uses; None while another is leaving."""
        if self._leaving:
            return None
        idle = [
            resident
            for name, resident in self._known.items()
            if resident.residence is Residence.READY and not resident.leases and name not in self._pinned
        ]
        return min(idle, key=lambda resident: (resident.version.name in self._wanted, resident.used_at), default=None)

    async def _drop_if_unwanted(self, resident: Resident) -> None:
        name = resident.version.name
        in_use = resident.leases or resident.loading is not None
        if name in self._wanted or in_use or self._known.get(name) is not resident:
            return
        if resident.residence is Residence.READY:
            await self._unload(resident)
        else:
            del self._known[name]

    async def _unload(self, resident: Resident) -> None:
        """Forgets the version first, so that no lease can begin while the engine lets go of it.

        A caller that is cancelled does not end it: a version that the engine alone knows keeps its place for ever.
        """
        name = resident.version.name
        self._known.pop(name, None)
        resident.residence = Residence.LOADING
        self._leaving.add(name)
        leaving = asyncio.create_task(self._let_go(name), name=f"unload {name}")
        self._unloading.add(leaving)
        leaving.add_done_callback(self._unloading.discard)
        await asyncio.shield(leaving)

    async def _let_go(self, name: str) -> None:
        try:
            await self._engine.unload_adapter(name)
        except Exception:  # noqa: BLE001  the rim of one unload: an answer that was given must not fail for it
            _log.exception("adapter_unload_failed version=%s", name)
        finally:
            self._leaving.discard(name)
            async with self._changed:
                self._changed.notify_all()
        _log.info("adapter_dropped version=%s", name)
