"""The HTTP API around a gateway whose engines answer by script: routing, fallback, limits, errors, records."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from socadapter_api.case import Verdict
from socadapter_api.errors import (
    AlertTooLarge,
    DiskFull,
    EngineUnavailable,
    SignatureInvalid,
    SocAdapterError,
    TemplateUnsupported,
    ToolOutage,
)
from socadapter_api.serving_table import ContextRoute, ServedVersion, ServingTable
from socadapter_serve.messages import Failure, RequestRefused

ALERT = {"title": "t", "provider": "aws"}
SOAR, ANALYST = "soar-token-0123456789", "analyst-token-0123456789"
BASE, BASE_DIGEST = "smollm2-135m-instruct", f"sha256:{'b' * 64}"


def served(number: int, context: str = "cloud") -> ServedVersion:
    full = f"sha256:{number:08x}{'0' * 56}"
    return ServedVersion(name=f"{context}-v{number}-{full[7:15]}", uri=f"/store/{number}", digest=full)


STABLE, CANARY, PREVIOUS, SHADOW = (served(number) for number in range(1, 5))


Start = Callable[..., Awaitable[Any]]


def route(**changes: Any) -> ContextRoute:
    fields = {"context": "cloud", "match": 'alert.provider == "aws"', "stable": STABLE}
    return ContextRoute.model_validate(fields | changes)


def reason(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["reason"])


async def test_an_answer_says_who_gave_it(start: Start) -> None:
    """Context, version, digest, calls and probabilities are in the answer; version and digest in its headers too."""
    service = await start(route())
    answer = await service.triage()
    body = answer.json()
    assert 200 == answer.status_code
    assert ("cloud", STABLE.name, STABLE.digest, "stable") == tuple(
        body[key] for key in ("context", "version", "digest", "role")
    )
    assert (STABLE.name, STABLE.digest) == (
        answer.headers["x-socadapter-version"],
        answer.headers["x-socadapter-digest"],
    )
    assert {"true_positive": 0.1, "benign_true_positive": 0.2, "false_positive": 0.6, "escalate": 0.1} == body[
        "probabilities"
    ]
    assert (["e1"], "signins", None) == (body["citations"], body["calls"][0]["tool"], body["fallback"])


async def test_a_context_may_be_named(start: Start) -> None:
    """A named context is used whatever its expression says; an unknown one is a 404."""
    service = await start(route(match="false"))
    assert "cloud" == (await service.triage(context="cloud")).json()["context"]
    unknown = await service.triage(context="nowhere")
    assert (404, "UnknownVersion") == (unknown.status_code, reason(unknown))


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        pytest.param((route(match="false"),), "NoContext", id="none"),
        pytest.param((route(), route(context="iam", stable=served(9, "iam"))), "ContextConflict", id="several"),
        pytest.param((route(match="alert."),), "NoContext", id="invalid expression"),
    ],
)
async def test_an_unclaimed_alert_is_escalated(start: Start, routes: tuple[ContextRoute, ...], expected: str) -> None:
    """None or several contexts: the base looks at it, and a person decides."""
    service = await start(*routes)
    service.engines.verdict = Verdict.TRUE_POSITIVE
    body = (await service.triage()).json()
    assert ("escalate", "true_positive", "base") == (body["verdict"], body["model_verdict"], body["role"])
    assert body["reason"].startswith(expected)


async def test_the_base_goes_by_its_own_name_and_digest(start: Start) -> None:
    """In the answer, its headers, the record and what is counted alike, and each says that it is the base."""
    service = await start(route(match="false"))
    answer = await service.triage()
    body = answer.json()
    expected = (BASE, BASE_DIGEST)
    assert (*expected, "base") == (body["version"], body["digest"], body["role"])
    assert expected == (answer.headers["x-socadapter-version"], answer.headers["x-socadapter-digest"])
    kept = (await service.http.get(f"/v1/trajectories/{body['trajectory_id']}")).json()
    assert (*expected, "base") == (kept["version"], kept["digest"], kept["role"])
    said = {"trajectory_id": body["trajectory_id"], "verdict": "true_positive", "analyst": "ann"}
    assert 201 == (await service.http.post("/v1/feedback", json=said)).status_code
    record = json.loads((await service.http.get("/v1/feedback")).text)
    assert (*expected, "base") == (record["version"], record["digest"], record["role"])
    counted = f'socadapter_investigations_total{{context="",role="base",verdict="escalate",version="{BASE}"}}'
    assert 1 == service.metric(counted)


async def test_a_base_whose_engine_tells_no_digest_has_the_tables(start: Start) -> None:
    """A server that shows no files serves the base that the pool names."""
    service = await start()
    service.engines.base_digest = ""
    assert "" == (await service.triage()).json()["digest"]
    await service.gateway.apply(ServingTable(generation=9, base_digest=BASE_DIGEST))
    assert BASE_DIGEST == (await service.triage()).json()["digest"]


async def test_an_incident_stays_with_one_version(start: Start) -> None:
    """Under a split, every alert of an incident goes to the version of the first."""
    service = await start(route(canary=CANARY, canary_weight_percent=50))
    used = {}
    for n in range(40):
        versions = {(await service.triage(incident_id=f"INC-{n}")).json()["version"] for _ in range(2)}
        assert 1 == len(versions)
        used[n] = versions.pop()
    assert {STABLE.name, CANARY.name} == set(used.values())


async def test_an_investigation_keeps_its_version_when_the_table_changes(start: Start) -> None:
    """The version is taken once: a table that arrives meanwhile changes the next investigation, not this one."""
    service = await start(route())
    service.engines.gate = asyncio.Event()
    under_way = asyncio.create_task(service.triage())
    await service.engines.started.wait()
    await service.apply(route(stable=CANARY))
    service.engines.gate.set()
    assert STABLE.name == (await under_way).json()["version"]
    assert CANARY.name == (await service.triage()).json()["version"]


@pytest.mark.parametrize(
    ("failing", "answered", "role"),
    [
        pytest.param([CANARY], STABLE.name, "stable", id="canary fails"),
        pytest.param([CANARY, STABLE], PREVIOUS.name, "previous", id="canary and stable fail"),
        pytest.param([CANARY, STABLE, PREVIOUS], BASE, "base", id="all fail"),
    ],
)
async def test_another_version_stands_in(start: Start, failing: list[ServedVersion], answered: str, role: str) -> None:
    """Canary, stable, previous, base, and the answer says so."""
    service = await start(route(canary=CANARY, canary_weight_percent=100, previous=PREVIOUS))
    service.engines.failing = {version.name: EngineUnavailable("gone") for version in failing}
    body = (await service.triage()).json()
    assert (answered, role) == (body["version"], body["role"])
    assert (CANARY.name, role) == (body["fallback"]["intended"], body["fallback"]["role"])
    assert body["fallback"]["reason"].startswith("EngineUnavailable")
    assert 1 == service.metric("socadapter_fallbacks_total{")


async def test_the_base_alone_closes_no_alert(start: Start) -> None:
    """Where only the base is left, a closing verdict goes to a person."""
    service = await start(route())
    service.engines.failing = {STABLE.name: SignatureInvalid("unsigned")}
    body = (await service.triage()).json()
    assert ("escalate", "false_positive", "base") == (body["verdict"], body["model_verdict"], body["fallback"]["role"])


async def test_no_version_at_all_is_a_503(start: Start) -> None:
    """With every engine away the caller is told to come again."""
    service = await start(route())
    service.engines.failing = {STABLE.name: EngineUnavailable("gone"), "": EngineUnavailable("gone")}
    answer = await service.triage()
    assert (503, "EngineUnavailable", "1") == (answer.status_code, reason(answer), answer.headers["retry-after"])


@pytest.mark.parametrize(
    ("error", "status"),
    [
        pytest.param(RequestRefused("3000 tokens, a chat may take 2048"), 400, id="too long for the engine"),
        pytest.param(AlertTooLarge("renders to 20000 characters"), 413, id="too large for the engine"),
    ],
)
async def test_a_callers_mistake_is_no_versions_failure(start: Start, error: SocAdapterError, status: int) -> None:
    """It is told at once: no other version is asked, and none is counted as having failed."""
    service = await start(route(canary=CANARY, canary_weight_percent=100, previous=PREVIOUS))
    service.engines.failing = {CANARY.name: Failure.of(error).error()}
    chat = {"model": "cloud", "messages": [{"role": "user", "content": "x"}]}
    for answer in (await service.triage(), await service.http.post("/v1/chat/completions", json=chat)):
        assert (status, error.reason) == (answer.status_code, reason(answer))
        assert str(error) == answer.json()["error"]["message"]
        assert "retry-after" not in answer.headers
    assert [CANARY.name] * 2 == service.engines.asked
    assert 0 == service.metric("socadapter_fallbacks_total{")


@pytest.mark.parametrize("kind", [SignatureInvalid, TemplateUnsupported, ToolOutage, DiskFull])
async def test_a_version_that_cannot_be_used_is_replaced(start: Start, kind: type[SocAdapterError]) -> None:
    """Whatever is wrong with it, a spec that it does not fit included: the next one answers, and says why."""
    service = await start(route(canary=CANARY, canary_weight_percent=100))
    service.engines.failing = {CANARY.name: Failure.of(kind("not this one")).error()}
    body = (await service.triage()).json()
    assert (STABLE.name, f"{kind.reason}: not this one") == (body["version"], body["fallback"]["reason"])


def test_an_unknown_failure_is_the_engines() -> None:
    """A reason that this release does not know still reads as it was said."""
    error = Failure("FromLater", "said").error()
    assert (EngineUnavailable, "FromLater: said") == (type(error), str(error))


async def test_the_shadow_sees_the_alert_and_answers_no_one(start: Start, until: Callable[..., Any]) -> None:
    """The shadow's investigation is kept beside the one that was answered, under its own role."""
    service = await start(route(shadow=SHADOW))
    body = (await service.triage()).json()
    assert STABLE.name == body["version"]
    await until(lambda: service.metric('socadapter_investigations_total{context="cloud",role="shadow"'))
    assert [STABLE.name, SHADOW.name] == service.engines.asked


