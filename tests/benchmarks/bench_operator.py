"""What the operator costs: a large installation at rest, and how soon a new adapter has its RayJob.

On a real API server, which has one core with the benchmark, and the operator another. Pools name Ray clusters that one
small server stands in for. Of a bare kopf operator that makes the same RayJob the time is taken in the same run.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

sys.path.append(str(Path(__file__).parents[2]))

from tests.benchmarks import apply_latency, seeding
from tests.benchmarks.apply_latency import RayJobWatch
from tests.benchmarks.audit import Asked, Audit, by_verb
from tests.benchmarks.ledger import keep, run_as_script
from tests.benchmarks.operator_process import DEADLINE_S, OperatorProcess, pin
from tests.benchmarks.ray_stand_in import RayStandIn
from tests.benchmarks.seeding import Size
from tests.controlplane import plane
from tests.controlplane.cluster import wait_for
from tests.controlplane.plane import ControlPlane

from socadapter_operator.kube.client import Client
from socadapter_operator.kube.credentials import Kubeconfig

USER = "operator"
ADAPTERS, POOLS = "socadapter", "socservingpool"
"""The controllers, as metrics name them."""

_QUIET_S = 10.0
_MINUTE_S = 60.0
_SCRAPES = 3
_BINDING = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/bench"

Figures = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="bench_operator.py", description=__doc__)
    found.add_argument("--adapters", type=int, default=5000)
    found.add_argument("--namespaces", type=int, default=25)
    found.add_argument("--pools", type=int, default=2, help="in each namespace")
    found.add_argument("--versions", type=int, default=2, help="recorded of each adapter")
    found.add_argument("--rounds", type=int, default=30, help="adapters that are applied to each of the two operators")
    found.add_argument("--out", type=Path, default=Path("build/bench"))
    return found


def say(text: str) -> None:
    print(text, flush=True)


@dataclass(frozen=True, slots=True)
class Bench:
    """What the phases share. The operator has `cpu`; all else has the others, or shares it on a machine with one."""

    plane: ControlPlane
    client: Client
    folder: Path
    cpu: int
    others: frozenset[int]

    def operate(self, name: str, *options: str) -> OperatorProcess:
        """The operator, started; `name` is its folder's."""
        self.settle_down()
        return OperatorProcess(self.folder / name, self.cpu, *options)

    def settle_down(self) -> None:
        """Keeps the API server, with all that belongs to it, and the benchmark off the operator's core."""
        for pid in (os.getpid(), *(child.process.pid for child in self.plane.children)):
            pin(pid, self.others)

    def until_quiet(self, audit: Audit) -> list[Asked]:
        """What was asked until nothing but looks at single objects was, for a while."""
        asked: list[Asked] = []
        since = time.monotonic()

        def quiet() -> bool:
            nonlocal since
            news = audit.read()
            asked.extend(news)
            if any(one.is_write or one.verb == "list" for one in news):
                since = time.monotonic()
            return time.monotonic() - since > _QUIET_S

        wait_for(quiet, "nothing is left to do", DEADLINE_S)
        return asked


def latency(bench: Bench, rounds: int) -> Figures:
    """From apply to RayJob on a cluster where nothing else happens, beside the peer."""
    operator = bench.operate("quiet", "--namespaces", apply_latency.OURS, "--pod-namespace", "default")
    watch = RayJobWatch(bench.plane.kubeconfig_of())
    try:
        operator.wait_until_ready()
        store, folder = bench.folder / "store", bench.folder / "peer"
        found = apply_latency.in_turns(bench.client, watch, store, folder, rounds, bench.cpu)
        return {**found, "apply_queue_p99_ms": operator.quantile_s(_WAITED, ADAPTERS, 0.99) * 1e3}
    finally:
        watch.close()
        operator.stop()


def first_settlement(bench: Bench, size: Size) -> None:
    """An operator that finds the installation for the first time: it hands each pool its table once more."""
    audit = Audit(bench.plane.audit_log, USER)
    operator = bench.operate("first")
    try:
        operator.wait_until_ready()
        wait_for(lambda: operator.looked_at(ADAPTERS) >= size.adapters, "every adapter was looked at", DEADLINE_S)
        told = by_verb(one for one in bench.until_quiet(audit) if one.is_write)
    finally:
        operator.stop()
    say(f"settled; the operator's writes until then: {told}")
    assert not any("socadapters" in what or "socadapterversions" in what for what in told), told


