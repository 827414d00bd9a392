"""One engine replica without Ray: an engine, the adapters that it holds, the tools, and the serving table.

The whole investigation runs here, beside the engine, so that a conversation keeps its key-value cache from its first
turn to its verdict, and with one version, whatever the table does meanwhile. Called by `deployments`, and by tests
that need no cluster.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import fields, replace

from socadapter_agent.engine import Engine, Sampling
from socadapter_agent.investigation import Budgets, investigate
from socadapter_api.errors import SocAdapterError, SpecError
from socadapter_api.manifest import AdapterManifest
from socadapter_api.pool import EngineKind
from socadapter_api.serving_table import ReplicaReport, ServedVersion, ServingTable
from socadapter_serve.config import ServeConfig
from socadapter_serve.loading import AdapterLoader
from socadapter_serve.messages import ChatJob, ChatOutcome, RequestRefused, TriageJob, TriageOutcome
from socadapter_serve.residents import Residents
from socadapter_serve.toolbox_keeper import ToolboxKeeper
from socadapter_store.cache import prune

_log = logging.getLogger(__name__)
_RETRY_S = 1.0
_MAX_RETRY_S = 30.0

Announce = Callable[[str, tuple[str, ...]], Awaitable[None]]
"""Tells the router that a version is here, given the pinned ones that must stay known too."""


async def _tell_no_one(name: str, pinned: tuple[str, ...]) -> None:
    """For replicas that no router chooses between."""


class Replica:
    """Answers jobs, each with the version that the gateway chose for it."""

    def __init__(
        self,
        name: str,
        config: ServeConfig,
        engine: Engine,
        tools: ToolboxKeeper,
        announce: Announce = _tell_no_one,
    ) -> None:
        self._name = name
        self._engine = engine
        self._tools = tools
        self._announce = announce
        self._adapters_dir = config.adapters_dir
        self._capacity = config.spec.max_loras
        self._table = ServingTable()
        self._pinned: tuple[ServedVersion, ...] = ()
        self._warming: asyncio.Task[None] | None = None
        loader = AdapterLoader(
            config.adapters_dir,
            config.public_keys,
            base_digest=engine.base_digest,
            template_digest=None if config.spec.engine.kind is EngineKind.OPENAI else engine.template_digest,
            tools_digest=tools.digest,
            max_rank=config.spec.max_lora_rank,
            precision=engine.precision,
            timeout_s=config.limits.fetch_timeout_s,
        )
        self._residents = Residents(engine, loader.fetch, self._capacity, config.limits.load_timeout_s)

    async def start(self) -> None:
        """Starts the engine and connects the tools."""
        await self._engine.start()
        await self._tools.start()

    async def stop(self) -> None:
        """Ends what runs in the background, then the engine."""
        if self._warming is not None:
            self._warming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._warming
        await self._tools.stop()
        await self._engine.stop()

    def apply(self, table: ServingTable) -> None:
        """Takes up a new table and returns at once; loading goes on in the background."""
        previous, self._table = self._warming, table
        self._pinned = residents_of(table, self._capacity)
        self._warming = asyncio.create_task(self._warm(table, previous), name=f"warm {table.generation}")

    def report(self) -> ReplicaReport:
        """What this replica holds of the table that it was given."""
        return ReplicaReport(
            replica=self._name,
            generation=self._table.generation,
            loaded=self._residents.reports(),
            base_digest=self._engine.base_digest or None,
        )

    async def triage(self, job: TriageJob) -> TriageOutcome:
        """Investigates one alert with one version.

        Raises:
            SocAdapterError: the version cannot be used here, the tools are away, or the engine failed.
        """
        toolbox = self._tools.toolbox
        async with self._lease(job.version) as manifest:
            budgets = budgets_of(manifest, summary=job.summary)
            name = job.version.name if job.version else None
            investigation = await investigate(
                job.alert,
                toolbox,
                self._engine,
                adapter=name,
                budgets=budgets,
                sampling=Sampling(max_turn_tokens=budgets.max_turn_tokens, stop_at_verdict=not job.summary),
                version=name or "",
            )
        calibration = manifest.calibration if manifest else None
        return TriageOutcome(investigation.trajectory, calibration, self._name, self._engine.base_digest)

    async def chat(self, job: ChatJob) -> ChatOutcome:
        """Answers one chat completion.

        Raises:
            RequestRefused: the engine cannot read such a conversation.
            SocAdapterError: as `triage`.
        """
        async with self._lease(job.version):
            name = job.version.name if job.version else None
            try:
                turn = await self._engine.chat([dict(message) for message in job.messages], name, job.sampling)
            except SpecError as error:
                raise RequestRefused(str(error)) from error
        said = len(turn.token_ids) or turn.tokens_sampled
        return ChatOutcome(turn.text, turn.truncated, turn.tokens_read, said, self._name, self._engine.base_digest)

    @asynccontextmanager
    async def _lease(self, version: ServedVersion | None) -> AsyncIterator[AdapterManifest | None]:
        if version is None:
            yield None
            return
        async with self._residents.lease(version) as manifest:
            await self._announce(version.name, self._pinned_names())
            yield manifest

    def _pinned_names(self) -> tuple[str, ...]:
        ready = self._residents.ready
        return tuple(version.name for version in self._pinned if version.name in ready)

    async def _warm(self, table: ServingTable, previous: "asyncio.Task[None] | None") -> None:
        """Loads the pinned versions; what failed for a reason that may pass is tried again until it is here."""
        if previous is not None:
            previous.cancel()
            await asyncio.wait([previous])
        self._residents.forget_refusals()
        await self._residents.pin([version.name for version in self._pinned], table.versions())
        missing, delay_s = self._pinned, _RETRY_S
        while missing:
            held = await asyncio.gather(*(self._hold(version) for version in missing))
            missing = tuple(version for version, done in zip(missing, held, strict=True) if not done)
            if missing:
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, _MAX_RETRY_S)
        _log.info("table_applied generation=%d resident=%d", table.generation, len(self._pinned_names()))
        digests = [version.digest for version in table.versions().values()]
        if removed := await asyncio.to_thread(prune, self._adapters_dir, digests):
            _log.info("cached_versions_removed count=%d", removed)

    async def _hold(self, version: ServedVersion) -> bool:
        """False where another attempt may help."""
        self._residents.forget_refusal(version.name)
        try:
            await self._residents.ensure(version)
        except SocAdapterError as error:
            return not error.retryable
        await self._announce(version.name, self._pinned_names())
        return True


def residents_of(table: ServingTable, capacity: int) -> tuple[ServedVersion, ...]:
    """The versions that a replica keeps loaded: all where they fit; else one place is left for the rest.

    In the order in which they are missed most: every context's stable first, then canaries, previous ones, shadows.
    """
    ranked = [
        version
        for role in ("stable", "canary", "previous", "shadow")
        for route in table.routes
        if (version := getattr(route, role)) is not None
    ]
    unique = tuple({version.name: version for version in ranked}.values())
    return unique if len(unique) <= capacity else unique[: max(capacity - 1, 0)]


def budgets_of(manifest: AdapterManifest | None, *, summary: bool = False) -> Budgets:
    """What an investigation may spend: what the version was trained to spend, or the agent's defaults for the base.

    With `summary`, turns have the room for one that they had when the run judged summaries.
    """
    if manifest is None:
        return Budgets()
    known = {item.name for item in fields(Budgets)}
    budgets = Budgets(**{name: value for name, value in manifest.budgets.items() if name in known})
    room = manifest.budgets.get("max_summary_tokens", 0) if summary else 0
    return replace(budgets, max_turn_tokens=budgets.max_turn_tokens + room)
