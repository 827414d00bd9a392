"""From a training run's store to an answer: what a whole run published, in the code that serves it."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from socadapter_agent.replay import ReplayToolbox, specs_of_cases
from socadapter_api.manifest import Outcome, RunResult
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ContextRoute, ReplicaReport, ServedVersion, ServingTable
from socadapter_api.training import ReplayMiss, RunSpec
from socadapter_jobs.workspace import Workspace
from socadapter_serve.auth import Callers
from socadapter_serve.config import ServeConfig
from socadapter_serve.endpoints import Endpoints
from socadapter_serve.engines import build_engine
from socadapter_serve.feedback import FeedbackStore
from socadapter_serve.gateway import Gateway
from socadapter_serve.messages import ChatJob, ChatOutcome, TriageJob, TriageOutcome
from socadapter_serve.replica import Replica
from socadapter_serve.toolbox_keeper import ToolboxKeeper
from socadapter_store import layout, signatures
from socadapter_store.verify import verify_version

pytestmark = pytest.mark.slow


class OneReplica:
    """The engines of a gateway that has one replica, in its own process."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def triage(self, job: TriageJob) -> TriageOutcome:
        return await self._replica.triage(job)

    async def chat(self, job: ChatJob) -> ChatOutcome:
        return await self._replica.chat(job)

    async def reports(self) -> tuple[ReplicaReport, ...]:
        return (self._replica.report(),)


async def test_a_published_version_is_served_as_it_was_judged(
    make_spec: Callable[..., RunSpec],
    run_here: Callable[[RunSpec], RunResult],
    base: Path,
    key: signatures.KeyPair,
    data: Any,
    tmp_path: Path,
) -> None:
    """Verified and loaded from the run's own folder, it says of held-out alerts what the run's evaluation says."""
    spec = make_spec(base, grpo={"steps": 0}, evaluation={"summaries": 0})
    result = run_here(spec)
    assert Outcome.PUBLISHED is result.outcome
    uri = Workspace.of(spec).store.uri
    assert result.digest is not None
    manifest = verify_version(Path(uri), result.digest, [key.public_pem()], max_rank=spec.max_rank)
    judged = {
        case["id"]: case
        for case in json.loads((Path(uri) / layout.EVALUATION).read_text())["arms"]["candidate"]["cases"]
    }

    pool = {"metadata": {"name": "p"}, "spec": {"base": {"uri": str(base)}, "store": spec.store}}
    config = ServeConfig(
        pool=SocServingPool.model_validate(pool),
        state_dir=tmp_path / "state",
        cache_dir=tmp_path / "cache",
        trusted_keys=(key.public_pem(),),
        num_cpus=1,
    )
    specs, evidence = specs_of_cases(data.cases), dict[str, Any]()
    tools = ToolboxKeeper(lambda: contextlib.nullcontext(ReplayToolbox(evidence, specs, ReplayMiss.NO_DATA)))
    replica = Replica("r0", config, build_engine(config), tools)
    gateway = Gateway(config, OneReplica(replica), FeedbackStore(config.state_dir / "feedback.sqlite3"))
    await replica.start()
    stable = ServedVersion(name=result.version, uri=uri, digest=result.digest)
    table = ServingTable(generation=1, routes=(ContextRoute(context="cloud", match="has(alert.user)", stable=stable),))
    await gateway.apply(table)
    replica.apply(table)
    app = Endpoints(gateway, Callers((), {}), config.limits).application()
    answers = {}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as http:
        for case in (case for case in data.cases if case.id in judged):
            evidence.clear()
            evidence.update(case.evidence)
            told = await http.post("/v1/triage", json={"alert": case.alert, "summary": False})
            assert 200 == told.status_code
            answers[case.id] = told.json()
    await gateway.stop()
    await replica.stop()

    assert set(judged) == set(answers)
    assert sum(case["calls"] for case in judged.values()) > 0
    for name, answer in answers.items():
        assert (result.version, result.digest, None) == (answer["version"], answer["digest"], answer["fallback"])
        case = judged[name]
        assert (case["verdict"], case["served"]) == (answer["model_verdict"], answer["verdict"])
        assert ["ok"] * case["calls"] == [call["outcome"] for call in answer["calls"]]
        assert answer["confidence"] == pytest.approx(manifest.calibration.calibrated(case["confidence"]), abs=1e-4)
