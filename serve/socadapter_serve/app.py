"""The Ray Serve application: a gateway that takes HTTP, and engine replicas behind it.

`build_app` is what Ray Serve imports (``socadapter_serve.app:build_app``), in a cluster by `serveConfigV2` and in local
mode by `local_ray`. Both deployments get the serving table as `user_config`: a rollout changes that and nothing else,
so that no replica restarts for it. Everything that is not Ray's is in `gateway` and `replica`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.exceptions import ActorDiedError, RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponse
from starlette.applications import Starlette

from socadapter_api.errors import EngineUnavailable, SocAdapterError
from socadapter_api.serving_table import ReplicaReport, ServedVersion, ServingTable
from socadapter_serve.auth import Callers
from socadapter_serve.base_precision import precision_for
from socadapter_serve.config import read_config
from socadapter_serve.endpoints import Endpoints
from socadapter_serve.engines import build_engine, build_tools
from socadapter_serve.feedback import FeedbackStore, database_of
from socadapter_serve.gateway import Gateway
from socadapter_serve.messages import ChatJob, ChatOutcome, Failure, TriageJob, TriageOutcome
from socadapter_serve.replica import Replica

APP_NAME = "socadapter"
GATEWAY = "Gateway"
ENGINE = "EngineReplica"
IMPORT_PATH = "socadapter_serve.app:build_app"
_REPORT_TIMEOUT_S = 5.0
_CPU_SHARE = 0.1
_START_ATTEMPTS = 3
_QUIET = {"enable_access_log": False}
"""The gateway counts requests; one line for each, and for each report, would drown the rest."""

Job = TypeVar("Job", TriageJob, ChatJob)
Outcome = TypeVar("Outcome")

_log = logging.getLogger(__name__)


class AppArgs(BaseModel):
    """What Ray Serve hands to `build_app`: where `read_config` finds the configuration, and its digest, so that a
    change is seen.
    """

    model_config = ConfigDict(extra="forbid")

    config: str
    digest: str = ""


class RayEngines:
    """The engine replicas behind a handle. Every failure, Ray's own included, becomes a `SocAdapterError`."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def triage(self, job: TriageJob) -> TriageOutcome:
        return _outcome(await self._ask("triage", job, job.version), TriageOutcome)

    async def chat(self, job: ChatJob) -> ChatOutcome:
        return _outcome(await self._ask("chat", job, job.version), ChatOutcome)

    async def reports(self) -> tuple[ReplicaReport, ...]:
        """What each replica holds, asked of every one of them."""
        try:
            answers = await self._handle.broadcast("report").results_async(
                timeout_s=_REPORT_TIMEOUT_S, return_exceptions=True
            )
        except (RayError, RayServeException, TimeoutError) as error:
            raise EngineUnavailable(f"no engine replica reports: {_brief(error)}") from error
        return tuple(answer for answer in answers if isinstance(answer, ReplicaReport))

    async def _ask(self, method: str, job: TriageJob | ChatJob, version: ServedVersion | None) -> object:
        """Asks a replica that holds the version, or any for the base."""
        handle = self._handle.options(multiplexed_model_id=version.name) if version else self._handle
        try:
            try:
                return await _answer(getattr(handle, method).remote(job))
            except ActorDiedError:
                # Not the version's fault: another replica does it again, from its start.
                return await _answer(getattr(handle, method).remote(job))
        except (RayError, RayServeException) as error:
            raise EngineUnavailable(f"the engine replica failed: {_brief(error)}") from error


async def _answer(response: DeploymentResponse) -> object:
    """The replica's answer; where nobody waits for it any more, the replica stops working at it."""
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise


def _brief(error: Exception) -> str:
    """What went wrong in a line for the caller; the replica's traceback stays in its log."""
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines() or [""]
    return f"{type(cause).__name__}: {lines[0][:200]}"


def _outcome(answer: object, kind: type[Outcome]) -> Outcome:
    if isinstance(answer, Failure):
        raise answer.error()
    if not isinstance(answer, kind):
        raise EngineUnavailable(f"the engine replica answered with a {type(answer).__name__}")
    return answer


