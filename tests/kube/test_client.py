"""The client's protocol, over real HTTP: what is sent, what is repeated, and what answers become."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.kube.api_server import Answer, ApiServer, Asked, Dropped, Json, status
from tests.kube.conftest import Fixed

from socadapter_api.errors import (
    AlreadyExists,
    ClusterError,
    ClusterUnavailable,
    Conflict,
    Expired,
    Forbidden,
    KindNotInstalled,
    LoginRefused,
    ObjectInvalid,
    ObjectNotFound,
    SocAdapterError,
)
from socadapter_operator.kube.attempts import Patience, Write
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import POD, RAY_JOB, SECRET, Object

PATH = "/api/v1/namespaces/soc/secrets"


def secret(name: str = "a", **about: str) -> Object:
    return {"metadata": {"namespace": "soc", "name": name, **about}, "data": {}}


def times(count: int, answer: Answer, method: str = "") -> Callable[[Asked], Answer | None]:
    """The first `count` requests (of `method`) get `answer`."""
    left = [count]

    def fault(asked: Asked) -> Answer | None:
        if (method and asked.method != method) or not left[0]:
            return None
        left[0] -= 1
        return answer

    return fault


def drop(asked: Asked) -> Answer | None:
    raise Dropped


def test_objects_come_and_go(client: Client) -> None:
    """What was created is read back with what the server added, and is not found any more once deleted."""
    created = client.create(SECRET, secret())
    assert client.get(SECRET, "soc", "a") == created
    client.delete(SECRET, "soc", "a", uid=created["metadata"]["uid"])
    assert client.find(SECRET, "soc", "a") is None


def test_created_object_names_its_kind(client: Client, server: ApiServer) -> None:
    """Group and kind need not be in what the caller writes."""
    client.create(SECRET, secret())
    assert ("v1", "Secret") == (server.asked[0].body["apiVersion"], server.asked[0].body["kind"])


@pytest.mark.parametrize("page_size", [1, 2, 7, 500])
def test_pages_join_to_one_list(client: Client, server: ApiServer, page_size: int) -> None:
    """However many pages it takes, a list holds each object once, each with the kind that lists leave out."""
    for number in range(7):
        client.create(SECRET, secret(f"s-{number}"))
    listing = client.list(SECRET, "soc", page_size=page_size)
    assert [f"s-{number}" for number in range(7)] == [item["metadata"]["name"] for item in listing.items]
    assert {"Secret"} == {item["kind"] for item in listing.items}
    assert "107" == listing.resource_version
    assert "resourceVersion" not in server.asked[-1].parameters, "a list from the watch cache may be old"


def test_selectors_reach_the_server(client: Client, server: ApiServer) -> None:
    """Label and field selectors are the server's to apply; what is empty is not sent."""
    client.list(SECRET, labels="a=b", fields="type=Opaque")
    asked = server.asked[0]
    assert ("/api/v1/secrets", "a=b", "type=Opaque") == (
        asked.path,
        asked.parameters["labelSelector"],
        asked.parameters["fieldSelector"],
    )
    assert "continue" not in asked.parameters


def test_list_begins_anew_when_the_server_forgot(client: Client, server: ApiServer) -> None:
    """A page whose continuation expired starts the list over, and nothing is listed twice."""
    for number in range(4):
        client.create(SECRET, secret(f"s-{number}"))
    gone = status(410, "Expired", "the provided continue parameter is too old")
    server.faults.append(lambda asked: gone if asked.parameters.get("continue") and len(server.asked) < 8 else None)
    listing = client.list(SECRET, "soc", page_size=2)
    assert 4 == len(listing.items)


def test_list_that_always_expires_is_read_in_one_go(client: Client, server: ApiServer) -> None:
    """Where no page can be continued, the last try asks for everything at once."""
    for number in range(4):
        client.create(SECRET, secret(f"s-{number}"))
    gone = status(410, "Expired", "the provided continue parameter is too old")
    server.faults.append(lambda asked: gone if asked.parameters.get("continue") else None)
    assert 4 == len(client.list(SECRET, "soc", page_size=2).items)
    assert "limit" not in server.asked[-1].parameters


