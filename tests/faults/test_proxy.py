"""What the proxy does to requests and streams is what its faults say, and without faults it does nothing."""

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from tests.faults.kinds import Fault, Faults
from tests.faults.proxy import FaultProxy
from tests.kube.api_server import ApiServer, Asked
from tests.kube.conftest import Fixed
from tests.shell.watch_server import WatchServer

from socadapter_api.errors import ClusterUnavailable, Conflict, ObjectNotFound
from socadapter_operator.kube.attempts import Patience
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.connection import Connection
from socadapter_operator.kube.credentials import Kubeconfig
from socadapter_operator.kube.resources import ADAPTER, SECRET, Object

SECRETS = "/api/v1/namespaces/soc/secrets"
WATCH = f"{ADAPTER.path()}?watch=true"

Behind = Callable[..., FaultProxy]


@pytest.fixture
def behind() -> Iterator[Behind]:
    """Makes a proxy before a server in which the named faults, and no others, happen each time that they can."""
    made: list[FaultProxy] = []

    def proxy(url: str, *faults: Fault) -> FaultProxy:
        connection = Connection(url, token="token-1")
        made.append(FaultProxy(connection, Faults(1, dict.fromkeys(faults, 1.0)), hold_s=30.0))
        return made[-1]

    yield proxy
    for one in made:
        one.close()


@pytest.fixture
def server() -> Iterator[ApiServer]:
    running = ApiServer()
    yield running
    running.close()


@pytest.fixture
def watched() -> Iterator[WatchServer]:
    running = WatchServer(ADAPTER)
    yield running
    running.close()


@pytest.fixture
def client_of() -> Iterator[Callable[[FaultProxy], Client]]:
    """Makes a client that asks a proxy, and gives up soon."""
    made: list[Client] = []

    def client(proxy: FaultProxy) -> Client:
        made.append(Client(Fixed(proxy.url), patience=Patience(read_s=0.2, write_s=0.2, total_s=0)))
        return made[-1]

    yield client
    for one in made:
        one.close()


def secret(name: str) -> Object:
    return {"metadata": {"namespace": "soc", "name": name}}


def test_without_faults_everything_passes_in_small_pages(
    server: ApiServer, behind: Behind, client_of: Any, tmp_path: Any
) -> None:
    """Objects, lists, refusals and the token, by the kubeconfig that leads to the proxy."""
    proxy = behind(server.url)
    client = Client(Kubeconfig(proxy.kubeconfig(tmp_path / "kubeconfig")))
    for number in range(7):
        client.create(SECRET, secret(f"s{number}"))
    listed = client.list(SECRET, "soc")
    assert [f"s{number}" for number in range(7)] == [item["metadata"]["name"] for item in listed.items]
    with pytest.raises(ObjectNotFound):
        client.get(SECRET, "soc", "other")
    client.close()
    assert {"Bearer token-1"} == {asked.headers["authorization"] for asked in server.asked}
    assert 3 == sum(asked.path == SECRETS and asked.method == "GET" for asked in server.asked)
    assert 7 == proxy.written


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        pytest.param(Fault.CONFLICT, Conflict, id="409"),
        pytest.param(Fault.BUSY, ClusterUnavailable, id="429"),
        pytest.param(Fault.BROKEN, ClusterUnavailable, id="500"),
        pytest.param(Fault.LATE, ClusterUnavailable, id="time-out-before"),
    ],
)
def test_a_refused_write_is_not_carried_out(
    server: ApiServer, behind: Behind, client_of: Any, fault: Fault, error: type[Exception]
) -> None:
    """The client is told, or waits in vain, and the server never hears of it."""
    proxy = behind(server.url, fault)
    with pytest.raises(error):
        client_of(proxy).create(SECRET, secret("one"))
    proxy.end_faults()
    assert ([], 1, 0) == (server.asked, proxy.faults.injected[fault], proxy.written)


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.HUNG_UP])
def test_a_lost_answer_leaves_the_write_carried_out(
    server: ApiServer, behind: Behind, client_of: Any, fault: Fault
) -> None:
    """The server did it, and the client does not know."""
    proxy = behind(server.url, fault)
    with pytest.raises(ClusterUnavailable):
        client_of(proxy).create(SECRET, secret("one"))
    assert [f"{SECRETS}/one"] == list(server.objects)
    assert (1, 1) == (proxy.faults.injected[fault], proxy.written)


def test_a_busy_server_says_when_to_come_back(server: ApiServer, behind: Behind, client_of: Any) -> None:
    """Retry-After is a header of the 429."""
    with pytest.raises(ClusterUnavailable) as told:
        client_of(behind(server.url, Fault.BUSY)).get(SECRET, "soc", "one")
    assert 1.0 == told.value.retry_after_s