@serve.ingress()
class GatewayDeployment:
    """The ingress: HTTP in, jobs for engine replicas out."""

    def __init__(self, config_path: str, engines: DeploymentHandle) -> None:
        config = read_config(config_path)
        self._limits = config.limits
        self._callers = Callers(config.spec.callers, config.caller_tokens())
        self._gateway = Gateway(config, RayEngines(engines), FeedbackStore(database_of(config)))
        self._started = False

    def __serve_build_asgi_app__(self) -> Starlette:
        return Endpoints(self._gateway, self._callers, self._limits).application()

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Takes up the serving table. Ray calls this once before the first request, and then for each new table."""
        if not self._started:
            self._started = True
            await self._gateway.start()
        await self._gateway.apply(ServingTable.model_validate(user_config))

    async def reports(self) -> tuple[ReplicaReport, ...]:
        """What each engine replica holds, for whoever has no HTTP."""
        return await self._gateway.reports()


class EngineDeployment:
    """One base model with its adapters."""

    def __init__(self, config_path: str) -> None:
        self._config = read_config(config_path)
        self._known_here = serve.multiplexed(max_num_models_per_replica=self._config.spec.max_loras)(_name_only)
        self._started: Replica | None = None

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Takes up the serving table. The first decides the base's number format and starts the engine; later ones
        return at once.

        Ray asks one replica after another, so that a slow one would hold up all.
        """
        table = ServingTable.model_validate(user_config)
        if self._started is None:
            self._started = await self._start(table)
        self._replica.apply(table)

    async def triage(self, job: TriageJob) -> TriageOutcome | Failure:
        """Investigates one alert."""
        return await _as_value(self._replica.triage, job)

    async def chat(self, job: ChatJob) -> ChatOutcome | Failure:
        """Answers one chat completion."""
        return await _as_value(self._replica.chat, job)

    async def report(self) -> ReplicaReport:
        """What this replica holds."""
        return self._replica.report()

    @property
    def _replica(self) -> Replica:
        if self._started is None:
            raise EngineUnavailable("this replica has not been given a serving table yet")
        return self._started

    async def _start(self, table: ServingTable) -> Replica:
        engine = await asyncio.to_thread(build_engine, self._config, await precision_for(self._config, table))
        name = serve.get_replica_context().replica_id.unique_id
        replica = Replica(name, self._config, engine, build_tools(self._config), self._announce)
        await replica.start()
        return replica

    async def _announce(self, name: str, pinned: tuple[str, ...]) -> None:
        """Makes Ray's router send requests for `name` here, from now on.

        Ray's own cache of models is used as a notice board only: a version is put up after it was verified and loaded,
        never before. The board forgets the longest unread notice when it is full; reading the pinned ones first keeps
        them up. No step of this waits, so that no other notice comes between.
        """
        for known in (*pinned, name):
            await self._known_here(known)


async def _name_only(name: str) -> str:
    return name


async def _as_value(work: Callable[[Job], Awaitable[Outcome]], job: Job) -> Outcome | Failure:
    """An error of ours as a value; anything else is Ray's to carry."""
    try:
        return await work(job)
    except SocAdapterError as error:
        return Failure.of(error)


def build_app(args: AppArgs) -> serve.Application:
    """The application for the configuration at `args.config`.

    Raises:
        SpecError, InsecureBind: as `read_config`.
    """
    config = read_config(args.config)
    requests = config.limits.max_concurrent
    actor = {"num_cpus": _CPU_SHARE}
    engine = serve.deployment(
        EngineDeployment,
        name=ENGINE,
        num_replicas=config.spec.replicas,
        max_ongoing_requests=requests + config.limits.max_shadows,
        ray_actor_options=actor,
        logging_config=_QUIET,
        max_constructor_retry_count=_START_ATTEMPTS,
        user_config=ServingTable().model_dump(mode="json"),
    )
    gateway = serve.deployment(
        GatewayDeployment,
        name=GATEWAY,
        num_replicas=1,
        # Probes and reports pass while all places for investigations are taken.
        max_ongoing_requests=2 * requests + 16,
        ray_actor_options=actor,
        logging_config=_QUIET,
        max_constructor_retry_count=_START_ATTEMPTS,
        user_config=ServingTable().model_dump(mode="json"),
    )
    return gateway.bind(args.config, engine.bind(args.config))
