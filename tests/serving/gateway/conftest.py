"""A gateway over HTTP without a socket, whose engines answer by script."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from socadapter_api.case import Verdict
from socadapter_api.manifest import Calibration
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ContextRoute, LoadedVersion, ReplicaReport, ServedVersion, ServingTable
from socadapter_api.trajectory import ToolCall, Trajectory
from socadapter_serve.auth import Callers
from socadapter_serve.config import Limits, ServeConfig
from socadapter_serve.endpoints import Endpoints
from socadapter_serve.feedback import FeedbackStore
from socadapter_serve.gateway import Gateway
from socadapter_serve.messages import ChatJob, ChatOutcome, TriageJob, TriageOutcome

ALERT = {"title": "t", "provider": "aws"}
SOAR, ANALYST = "soar-token-0123456789", "analyst-token-0123456789"
BASE_DIGEST = f"sha256:{'b' * 64}"


@dataclass
class ScriptedEngines:
    """Engines that say what they are told to, and note what they were asked."""

    verdict: Verdict = Verdict.FALSE_POSITIVE
    failing: dict[str, Exception] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event | None = None
    base_digest: str = BASE_DIGEST

    async def _answering(self, version: ServedVersion | None) -> str:
        name = version.name if version else ""
        self.asked.append(name)
        self.started.set()
        if self.gate is not None:
            await self.gate.wait()
        if name in self.failing:
            raise self.failing[name]
        return name

    async def triage(self, job: TriageJob) -> TriageOutcome:
        name = await self._answering(job.version)
        trajectory = Trajectory(
            verdict=self.verdict,
            probabilities=(0.1, 0.2, 0.6, 0.1),
            confidence=0.1,
            summary="said",
            citations=("e1",),
            calls=(ToolCall(tool="signins", args={"user": "u"}, evidence_id="e1", result="r"),),
            version=name,
        )
        return TriageOutcome(trajectory, Calibration(escalate_at=0.5) if job.version else None, "r0", self.base_digest)

    async def chat(self, job: ChatJob) -> ChatOutcome:
        name = await self._answering(job.version)
        said = f"{name or 'base'} heard {job.messages[-1]['content']}"
        return ChatOutcome(said, False, 7, 3, "r0", self.base_digest)

    async def reports(self) -> tuple[ReplicaReport, ...]:
        held = LoadedVersion(name="cloud-v1-00000001", digest=f"sha256:00000001{'0' * 56}", ready=True)
        return (ReplicaReport(replica="r0", generation=1, loaded=(held,)),)


@dataclass
class Service:
    """A gateway over HTTP, without a socket."""

    engines: ScriptedEngines
    gateway: Gateway
    http: httpx.AsyncClient

    async def triage(self, **body: Any) -> httpx.Response:
        return await self.http.post("/v1/triage", json={"alert": ALERT, **body})

    async def apply(self, *routes: ContextRoute) -> None:
        await self.gateway.apply(ServingTable(generation=self.gateway.desired.table.generation + 1, routes=routes))

    def metric(self, name: str) -> float:
        """The sum of a metric's samples whose name and labels start with `name`."""
        lines = self.gateway.metrics.text().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


Start = Callable[..., Awaitable[Service]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    open_ones: list[Service] = []

    async def begin(*routes: ContextRoute, callers: tuple[dict[str, Any], ...] = (), **limits: Any) -> Service:
        spec = {"base": {"uri": "builtin://smollm2-135m-instruct"}, "store": "s", "callers": callers}
        config = ServeConfig(
            pool=SocServingPool.model_validate({"metadata": {"name": "p"}, "spec": spec}),
            state_dir=tmp_path,
            cache_dir=tmp_path,
            tokens={"soar/token": SOAR, "analyst/token": ANALYST},
            limits=Limits(**limits),
        )
        engines = ScriptedEngines()
        gateway = Gateway(config, engines, FeedbackStore(tmp_path / "f.sqlite3"))
        await gateway.start()
        app = Endpoints(gateway, Callers(config.spec.callers, config.caller_tokens()), config.limits).application()
        transport = httpx.ASGITransport(app)
        service = Service(engines, gateway, httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000"))
        await service.apply(*routes)
        open_ones.append(service)
        return service

    yield begin
    for service in open_ones:
        await service.http.aclose()
        await service.gateway.stop()