def test_apply_names_its_manager(client: Client, server: ApiServer) -> None:
    """Server-side apply says who applies and whether it takes fields from others."""
    client.apply(SECRET, secret())
    client.apply(SECRET, secret(), manager="other", force=False)
    first, second = server.asked
    assert ("PATCH", "application/apply-patch+yaml") == (first.method, first.headers["content-type"])
    assert {"fieldManager": "socadapter-operator", "force": "true"} == first.parameters
    assert {"fieldManager": "other", "force": "false"} == second.parameters


def test_merge_sends_the_fields_alone(client: Client, server: ApiServer) -> None:
    """A merge patch holds what is to change and nothing else, neither kind nor version, and says who changes it."""
    server.faults.append(lambda _: Answer(body={"kind": "Secret"}))
    client.merge(SECRET, "soc", "a", {"data": {"k": None}}, manager="somebody")
    (asked,) = server.asked
    assert ("PATCH", "application/merge-patch+json") == (asked.method, asked.headers["content-type"])
    assert ({"data": {"k": None}}, {"fieldManager": "somebody"}) == (asked.body, asked.parameters)


def test_status_is_applied_by_a_manager_of_its_own(client: Client, server: ApiServer) -> None:
    """Status goes to its subresource, so that spec and status never share a manager's fields."""
    stored = client.create(SECRET, secret())
    client.apply_status(SECRET, secret(uid=stored["metadata"]["uid"]))
    assert f"{PATH}/a/status" == server.asked[-1].path
    assert "socadapter-operator-status" == server.asked[-1].parameters["fieldManager"]


def test_status_of_a_namesake_is_refused(client: Client) -> None:
    """Status meant for an object that was deleted and made anew does not reach the new one."""
    client.create(SECRET, secret())
    with pytest.raises(Conflict):
        client.apply_status(SECRET, secret(uid="of-the-one-before"))


@pytest.mark.parametrize(
    "conditions",
    [pytest.param({"uid": "other"}, id="uid"), pytest.param({"resource_version": "1"}, id="version")],
)
def test_deletes_only_what_was_meant(client: Client, conditions: dict[str, str]) -> None:
    """A delete that names another uid or an older version deletes nothing."""
    stored = client.create(SECRET, secret())
    with pytest.raises(Conflict):
        client.delete(SECRET, "soc", "a", **{"uid": stored["metadata"]["uid"], **conditions})
    assert stored == client.find(SECRET, "soc", "a")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(status(400, "BadRequest", "no"), ObjectInvalid, id="bad request"),
        pytest.param(status(401, "Unauthorized", "no"), LoginRefused, id="login"),
        pytest.param(status(403, "Forbidden", "no"), Forbidden, id="role"),
        pytest.param(status(404, "NotFound", "no", "a"), ObjectNotFound, id="object"),
        pytest.param(status(404, "NotFound", "could not find the requested resource"), KindNotInstalled, id="kind"),
        pytest.param(Answer(404, "404 page not found\n"), KindNotInstalled, id="group"),
        pytest.param(
            status(405, "MethodNotAllowed", "create not allowed while custom resource definition is terminating"),
            KindNotInstalled,
            id="kind on its way out",
        ),
        pytest.param(status(405, "MethodNotAllowed", "no"), ClusterError, id="verb"),
        pytest.param(status(409, "AlreadyExists", "no", "a"), AlreadyExists, id="exists"),
        pytest.param(status(409, "Conflict", "no", "a"), Conflict, id="conflict"),
        pytest.param(status(410, "Expired", "no"), Expired, id="expired"),
        pytest.param(status(413, "RequestEntityTooLarge", "no"), ObjectInvalid, id="too large"),
        pytest.param(status(422, "Invalid", "no", "a"), ObjectInvalid, id="invalid"),
        pytest.param(status(429, "TooManyRequests", "no"), ClusterUnavailable, id="busy"),
        pytest.param(status(500, "InternalError", "no"), ClusterUnavailable, id="failed"),
        pytest.param(Answer(503, "upstream"), ClusterUnavailable, id="proxy"),
        pytest.param(Answer(200, "<html>"), ClusterUnavailable, id="login page"),
    ],
)
@pytest.mark.parametrize("verb", ["get", "create"])
def test_answers_become_errors(
    client: Client, server: ApiServer, answer: Answer, error: type[SocAdapterError], verb: str
) -> None:
    """Each refusal has one class, and its text names the request."""
    server.faults.append(lambda _: answer)
    with pytest.raises(error) as raised:
        client.get(SECRET, "soc", "a") if verb == "get" else client.create(SECRET, secret())
    assert type(raised.value) is error
    assert PATH in str(raised.value)