async def test_shadows_are_skipped_when_there_is_no_room(start: Start) -> None:
    """A shadow never takes the place of an answer."""
    service = await start(route(shadow=SHADOW), max_shadows=0)
    await service.triage()
    assert 1 == service.metric("socadapter_shadows_skipped_total")


async def test_unknown_models_reach_no_engine(start: Start) -> None:
    """A flood of names outside the table ends at the gateway."""
    service = await start(route())
    for n in range(50):
        body = {"model": f"cloud-v{n}-deadbeef", "messages": [{"role": "user", "content": "x"}]}
        answer = await service.http.post("/v1/chat/completions", json=body)
        assert (404, "model_not_found") == (answer.status_code, answer.json()["error"]["code"])
    assert [] == service.engines.asked


@pytest.mark.parametrize(
    ("model", "version"),
    [
        pytest.param("base", "", id="base"),
        pytest.param(BASE, "", id="the base by its name"),
        pytest.param(CANARY.name, CANARY.name, id="a version"),
        pytest.param("cloud", STABLE.name, id="a context"),
    ],
)
async def test_a_model_is_base_version_or_context(start: Start, model: str, version: str) -> None:
    """The three kinds of names that a chat may use."""
    service = await start(route(canary=CANARY))
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    answer = await service.http.post("/v1/chat/completions", json=body)
    assert f"{version or 'base'} heard hello" == answer.json()["choices"][0]["message"]["content"]
    named = {"": (BASE, BASE_DIGEST)} | {one.name: (one.name, one.digest) for one in (STABLE, CANARY)}
    assert named[version] == (answer.json()["model"], answer.json()["system_fingerprint"])
    assert named[version] == (answer.headers["x-socadapter-version"], answer.headers["x-socadapter-digest"])
    streamed = await service.http.post("/v1/chat/completions", json=body | {"stream": True})
    first = json.loads(streamed.text.partition("\n\n")[0].removeprefix("data: "))
    assert named[version] == (first["model"], first["system_fingerprint"])
    assert named[version] == (streamed.headers["x-socadapter-version"], streamed.headers["x-socadapter-digest"])


