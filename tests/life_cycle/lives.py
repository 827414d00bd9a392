"""The life of adapters as their user sees it, while operators come and go.

Whenever an operator was stopped, another takes its place, as a Deployment would have it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from tests.life_cycle.conftest import Site
from tests.life_cycle.grounds import CHILDREN, Ground, Spec
from tests.life_cycle.stops import StopAt, Tally

from socadapter_operator.builders import labels
from socadapter_operator.kube.resources import ADAPTER, ADAPTER_VERSION, POOL, Kind, Object, key_of, metadata, uid_of

FIRST: Spec = {}
SECOND: Spec = {"lora": {"rank": 4}}
STILL_LOOKS = 3
"""How often in a row a state has to be seen before it is taken for the last."""


@dataclass
class Life:
    """Adapters that are applied, trained, published, served, perhaps trained anew, and deleted with their pool.

    `stop` ends the first operator; `operators` work at once, and each of them believes that it leads.
    """

    ground: Ground
    stop: StopAt | None = None
    adapters: Sequence[str] = ("cloud",)
    operators: int = 1

    def __post_init__(self) -> None:
        self.site = self.ground.site
        self.tally = Tally()
        self._theirs = self.ground.names()
        self.ground.starts(self.tally)  # those of earlier lives are nobody's any more
        self._running = [self.ground.operate(self.tally, stop=self.stop) for _ in range(self.operators)]

    def live(self, specs: Sequence[Spec], states: Sequence[Object | None]) -> list[Object]:
        """Applies one spec after another, and waits for each until its state is that of `states`, or is still."""
        self.site.pool(**self.ground.pool_spec)
        reached = []
        for number, (spec, expected) in enumerate(zip(specs, states, strict=True), start=1):
            self._apply(spec)
            reached.append(self._settled(number, expected))
        assert len(specs) * len(self.adapters) == self._check_what_was_made()
        return reached

    def live_hastily(self, specs: Sequence[Spec]) -> None:
        """As `live`, but goes on to the next spec once the operator is stopped, before another takes its place.

        Where it was stopped after the last spec, nothing is waited for: deletion is the next thing that happens.
        """
        self.site.pool(**self.ground.pool_spec)
        for spec in specs:
            waits = self.until if self._is_stopped() else self._wait
            self._apply(spec)
            waits(lambda: self._is_stopped() or self._are_served(), "all are served, or nobody serves them")
        if not self._is_stopped():
            made = self._check_what_was_made()
            assert 1 <= made <= len(specs) * len(self.adapters), f"{made} runs for {len(specs)} specs"

    def die(self) -> None:
        """Deletes the adapters, then the pool, and waits until the namespace is as it was before."""
        for kind, names in ((ADAPTER, self.adapters), (POOL, ("base",))):
            for name in names:
                self.site.client.delete(kind, self.site.namespace, name, uid=uid_of(self.site.get(name, kind)))
            self.until(partial(self._has_no, kind), f"no {kind.kind}")
        self.until(lambda: self.ground.names() == self._theirs, "nothing is left but what the user made")

    def end(self) -> None:
        """Ends the operators that are there now."""
        for running in self._running:
            self.ground.retire(running)

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Waits until `holds`, with another operator in the place of each that was stopped."""

        def looked() -> object:
            for place, running in enumerate(self._running):
                if running.stop.stopped.is_set():
                    self.ground.retire(running)
                    self._running[place] = self.ground.operate(self.tally)
            return holds()

        self._wait(looked, what)

    def _wait(self, holds: Callable[[], object], what: str) -> None:
        try:
            self.site.until(holds, what)
        except AssertionError as error:
            left = sorted(self.ground.names() - self._theirs)
            raise AssertionError(f"{error}\nthere besides what the user made: {left}") from None

    def _apply(self, spec: Spec) -> None:
        for name in self.adapters:
            self.site.adapter(name, **spec)

    def _is_stopped(self) -> bool:
        return any(running.stop.stopped.is_set() for running in self._running)

    def _has_no(self, kind: Kind) -> bool:
        return not self.site.client.list(kind, self.site.namespace).items

    def _are_served(self) -> bool:
        return all(_is_served(self.site.get(name)) for name in self.adapters)

    def _settled(self, number: int, expected: Object | None) -> Object:
        """The state with `number` versions of each: once it is `expected`, or else once nothing in it moves."""
        seen: list[Object] = []

        def settled() -> bool:
            if not self._are_served() or len(self.site.versions()) != number * len(self.adapters):
                return False
            seen.append(state(self.site, self.adapters))
            if expected is not None:
                return seen[-1] == expected
            at_rest = all(running.operator.idle() for running in self._running)
            return at_rest and seen[-STILL_LOOKS:] == [seen[-1]] * STILL_LOOKS

        try:
            self.until(settled, f"version {number} is served and told everywhere")
        except AssertionError as error:
            raise AssertionError(f"{error}\nexpected {expected}\nfound    {seen[-1:]}") from None
        return seen[-1]

    def _check_what_was_made(self) -> int:
        """How many runs were started: each once. No run works any more, and each version ever recorded is there."""
        starts = self.ground.starts(self.tally)
        assert dict.fromkeys(starts, 1) == starts
        self.until(lambda: not self.ground.working(), "no run works any more")
        recorded = self.tally.names("create", ADAPTER_VERSION)
        assert dict.fromkeys((key_of(version).name for version in self.site.versions()), 1) == recorded
        assert {} == self.tally.names("delete", ADAPTER_VERSION)
        return len(starts)


def state(site: Site, adapters: Sequence[str]) -> Object:
    """What has to be the same however it came about: without times, names that are made, and counts of tries."""
    pool, versions = site.get("base", POOL)["status"], site.versions()
    numbers = {key_of(version).name: version["spec"]["number"] for version in versions}
    loaded = Counter(numbers.get(one["name"]) for told in pool.get("replicas", ()) for one in told["loaded"])
    return {
        "adapters": {name: _adapter_state(site.get(name)["status"], numbers) for name in adapters},
        "versions": Counter((version["spec"]["number"], *_flags(version.get("status") or {})) for version in versions),
        "pool": _flags(pool),
        "loaded": loaded,
        "children": Counter(_children(site)),
    }


def _adapter_state(status: Object, numbers: Mapping[str, int]) -> Object:
    return {
        "conditions": _flags(status),
        "roles": {role: numbers.get(held["name"]) for role, held in status["versions"].items()},
        "run": status.get("run"),
        "last_run": {key: status["lastRun"][key] for key in ("state", "reason", "number")},
        "last_number": status["lastNumber"],
    }


def _children(site: Site) -> Iterator[str]:
    """Kind and part of each object that operators made."""
    ours = f"{labels.MANAGED_BY}={labels.OPERATOR}"
    for kind in CHILDREN:
        for item in site.client.list(kind, site.namespace, labels=ours).items:
            yield f"{kind.kind} of {metadata(item)['labels'][labels.COMPONENT]}"


def _is_served(adapter: Object) -> bool:
    status = adapter.get("status") or {}
    flags = {kind: flag for kind, flag, _ in _flags(status)}
    current = status.get("observedGeneration") == metadata(adapter).get("generation")
    return current and (flags.get("Ready"), flags.get("Reconciling")) == ("True", "False")


def _flags(status: Object) -> list[tuple[str, str, str]]:
    return sorted((c["type"], c["status"], c["reason"]) for c in status.get("conditions") or ())