def test_missing_kind_is_not_a_missing_object(client: Client) -> None:
    """Without its definition, neither an object nor a list of the kind is 'not found'."""
    for call in (lambda: client.get(RAY_JOB, "soc", "a"), lambda: client.list(RAY_JOB)):
        with pytest.raises(KindNotInstalled):
            call()
    assert (False, True) == (client.installed(RAY_JOB), client.installed(SECRET))


def test_read_is_repeated_until_it_succeeds(client: Client, server: ApiServer) -> None:
    """A failing server is asked again, for a read."""
    server.put(f"{PATH}/a", secret())
    server.faults.append(times(2, status(500, "InternalError", "etcd leader changed")))
    assert "a" == client.get(SECRET, "soc", "a")["metadata"]["name"]


@pytest.mark.parametrize("fault", [pytest.param(drop, id="dropped"), pytest.param(times(9, Answer(500)), id="failed")])
def test_write_of_unknown_fate_is_not_repeated(client: Client, server: ApiServer, fault: object) -> None:
    """A write that may have been carried out is the caller's to look at: one attempt, one error."""
    server.faults.append(fault)  # type: ignore[arg-type]
    with pytest.raises(ClusterUnavailable):
        client.create(SECRET, secret())
    assert 1 == len(server.asked)


def test_busy_server_gets_the_pause_that_it_asks_for(server: ApiServer, credentials: Fixed) -> None:
    """429 is repeated for writes, too, and never sooner than Retry-After says."""
    slept: list[float] = []
    client = Client(credentials, sleep=slept.append)
    busy = status(429, "TooManyRequests", "later")
    busy.headers["Retry-After"] = "3"
    server.faults.append(times(1, busy))
    client.create(SECRET, secret())
    client.close()
    assert 2 == len(server.asked)
    assert slept[0] >= 3


def test_pause_beyond_patience_is_left_to_the_caller(client: Client, server: ApiServer) -> None:
    """A server that wants to be left alone for long is, and the error says for how long."""
    busy = status(429, "TooManyRequests", "later", retryAfterSeconds=60)
    server.faults.append(lambda _: busy)
    with pytest.raises(ClusterUnavailable) as raised:
        client.create(SECRET, secret())
    assert (60.0, 1) == (raised.value.retry_after_s, len(server.asked))


def test_refused_connection_is_the_clusters_absence() -> None:
    """A server that is not there is unavailable, not a stack trace of a library."""
    client = Client(Fixed("http://127.0.0.1:9"), patience=Patience(total_s=0))
    with pytest.raises(ClusterUnavailable, match="got no answer"):
        client.get(SECRET, "soc", "a")
    client.close()


def test_close_waits_for_answers_that_are_under_way(server: ApiServer, credentials: Fixed) -> None:
    """A connection is never closed under a request: its number could go to another, and mix up their answers."""
    client, asked, closed = Client(credentials), threading.Event(), threading.Event()

    def answer_late(_: Asked) -> None:
        asked.set()
        assert closed.wait(10)

    server.put(f"{PATH}/a", secret())
    server.faults.append(answer_late)
    with ThreadPoolExecutor(1) as threads:
        got = threads.submit(client.get, SECRET, "soc", "a")
        assert asked.wait(10)
        client.close()
        closed.set()
        assert "a" == got.result()["metadata"]["name"]


def test_rotated_token_is_followed(client: Client, server: ApiServer, credentials: Fixed) -> None:
    """A token that the server no longer takes is read anew once, for a write as well."""

    def fault(asked: Asked) -> Answer | None:
        if asked.headers["authorization"] == "Bearer token-2":
            return None
        credentials.token = "token-2"
        return status(401, "Unauthorized", "expired")

    server.faults.append(fault)
    client.create(SECRET, secret())
    assert (1, 2) == (credentials.refusals, len(server.asked))