@pytest.mark.parametrize(
    ("extra", "status"),
    [
        pytest.param({"n": 2}, 400, id="several answers"),
        pytest.param({"tools": [{"type": "function"}]}, 400, id="tools"),
        pytest.param({"response_format": {"type": "json_object"}}, 400, id="a format"),
        pytest.param({"temperature": 3}, 400, id="out of bounds"),
        pytest.param({"messages": []}, 400, id="no message"),
        pytest.param({"messages": [{"role": "user", "content": "x" * 40_000}]}, 413, id="too long"),
        pytest.param({"n": 1, "user": "u", "tool_choice": "none", "top_p": 1.0}, 200, id="neutral options"),
    ],
)
async def test_what_would_change_the_answer_is_refused(start: Start, extra: dict[str, Any], status: int) -> None:
    """An option that is not honoured is never silently dropped."""
    service = await start(route())
    body = {"model": "base", "messages": [{"role": "user", "content": "x"}], **extra}
    assert status == (await service.http.post("/v1/chat/completions", json=body)).status_code


async def test_an_answer_ends_before_a_stop_text(start: Start) -> None:
    """`stop` cuts, and the finish reason says that the model stopped."""
    service = await start(route())
    body = {"model": "base", "messages": [{"role": "user", "content": "one STOP two"}], "stop": "STOP"}
    choice = (await service.http.post("/v1/chat/completions", json=body)).json()["choices"][0]
    assert ("base heard one ", "stop") == (choice["message"]["content"], choice["finish_reason"])


