"""Each rule sees what breaks it, and nothing in a record of an ordinary life."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.faults import invariants
from tests.faults.record import Event

from socadapter_operator.builders import labels
from socadapter_operator.domain.version_conditions import REVOKED
from socadapter_operator.kube.resources import ADAPTER, ADAPTER_VERSION, POOL, RAY_JOB, RAY_SERVICE, Kind, Object

Change = tuple[Kind, Object] | tuple[Kind, Object, bool]


def happened(*changes: Change) -> list[Event]:
    """A record in the order of `changes`; True: it was deleted."""
    return [Event(number, *change) for number, change in enumerate(changes, start=1)]


def item(name: str, uid: str, owner: str = "", **parts: Any) -> Object:
    held: Object = {"name": name, "uid": uid, "namespace": "soc", "generation": 2, **parts.pop("held", {})}
    if owner:
        held["ownerReferences"] = [{"uid": owner, "controller": True}]
    return {"metadata": held, **parts}


def job(name: str, uid: str = "", state: str = "Running", owner: str = "a", **held: Any) -> Change:
    status = {"jobDeploymentStatus": state, "jobStatus": "SUCCEEDED" if state == "Complete" else "RUNNING"}
    return RAY_JOB, item(name, uid or f"uid-{name}", owner, status=status, held={"labels": {labels.RUN: name}, **held})


def gone(change: Change) -> Change:
    return change[0], change[1], True


def version(number: int, **parts: Any) -> Change:
    spec = {"number": number, "runId": f"run-{number}", "digest": f"sha256:{number}"} | parts.pop("spec", {})
    return ADAPTER_VERSION, item(f"v{number}", f"uid-v{number}", "a", spec=spec, **parts)


def adapter(observed: int = 2, stable: str = "", **held: Any) -> Change:
    spec = {"context": "cloud", "history": {"successful": 2}}
    status = {"observedGeneration": observed, "versions": {"stable": {"name": stable}} if stable else {}}
    written = {"manager": "socadapter-operator-status", "fieldsV1": {"f:status": {"f:run": {}}}}
    return ADAPTER, item("cloud", "a", spec=spec, status=status, held={"managedFields": [written], **held})


def successor() -> Change:
    """An adapter of the same name and context, made after the first."""
    kind, held = adapter(-1)[:2]
    return kind, {**held, "metadata": {**held["metadata"], "uid": "b"}}


def service(generation: int = 1, **served: str) -> Change:
    routes = [{"context": context, "stable": {"name": name}} for context, name in served.items()]
    application = {"name": "socadapter", "deployments": [{"user_config": {"generation": generation, "routes": routes}}]}
    return RAY_SERVICE, item("base", "s", spec={"serveConfigV2": json.dumps({"applications": [application]})})


ORDINARY: Sequence[Change] = (
    adapter(-1),
    job("run-1", state=""),
    job("run-1", state="Complete"),
    version(1),
    adapter(stable="v1"),
    service(1, cloud="v1"),
    job("run-2", uid="2a"),
    gone(job("run-2", uid="2a")),
    job("run-2", uid="2b", state="Complete"),
    version(2),
    job("run-3", state="Complete"),
    version(3),
    adapter(stable="v3"),
    service(2, cloud="v3"),
    gone(version(1)),
    (POOL, item("base", "p", spec={}, status={"observedGeneration": 1})),
    adapter(stable="v3", deletionTimestamp="2026-03-01T12:00:00Z"),
    service(3),
    gone(version(3)),
    gone(adapter()),
)


def test_an_ordinary_life_breaks_no_rule() -> None:
    """Trained, retrained, resumed, pruned and deleted."""
    assert [] == invariants.broken(happened(*ORDINARY))


def owned(fields: Object, manager: str = "socadapter-operator") -> Change:
    return adapter(managedFields=[{"manager": manager, "fieldsV1": fields}])


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        pytest.param(invariants.one_live_run, [job("run-1"), job("run-2")], id="two-live-runs"),
        pytest.param(invariants.one_child_of_a_run, [job("run-1"), job("run-1", uid="other")], id="two-children"),
        pytest.param(
            invariants.one_child_of_a_run,
            [job("run-1", state="Complete"), gone(job("run-1", state="Complete")), job("run-1", uid="other")],
            id="started-after-success",
        ),
        pytest.param(
            invariants.one_child_of_a_run, [version(1), version(2, spec={"runId": "run-1"})], id="two-versions-of-a-run"
        ),
        pytest.param(invariants.versions_stay, [version(1), version(1, spec={"digest": "x"})], id="version-changed"),
        pytest.param(
            invariants.versions_stay, [adapter(), version(1), version(2), gone(version(1))], id="version-within-limits"
        ),
        pytest.param(
            invariants.versions_stay,
            [adapter(stable="v1"), version(1), version(2), version(3), gone(version(1))],
            id="version-that-serves",
        ),
        pytest.param(invariants.only_status_is_written, [owned({"f:spec": {"f:match": {}}})], id="spec-written"),
        pytest.param(
            invariants.only_status_is_written, [owned({"f:metadata": {"f:labels": {"f:x": {}}}})], id="label-written"
        ),
        pytest.param(
            invariants.only_status_is_written,
            [owned({"f:metadata": {"f:finalizers": {'v:"other"': {}}}})],
            id="foreign-finalizer",
        ),
        pytest.param(invariants.only_status_is_written, [], id="nothing-looked-at"),
        pytest.param(invariants.observed_generation_grows, [adapter(2), adapter(1)], id="generation-goes-back"),
        pytest.param(invariants.observed_generation_grows, [adapter(3)], id="generation-ahead"),
        pytest.param(invariants.served_adapters_stay, [adapter(), service(cloud="v1"), service()], id="left-the-table"),
        pytest.param(
            invariants.served_adapters_stay,
            [adapter(), version(1), service(cloud="v1"), gone(successor()), service()],
            id="left-with-another",
        ),
    ],
)
def test_a_rule_sees_what_breaks_it(rule: Callable[..., Any], changes: Sequence[Change]) -> None:
    """One sentence at least."""
    assert list(rule(happened(*changes)))


def test_what_was_revoked_may_leave_the_table() -> None:
    """With nothing to follow it."""
    revoked = version(1, held={"annotations": {REVOKED: "leaks"}})
    assert [] == list(
        invariants.served_adapters_stay(happened(adapter(), version(1), service(cloud="v1"), revoked, service()))
    )


def test_a_version_leaves_with_its_adapter_though_a_successor_is_there() -> None:
    """Of the same name and context: its own version is still to come."""
    life = (adapter(), version(1), service(cloud="v1"), gone(adapter()), successor(), service())
    assert [] == list(invariants.served_adapters_stay(happened(*life)))


def test_a_successor_s_version_of_the_same_name_is_another() -> None:
    """It is recorded before the table has let go of the first one."""
    kind, held = version(1)[:2]
    theirs = (kind, {**held, "metadata": {**held["metadata"], "uid": "w", "ownerReferences": [_owned_by("b")]}})
    life = (
        adapter(),
        version(1),
        service(cloud="v1"),
        gone(adapter()),
        gone(version(1)),
        successor(),
        theirs,
        service(),
    )
    assert [] == list(invariants.served_adapters_stay(happened(*life)))


def _owned_by(uid: str) -> Object:
    return {"uid": uid, "controller": True}


def test_the_operators_own_finalizer_is_no_foreign_field() -> None:
    """Where something outside the cluster exists."""
    ours: Object = {"f:metadata": {"f:finalizers": {".": {}, 'v:"socadapter.io/backend"': {}}}}
    assert [] == list(invariants.only_status_is_written(happened(owned(ours, "socadapter-operator-finalizer"))))