class Hooks:
    """Notes every attempt; raises at the one it is told to."""

    def __init__(self, stop_before: int = 0, stop_after: int = 0) -> None:
        self.begun: list[Write] = []
        self.done: list[Write] = []
        self._stop = (stop_before, stop_after)

    def before(self, write: Write) -> None:
        self.begun.append(write)
        if len(self.begun) == self._stop[0]:
            raise SystemExit

    def after(self, write: Write) -> None:
        self.done.append(write)
        if len(self.done) == self._stop[1]:
            raise SystemExit


def two_writes(client: Client) -> None:
    client.create(SECRET, secret("a"))
    client.create(SECRET, secret("b"))


@pytest.mark.parametrize(
    ("hooks", "left"),
    [
        pytest.param(Hooks(stop_before=1), [], id="before the first"),
        pytest.param(Hooks(stop_after=1), ["a"], id="after the first"),
        pytest.param(Hooks(stop_before=2), ["a"], id="before the second"),
        pytest.param(Hooks(stop_after=2), ["a", "b"], id="after the second"),
    ],
)
def test_process_stops_at_any_write(server: ApiServer, credentials: Fixed, hooks: Hooks, left: list[str]) -> None:
    """A hook ends the process before a write, which then never happened, or after it, when it has."""
    client = Client(credentials, hooks=[hooks])
    with pytest.raises(SystemExit):
        two_writes(client)
    client.close()
    assert left == [path.rsplit("/", 1)[-1] for path in sorted(server.objects)]


def test_hooks_see_every_attempt_and_no_read(server: ApiServer, credentials: Fixed) -> None:
    """A repeated write passes the fence again; reads pass none."""
    hooks = Hooks()
    client = Client(credentials, hooks=[hooks], sleep=lambda _: None)
    server.faults.append(times(2, status(429, "TooManyRequests", "later"), method="POST"))
    stored = client.create(SECRET, secret())
    client.get(SECRET, "soc", "a")
    client.delete(SECRET, "soc", "a", uid=stored["metadata"]["uid"])
    client.close()
    assert (["create"] * 3 + ["delete"], ["create", "delete"]) == (
        [write.verb for write in hooks.begun],
        [write.verb for write in hooks.done],
    )


def test_requests_are_measured(server: ApiServer, credentials: Fixed) -> None:
    """Each attempt is told with its method and status, those without an answer too."""
    seen: list[tuple[str, str]] = []
    client = Client(credentials, measure=lambda method, code, _: seen.append((method, code)), sleep=lambda _: None)
    client.create(SECRET, secret())
    server.faults.append(drop)
    with pytest.raises(ClusterUnavailable):
        client.create(SECRET, secret("b"))
    client.close()
    assert [("POST", "201"), ("POST", "<error>")] == seen


def test_threads_share_one_client(client: Client, server: ApiServer) -> None:
    """Many threads at once write what each of them meant."""
    threads = [
        threading.Thread(target=lambda number=number: client.create(SECRET, secret(f"s-{number}")))
        for number in range(24)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 24 == len(server.objects)


def test_log_comes_line_by_line(client: Client, server: ApiServer) -> None:
    """A pod's log is read as lines, and a pod that is gone is an error of the tree."""

    def fault(asked: Asked) -> Answer | None:
        return Answer(200, "one\ntwo\n") if asked.path.endswith("/pods/p/log") else None

    server.faults.append(fault)
    assert ["one", "two"] == list(client.log_lines("soc", "p", container="head", tail=10))
    assert {"container": "head", "follow": "false", "tailLines": "10"} == server.asked[0].parameters
    with pytest.raises(ObjectNotFound):
        list(client.log_lines("soc", "q"))


def test_paths_cannot_be_escaped(client: Client, server: ApiServer) -> None:
    """A name with a slash stays one part of the path."""
    with pytest.raises(SocAdapterError):
        client.get(POD, "soc", "../../secrets/a")
    assert server.asked[0].path.startswith("/api/v1/namespaces/soc/pods/")


def test_errors_never_quote_what_was_sent(client: Client, server: ApiServer) -> None:
    """A refused Secret's values and the bearer's token stay out of the error's text."""
    server.faults.append(lambda _: status(422, "Invalid", "data: Invalid value", "a"))
    item: Json = {**secret(), "data": {"token": "c2VjcmV0"}}
    with pytest.raises(ObjectInvalid) as raised:
        client.create(SECRET, item)
    assert "c2VjcmV0" not in str(raised.value)
    assert "token-1" not in str(raised.value)
