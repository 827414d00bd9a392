"""The operator as it is, on a real API server; child processes stand in for its runs and services."""

import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.controlplane.cluster import Cluster, wait_for

from socadapter_api import digest
from socadapter_api.training import BaseModelRef
from socadapter_operator.backends.local import LocalBackend
from socadapter_operator.backends.process import Process
from socadapter_operator.kube.attempts import WriteHook
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.credentials import Kubeconfig
from socadapter_operator.kube.resources import ADAPTER, ADAPTER_VERSION, POOL, Kind, Object
from socadapter_operator.local.driver import Interrupts, stop_runs
from socadapter_operator.shell.listing import ListTimes
from socadapter_operator.shell.operator import Backends, Operator, Settings
from socadapter_operator.shell.queue import Backoff

STAND_INS = Path(__file__).parent.parent / "local"
DEADLINE_S = float(os.environ.get("SOCADAPTER_TEST_DEADLINE_S", "180"))
"""How long a condition may take; more on a machine that is busy with something else."""

_GRACE_S = 5.0


class OneAtATime:
    """A backend that was made for one thread, for several."""

    def __init__(self, backend: LocalBackend) -> None:
        self._backend = backend
        self._lock = threading.RLock()

    def __getattr__(self, name: str) -> Any:
        held = getattr(self._backend, name)
        if not callable(held):
            return held

        def called(*arguments: Any, **named: Any) -> Any:
            with self._lock:
                return held(*arguments, **named)

        return called


@dataclass
class Site:
    """One namespace, its operator, and the machine that trains and serves for it."""

    cluster: Cluster
    namespace: str
    root: Path
    operators: list[Operator] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = Client(Kubeconfig(self.cluster.kubeconfig_of()))
        (self.root / "script").write_text("publish")
        self.backend: Any = OneAtATime(self._backend())
        self._ended = threading.Event()
        self._tending = threading.Thread(target=self._tend, daemon=True)
        self._tending.start()

    def play(self, *lines: str) -> None:
        """What the next runs' attempts do."""
        (self.root / "script").write_text("\n".join(lines))

    def operate(self, *hooks: WriteHook, backends: Backends | None = None, **settings: Any) -> Operator:
        """A new operator, started; with the stand-ins for a backend unless `backends` says otherwise."""
        wanted = {
            "cache_folder": self.root / "cache",
            "identity": uuid.uuid4().hex,
            "namespaces": (self.namespace,),
            "lease_namespace": self.namespace,
            "elect": False,
            "backoff": Backoff(first_s=0.05, cap_s=1.0),
            "list_times": ListTimes(every=timedelta(seconds=5)),
        }
        made = Operator(
            Kubeconfig(self.cluster.kubeconfig_of()),
            Settings(**{**wanted, **settings}),
            backends or (lambda _client: lambda _pool: self.backend),
            hooks=hooks,
        )
        self.operators.append(made)
        made.start()
        return made

    def pool(self, name: str = "base", **spec: Any) -> None:
        """Applies a pool as a user would."""
        body = {"base": {"uri": "builtin://tiny"}, "store": str(self.root / "store"), "port": 8123} | spec
        self._apply(POOL, name, body)

    def adapter(self, name: str = "cloud", **spec: Any) -> None:
        """Applies an adapter as a user would."""
        body = {
            "context": name,
            "servingPoolRef": {"name": "base"},
            "data": {"alerts": [{"uri": "alerts.jsonl"}]},
        } | spec
        self._apply(ADAPTER, name, body)

    def get(self, name: str = "cloud", kind: Kind = ADAPTER) -> Object:
        """The object as it is now; an empty one where there is none."""
        return self.client.find(kind, self.namespace, name) or {}

    def versions(self) -> list[Object]:
        """Every version, by name."""
        return sorted(self.client.list(ADAPTER_VERSION, self.namespace).items, key=lambda v: str(v["metadata"]["name"]))

    def condition(self, kind: str, name: str = "cloud", of: Kind = ADAPTER) -> tuple[str, str]:
        """Status and reason of a condition."""
        held = self.get(name, of).get("status") or {}
        found: Object = next((c for c in held.get("conditions") or () if c["type"] == kind), {})
        return str(found.get("status", "")), str(found.get("reason", ""))

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Waits until `holds`."""
        try:
            wait_for(lambda: holds() or None, what, DEADLINE_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.told()}") from None

    def told(self) -> str:
        """Every status, for the reader of a test that failed."""
        found = [raw for kind in (POOL, ADAPTER) for raw in self.client.list(kind, self.namespace).items]
        return "\n".join(f"{raw['kind']} {raw['metadata']['name']}: {raw.get('status')}" for raw in found)

    def until_ready(self, name: str = "cloud") -> None:
        """Waits until the adapter serves and settles."""
        self.until(
            lambda: (self.condition("Ready", name)[0], self.condition("Reconciling", name)[0]) == ("True", "False"),
            f"{name} is ready",
        )

    def end(self) -> None:
        """Ends whatever was started."""
        for operator in self.operators:
            operator.stop()
        self._ended.set()
        self._tending.join()
        stop_runs(self.backend, Interrupts())
        # By their records: an operator that was stopped in the middle may have left one whose pool is gone.
        for record in (self.root / "state").glob("serving/*/*/process.json"):
            if (serving := Process.read(record)) is not None:
                serving.end(_GRACE_S)
        self.client.close()

    def _tend(self) -> None:
        """What `up` does for this backend, and a cluster for its own: start what waits, end what would not stop."""
        while not self._ended.wait(0.1):
            self.backend.tend()

    def _apply(self, kind: Kind, name: str, spec: Object) -> None:
        body: Object = {"metadata": {"name": name, "namespace": self.namespace}, "spec": spec}
        self.client.apply(kind, body, manager="kubectl")

    def _backend(self) -> LocalBackend:
        return LocalBackend(
            self.root / "state",
            self.root / "cache",
            _base,
            job=(sys.executable, str(STAND_INS / "stand_in_job.py"), str(self.root / "script")),
            serve=(sys.executable, str(STAND_INS / "stand_in_serve.py")),
        )


@pytest.fixture
def site(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[Site]:
    """A namespace of its own, with nothing in it; `operate` starts an operator."""
    made = Site(cluster, namespace, tmp_path)
    yield made
    made.end()


def _base(ref: BaseModelRef) -> str:
    return digest.of_bytes(b"base")