def restarted(bench: Bench, size: Size) -> tuple[OperatorProcess, Figures]:
    """The first full pass of a new operator over all that is there."""
    audit = Audit(bench.plane.audit_log, USER)
    operator = bench.operate("restarted")
    listed_at = operator.listed_at()

    def passed() -> bool:
        looked = operator.looked_at(ADAPTERS) >= size.adapters
        looked = looked and operator.looked_at(POOLS) >= size.namespaces * size.pools
        return looked and not operator.at_work()

    wait_for(passed, "the first full pass", DEADLINE_S)
    took = time.time() - listed_at
    found: Figures = {
        "list_s": listed_at - operator.started_at,
        "first_pass_s": took,
        "queue_p99_s": operator.quantile_s(_WAITED, ADAPTERS, 0.99),
        "reconcile_p99_ms": operator.quantile_s(_RECONCILED, ADAPTERS, 0.99) * 1e3,
        "reconcile_mean_ms": operator.mean_s(_RECONCILED, ADAPTERS) * 1e3,
    }
    operator.wait_until_ready()
    found["first_pass_writes"] = by_verb(one for one in bench.until_quiet(audit) if one.is_write)
    return operator, found


def at_rest(bench: Bench, operator: OperatorProcess) -> Figures:
    """A minute in which nothing happens, Prometheus' visits apart."""
    audit = Audit(bench.plane.audit_log, USER)
    began, used = time.monotonic(), operator.cpu_s()
    scrapes = []
    size = 0
    for number in range(_SCRAPES):
        due = began + number * _MINUTE_S / _SCRAPES
        wait_for(partial(_is_past, due), "the next scrape", DEADLINE_S)
        started = time.perf_counter()
        size = len(operator.scrape())
        scrapes.append(time.perf_counter() - started)
    wait_for(partial(_is_past, began + _MINUTE_S), "the minute is over", DEADLINE_S)
    minutes = (time.monotonic() - began) / _MINUTE_S
    asked = audit.read()
    memory = operator.memory()
    return {
        "writes_per_minute_at_rest": sum(one.is_write for one in asked) / minutes,
        "requests_at_rest": by_verb(asked),
        "cpu_percent_at_rest": (operator.cpu_s() - used) / (minutes * _MINUTE_S) * 100,
        "rss_mb": memory.resident_mb,
        "peak_rss_mb": memory.peak_mb,
        "scrape_s": statistics.median(scrapes),
        "scrape_mb": size / 1e6,
    }


def beside(bench: Bench, rounds: int) -> Figures:
    """From apply to RayJob while everything else rests."""
    watch = RayJobWatch(bench.plane.kubeconfig_of())
    try:
        apply_latency.prepare(bench.client, "bench-beside", bench.folder / "store")
        turns = [
            apply_latency.turn(bench.client, watch, "bench-beside", f"beside-{number:03d}") for number in range(rounds)
        ]
        apply_latency.clear(bench.client, "bench-beside")
        return apply_latency.figures("apply_to_rayjob_beside_all", [seconds for seconds, _ in turns[1:]])
    finally:
        watch.close()


def deleted(bench: Bench, operator: OperatorProcess, size: Size) -> Figures:
    """A namespace's adapters are deleted: the series about them go, too."""
    space = size.spaces[0]
    path = f"/apis/socadapter.io/v1alpha1/namespaces/{space}/socadapters"

    def asked() -> bool:
        # In a minute, after which it says so, an API server that shares a core may not get through all of them.
        answer = bench.plane.http().delete(path, timeout=DEADLINE_S)
        if answer.status_code == httpx.codes.GATEWAY_TIMEOUT:
            return False
        answer.raise_for_status()
        return True

    def left() -> int:
        about = [labels for _, labels, _ in operator.metrics() if labels.get("kind") == "SocAdapter"]
        return sum(labels.get("namespace") == space for labels in about)

    assert left() > 0
    wait_for(asked, f"the adapters of {space} are deleted", DEADLINE_S)
    wait_for(lambda: left() == 0, "no series of theirs is left", DEADLINE_S)
    return {"series_left_when_deleted": left()}