@pytest.mark.parametrize(
    ("content", "status", "expected"),
    [
        pytest.param(json.dumps({"alert": {"body": "x" * 10_000_000}}), 413, "AlertTooLarge", id="10 MB"),
        pytest.param(json.dumps({"alert": {"body": "x" * 100_000}}), 413, "AlertTooLarge", id="more than is read"),
        pytest.param("{", 400, "InvalidSpec", id="no JSON"),
        pytest.param('{"alert": {"n": NaN}}', 400, "InvalidSpec", id="NaN"),
        pytest.param('{"alert": {"n": 1e999}}', 400, "InvalidSpec", id="no finite number"),
        pytest.param("[" * 100_000, 400, "InvalidSpec", id="too deep"),
        pytest.param('{"alert": {}}', 400, "InvalidSpec", id="empty alert"),
        pytest.param('{"alert": {"a": 1}, "more": 1}', 400, "InvalidSpec", id="unknown key"),
        pytest.param('{"alert": {"a": 1}, "context": "../x"}', 400, "InvalidSpec", id="no context name"),
    ],
)
async def test_bad_bodies_are_refused(start: Start, content: str, status: int, expected: str) -> None:
    """With the status and the reason, before any engine is asked."""
    service = await start(route())
    answer = await service.http.post("/v1/triage", content=content, headers={"content-type": "application/json"})
    assert (status, expected) == (answer.status_code, reason(answer))
    assert [] == service.engines.asked


