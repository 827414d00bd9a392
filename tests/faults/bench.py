"""The operator behind the proxy, with all that it works with, and what looks at both past the proxy."""

import random
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import timedelta
from typing import Any

from tests.faults.kinds import Faults
from tests.faults.outcome import missing
from tests.faults.proxy import FaultProxy
from tests.faults.record import Record
from tests.faults.users import Users
from tests.life_cycle.conftest import Site
from tests.life_cycle.kuberay import KubeRay

from socadapter_api.errors import ObjectNotFound
from socadapter_operator.backends.cluster import ClusterBackends
from socadapter_operator.builders.installation import Installation
from socadapter_operator.kube.attempts import Patience
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.credentials import Kubeconfig
from socadapter_operator.kube.resources import SECRET, Object, uid_of
from socadapter_operator.shell.listing import ListTimes
from socadapter_operator.shell.operator import Operator, Settings
from socadapter_operator.shell.queue import Backoff

CAP_S = 10.0
"""The backoff's longest pause, and the time between two full lists: what convergence is measured with."""

PATIENCE = Patience(connect_s=2.0, read_s=3.0, write_s=2.0, total_s=5.0)
_HOLD_S = 6.0
_LONGEST_RUN_S = 3.0
_LOOK_S = 0.5

ADAPTERS = {"cloud": "near", "mail": "near", "web": "near", "identity": "near", "endpoint": "far", "vpn": "far"}
"""By the pool that serves each: `near` is KubeRay's, `far` a Ray cluster that exists by itself, with finalizers."""


class SlowKubeRay(KubeRay):
    """Runs take their time, so that something can happen meanwhile. `seed` says how long."""

    def __init__(self, *arguments: Any, seed: int) -> None:
        self._random = random.Random(seed)
        self._due: dict[str, float] = {}
        super().__init__(*arguments)

    def _work(self, job: Object) -> None:
        due = self._due.setdefault(uid_of(job), time.monotonic() + self._random.uniform(0.0, _LONGEST_RUN_S))
        if (job.get("status") or {}).get("jobDeploymentStatus") and time.monotonic() < due:
            return
        with suppress(ObjectNotFound, ValueError):  # deleted meanwhile, or its configuration was
            super()._work(job)


class Bench:
    """An operator of `site`'s namespace that reaches the API server through faults only. `close` ends all of it."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site = site
        self._around = ExitStack()
        admin = site.cluster.kubeconfig_of()
        self.proxy = FaultProxy(Kubeconfig(admin).connection(), Faults(seed), hold_s=_HOLD_S)
        self._around.callback(self.proxy.close)
        self.record = Record(admin, site.namespace, site.client)
        self._around.callback(self.record.close)
        self.kuberay = SlowKubeRay(site.client, site.root / "pods", seed=seed)
        self.kuberay.namespaces.add(site.namespace)
        self._around.callback(self.kuberay.close)
        self.users = Users(site, seed, ADAPTERS)
        self.operator = self._operator()

    def start(self) -> None:
        """Makes the pools and starts the operator."""
        self._pools()
        self._around.callback(self.operator.stop)
        self.operator.start()

    def close(self) -> None:
        """Ends everything, the operator first."""
        self._around.close()

    def converge(self, limit_s: float) -> float:
        """Ends the faults; returns the seconds until all is as wanted, and the last write to get there.

        Raises:
            AssertionError: it took longer than `limit_s`, or writing never ended.
        """
        unsettled_at = ended_at = self.proxy.end_faults()
        written, nobody = self.proxy.written, threading.Event()
        # A full list later there is still nothing to do.
        while time.monotonic() - unsettled_at < 1.5 * CAP_S:
            wrong = missing(self.site, self.users.wanted)
            if wrong or self.proxy.written != written:
                written, unsettled_at = self.proxy.written, time.monotonic()
            assert unsettled_at - ended_at < limit_s, "\n".join([*wrong, f"{written} writes", self.site.told()])
            nobody.wait(_LOOK_S)
        return unsettled_at - ended_at

    def _pools(self) -> None:
        identity = {"name": "soar", "namespace": self.site.namespace}
        self.site.client.create(SECRET, {"metadata": identity, "stringData": {"token": "caller-token"}})
        callers = [{"name": "soar", "tokenSecretRef": {"name": "soar", "key": "token"}}]
        self.site.pool("near", host="0.0.0.0", callers=callers)
        self.site.pool("far", ray={"address": "http://ray.example.test:8265"})

    def _operator(self) -> Operator:
        settings = Settings(
            cache_folder=self.site.root / "cache",
            identity="behind-the-proxy",
            namespaces=(self.site.namespace,),
            lease_namespace=self.site.namespace,
            elect=False,
            backoff=Backoff(cap_s=CAP_S),
            list_times=ListTimes(every=timedelta(seconds=CAP_S)),
            patience=PATIENCE,
        )
        kubeconfig = self.proxy.kubeconfig(self.site.root / "proxy.kubeconfig")
        return Operator(Kubeconfig(kubeconfig), settings, self._backends)

    def _backends(self, client: Client) -> Callable[[Any], Any]:
        cluster = ClusterBackends(client, Installation("example.test/train:1", "example.test/serve:1"))
        self._around.callback(cluster.close)
        return lambda pool: self.site.backend if pool is not None and pool.spec.ray.address else cluster(pool)
