"""Where everything has to end once nothing goes wrong any more: what users want, and nothing else."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.faults.invariants import table_of
from tests.faults.record import owner_of
from tests.faults.users import Wanted
from tests.life_cycle.conftest import Site

from socadapter_api.adapter import TRAIN_REQUESTED_AT, SocAdapter
from socadapter_api.training import training_hash
from socadapter_operator.domain.timestamps import parse
from socadapter_operator.domain.version_conditions import REVOKED
from socadapter_operator.kube.resources import (
    ADAPTER,
    POOL,
    RAY_JOB,
    RAY_SERVICE,
    Object,
    key_of,
    uid_of,
)

_OVER = ("Complete", "Failed")


def missing(site: Site, wanted: Mapping[str, Wanted | None]) -> list[str]:
    """What is not yet as it has to be, in sentences."""
    pools = {key_of(pool).name: pool for pool in site.client.list(POOL, site.namespace).items}
    adapters = {key_of(adapter).name: adapter for adapter in site.client.list(ADAPTER, site.namespace).items}
    versions = site.versions()
    told = []
    for name, asked in wanted.items():
        if asked is None:
            told += [f"{name} is still there"] if name in adapters else []
        elif name not in adapters:
            told.append(f"{name} is not there")
        else:
            mine = [version for version in versions if owner_of(version) == uid_of(adapters[name])]
            told += [f"{name} {what}" for what in _of_adapter(adapters[name], asked, mine, pools[asked.pool])]
    told += [f"pool {name} {what}" for name, pool in pools.items() for what in _of_pool(pool)]
    return [*told, *_left(site, adapters, versions), *_tables(site, adapters)]


def _of_adapter(adapter: Object, asked: Wanted, versions: Sequence[Object], pool: Object) -> Iterator[str]:
    status: Object = adapter.get("status") or {}
    conditions = _conditions(status)
    if status.get("observedGeneration") != adapter["metadata"]["generation"]:
        yield f"has observed generation {status.get('observedGeneration')} of {adapter['metadata']['generation']}"
        return
    if conditions.get("Reconciling", {}).get("status") != "False":
        yield f"is being reconciled: {conditions.get('Reconciling')}"
    if asked.bad:
        if conditions.get("Stalled", {}).get("reason") != "InvalidSpec":
            yield f"does not say that its schedule is wrong: {conditions.get('Stalled')}"
        return
    if conditions.get("Stalled", {}).get("status") != "False":
        yield f"is stalled: {conditions.get('Stalled')}"
    if asked.suspend:
        return
    asked_at = parse((adapter["metadata"].get("annotations") or {}).get(TRAIN_REQUESTED_AT, ""))
    taken_up = parse(str(status.get("trainRequestedAt") or ""))
    if status.get("run") or (asked_at is not None and (taken_up is None or asked_at > taken_up)):
        yield f"has a run before it: {status.get('run')}, {asked_at}"
    yield from _of_versions(adapter, conditions, versions, pool)


def _of_versions(adapter: Object, conditions: Object, versions: Sequence[Object], pool: Object) -> Iterator[str]:
    base = (pool.get("status") or {}).get("baseDigest")
    spec = SocAdapter.model_validate({key: adapter[key] for key in ("metadata", "spec")}).spec
    wanted = training_hash(spec.data, spec.lora, spec.sft, spec.grpo, base) if base else ""
    fitting = [version for version in versions if version["spec"]["trainingHash"] == wanted]
    sound = [version for version in fitting if REVOKED not in (version["metadata"].get("annotations") or {})]
    if not fitting:
        yield "has no version of its spec"
    if not sound:
        return
    newest = max(sound, key=lambda version: int(version["spec"]["number"]))
    stable = adapter["status"].get("versions", {}).get("stable", {}).get("name")
    if stable != key_of(newest).name:
        yield f"serves {stable} and not {key_of(newest).name}"
    if conditions.get("Ready", {}).get("status") != "True":
        yield f"is not ready: {conditions.get('Ready')}"


def _of_pool(pool: Object) -> Iterator[str]:
    conditions = _conditions(pool.get("status") or {})
    found = [conditions.get(kind, {}).get("status") for kind in ("Ready", "Reconciling", "Stalled")]
    if found != ["True", "False", "False"]:
        yield f"is not settled: {conditions}"


def _left(site: Site, adapters: Mapping[str, Object], versions: Sequence[Object]) -> Iterator[str]:
    """What works or lies about for nobody."""
    there = {uid_of(adapter) for adapter in adapters.values()}
    jobs = site.client.list(RAY_JOB, site.namespace).items
    for item in (*jobs, *versions):
        if owner_of(item) not in there:
            yield f"{item['kind']} {key_of(item).name} has lost its owner"
    running = {str((a.get("status") or {}).get("run", {}).get("runId")) for a in adapters.values()}
    for job in jobs:
        over = (job.get("status") or {}).get("jobDeploymentStatus") in _OVER
        if not over and key_of(job).name not in running:
            yield f"RayJob {key_of(job).name} works for nobody"
    for run_id in (*site.backend.runs.live(), *site.backend.runs.queued()):
        if run_id not in running:
            yield f"process {run_id} works for nobody"


def _tables(site: Site, adapters: Mapping[str, Object]) -> Iterator[str]:
    """Each RayService serves what its adapters' statuses say."""
    for service in site.client.list(RAY_SERVICE, site.namespace).items:
        pool = service["metadata"]["ownerReferences"][0]["name"]
        due = {
            adapter["spec"]["context"]: stable["name"]
            for adapter in adapters.values()
            if adapter["spec"]["servingPoolRef"]["name"] == pool
            and (stable := (adapter.get("status") or {}).get("versions", {}).get("stable"))
        }
        if table_of(service) != due:
            yield f"pool {pool} serves {table_of(service)} and not {due}"


def _conditions(status: Mapping[str, Any]) -> Object:
    return {str(condition["type"]): condition for condition in status.get("conditions") or ()}