async def test_an_emoji_cut_in_half_keeps_no_alert_from_its_verdict(start: Start) -> None:
    """JSON can carry half a surrogate, in keys too; what is investigated and kept has a question mark there."""
    service = await start(route())
    content = '{"alert": {"provider": "aws", "na\\ud83dme": ["x \\ud83d", {"y": "\\udc00"}]}}'
    answer = await service.http.post("/v1/triage", content=content, headers={"content-type": "application/json"})
    assert 200 == answer.status_code
    kept = await service.http.get(f"/v1/trajectories/{answer.json()['trajectory_id']}")
    assert {"provider": "aws", "na?me": ["x ?", {"y": "?"}]} == kept.json()["alert"]


async def test_only_json_is_taken(start: Start) -> None:
    """A web form's content type is refused: no page can make its visitor's browser post here."""
    service = await start(route())
    answer = await service.http.post("/v1/triage", content=b"{}", headers={"content-type": "text/plain"})
    assert 400 == answer.status_code


async def test_without_callers_only_loopback_names_are_answered(start: Start) -> None:
    """A name that was pointed at loopback by a stranger's DNS is refused."""
    service = await start(route())
    answer = await service.http.get("/v1/models", headers={"host": "attacker.example"})
    assert (403, "CallerForbidden") == (answer.status_code, reason(answer))


async def test_too_many_requests_are_told_to_come_again(start: Start) -> None:
    """Beyond the limit there is a 503 at once, and health still answers."""
    service = await start(route(), max_concurrent=1)
    service.engines.gate = asyncio.Event()
    first = asyncio.create_task(service.triage())
    await service.engines.started.wait()
    second = await service.triage()
    assert (503, "TooManyRequests", "1") == (second.status_code, reason(second), second.headers["retry-after"])
    assert 200 == (await service.http.get("/readyz")).status_code
    service.engines.gate.set()
    assert 200 == (await first).status_code


async def test_a_request_has_a_time_limit(start: Start) -> None:
    """An engine that hangs costs a 504, and the place is given back."""
    service = await start(route(), request_timeout_s=0.05, max_concurrent=1)
    service.engines.gate = asyncio.Event()
    for _ in range(2):
        answer = await service.triage()
        assert (504, "RequestTimeout") == (answer.status_code, reason(answer))


CALLERS = (
    {"name": "soar", "token_secret_ref": {"name": "soar", "key": "token"}},
    {"name": "analyst", "token_secret_ref": {"name": "analyst", "key": "token"}, "contexts": ["network"]},
)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/metrics", 401),
        ("GET", "/v1/models", 401),
        ("GET", "/v1/replicas", 401),
        ("GET", "/v1/feedback", 401),
        ("GET", "/v1/trajectories/x", 401),
        ("POST", "/v1/triage", 401),
        ("POST", "/v1/chat/completions", 401),
        ("POST", "/v1/feedback", 401),
    ],
)
async def test_everything_but_health_needs_a_token(start: Start, method: str, path: str, status: int) -> None:
    """With callers, nothing is told or done without one of their tokens."""
    service = await start(route(), callers=CALLERS)
    answer = await service.http.request(method, path, json={} if method == "POST" else None)
    assert status == answer.status_code
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_caller_uses_its_own_contexts_only(start: Start) -> None:
    """A context of others is a 403, by name, by match, by model and by trajectory; its versions are not listed."""
    service = await start(route(), callers=CALLERS)
    soar, analyst = ({"authorization": f"Bearer {token}"} for token in (SOAR, ANALYST))
    service.http.headers.update(soar)
    kept = (await service.triage()).json()["trajectory_id"]
    service.http.headers.update(analyst)
    assert 403 == (await service.triage()).status_code
    assert 403 == (await service.triage(context="cloud")).status_code
    chat = {"model": STABLE.name, "messages": [{"role": "user", "content": "x"}]}
    assert 403 == (await service.http.post("/v1/chat/completions", json=chat)).status_code
    assert 404 == (await service.http.get(f"/v1/trajectories/{kept}")).status_code
    feedback = {"trajectory_id": kept, "verdict": "true_positive", "analyst": "ann"}
    assert 404 == (await service.http.post("/v1/feedback", json=feedback)).status_code
    listed = (await service.http.get("/v1/models")).json()["data"]
    assert [BASE] == [model["id"] for model in listed]


