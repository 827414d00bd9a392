"""The gateway without HTTP and without Ray: finds the context, chooses the version once, falls back, keeps the record.

It is the allow-list: what it hands to an engine comes from the serving table, and a name outside the table ends here,
before any replica hears of it. Called by `endpoints`; the engines behind it are Ray's (`deployments`) or, in tests,
a `Replica` in this process.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from socadapter_agent.protocol import render_alert
from socadapter_api.errors import AlertTooLarge, EngineUnavailable, SocAdapterError, UnknownVersion
from socadapter_api.feedback import Feedback, FeedbackRecord
from socadapter_api.model import parse_duration
from socadapter_api.serving_table import ContextRoute, ReplicaReport, ServingTable
from socadapter_serve.auth import Identity
from socadapter_serve.config import BASE_MODEL_ALIAS, ServeConfig, base_model_name
from socadapter_serve.decision import decide
from socadapter_serve.feedback import FeedbackStore, Kept
from socadapter_serve.matching import ContextMatcher
from socadapter_serve.messages import (
    ChatJob,
    ChatOutcome,
    Fallback,
    RequestRefused,
    TriageAnswer,
    TriageJob,
    TriageOutcome,
    TriageRequest,
)
from socadapter_serve.metrics import GatewayMetrics
from socadapter_serve.records import kept_row, triage_answer
from socadapter_serve.routing import BASE, Answerer, Candidate, Role, candidates, incident_of, named

_log = logging.getLogger(__name__)
_PURGE_EVERY_S = 3600.0

Outcome = TypeVar("Outcome")


class Engines(Protocol):
    """The engine replicas, as the gateway sees them. Failures are `SocAdapterError`s."""

    async def triage(self, job: TriageJob) -> TriageOutcome: ...

    async def chat(self, job: ChatJob) -> ChatOutcome: ...

    async def reports(self) -> tuple[ReplicaReport, ...]: ...


@dataclass(frozen=True, slots=True)
class Model:
    """What a model name of the OpenAI API stands for: the versions that may answer, in turn."""

    in_turn: tuple[Candidate, ...]
    context: str = ""


@dataclass(frozen=True, slots=True)
class Desired:
    """One serving table with its compiled expressions; a request reads it once, at its start."""

    table: ServingTable = field(default_factory=ServingTable)
    matcher: ContextMatcher = field(default_factory=ContextMatcher)

    def route(self, context: str) -> ContextRoute:
        """The route of `context`.

        Raises:
            UnknownVersion: the table has none.
        """
        for route in self.table.routes:
            if route.context == context:
                return route
        raise UnknownVersion(f"context {context!r} is not in the serving table")


class Gateway:
    """Answers requests of callers that `auth` has recognised."""

    def __init__(
        self,
        config: ServeConfig,
        engines: Engines,
        store: FeedbackStore,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.metrics = GatewayMetrics()
        self.base_name = base_model_name(config.spec)
        self._limits = config.limits
        self._retention_s = parse_duration(config.spec.feedback_store.retention).total_seconds()
        self._engines = engines
        self._store = store
        self._clock = clock
        self._desired = Desired()
        self._background: set[asyncio.Task[None]] = set()
        self._shadows = 0

    @property
    def desired(self) -> Desired:
        """The table in use."""
        return self._desired

    async def start(self) -> None:
        """Begins the hourly purge."""
        self._spawn(self._purge_for_ever())

    async def stop(self) -> None:
        """Ends what runs in the background and closes the database."""
        tasks = list(self._background)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._store.close()

    async def apply(self, table: ServingTable) -> None:
        """Takes up a new table; requests under way keep the one that they started with."""
        matcher = await asyncio.to_thread(ContextMatcher.compiled, table.routes)
        for context, problem in matcher.problems.items():
            _log.warning("match_refused context=%s problem=%s", context, problem)
        self._desired = Desired(table, matcher)
        self.metrics.table_applied(table.generation, matcher.problems)

    async def triage(self, identity: Identity, request: TriageRequest) -> TriageAnswer:
        """Investigates one alert.

        Raises:
            AlertTooLarge: before anything is sampled.
            UnknownVersion: the named context is not in the table.
            CallerForbidden: the context is not the caller's.
            EngineUnavailable: no version could answer, the base included.
        """
        started = self._clock()
        alert = request.subject()
        render_alert(alert)
        route, unclaimed = await self._find_route(self._desired, request)
        if route is not None:
            identity.require(route)
        incident_id = request.incident_id or incident_of(alert)
        in_turn = candidates(route, incident_id) if route is not None else (BASE,)
        candidate, outcome, problem = await self._first(
            in_turn, lambda candidate: self._engines.triage(TriageJob(alert, candidate.version, request.summary))
        )
        context = route.context if route is not None else ""
        decision = decide(outcome.trajectory, outcome.calibration, unclaimed)
        answerer = self._answerer(candidate, outcome)
        self.metrics.investigated(context, answerer, outcome.trajectory, decision)
        fallback = self._fallback(context, in_turn[0], candidate, problem)
        kept = kept_row(
            uuid.uuid4().hex, started, request, identity.name, incident_id, context, answerer, outcome, decision
        )
        kept = await self._keep(replace(kept, fallback=fallback.intended if fallback else ""))
        if route is not None and route.shadow is not None:
            self._start_shadow(Candidate(Role.SHADOW, route.shadow), request, kept)
        return triage_answer(kept, decision, fallback, self._clock() - started)

    async def chat(self, model: Model, job: Callable[[Candidate], ChatJob]) -> tuple[Answerer, ChatOutcome]:
        """One chat completion by the first of the model's versions that can.

        Raises:
            RequestRefused: no engine takes such a conversation.
            EngineUnavailable: as `triage`.
        """
        candidate, outcome, problem = await self._first(
            model.in_turn, lambda candidate: self._engines.chat(job(candidate))
        )
        self._fallback(model.context, model.in_turn[0], candidate, problem)
        return self._answerer(candidate, outcome), outcome

    def resolve_model(self, identity: Identity, name: str, incident_id: str) -> Model:
        """What `name` stands for: the base, a version of the table, or a context (then split as alerts are).

        Raises:
            UnknownVersion: none of these.
            CallerForbidden: its context is not the caller's.
        """
        if name in (self.base_name, BASE_MODEL_ALIAS):
            return Model((BASE,))
        for route in self._desired.table.routes:
            if name == route.context:
                identity.require(route)
                return Model(candidates(route, incident_id), route.context)
        naming = [route for route in self._desired.table.routes if any(v.name == name for v in route.versions())]
        if not naming:
            raise UnknownVersion(f"model {name!r} is not the base, nor a version or context of the serving table")
        route = next((route for route in naming if identity.may_use(route)), naming[0])
        identity.require(route)
        return Model((next(candidate for candidate in named(route) if candidate.name == name),), route.context)

    def models(self, identity: Identity) -> tuple[tuple[Candidate, str], ...]:
        """The base, and each version that the caller may use, once, with its context."""
        found: dict[str, tuple[Candidate, str]] = {"": (BASE, "")}
        for route in self._desired.table.routes:
            if identity.may_use(route):
                for candidate in named(route):
                    found.setdefault(candidate.name, (candidate, route.context))
        return tuple(found.values())

    async def feedback(self, identity: Identity, feedback: Feedback) -> None:
        """Keeps an analyst's verdict.

        Raises:
            UnknownVersion: no investigation that the caller may see has that id.
        """
        await self.trajectory(identity, feedback.trajectory_id)
        if not await asyncio.to_thread(self._store.give, feedback, identity.name):
            raise _no_trajectory(feedback.trajectory_id)
        self.metrics.feedback_given(feedback.verdict.value)

    async def trajectory(self, identity: Identity, trajectory_id: str) -> Kept:
        """One investigation of a context that is the caller's; raises as `feedback`."""
        kept = await asyncio.to_thread(self._store.find, trajectory_id)
        if kept is None or not self._may_see(identity, kept.context):
            raise _no_trajectory(trajectory_id)
        return kept

    async def verdicts(self, trajectory_id: str) -> tuple[Feedback, ...]:
        """What analysts said about one investigation."""
        return await asyncio.to_thread(self._store.verdicts, trajectory_id)

    async def feedback_records(
        self, identity: Identity, since: float, until: float | None
    ) -> tuple[FeedbackRecord, ...]:
        """The verdicts of a time window, of the caller's contexts."""
        records = await asyncio.to_thread(self._store.feedback_records, since, until)
        return tuple(record for record in records if self._may_see(identity, record.context))

    async def reports(self) -> tuple[ReplicaReport, ...]:
        """What each replica holds."""
        return await self._engines.reports()

    def _may_see(self, identity: Identity, context: str) -> bool:
        for route in self._desired.table.routes:
            if route.context == context:
                return identity.may_use(route)
        return not identity.contexts or context in identity.contexts

    async def _find_route(self, desired: Desired, request: TriageRequest) -> tuple[ContextRoute | None, str]:
        """The alert's route, or none and the reason."""
        if request.context is not None:
            return desired.route(request.context), ""
        matched = await asyncio.to_thread(desired.matcher.match, request.alert)
        if len(matched.contexts) == 1:
            return desired.route(matched.contexts[0]), ""
        if matched.contexts:
            return None, f"ContextConflict: several contexts claim the alert: {', '.join(matched.contexts)}"
        costly = f"; too costly to decide: {', '.join(matched.exceeded)}" if matched.exceeded else ""
        return None, f"NoContext: no context claims the alert{costly}"

    async def _first(
        self, in_turn: tuple[Candidate, ...], ask: Callable[[Candidate], Awaitable[Outcome]]
    ) -> tuple[Candidate, Outcome, str]:
        """The first candidate that answers, its answer, and what was wrong with the intended one.

        What is the caller's own mistake is told at once: no other version would take it either.
        """
        problems: list[str] = []
        for candidate in in_turn:
            try:
                return candidate, await ask(candidate), problems[0] if problems else ""
            except (RequestRefused, AlertTooLarge):
                raise
            except SocAdapterError as error:
                problems.append(f"{error.reason}: {error}")
                _log.warning(
                    "version_failed version=%s role=%s reason=%s", candidate.name, candidate.role.value, error.reason
                )
        raise EngineUnavailable("; ".join(dict.fromkeys(problems)))

    def _answerer(self, candidate: Candidate, outcome: TriageOutcome | ChatOutcome) -> Answerer:
        """Who gave `outcome`. Of a base whose engine knows no digest, the table names the one that it should have."""
        return candidate.answerer(self.base_name, outcome.base_digest or self._desired.table.base_digest or "")

    def _fallback(self, context: str, intended: Candidate, answered: Candidate, problem: str) -> Fallback | None:
        if answered is intended:
            return None
        self.metrics.fell_back(context, intended, answered)
        return Fallback(intended=intended.name, role=answered.role.value, reason=problem)

    async def _keep(self, kept: Kept) -> Kept:
        """Stores the investigation. Where the database refuses, the answer goes out without an id: it is worth more."""
        try:
            await asyncio.to_thread(self._store.keep, kept)
        except SocAdapterError as error:
            self.metrics.trajectories_lost.inc()
            _log.error("trajectory_lost reason=%s message=%s", error.reason, error)
            return replace(kept, id="")
        return kept

    def _start_shadow(self, candidate: Candidate, request: TriageRequest, answered: Kept) -> None:
        if self._shadows >= self._limits.max_shadows:
            self.metrics.shadows_skipped.inc()
            return
        self._shadows += 1
        self._spawn(self._shadow(candidate, request, answered)).add_done_callback(self._leave_shadow)

    def _leave_shadow(self, _: "asyncio.Task[None]") -> None:
        self._shadows -= 1

    async def _shadow(self, candidate: Candidate, request: TriageRequest, answered: Kept) -> None:
        """The same alert by the shadow version: kept and counted, answered to no one."""
        started = self._clock()
        try:
            async with asyncio.timeout(self._limits.request_timeout_s):
                outcome = await self._engines.triage(TriageJob(request.subject(), candidate.version, request.summary))
        except (SocAdapterError, TimeoutError) as error:
            self.metrics.shadows_failed.inc()
            _log.warning("shadow_failed version=%s error=%s", candidate.name, error)
            return
        decision = decide(outcome.trajectory, outcome.calibration)
        answerer = self._answerer(candidate, outcome)
        self.metrics.investigated(answered.context, answerer, outcome.trajectory, decision)
        kept = kept_row(
            uuid.uuid4().hex,
            started,
            request,
            answered.caller,
            answered.incident_id,
            answered.context,
            answerer,
            outcome,
            decision,
        )
        await self._keep(replace(kept, shadow_of=answered.id))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _purge_for_ever(self) -> None:
        while True:
            with contextlib.suppress(SocAdapterError):
                if purged := await asyncio.to_thread(self._store.purge, self._retention_s):
                    _log.info("trajectories_purged count=%d", purged)
            await asyncio.sleep(_PURGE_EVERY_S)


def _no_trajectory(trajectory_id: str) -> UnknownVersion:
    return UnknownVersion(f"no investigation {trajectory_id!r} is kept: it is unknown, purged, or not the caller's")
