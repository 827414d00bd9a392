"""Resources of a large installation at rest: as their owners would write them, and with the status that the operator's
own planners give them, so that nothing is left to do about any of them.

Pure. The API server's answers go in (uids, defaults), statuses come out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from socadapter_api import digest
from socadapter_api.adapter import (
    AdapterStatus,
    AdapterVersions,
    RunStatus,
    SocAdapter,
    SocAdapterVersion,
    VersionRef,
    VersionSpec,
)
from socadapter_api.manifest import GateResult, Outcome
from socadapter_api.names import version_name
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import LoadedVersion, ReplicaReport, ServedVersion, ServingTable
from socadapter_operator.builders import labels
from socadapter_operator.domain import planner, pool_planner, table, triggers, version_conditions
from socadapter_operator.domain.claim import Claim
from socadapter_operator.domain.observed import Observed, PoolObserved, RecordedVersion, ServingState, ServingView
from socadapter_operator.domain.state import RunState
from socadapter_operator.domain.timestamps import stamp

Object = dict[str, Any]

BASE = digest.of_bytes(b"base")
REPLICAS = 2
_METRICS = {"balancedAccuracy": 0.934, "falseNegativeRate": 0.041, "auc": 0.972, "utility": 0.812, "ece": 0.031}
_PASSES = 4
"""After so many plans in a row a status no longer changes."""


def pool(name: str, namespace: str, address: str) -> Object:
    """A pool on a Ray cluster that exists, as its owner applies it."""
    spec = {
        "base": {"uri": "builtin://smollm2-135m-instruct", "digest": BASE},
        "replicas": REPLICAS,
        "maxLoras": 256,
        "ray": {"address": address},
        "store": "s3://soc-adapters",
    }
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def adapter(name: str, namespace: str, pool_name: str, cron: str = "") -> Object:
    """An adapter as its owner applies it: trained when applied, and with `cron` every night on the day's verdicts."""
    root = f"s3://soc-data/{namespace}/{name}"
    spec: Object = {
        "context": name,
        "match": f'alert.provider in ["aws", "gcp", "azure"] && alert.unit == "{name}"',
        "servingPoolRef": {"name": pool_name},
        "data": {
            "trajectories": [{"uri": f"{root}/trajectories/"}],
            "alerts": [{"uri": f"{root}/alerts/"}],
            "holdout": [{"uri": f"{root}/holdout/"}],
        },
        "lora": {"rank": 16, "alpha": 32},
        "evaluation": {
            "gates": [
                {"metric": "balancedAccuracy", "min": 0.85},
                {"metric": "falseNegativeRate", "nonInferiority": {"to": "Champion", "margin": 0.02}},
            ]
        },
    }
    if cron:
        spec["schedule"] = {"cron": cron, "timeZone": "Europe/Vienna"}
        spec["data"]["feedback"] = {"window": "24h", "minVerdicts": 20}
    return {"metadata": {"name": name, "namespace": namespace, "labels": {"soc.example/team": namespace}}, "spec": spec}


def never_soon(now: datetime) -> str:
    """A nightly schedule whose tick is half a day away from `now`, give or take the zone's hours."""
    return f"17 {(now + timedelta(hours=12)).hour} * * *"


@dataclass(frozen=True, slots=True)
class Settled:
    """One adapter that nothing is left to do about, and its versions, oldest first."""

    adapter: SocAdapter
    versions: tuple[VersionSpec, ...]

    def version_bodies(self) -> list[Object]:
        """The versions as the operator makes them."""
        return [
            {
                "metadata": dict(labels.metadata(v.version, self.adapter, labels.of_run(self.adapter, v.run_id))),
                "spec": v.model_dump(mode="json", exclude_none=True),
            }
            for v in self.versions
        ]

    def version_status(self, raw: Object, now: datetime) -> tuple[SocAdapterVersion, Any]:
        """A version as it was stored, and the status that it then has."""
        held = SocAdapterVersion.model_validate(raw)
        return held, version_conditions.status(held, self.adapter.status, now)


def versions_of(held: SocAdapter, serving: SocServingPool, count: int) -> tuple[VersionSpec, ...]:
    """`count` versions that runs of the adapter's present spec have published."""
    wanted = triggers.wanted_hash(held, Observed(pools={serving.metadata.name: serving}))
    assert wanted is not None, "the pool names its base's digest"
    return tuple(_version(held, wanted, number) for number in range(1, count + 1))


