"""What must hold at every moment, whatever goes wrong: judged over a record, in the order in which things happened.

Each rule returns the sentences that say what broke it. None of them asks the operator.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.faults.record import Event, owner_of

from socadapter_operator.builders import labels, rayservice
from socadapter_operator.domain.version_conditions import REVOKED
from socadapter_operator.kube.client import MANAGER
from socadapter_operator.kube.resources import (
    ADAPTER,
    ADAPTER_VERSION,
    POOL,
    RAY_JOB,
    RAY_SERVICE,
    Object,
    key_of,
    uid_of,
)
from socadapter_operator.shell.endings import FINALIZER

_OVER = ("Complete", "Failed")
_ROLES = ("stable", "canary", "previous", "candidate")
_OURS = {"f:status", "f:metadata"}
_OUR_METADATA = {"f:finalizers": {f'v:"{FINALIZER}"'}}


def one_live_run(events: Sequence[Event]) -> Iterator[str]:
    """No adapter has two runs that work, or wait to, at a time."""
    live: dict[str, dict[str, str]] = {}
    for event in events:
        if event.kind != RAY_JOB:
            continue
        runs = live.setdefault(owner_of(event.item), {})
        runs.pop(uid_of(event.item), None)
        over = str((event.item.get("status") or {}).get("jobDeploymentStatus") or "") in _OVER
        if not (event.deleted or over or event.item["metadata"].get("deletionTimestamp")):
            runs[uid_of(event.item)] = key_of(event.item).name
        if len(runs) > 1:
            yield f"at {event.version} one adapter has live runs {sorted(runs.values())}"


def one_child_of_a_run(events: Sequence[Event]) -> Iterator[str]:
    """No run has two RayJobs at a time, none that succeeded is started again, and none makes two versions."""
    there: dict[str, set[str]] = {}
    succeeded: set[str] = set()
    made: dict[tuple[str, str], str] = {}
    for event in events:
        name, uid = key_of(event.item).name, uid_of(event.item)
        if event.kind == RAY_JOB:
            run = str((event.item["metadata"].get("labels") or {}).get(labels.RUN) or name)
            children = there.setdefault(run, set())
            new = uid not in children and not event.deleted
            (children.discard if event.deleted else children.add)(uid)
            if new and run in succeeded:
                yield f"at {event.version} run {run} is started again although it succeeded"
            if len(children) > 1:
                yield f"at {event.version} run {run} has {len(children)} RayJobs"
            if (event.item.get("status") or {}).get("jobStatus") == "SUCCEEDED":
                succeeded.add(run)
        if event.kind == ADAPTER_VERSION:
            before = made.setdefault((owner_of(event.item), str(event.item["spec"]["runId"])), name)
            if before != name:
                yield f"at {event.version} run {event.item['spec']['runId']} made {name} besides {before}"


def versions_stay(events: Sequence[Event]) -> Iterator[str]:
    """No version changes; none goes while its adapter lives but for one that `spec.history` lets go."""
    adapters: dict[str, Object] = {}
    versions: dict[str, Object] = {}
    for event in events:
        uid = uid_of(event.item)
        if event.kind == ADAPTER:
            adapters[uid] = event.item
            if event.deleted:
                del adapters[uid]
        if event.kind != ADAPTER_VERSION:
            continue
        before = versions.get(uid)
        name = key_of(event.item).name
        if before is not None and before["spec"] != event.item["spec"]:
            yield f"at {event.version} version {name} changed"
        versions[uid] = event.item
        if event.deleted:
            del versions[uid]
            owner = adapters.get(owner_of(event.item))
            if owner is not None and not owner["metadata"].get("deletionTimestamp"):
                yield from _needed(event, owner, [v for v in versions.values() if owner_of(v) == uid_of(owner)])


def _needed(gone: Event, owner: Object, others: Sequence[Object]) -> Iterator[str]:
    name, number = key_of(gone.item).name, int(gone.item["spec"]["number"])
    roles = (owner.get("status") or {}).get("versions") or {}
    held = [role for role in _ROLES if (roles.get(role) or {}).get("name") == name]
    if held:
        yield f"at {gone.version} version {name} is gone although it is {held}"
    newer = [v for v in others if int(v["spec"]["number"]) > number and not _revoked(v)]
    kept = int((owner["spec"].get("history") or {}).get("successful", 10))
    if len(newer) < kept:
        yield f"at {gone.version} version {name} is gone although only {len(newer)} of {kept} are newer"


def _revoked(version: Object) -> bool:
    return REVOKED in (version["metadata"].get("annotations") or {})


def only_status_is_written(events: Sequence[Event]) -> Iterator[str]:
    """The operator owns no field of an adapter or a pool but in status, and its own finalizer."""
    seen: Counter[str] = Counter()
    for event in events:
        if event.kind not in (ADAPTER, POOL):
            continue
        for entry in event.item["metadata"].get("managedFields") or ():
            manager = str(entry.get("manager") or "")
            if not manager.startswith(MANAGER):
                continue
            fields = entry.get("fieldsV1") or {}
            seen[manager] += 1
            if wrong := _beyond_ours(fields):
                yield f"at {event.version} {manager} owns {wrong} of {event.kind.kind} {key_of(event.item).name}"
    if not seen:
        yield "no field was ever written by the operator: the rule looked at nothing"


def _beyond_ours(fields: dict[str, Any]) -> list[str]:
    wrong = sorted(set(fields) - _OURS)
    for part, held in (fields.get("f:metadata") or {}).items():
        allowed = _OUR_METADATA.get(part)
        if allowed is None or set(held) - {".", *allowed}:
            wrong.append(f"metadata.{part}")
    return wrong


def observed_generation_grows(events: Sequence[Event]) -> Iterator[str]:
    """`status.observedGeneration` never goes back, and never ahead of `metadata.generation`."""
    seen: dict[str, int] = {}
    for event in events:
        if event.kind not in (ADAPTER, POOL, ADAPTER_VERSION):
            continue
        uid, name = uid_of(event.item), key_of(event.item).name
        observed = int((event.item.get("status") or {}).get("observedGeneration", -1))
        if observed < seen.get(uid, -1):
            yield f"at {event.version} {name} observed generation {observed} after {seen[uid]}"
        if observed > int(event.item["metadata"].get("generation", 0)):
            yield f"at {event.version} {name} observed generation {observed}, which is not there yet"
        seen[uid] = observed


def served_adapters_stay(events: Sequence[Event]) -> Iterator[str]:
    """No version leaves the serving table but with its adapter, or by revocation; a successor's begin anew."""
    ending: set[str] = set()
    revoked: set[str] = set()
    owners: dict[str, str] = {}
    routes: dict[str, dict[str, tuple[str, str]]] = {}
    for event in events:
        if event.kind == ADAPTER and (event.deleted or event.item["metadata"].get("deletionTimestamp")):
            ending.add(uid_of(event.item))
        elif event.kind == ADAPTER_VERSION:
            owners[key_of(event.item).name] = owner_of(event.item)
            if _revoked(event.item):
                revoked.add(key_of(event.item).name)
        elif event.kind == RAY_SERVICE and not event.deleted:
            before, now = routes.get(uid_of(event.item), {}), table_of(event.item)
            for context in sorted(set(before) - set(now)):
                version, owner = before[context]
                if owner not in ending and version not in revoked:
                    yield f"at {event.version} context {context} left the table with {version}"
            # A successor's version may bear the same name: whose it was when it came is what counts.
            routes[uid_of(event.item)] = {
                context: before[context] if before.get(context, ("",))[0] == name else (name, owners.get(name, ""))
                for context, name in now.items()
            }


