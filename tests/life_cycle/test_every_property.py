"""Every property of the definitions is changed alone on a live resource, and back, on a real API server.

What is refused names the field. What is taken is reconciled, or told with a reason. Back at the first spec everything
is as it was, and nothing trains for it again.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pytest
from tests.life_cycle.in_process import InProcessBackend
from tests.properties import BASES, Property, Spec, properties_of

from socadapter_api.errors import ObjectInvalid
from socadapter_api.pool import SocServingPool
from socadapter_operator.kube.resources import ADAPTER, ADAPTER_VERSION, POOL, Kind, Object

pytestmark = pytest.mark.slow

TRAINS = ("data", "lora", "sft", "grpo")
"""The parts of an adapter's spec that decide what a run learns."""

ADAPTERS_AT_ONCE = 32
POOLS_AT_ONCE = 8
SECRETS = ("bbb", "ccc")
"""As `tests.properties` names them, and so their keys."""


@dataclass
class Walk:
    """What became of each property."""

    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def took(self, raw: Object, *, trained: bool) -> None:
        self.outcomes["reconciled"] += 1
        self.outcomes["trained"] += trained
        if (stalled := _conditions(raw)["Stalled"])[0] == "True":
            self.reasons[stalled[1]] += 1

    def told(self, kind: Kind) -> str:
        numbers = [f"{self.outcomes[name]} {name}" for name in ("refused", "reconciled", "trained")]
        stalled = ", ".join(f"{reason} {count}" for reason, count in sorted(self.reasons.items()))
        walked = self.outcomes["refused"] + self.outcomes["reconciled"]
        return (
            f"\n{kind.kind}: {walked} properties walked, {', '.join(numbers)}; told with a reason: {stalled or 'none'}"
        )


@pytest.fixture
def backend(site: Any) -> InProcessBackend:
    """An operator at work, with runs and services that take no time, and the secrets that properties name."""
    made = InProcessBackend(site.root / "quick")
    for name in SECRETS:
        made.keep_secret(name, *SECRETS, "key.pem")
    site.operate(backends=lambda _client: lambda _pool: made)
    return made


def test_every_property_of_an_adapter(site: Any, backend: InProcessBackend, capsys: pytest.CaptureFixture[str]) -> None:
    """Data, lora, sft and grpo train once for the other value, nothing else does; the first version serves again."""
    site.pool("base", maxLoras=64)
    site.pool("spare", maxLoras=64)
    walk = Walk()
    for properties in _batches(properties_of(ADAPTER.kind), ADAPTERS_AT_ONCE):
        found = {f"a{at}": one for at, one in enumerate(properties)}
        first = {name: one.before(BASES[ADAPTER.kind] | {"context": name}) for name, one in found.items()}
        before = _applied(site, ADAPTER, first)
        runs = {name: len(backend.runs.of(name)) for name in found}
        taken, after = _changed(site, ADAPTER, found, first, walk)
        for name, raw in after.items():
            more = len(backend.runs.of(name)) - runs[name]
            trains = found[name].path[0] in TRAINS and _conditions(raw)["Stalled"][0] == "False"
            assert trains == more, (found[name].name, raw)
            walk.took(raw, trained=bool(more))
        runs = {name: len(backend.runs.of(name)) for name in found}
        again = _applied(site, ADAPTER, {name: first[name] for name in taken})
        for name, raw in again.items():
            assert _facts(before[name]) == _facts(raw), found[name].name
            assert runs[name] == len(backend.runs.of(name)), found[name].name
    _tell(capsys, walk.told(ADAPTER))


def test_every_property_of_a_pool(site: Any, backend: InProcessBackend, capsys: pytest.CaptureFixture[str]) -> None:
    """The service is given the other spec, or the pool says why not; its adapter keeps its version."""
    walk = Walk()
    made: list[Property] = []
    named: list[Property] = []
    for one in properties_of(POOL.kind):
        # A pool never comes to name a Ray cluster, nor ceases to.
        (named if "address" in one.before(BASES[POOL.kind]).get("ray", {}) else made).append(one)
    for prefix, properties in (("made", made), ("named", named)):
        _walk_pools(site, backend, walk, properties, [f"{prefix}{at}" for at in range(POOLS_AT_ONCE)])
    _tell(capsys, walk.told(POOL))


