"""Resources and observations for the planner, with every part that a test does not name filled in."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from socadapter_api import digest
from socadapter_api.adapter import (
    AdapterStatus,
    AdapterVersions,
    RunStatus,
    SocAdapter,
    VersionRef,
    VersionSpec,
)
from socadapter_api.manifest import AdapterManifest, Outcome, Progress, RunResult, Stage
from socadapter_api.names import version_name
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import LoadedVersion, ReplicaReport
from socadapter_operator.domain import planner, triggers
from socadapter_operator.domain.actions import Plan
from socadapter_operator.domain.claim import Claim
from socadapter_operator.domain.observed import EndedRun, Observed, RecordedVersion
from socadapter_operator.domain.state import (
    BackendRun,
    Evidence,
    Marker,
    RunState,
    RunView,
    Verification,
    settle,
)

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
BASE = digest.of_bytes(b"base")
OTHER_BASE = digest.of_bytes(b"another base")
STORE = "/store"


@dataclass
class World:
    """A namespace with one pool and one adapter; fields are changed before `plan`."""

    now: datetime = NOW
    spec: dict[str, Any] = field(default_factory=dict)
    pool_spec: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    generation: int = 1
    pools: dict[str, SocServingPool] | None = None
    others: tuple[SocAdapter, ...] = ()
    versions: tuple[RecordedVersion, ...] = ()
    runs: dict[str, RunView] = field(default_factory=dict)
    loaded: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)
    verdicts: int | None = None
    ended: tuple[EndedRun, ...] = ()

    def adapter(self, name: str = "cloud", **changes: Any) -> SocAdapter:
        """The adapter under test, or another one."""
        spec = {
            "context": name,
            "servingPoolRef": {"name": "base"},
            "data": {"alerts": [{"uri": "alerts.jsonl"}]},
            **self.spec,
            **changes,
        }
        metadata = {"name": name, "namespace": "soc", "uid": f"uid-{name}", "generation": self.generation}
        status = AdapterStatus(**self.status)
        made = SocAdapter.model_validate({"metadata": metadata | {"annotations": self.annotations}, "spec": spec})
        return made.model_copy(update={"status": status})

    def pool(self, name: str = "base", base: str | None = BASE, **changes: Any) -> SocServingPool:
        """A pool whose one replica holds `loaded` and refuses `refused`."""
        spec = {"base": {"uri": "builtin://tiny"}, "store": STORE, **self.pool_spec, **changes}
        made = SocServingPool.model_validate({"metadata": {"name": name, "namespace": "soc"}, "spec": spec})
        digests = {v.spec.version: v.spec.digest for v in self.versions}
        loads = [LoadedVersion(name=n, digest=digests[n], ready=True) for n in self.loaded]
        loads += [LoadedVersion(name=n, digest=digests[n], ready=False, reason=r) for n, r in self.refused.items()]
        report = ReplicaReport(replica="r0", generation=1, loaded=tuple(loads))
        status = made.status.model_copy(update={"base_digest": base, "replicas": (report,)})
        return made.model_copy(update={"status": status})

    @property
    def observed(self) -> Observed:
        pools = {"base": self.pool()} if self.pools is None else self.pools
        claims = tuple(map(Claim.of, (self.adapter(), *self.others)))
        return Observed(pools, claims, self.runs, self.versions, self.verdicts, self.ended)

    def plan(self) -> Plan:
        """The plan for the adapter."""
        return planner.plan(self.adapter(), self.observed, self.now)

    def take(self, plan: Plan) -> Plan:
        """The world after `plan` was carried out and its status written; returns the plan."""
        self.status = {name: getattr(plan.status, name) for name in AdapterStatus.model_fields}
        return plan

    @property
    def wanted(self) -> str:
        """The training hash of the spec as it stands."""
        found = triggers.wanted_hash(self.adapter(), self.observed)
        assert found is not None
        return found

    @property
    def spec_run(self) -> str:
        """The id of the run that the spec asks for."""
        return triggers.spec_run_id(self.adapter(), self.wanted)

    def run(self, run_id: str | None = None, **changes: Any) -> RunStatus:
        """A run's record."""
        fields = {"run_id": run_id or self.spec_run, "state": "Running", "training_hash": self.wanted, "number": 1}
        return RunStatus(**{**fields, "started_at": "2026-03-02T11:00:00Z", **changes})

    def version(self, number: int = 1, training_hash: str | None = None, base: str = BASE) -> VersionSpec:
        """A recorded version; equal arguments give equal versions."""
        training_hash = training_hash or self.wanted
        content = digest.of_json([number, training_hash])
        return VersionSpec(
            version=version_name("cloud", number, content),
            context="cloud",
            number=number,
            digest=content,
            uri=f"{STORE}/soc/cloud/run-{number}",
            run_id=f"run-{number}",
            base_digest=base,
            training_hash=training_hash,
            config_digest=BASE,
            code_digest=BASE,
        )

    def serving(self, number: int = 1, training_hash: str | None = None, base: str = BASE) -> VersionSpec:
        """Makes a version stable, loaded and the outcome of the last run."""
        made = self.version(number, training_hash, base)
        self.versions = (*self.versions, RecordedVersion(made))
        self.loaded = (*self.loaded, made.version)
        ref = VersionRef(name=made.version, digest=made.digest, uri=made.uri)
        last = self.run(made.run_id, state="Succeeded", reason="Published", training_hash=made.training_hash)
        self.status |= {
            "versions": AdapterVersions(stable=ref),
            "last_run": last,
            "last_number": number,
            "serving_pool": "base",
        }
        return made

    def evidence(self, outcome: Outcome, run_id: str | None = None, number: int = 1, **changes: Any) -> Evidence:
        """What a finished run left in the store."""
        run_id = run_id or self.spec_run
        content = digest.of_json([number, self.wanted])
        published = outcome is Outcome.PUBLISHED
        fields = {"run_id": run_id, "context": "cloud", "outcome": outcome, "digest": content if published else None}
        manifest = AdapterManifest(
            version=version_name("cloud", number, content),
            context="cloud",
            namespace="soc",
            run_id=run_id,
            number=number,
            files={},
            adapter_digest=content,
            base_uri="builtin://tiny",
            base_digest=BASE,
            base_parameters=1,
            adapter_parameters=1,
            rank=4,
            alpha=8,
            target_modules=("q_proj",),
            template_digest=BASE,
            tools_digest=BASE,
            config_digest=BASE,
            code_digest=BASE,
            created_at="2026-03-02T11:30:00+00:00",
        )
        return Evidence(
            marker=Marker.FAILED if outcome is Outcome.FAILED else Marker.SUCCESS,
            result=RunResult(**{**fields, **changes}),
            manifest=manifest if published else None,
            verification=Verification(ok=True, signed_by=BASE) if published else None,
            progress=Progress(stage=Stage.PUBLISH, at=0.0),
            uri=f"{STORE}/soc/cloud/{run_id}",
        )

    def sees(self, state: RunState, evidence: Evidence | None = None, run_id: str | None = None, **word: Any) -> None:
        """Lets the backend and the store say this about a run."""
        self.runs[run_id or self.spec_run] = settle(BackendRun(state, **word), evidence or Evidence())


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def new_world() -> type[World]:
    """For properties, which need a new world for each example."""
    return World