LIMITS = {
    "first_pass_s": 10.0,
    "writes_per_minute_at_rest": 0.0,
    "rss_mb": 400.0,
    "apply_to_rayjob_p50_ms": 150.0,
    "series_left_when_deleted": 0.0,
}
"""What no figure may exceed, with 5,000 adapters."""

_WAITED = "workqueue_queue_duration_seconds"
_RECONCILED = "controller_runtime_reconcile_time_seconds"


def main(argv: Sequence[str] | None = None) -> int:
    """Measures all of it, prints and writes ``operator.json``; 1 where a figure is beyond its limit."""
    options = parser().parse_args(argv)
    size = Size(options.adapters, options.namespaces, options.pools, options.versions)
    cpus = sorted(os.sched_getaffinity(0))
    say("starting a control plane")
    with plane.control_plane() as control, tempfile.TemporaryDirectory(prefix="bench-operator-") as folder:
        _may_do_anything(control)
        os.environ["KUBECONFIG"] = str(control.kubeconfig_of(USER))
        client = Client(Kubeconfig(control.kubeconfig_of()))
        bench = Bench(control, client, Path(folder), cpus[0], frozenset(cpus[1:] or cpus))
        result: Figures = {
            "adapters": size.adapters,
            "versions": size.adapters * size.versions,
            "pools": size.namespaces * size.pools,
            "namespaces": size.namespaces,
            "rounds": options.rounds,
            "cores": len(cpus),
            "python": platform.python_version(),
            "load_at_start": os.getloadavg()[0],
        }
        result |= measured(bench, size, options.rounds)
        client.close()
    keep(options.out / "operator.json", result)
    say(told(result))
    beyond = {name: limit for name, limit in LIMITS.items() if result[name] > limit}
    for name, limit in beyond.items():
        say(f"{name} is {result[name]:.1f}, and may be {limit:g} at most")
    return 1 if beyond else 0


def measured(bench: Bench, size: Size, rounds: int) -> Figures:
    """All phases, one after the other."""
    say("measuring from apply to RayJob")
    found = latency(bench, rounds)
    clusters = RayStandIn()
    try:
        say("seeding")
        for pid in (os.getpid(), *(child.process.pid for child in bench.plane.children)):
            pin(pid, {bench.cpu, *bench.others})
        seeding.seed(bench.client, clusters, size, say)
        assert size.adapters == seeding.verify(bench.client, size)
        say("settling")
        first_settlement(bench, size)
        say("measuring a restart")
        operator, figures = restarted(bench, size)
        found |= figures
        try:
            found |= at_rest(bench, operator)
            found |= beside(bench, max(2, rounds // 3))
            say("deleting")
            found |= deleted(bench, operator, size)
        finally:
            operator.stop()
    finally:
        clusters.close()
    return found


def _is_past(moment: float) -> bool:
    return time.monotonic() >= moment


def told(result: Figures) -> str:
    """The figures in words."""
    ratio = result["apply_to_rayjob_p50_ms"] / result["peer_apply_p50_ms"]
    return (
        f"{result['adapters']} settled adapters, one core for the operator: first full pass "
        f"{result['first_pass_s']:.1f} s after the lists ({result['list_s']:.1f} s after its start), "
        f"{result['reconcile_mean_ms']:.2f} ms each, in the queue p99 {result['queue_p99_s']:.1f} s; at rest "
        f"{result['writes_per_minute_at_rest']:.1f} writes a minute, {result['cpu_percent_at_rest']:.1f} % of a core, "
        f"{result['rss_mb']:.0f} MB resident, {result['peak_rss_mb']:.0f} MB at the peak; /metrics "
        f"{result['scrape_s']:.2f} s\n"
        f"apply to RayJob, p50 of {result['rounds']}: {result['apply_to_rayjob_p50_ms']:.0f} ms "
        f"({result['apply_to_rayjob_beside_all_p50_ms']:.0f} ms beside all adapters); a bare kopf operator "
        f"{result['peer_apply_p50_ms']:.0f} ms ({ratio:.1f} times as long)"
    )


def _may_do_anything(control: ControlPlane) -> None:
    """Makes the operator's user an administrator: what it may not do is other tests' business."""
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "bench"},
        "roleRef": role,
        "subjects": [subject],
    }
    control.apply(binding, _BINDING)


if __name__ == "__main__":
    sys.exit(run_as_script(main))