async def test_feedback_joins_its_investigation(start: Start) -> None:
    """What an analyst says is kept with the alert, the version and the whole trajectory, and is exported."""
    service = await start(route())
    kept = (await service.triage(incident_id="INC-7")).json()["trajectory_id"]
    feedback = {"trajectory_id": kept, "verdict": "true_positive", "analyst": "ann", "approved": True}
    assert 201 == (await service.http.post("/v1/feedback", json=feedback)).status_code
    shown = (await service.http.get(f"/v1/trajectories/{kept}")).json()
    assert (ALERT, "INC-7", "true_positive") == (shown["alert"], shown["incident_id"], shown["feedback"][0]["verdict"])
    assert "signins" == shown["trajectory"]["calls"][0]["tool"]
    lines = (await service.http.get("/v1/feedback", params={"since": 0})).text.splitlines()
    assert [STABLE.name] == [json.loads(line)["version"] for line in lines]
    assert "" == (await service.http.get("/v1/feedback", params={"since": 1e12})).text
    assert 400 == (await service.http.get("/v1/feedback", params={"since": "yesterday"})).status_code


async def test_feedback_is_kept_with_the_caller_that_gave_it(start: Start) -> None:
    """One caller's verdicts under another's analyst leave that analyst's own as it is."""
    both = tuple({**caller, "contexts": []} for caller in CALLERS)
    service = await start(route(), callers=both)
    kept = ""
    for token, verdict in ((SOAR, "true_positive"), (ANALYST, "false_positive")):
        service.http.headers["authorization"] = f"Bearer {token}"
        kept = kept or (await service.triage()).json()["trajectory_id"]
        feedback = {"trajectory_id": kept, "verdict": verdict, "analyst": "ann"}
        assert 201 == (await service.http.post("/v1/feedback", json=feedback)).status_code
    records = [json.loads(line) for line in (await service.http.get("/v1/feedback")).text.splitlines()]
    assert [("soar", "true_positive"), ("analyst", "false_positive")] == [
        (record["caller"], record["feedback"]["verdict"]) for record in records
    ]


async def test_feedback_on_nothing_is_a_404(start: Start) -> None:
    """An id that was never given out."""
    service = await start(route())
    feedback = {"trajectory_id": "x", "verdict": "true_positive", "analyst": "ann"}
    assert 404 == (await service.http.post("/v1/feedback", json=feedback)).status_code


async def test_an_answer_outlives_its_record(start: Start, tmp_path: Path) -> None:
    """Where the database refuses, the alert is answered without an id, and the loss is counted."""
    service = await start(route())
    service.gateway._store._db.execute("PRAGMA query_only = ON")
    answer = await service.triage()
    assert (200, "") == (answer.status_code, answer.json()["trajectory_id"])
    assert 1 == service.metric("socadapter_trajectories_lost_total")


async def test_what_replicas_hold_is_told(start: Start) -> None:
    """Reports of the replicas, the table's generation, and expressions that were refused."""
    service = await start(route(), route(context="broken", match="alert.", stable=None))
    shown = (await service.http.get("/v1/replicas")).json()
    assert (1, ["broken"], "r0") == (
        shown["generation"],
        list(shown["match_problems"]),
        shown["replicas"][0]["replica"],
    )
    assert 1 == service.metric('socadapter_match_refused{context="broken"}')


async def test_metrics_tell_versions_apart(start: Start) -> None:
    """Investigations, calls and tokens are counted per context, version and role."""
    service = await start(route())
    await service.triage()
    label = f'context="cloud",outcome="ok",role="stable",version="{STABLE.name}"'
    assert 1 == service.metric(f"socadapter_tool_calls_total{{{label}}}")
    text = (await service.http.get("/metrics")).text
    assert 'socadapter_requests_total{code="200",endpoint="/v1/triage"} 1.0' in text