def _walk_pools(
    site: Any, backend: InProcessBackend, walk: Walk, properties: Sequence[Property], lanes: list[str]
) -> None:
    store = {"store": str(site.root / "store")}
    lanes = lanes[: len(properties)]
    start = properties[0].before(BASES[POOL.kind]) | store
    _applied(site, POOL, dict.fromkeys(lanes, start))
    pointed = {name: BASES[ADAPTER.kind] | {"context": name, "servingPoolRef": {"name": name}} for name in lanes}
    served = _applied(site, ADAPTER, pointed)
    for batch in _batches(properties, POOLS_AT_ONCE):
        found = dict(zip(lanes, batch, strict=False))
        first = {name: one.before(BASES[POOL.kind] | store) for name, one in found.items()}
        before = _applied(site, POOL, first)
        taken, after = _changed(site, POOL, found, first, walk)
        for name, raw in after.items():
            if _conditions(raw)["Stalled"][0] == "False":
                pool = SocServingPool.model_validate(raw)
                assert pool.model_dump(mode="json")["spec"] == backend.services.spec_of(pool), found[name].name
            walk.took(raw, trained=False)
        again = _applied(site, POOL, {name: first[name] for name in taken})
        for name, raw in again.items():
            assert _facts(before[name]) == _facts(raw), found[name].name
        for name, raw in _settled(site, ADAPTER, found).items():
            assert _facts(served[name]) == _facts(raw), found[name].name
    assert [1] * len(lanes) == [len(backend.runs.of(name)) for name in lanes]


def test_every_property_of_a_version(site: Any, backend: InProcessBackend, capsys: pytest.CaptureFixture[str]) -> None:
    """None can be changed, by anyone."""
    site.pool()
    _applied(site, ADAPTER, {"cloud": BASES[ADAPTER.kind]})
    (version,) = site.versions()
    walk = Walk()
    for one in properties_of(ADAPTER_VERSION.kind):
        with pytest.raises(ObjectInvalid, match=r"spec: .*spec is immutable"):
            _apply(site, ADAPTER_VERSION, version["metadata"]["name"], one.after(version["spec"]))
        walk.outcomes["refused"] += 1
    assert [version["spec"]] == [held["spec"] for held in site.versions()]
    _tell(capsys, walk.told(ADAPTER_VERSION))


def _changed(
    site: Any, kind: Kind, found: dict[str, Property], first: dict[str, Spec], walk: Walk
) -> tuple[list[str], dict[str, Object]]:
    """Applies each property's other value; the names of those that were taken, and what the operator made of them."""
    refused: dict[str, str] = {}
    for name, one in found.items():
        try:
            _apply(site, kind, name, one.after(first[name]))
        except ObjectInvalid as error:
            refused[name] = str(error)
    for name, message in refused.items():
        assert any(word in message for word in found[name].words), (found[name].name, message)
    walk.outcomes["refused"] += len(refused)
    taken = [name for name in found if name not in refused]
    return taken, _settled(site, kind, taken)


def _applied(site: Any, kind: Kind, specs: dict[str, Spec]) -> dict[str, Object]:
    for name, spec in specs.items():
        _apply(site, kind, name, spec)
    return _settled(site, kind, specs)


def _apply(site: Any, kind: Kind, name: str, spec: Spec) -> None:
    body = {"metadata": {"name": name, "namespace": site.namespace}, "spec": spec}
    site.client.apply(kind, body, manager="kubectl")


def _settled(site: Any, kind: Kind, names: Iterable[str]) -> dict[str, Object]:
    """Each as it is once the operator has looked at it and has nothing more to do."""
    wanted, held = set(names), {}

    def settled() -> bool:
        for raw in site.client.list(kind, site.namespace).items:
            held[raw["metadata"]["name"]] = raw
        return all(_is_settled(held[name]) for name in wanted)

    site.until(settled, f"{kind.plural} {sorted(wanted)} are settled")
    return {name: held[name] for name in sorted(wanted)}


def _is_settled(raw: Object) -> bool:
    status = raw.get("status") or {}
    about = [c for c in status.get("conditions", ()) if c["type"] in ("Reconciling", "Stalled")]
    looked_at = {status.get("observedGeneration"), *(c["observedGeneration"] for c in about)}
    found = _conditions(raw)
    ready, stalled = found.get("Ready", ("", "")), found.get("Stalled", ("", ""))
    told = ready[0] == "True" or (stalled[0] == "True" and bool(stalled[1])) or (ready[0] == "False" and bool(ready[1]))
    return looked_at == {raw["metadata"]["generation"]} and found["Reconciling"][0] == "False" and told


def _conditions(raw: Object) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in (raw.get("status") or {}).get("conditions", ())}


def _facts(raw: Object) -> Object:
    """What must be the same again: every condition, and what serves."""
    status = raw["status"]
    kept = {key: status.get(key) for key in ("endpoint", "baseDigest", "servingPool", "metrics", "nextScheduleTime")}
    return {"conditions": _conditions(raw), "stable": (status.get("versions") or {}).get("stable"), **kept}


def _batches(properties: Sequence[Property], size: int) -> Iterator[list[Property]]:
    waiting = iter(properties)
    while batch := list(islice(waiting, size)):
        yield batch


def _tell(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with capsys.disabled():
        print(text)