def tables_go_forward(events: Sequence[Event]) -> Iterator[str]:
    """The generation of a pool's table never goes back, and stands for one table: replicas skip what they know."""
    known: dict[str, Object] = {}
    for event in events:
        if event.kind != RAY_SERVICE or event.deleted:
            continue
        table = _table(event.item)
        before = known.setdefault(uid_of(event.item), table)
        if table["generation"] < before["generation"]:
            yield f"at {event.version} table {table['generation']} follows {before['generation']}"
        if table["generation"] == before["generation"] and table != before:
            yield f"at {event.version} there are two tables {table['generation']}"
        known[uid_of(event.item)] = table


def table_of(service: Object) -> dict[str, str]:
    """The stable version of each context that a RayService's table serves."""
    routes = _table(service)["routes"]
    return {route["context"]: route["stable"]["name"] for route in routes if route.get("stable")}


def _table(service: Object) -> Object:
    applications = json.loads(service["spec"]["serveConfigV2"])["applications"]
    (ours,) = (application for application in applications if application["name"] == rayservice.APP_NAME)
    found: Object = next(part["user_config"] for part in ours["deployments"] if part.get("user_config"))
    return found


RULES: Sequence[Callable[[Sequence[Event]], Iterator[str]]] = (
    one_live_run,
    one_child_of_a_run,
    versions_stay,
    only_status_is_written,
    observed_generation_grows,
    served_adapters_stay,
    tables_go_forward,
)


def broken(events: Sequence[Event]) -> list[str]:
    """Everything in `events` that must not be, by rule."""
    return [f"{rule.__name__}: {told}" for rule in RULES for told in rule(events)]