def test_a_list_that_expired_is_begun_anew(server: ApiServer, behind: Behind, client_of: Any) -> None:
    """Each page but the first is answered with 410, and the client lists in one go at last."""
    for number in range(7):
        server.put(f"{SECRETS}/s{number}", secret(f"s{number}"))
    proxy = behind(server.url, Fault.GONE_PAGE)
    assert 7 == len(client_of(proxy).list(SECRET, "soc").items)
    assert 2 == proxy.faults.injected[Fault.GONE_PAGE]


def test_a_stale_read_is_an_answer_of_before(server: ApiServer, behind: Behind) -> None:
    """What was there at the first read is told again after the object changed."""
    proxy = behind(server.url, Fault.STALE)
    made = [server.put(f"{SECRETS}/one", secret("one"))["metadata"]["resourceVersion"]]
    with httpx.Client(base_url=proxy.url, timeout=30) as http:
        told = [http.get(f"{SECRETS}/one").json()["metadata"]["resourceVersion"]]
        made.append(server.put(f"{SECRETS}/one", secret("one"))["metadata"]["resourceVersion"])
        told += [http.get(f"{SECRETS}/one").json()["metadata"]["resourceVersion"] for _ in range(2)]
    assert [*made, made[0]] == told
    assert 1 == proxy.faults.injected[Fault.STALE]


def test_the_client_believes_no_stale_read(server: ApiServer, behind: Behind, client_of: Any) -> None:
    """It asks again, and gives up at last."""
    client = client_of(behind(server.url, Fault.STALE))
    server.put(f"{SECRETS}/one", secret("one"))
    client.get(SECRET, "soc", "one")
    server.put(f"{SECRETS}/one", secret("one"))
    client.get(SECRET, "soc", "one")
    with pytest.raises(ClusterUnavailable, match="lags behind"):
        client.get(SECRET, "soc", "one")


def test_what_is_held_back_ends_with_the_faults(server: ApiServer, behind: Behind) -> None:
    """A client that would wait for half a minute does not."""
    proxy = behind(server.url, Fault.LOST)

    def lost(_: Asked) -> None:
        threading.Timer(0.05, proxy.end_faults).start()

    server.faults.append(lost)
    with httpx.Client(base_url=proxy.url, timeout=30) as http, pytest.raises(httpx.TransportError):
        http.get(SECRETS)


def frames(proxy: FaultProxy, watched: WatchServer, *names: str) -> list[Any]:
    """What a watch tells of objects that are made one after the other, until it ends; None for half a line."""
    found: list[Any] = []
    with httpx.Client(base_url=proxy.url, timeout=30) as http, http.stream("GET", WATCH) as stream:
        for name in names:
            watched.put(ADAPTER, name)
        watched.cut()
        try:
            for line in stream.iter_lines():
                found.append(_read(line))
        except httpx.TransportError:
            found.append("cut")
    return found


def _read(line: str) -> Any:
    try:
        told = json.loads(line)
    except ValueError:
        return None
    return told["object"].get("code") or told["object"]["metadata"]["name"]


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        pytest.param((), ["one", "two"], id="none"),
        pytest.param((Fault.DROPPED,), [], id="dropped"),
        pytest.param((Fault.CUT,), ["cut"], id="cut"),
        pytest.param((Fault.GONE_EVENT,), [410], id="gone"),
    ],
)
def test_a_stream_tells_less(behind: Behind, watched: WatchServer, faults: tuple[Fault, ...], expected: Any) -> None:
    """An event is lost, a line stops in the middle with its connection, or ERROR 410 ends the stream."""
    proxy = behind(watched.url, *faults)
    assert expected == [name for name in frames(proxy, watched, "one", "two") if name is not None]


def test_a_stream_tells_events_again(behind: Behind, watched: WatchServer) -> None:
    """Each event is followed by itself, or by one from before."""
    told = frames(behind(watched.url, Fault.DUPLICATED), watched, "one", "two")
    assert (["one", "one", "two"], 4, True) == (told[:3], len(told), told[3] in ("one", "two"))


def test_an_event_that_is_held_back_comes_when_the_faults_end(behind: Behind, watched: WatchServer) -> None:
    """In its order, with nothing lost."""
    proxy = behind(watched.url, Fault.HELD_BACK)
    threading.Timer(0.1, proxy.end_faults).start()
    assert ["one", "two"] == frames(proxy, watched, "one", "two")


def test_a_watch_is_refused_with_410(behind: Behind, watched: WatchServer) -> None:
    """As HTTP status, with a Status that says so."""
    with httpx.Client(base_url=behind(watched.url, Fault.GONE_WATCH).url) as http:
        answer = http.get(WATCH)
    assert (410, "Expired") == (answer.status_code, answer.json()["reason"])