def with_replicas(serving: SocServingPool, versions: Sequence[VersionSpec]) -> SocServingPool:
    """The pool with replicas that hold `versions`."""
    served = [ServedVersion(name=v.version, uri=v.uri, digest=v.digest) for v in versions]
    status = serving.status.model_copy(update={"replicas": reports(served, 1), "table_generation": 1})
    return serving.model_copy(update={"status": status})


def reports(versions: Iterable[ServedVersion], generation: int) -> tuple[ReplicaReport, ...]:
    """What a pool's replicas say once they hold `versions`."""
    loaded = tuple(
        LoadedVersion(name=version.name, digest=version.digest, ready=True)
        for version in sorted(versions, key=lambda version: version.name)
    )
    return tuple(
        ReplicaReport(replica=f"replica-{number}", generation=generation, loaded=loaded, base_digest=BASE)
        for number in range(REPLICAS)
    )


def settle(held: SocAdapter, serving: SocServingPool, versions: tuple[VersionSpec, ...], now: datetime) -> Settled:
    """The adapter as it is once its newest version serves and the operator has nothing left to do.

    Raises:
        AssertionError: the planner finds something to do all the same.
    """
    told = held.model_copy(update={"status": _published(held, versions, now)})
    observed = Observed(
        pools={serving.metadata.name: serving},
        claims=(Claim.of(held),),
        versions=tuple(RecordedVersion(version) for version in versions),
    )
    for _ in range(_PASSES):
        plan = planner.plan(told, observed, now)
        assert not plan.actions, f"{held.metadata.name} is not settled: {plan.actions}"
        if plan.status == told.status:
            return Settled(told, versions)
        told = told.model_copy(update={"status": plan.status})
    raise AssertionError(f"the status of {held.metadata.name} does not settle: {told.status}")


def settle_pool(
    serving: SocServingPool, adapters: Sequence[SocAdapter], endpoint: str, now: datetime
) -> tuple[SocServingPool, ServingTable]:
    """The pool once its replicas hold the table of `adapters`, and that table.

    Raises:
        AssertionError: the planner would apply another table.
    """
    claims = [Claim.of(adapter) for adapter in adapters]
    wanted = table.build(serving.model_copy(update={"status": type(serving.status)()}), claims, None)
    view = ServingView(
        state=ServingState.RUNNING,
        endpoint=endpoint,
        reports=serving.status.replicas,
        table=wanted,
        base_digest=BASE,
    )
    plan = pool_planner.plan_pool(serving, claims, PoolObserved(view), now)
    assert not plan.actions, f"{serving.metadata.name} is not settled"
    return serving.model_copy(update={"status": plan.status}), wanted


def _published(held: SocAdapter, versions: Sequence[VersionSpec], now: datetime) -> AdapterStatus:
    """The status of an adapter whose last run published the newest of `versions`."""
    newest = versions[-1]
    gates = (
        GateResult(metric="balancedAccuracy", rule="min 0.85", value=0.934, passed=True),
        GateResult(metric="falseNegativeRate", rule="at most 0.02 worse than the champion", value=0.041, passed=True),
    )
    last = RunStatus(
        run_id=newest.run_id,
        state=RunState.SUCCEEDED.value,
        training_hash=newest.training_hash,
        number=newest.number,
        started_at=stamp(now - timedelta(hours=2)),
        finished_at=stamp(now - timedelta(hours=1)),
        reason=Outcome.PUBLISHED.value,
        message=f"published {newest.version}",
        gates=gates,
    )
    before = versions[-2] if len(versions) > 1 else newest
    return AdapterStatus(last_run=last, last_number=newest.number, versions=AdapterVersions(stable=_ref(before)))


def _version(held: SocAdapter, wanted: str, number: int) -> VersionSpec:
    context, namespace = held.spec.context, held.metadata.namespace
    content = digest.of_json([held.metadata.uid, number])
    run_id = f"{held.metadata.name}-{content.removeprefix('sha256:')[:10]}"
    inputs: dict[str, str] = {uri: digest.of_bytes(uri.encode()) for uri in ("alerts", "holdout", "trajectories")}
    return VersionSpec(
        version=version_name(context, number, content),
        context=context,
        number=number,
        digest=content,
        uri=f"s3://soc-adapters/{namespace}/{context}/{run_id}",
        run_id=run_id,
        base_digest=BASE,
        training_hash=wanted,
        inputs=inputs,
        config_digest=digest.of_bytes(b"config"),
        code_digest=digest.of_bytes(b"code"),
        metrics=_METRICS,
        signed_by=digest.of_bytes(b"key").removeprefix("sha256:"),
    )


def _ref(version: VersionSpec) -> VersionRef:
    return VersionRef(name=version.version, digest=version.digest, uri=version.uri)
