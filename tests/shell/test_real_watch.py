"""kopf, the lists and the cache on a real API server, behind a proxy that breaks every stream there is."""

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from tests.controlplane.cluster import Cluster
from tests.kube.conftest import Fixed
from tests.shell.conftest import DEADLINE_S, Told
from tests.shell.watch_proxy import WatchProxy

from socadapter_operator.kube.client import Client
from socadapter_operator.kube.connection import Connection
from socadapter_operator.kube.credentials import Kubeconfig
from socadapter_operator.kube.resources import CONFIG_MAP, POOL, RAY_JOB, Object, ObjectKey
from socadapter_operator.shell import listing
from socadapter_operator.shell.cache import Cache
from socadapter_operator.shell.listing import Lister, Watched
from socadapter_operator.shell.watch import JitteredBackoffs, Watch

pytestmark = pytest.mark.slow


class Bench:
    """Lister and watch of one namespace behind a proxy, and a client that goes past it."""

    def __init__(self, connection: Connection, direct: Client, namespace: str, told: Told) -> None:
        self.proxy = WatchProxy(connection)
        self.direct = direct
        self.namespace = namespace
        self.told = told
        self.cache = Cache()
        self.restarts = 0
        credentials = Fixed(self.proxy.url, token="")
        self.client = Client(credentials)
        watched = (Watched(POOL), Watched(RAY_JOB, required=False), Watched(CONFIG_MAP, labels="of=us"))
        self.lister = Lister(self.client, self.cache, watched, told, namespaces=(namespace,), on_served=self.anew)
        self.watch = Watch(
            credentials,
            self.cache,
            self.lister,
            told,
            namespaces=(namespace,),
            on_restart=self.count,
            backoffs=JitteredBackoffs(first_s=0.05, cap_s=0.2),
            stale_s=1.0,
        )

    def anew(self) -> None:
        self.watch.begin_anew()

    def count(self) -> None:
        self.restarts += 1

    def pool(self, name: str) -> Object:
        spec = {"base": {"uri": "builtin://smollm2-135m-instruct"}, "store": "s3://adapters"}
        return {"metadata": {"namespace": self.namespace, "name": name}, "spec": spec}

    def held(self, name: str) -> Object | None:
        return self.cache.get(POOL, ObjectKey(self.namespace, name))

    def stop(self) -> None:
        assert self.watch.stop(DEADLINE_S)
        assert self.lister.stop(DEADLINE_S)
        self.client.close()
        self.proxy.close()


@pytest.fixture
def bench(cluster: Cluster, namespace: str, told: Told, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(listing.Lister.request, "__defaults__", (timedelta(milliseconds=200),))
    logging.getLogger("kopf").setLevel(logging.CRITICAL)
    credentials = Kubeconfig(cluster.kubeconfig)
    direct = Client(credentials)
    made = Bench(credentials.connection(), direct, namespace, told)
    made.lister.start()
    made.watch.start()
    told.wait_for(lambda: made.proxy.opened >= 3)
    yield made
    made.stop()
    direct.close()


def test_what_happens_is_told(bench: Bench, told: Told) -> None:
    """What is created, changed and deleted on a real API server arrives, labels decide, and nothing is written."""
    made = bench.direct.create(POOL, bench.pool("a"))
    told.wait_for(lambda: bench.held("a"))
    for name, labels in (("ours", {"of": "us"}), ("theirs", {"of": "them"})):
        about = {"namespace": bench.namespace, "name": name, "labels": labels}
        bench.direct.create(CONFIG_MAP, {"metadata": about})
    told.wait_for(lambda: ("ConfigMap", "ours", False) in told.changes)
    assert bench.cache.get(CONFIG_MAP, ObjectKey(bench.namespace, "theirs")) is None
    untouched = bench.direct.get(POOL, bench.namespace, "a")
    assert made == untouched
    bench.direct.delete(POOL, bench.namespace, "a", uid=made["metadata"]["uid"])
    told.wait_for(lambda: ("SocServingPool", "a", True) in told.changes)


@pytest.mark.parametrize(
    "break_it",
    [
        pytest.param(lambda proxy: proxy.cut(), id="cut"),
        pytest.param(lambda proxy: proxy.error(410), id="410"),
        pytest.param(lambda proxy: proxy.error(500), id="500"),
        pytest.param(lambda proxy: proxy.error(429), id="429"),
        pytest.param(lambda proxy: threading.Event().wait(1.5), id="silence only"),
    ],
)
def test_nothing_is_lost_while_nothing_is_seen(
    bench: Bench, told: Told, break_it: Callable[[WatchProxy], object]
) -> None:
    """The streams go silent, things happen, the streams break: afterwards the cache is as the server is."""
    going = bench.direct.create(POOL, bench.pool("going"))
    bench.direct.create(POOL, bench.pool("staying"))
    told.wait_for(lambda: bench.held("going") and bench.held("staying"))
    bench.proxy.silent.set()
    bench.direct.delete(POOL, bench.namespace, "going", uid=going["metadata"]["uid"])
    bench.direct.create(POOL, bench.pool("coming"))
    break_it(bench.proxy)
    bench.proxy.silent.clear()
    told.wait_for(lambda: bench.held("coming") and not bench.held("going"))
    assert bench.held("staying")
    assert ("SocServingPool", "going", True) in told.changes
    told.wait_for(lambda: bench.watch.running() is None)
    bench.direct.create(POOL, bench.pool("later"))
    told.wait_for(lambda: bench.held("later"))
