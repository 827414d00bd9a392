"""Where lives are lived: a namespace, what its user makes once, and what stands behind its operators."""

import gc
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.controlplane.cluster import Cluster
from tests.life_cycle.conftest import Site
from tests.life_cycle.kuberay import KubeRay
from tests.life_cycle.stops import Severed, StopAt, Tally

from socadapter_operator.backends import kuberay_states
from socadapter_operator.backends.cluster import ClusterBackends
from socadapter_operator.backends.process import Process
from socadapter_operator.builders import rayservice
from socadapter_operator.builders.installation import Installation
from socadapter_operator.domain import course, pool_planner
from socadapter_operator.kube.attempts import WriteHook
from socadapter_operator.kube.resources import (
    ADAPTER,
    ADAPTER_VERSION,
    CONFIG_MAP,
    NETWORK_POLICY,
    POOL,
    RAY_JOB,
    RAY_SERVICE,
    SECRET,
    key_of,
)
from socadapter_operator.shell import endings
from socadapter_operator.shell.listing import ListTimes
from socadapter_operator.shell.operator import Backends, Operator

NEVER = 1_000_000
CHILDREN = (RAY_JOB, RAY_SERVICE, SECRET, CONFIG_MAP, NETWORK_POLICY)
KINDS = (ADAPTER, POOL, ADAPTER_VERSION, *CHILDREN)
MAX_LORAS = 64

Spec = dict[str, Any]


@dataclass
class Running:
    """An operator, and what ends it."""

    operator: Operator
    stop: StopAt
    closing: ExitStack

    def end(self) -> None:
        """Ends its threads and closes its connections."""
        self.operator.stop()
        self.closing.close()


@dataclass
class Ground(ABC):
    """A namespace, with what its user makes once, and what is behind its operators."""

    site: Site
    ending: list[threading.Thread] = field(default_factory=list)

    @property
    @abstractmethod
    def pool_spec(self) -> Spec:
        """What the pool's spec has besides the ordinary."""

    @abstractmethod
    def starts(self, tally: Tally) -> dict[str, int]:
        """How often each run was started, of those that are new since the last time that this was asked."""

    @abstractmethod
    def working(self) -> set[str]:
        """The ids of the runs that work, or wait to."""

    @abstractmethod
    def _backends(self, stop: StopAt, closing: ExitStack) -> Backends:
        """What an operator that `stop` ends works with; `closing` is closed with it."""

    def operate(self, *hooks: WriteHook, stop: StopAt | None = None) -> Running:
        """A new operator, started."""
        stop, closing = stop or StopAt(NEVER, False), ExitStack()
        backends = self._backends(stop, closing)
        made = self.site.operate(*hooks, stop, backends=backends, list_times=ListTimes())
        return Running(made, stop, closing)

    def retire(self, running: Running) -> None:
        """Lets an operator do nothing any more, and ends its threads where nobody waits for them."""
        running.stop.stopped.set()
        self.ending.append(threading.Thread(target=running.end))
        self.ending[-1].start()

    def names(self) -> set[str]:
        """Everything that an operator could have made, or that the user has."""
        listed = ((kind, self.site.client.list(kind, self.site.namespace).items) for kind in KINDS)
        return {f"{kind.kind} {key_of(item).name}" for kind, items in listed for item in items}

    def close(self) -> None:
        """Waits for what was retired."""
        for thread in self.ending:
            thread.join()


@dataclass
class StandIns(Ground):
    """Child processes outside the cluster, as on a Ray cluster that exists: resources have finalizers."""

    def __post_init__(self) -> None:
        self._known: set[str] = set()

    @property
    def pool_spec(self) -> Spec:
        return {"ray": {"address": "http://ray.example.test:8265"}, "maxLoras": MAX_LORAS}

    def starts(self, tally: Tally) -> dict[str, int]:
        attempts = sorted((self.site.root / "state" / "runs").glob("*/scratch/attempts"))
        found = {path.parent.parent.name: len(path.read_text().splitlines()) for path in attempts}
        new = {run_id: count for run_id, count in found.items() if run_id not in self._known}
        self._known |= set(new)
        return new

    def working(self) -> set[str]:
        return {*self.site.backend.runs.live(), *self.site.backend.runs.queued()}

    def names(self) -> set[str]:
        records = (self.site.root / "state").rglob("process.json")
        alive = {f"process {path.parent.name}" for path in records if (found := Process.read(path)) and found.alive}
        return super().names() | alive

    def _backends(self, stop: StopAt, closing: ExitStack) -> Backends:
        severed: Any = Severed(self.site.backend, stop.stopped)
        return lambda _client: lambda _pool: severed


@dataclass
class OnKubeRay(Ground):
    """RayJobs and RayServices, which `kuberay` looks after."""

    kuberay: KubeRay | None = None

    def __post_init__(self) -> None:
        assert self.kuberay is not None
        self.kuberay.namespaces.add(self.site.namespace)
        identity = {"name": "soar", "namespace": self.site.namespace}
        self.site.client.create(SECRET, {"metadata": identity, "stringData": {"token": "caller-token"}})

    @property
    def pool_spec(self) -> Spec:
        caller = {"name": "soar", "tokenSecretRef": {"name": "soar", "key": "token"}}
        return {"host": "0.0.0.0", "callers": [caller], "maxLoras": MAX_LORAS}

    def starts(self, tally: Tally) -> dict[str, int]:
        return tally.names("create", RAY_JOB)

    def working(self) -> set[str]:
        jobs = self.site.client.list(RAY_JOB, self.site.namespace).items
        return {key_of(job).name for job in jobs if kuberay_states.run(job).state.is_active}

    def _backends(self, stop: StopAt, closing: ExitStack) -> Backends:
        def made(client: Any) -> Any:
            backends = ClusterBackends(client, Installation("example.test/train:1", "example.test/serve:1"))
            closing.callback(backends.close)
            return backends

        return made


@contextmanager
def grounds(
    backend: str, cluster: Cluster, folder: Path, patch: pytest.MonkeyPatch, number: int
) -> Iterator[list[Ground]]:
    """So many grounds with nothing in them, with `backend` (``stand-ins`` or ``kuberay``) behind their operators."""
    with ExitStack() as around:
        sites = []
        for place in range(number):
            root = folder / str(place)
            root.mkdir()
            sites.append(Site(cluster, around.enter_context(cluster.namespace(f"ground-{place}")), root))
            around.callback(sites[-1].end)
        made: list[Ground]
        if backend == "stand-ins":
            # Nothing tells of a child process's end: whoever asks for it asks more often.
            for module in (course, pool_planner, endings):
                patch.setattr(module, "POLL", timedelta(seconds=0.25))
            made = [StandIns(site) for site in sites]
        else:
            kuberay = KubeRay(sites[0].client, folder / "pods")
            around.callback(kuberay.close)
            patch.setattr(rayservice, "endpoint", kuberay.endpoint)
            made = [OnKubeRay(site, kuberay=kuberay) for site in sites]
        yield made
        for ground in made:
            ground.close()
        gc.collect()  # what a stopped thread held open is let go here, where nobody minds
