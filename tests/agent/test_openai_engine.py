"""The engine behind HTTP, against a server that notes what it is asked and answers as real ones do."""

import asyncio
import itertools
import json
import math
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from socadapter_agent.engine import Sampling
from socadapter_agent.investigation import investigate
from socadapter_agent.openai_engine import OpenAiEngine, _Position, answer_probabilities
from socadapter_agent.protocol import VERDICT_PREFIX, render_answer, render_call
from socadapter_api.case import ANSWERS, Alert, Verdict
from socadapter_api.errors import EngineUnavailable, SpecError

pytestmark = pytest.mark.slow

KEY = "sk-s3cret"
PROMPT = "title: Impossible travel of mlee from Vienna"
ANSWER = render_answer(Verdict.FALSE_POSITIVE, "Known [e1].", ["e1"])


def completion(text: str, finish: str = "stop", usage: tuple[int, int] | None = (100, 7), **choice: Any) -> Response:
    body: dict[str, Any] = {"id": "x", "object": "chat.completion", "created": 1, "model": "base"}
    body["choices"] = [
        {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish, **choice}
    ]
    if usage:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return JSONResponse(body)


class FakeServer:
    """Answers with `replies` in order, the last one for ever; lists `models`; notes requests."""

    def __init__(
        self, *replies: Response | Callable[[dict[str, Any]], Any], models: tuple[str, ...] | None = ()
    ) -> None:
        self.replies = list(replies)
        self.models = models
        self.asked: list[dict[str, Any]] = []
        self.posted: list[tuple[str, dict[str, Any]]] = []
        self.keys: set[str | None] = set()
        self.app = Starlette(routes=[Route("/v1/{path:path}", self._answer, methods=["GET", "POST"])])

    async def _answer(self, request: Request) -> Response:
        path = request.path_params["path"]
        self.keys.add(request.headers.get("authorization"))
        if path == "models":
            listed = [{"id": name, "object": "model"} for name in self.models or ()]
            return JSONResponse({"data": listed}) if self.models is not None else Response(status_code=404)
        body = await request.json()
        if path == "chat/completions":
            self.asked.append(body)
        else:
            self.posted.append((path, body))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Response):
            return reply
        found = reply(body)
        answer: Response = await found if asyncio.iscoroutine(found) else found
        return answer


@pytest.fixture
def connected(serve_app: Callable[..., Any]) -> Callable[..., Any]:
    """An engine started against a server, as a context manager."""

    @asynccontextmanager
    async def connect(server: Any, **settings: Any) -> AsyncIterator[OpenAiEngine]:
        async with serve_app(server.app) as root:
            engine = OpenAiEngine(root, "base", KEY, **settings)
            await engine.start()
            try:
                yield engine
            finally:
                await engine.stop()

    return connect


async def test_the_conversation_is_sent_whole_with_its_settings(connected: Any) -> None:
    """Each turn sends all messages, results as user text, and the sampling; the key goes in the header only."""
    server = FakeServer(completion(render_call("dns", {})), completion(ANSWER))
    async with connected(server) as engine:
        session = engine.open("Triage.", PROMPT)
        await session.turn(Sampling(temperature=0.7, max_turn_tokens=40, seed=3))
        session.add_result("[e1] 3 queries")
        turn = await session.turn(Sampling())
    first, second = server.asked
    assert (first["model"], first["temperature"], first["max_tokens"], first["seed"]) == ("base", 0.7, 40, 3)
    assert (first["logprobs"], first["top_logprobs"]) == (True, 20)
    assert [(message["role"], message["content"]) for message in second["messages"]] == [
        ("system", "Triage."),
        ("user", PROMPT),
        ("assistant", render_call("dns", {})),
        ("user", "[e1] 3 queries"),
    ]
    assert "seed" not in second
    assert "stop" not in second
    assert (turn.text, turn.token_ids, turn.truncated) == (ANSWER, (), False)
    assert server.keys == {f"Bearer {KEY}"}
    assert session.record() is None


async def test_tokens_are_counted_as_the_server_counts(connected: Any) -> None:
    """Read tokens are those that were new, sampled ones are the server's count, the context is both and an estimate."""
    server = FakeServer(completion("x" * 30, usage=(100, 7)), completion("y", "length", (130, 9)))
    async with connected(server) as engine:
        session = engine.open("Triage.", "z" * 290)
        assert session.context_tokens == 99
        turn = await session.turn(Sampling())
        assert (turn.tokens_read, turn.tokens_sampled, session.context_tokens) == (100, 7, 107)
        session.add_result("r" * 60)
        assert session.context_tokens == 127
        turn = await session.turn(Sampling())
        assert (turn.tokens_read, turn.tokens_sampled, session.context_tokens) == (23, 9, 139)
        assert turn.truncated


async def test_a_server_that_does_not_count_is_estimated(connected: Any) -> None:
    """Without usage the context is estimated from characters, and still grows with every part."""
    async with connected(FakeServer(completion("x" * 30, usage=None))) as engine:
        session = engine.open("", "z" * 300)
        turn = await session.turn(Sampling())
        assert (turn.tokens_read, turn.tokens_sampled, session.context_tokens) == (0, 0, 110)
        session.add_result("r" * 30)
        assert session.context_tokens == 120


async def test_stopping_at_the_verdict_cuts_nothing_else(connected: Any) -> None:
    """The server is told to stop behind a verdict; a call that holds the same words is asked for again, whole."""
    call = render_call("ticket", {"title": "x", "summary": "y"})
    head = render_answer(Verdict.ESCALATE, "", []).split('", "summary"')[0]

    def cut(body: dict[str, Any]) -> Response:
        return completion(call.split(body["stop"][0])[0] if "stop" in body else call)

    server = FakeServer(cut, cut, completion(head))
    async with connected(server) as engine:
        session = engine.open("Triage.", PROMPT)
        assert (await session.turn(Sampling(stop_at_verdict=True))).text == call
        assert ["stop" in asked for asked in server.asked] == [True, False]
        assert (await session.turn(Sampling(stop_at_verdict=True))).text == VERDICT_PREFIX + "escalate"
        assert server.asked[-1]["messages"][-1]["content"] == call


def position(token: str, top: dict[str, float] | None = None) -> _Position:
    candidates = [{"token": name, "logprob": math.log(p)} for name, p in (top or {}).items()]
    return _Position.model_validate({"token": token, "logprob": -0.1, "top_logprobs": candidates})


def _split(text: str, cuts: list[int]) -> list[str]:
    places = [0, *sorted({min(cut, len(text)) for cut in cuts} - {0, len(text)}), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(places)]


@given(st.lists(st.integers(0, 13), max_size=6), st.sampled_from(["", "\n", " "]))
def test_the_verdicts_place_is_found_however_the_prefix_is_cut(cuts: list[int], lead: str) -> None:
    """Any tokens that make up the prefix lead to the same place, where candidates count for the answer they begin."""
    top = {"true": 0.1, "ben": 0.2, "f": 0.25, "false": 0.25, "escal": 0.1, "}": 0.05, "e1": 0.05}
    before = [position(piece) for piece in _split(lead + VERDICT_PREFIX, cuts)]
    found = answer_probabilities([*before, position("false", top), position("_positive")])
    assert found == pytest.approx((0.1 / 0.9, 0.2 / 0.9, 0.5 / 0.9, 0.1 / 0.9))


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        pytest.param([], None, id="no logprobs"),
        pytest.param([position('{"tool": "'), position("dns", {"dns": 1.0})], None, id="call"),
        pytest.param([position(VERDICT_PREFIX)], None, id="cut off before the verdict"),
        pytest.param([position(VERDICT_PREFIX), position("maybe", {"maybe": 0.9, "x": 0.1})], None, id="no answer"),
        pytest.param([position(VERDICT_PREFIX), position("false", {})], (0, 0, 1, 0), id="sampled token only"),
        pytest.param(
            [position('{"verdict":'), position(' "false', {' "false': 0.6, ' "true': 0.2, ' "': 0.2})],
            (0.25, 0, 0.75, 0),
            id="prefix and answer in one token",
        ),
        pytest.param(
            [position(VERDICT_PREFIX), position('escalate"', {'escalate"': 0.5, "benign_true_positive": 0.5})],
            (0, 0.5, 0, 0.5),
            id="whole answers",
        ),
        pytest.param([position("{ "), position('"verdict": "'), position("false", {"false": 1.0})], None, id="spacing"),
    ],
)
def test_probabilities_are_given_for_answers_only(positions: list[_Position], expected: Any) -> None:
    """A turn that is no answer in the protocol's own spelling has no probabilities; none are made up."""
    found = answer_probabilities(positions)
    assert found == (None if expected is None else pytest.approx(expected))


async def test_probabilities_equal_the_in_process_engines(steered: Any, connected: Any) -> None:
    """The same model in process and behind a server gives the same probabilities, through text alone."""
    async with steered() as local:
        chat, model = local.format, local.model
        prompt = chat.prompt_ids("Triage.", PROMPT)
        prefix = chat.text_ids(VERDICT_PREFIX)
        firsts = [chat.text_ids(VERDICT_PREFIX + answer)[len(prefix)] for answer in ANSWERS]
        model.script = {len(prompt) - 1 + place: (token,) for place, token in enumerate(prefix)}
        model.script[len(prompt) + len(prefix) - 1] = tuple(firsts)
        sampling = Sampling(max_turn_tokens=len(prefix) + 1)
        session = local.open("Triage.", PROMPT)
        expected = await session.turn(sampling)
        session.close()

        def answer(body: dict[str, Any]) -> Response:
            ids, content = chat.conversation_ids(body["messages"]), []
            for _ in range(body["max_tokens"]):
                with torch.no_grad():
                    logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1], -1)
                top = [
                    {"token": chat.decode([int(token)]), "logprob": float(logprobs[token])}
                    for token in logprobs.topk(body["top_logprobs"]).indices
                ]
                ids.append(int(logprobs.argmax()))
                content.append({**top[0], "bytes": None, "top_logprobs": top})
            text = "".join(item["token"] for item in content)
            return completion(text, "length", logprobs={"content": content, "refusal": None})

        async with connected(FakeServer(answer)) as engine:
            turn = await engine.open("Triage.", PROMPT).turn(sampling)
    assert turn.text == expected.text
    assert turn.probabilities == pytest.approx(expected.probabilities, abs=1e-5)


async def test_servers_without_logprobs_are_not_asked_for_them(connected: Any) -> None:
    """`verdict_logprobs=False` leaves them out of the request, and the turn without probabilities."""
    server = FakeServer(completion(ANSWER))
    async with connected(server, verdict_logprobs=False) as engine:
        assert (await engine.open("Triage.", PROMPT).turn(Sampling())).probabilities is None
    assert not {"logprobs", "top_logprobs"} & server.asked[0].keys()


@pytest.mark.parametrize("status", [400, 422])
async def test_a_server_that_refuses_logprobs_is_asked_without_them(
    connected: Any, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The turn that finds out is answered, the next ones do not ask for them, and it is told once."""

    def strict(body: dict[str, Any]) -> Response:
        refused = JSONResponse({"error": {"message": "top_logprobs is not supported"}}, status)
        return refused if "top_logprobs" in body else completion(ANSWER)

    server = FakeServer(strict)
    async with connected(server) as engine:
        session = engine.open("Triage.", PROMPT)
        turns = [await session.turn(Sampling()) for _ in range(2)]
    assert [(ANSWER, None)] * 2 == [(turn.text, turn.probabilities) for turn in turns]
    assert [True, False, False] == ["logprobs" in asked for asked in server.asked]
    (told,) = (record.getMessage() for record in caplog.records if "logprobs_refused" in record.getMessage())
    assert "top_logprobs is not supported" in told


async def test_what_is_refused_without_logprobs_too_keeps_them(connected: Any) -> None:
    """A conversation that is too long says nothing about log probabilities."""
    too_long = JSONResponse({"error": {"message": "maximum context length"}}, 400)
    server = FakeServer(too_long, too_long, completion(ANSWER))
    async with connected(server) as engine:
        session = engine.open("Triage.", PROMPT)
        with pytest.raises(EngineUnavailable, match="maximum context"):
            await session.turn(Sampling())
        await session.turn(Sampling())
    assert [True, False, True] == ["logprobs" in asked for asked in server.asked]


ECHO = [{"type": "too_long", "loc": ["body", "messages"], "msg": "too long", "input": PROMPT}]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        pytest.param(
            JSONResponse({"error": {"message": "context length is 2048", "type": "x"}}, 400),
            "length is 2048",
            id="openai",
        ),
        pytest.param(JSONResponse({"object": "error", "message": "no model x"}, 404), "no model x", id="older vllm"),
        pytest.param(JSONResponse({"detail": "Not Found"}, 404), "Not Found", id="fastapi"),
        pytest.param(JSONResponse({"error": "overloaded"}, 503), "503: overloaded", id="plain error"),
        pytest.param(JSONResponse(["odd"], 500), "odd", id="odd json"),
        pytest.param(PlainTextResponse("Bad Gateway", 502), "Bad Gateway", id="proxy"),
        pytest.param(Response(status_code=401), "401: Unauthorized", id="nothing but a status"),
        pytest.param(PlainTextResponse("x" * 10**6, 500), "xxx", id="a megabyte"),
        pytest.param(Response(status_code=307, headers={"location": "http://192.0.2.1/"}), "307", id="redirect"),
        pytest.param(JSONResponse({"detail": ECHO}, 422), "withheld", id="repeats the prompt"),
        pytest.param(PlainTextResponse(f"cannot parse: {PROMPT[7:30]}...", 400), "withheld", id="repeats a piece"),
        pytest.param(PlainTextResponse("no JSON", 200), "something other", id="no json"),
        pytest.param(JSONResponse({"choices": []}), "choices", id="no choices"),
        pytest.param(JSONResponse({"choices": [{"message": {"content": 5}}]}), "content", id="no text"),
        pytest.param(JSONResponse({"choices": [{"text": "x"}]}), "message", id="another API"),
    ],
)
async def test_errors_carry_the_servers_words_and_not_the_prompt(connected: Any, reply: Response, said: str) -> None:
    """What the server says is told, shortened, with its address and status; the conversation and the key never."""
    async with connected(FakeServer(reply)) as engine:
        with pytest.raises(EngineUnavailable, match=said) as caught:
            await engine.open("Triage.", PROMPT).turn(Sampling())
    text = str(caught.value)
    assert "http://127.0.0.1:" in text
    assert len(text) < 600
    assert KEY not in text
    assert not any(PROMPT[start : start + 16] in text for start in range(len(PROMPT) - 15))


@pytest.mark.parametrize(
    ("content", "text"),
    [pytest.param(None, "", id="none"), pytest.param("", "", id="empty"), pytest.param("ü✓", "ü✓", id="unicode")],
)
async def test_turns_without_text_are_empty(connected: Any, content: Any, text: str) -> None:
    """A refusal or a native tool call has no content: the turn is empty, and so malformed to the loop."""
    async with connected(FakeServer(completion(content))) as engine:
        assert (await engine.open("Triage.", PROMPT).turn(Sampling())).text == text


async def test_a_silent_server_ends_at_the_time_out(connected: Any) -> None:
    """One that never answers, and one that drips without end, cost no more than the time-out."""
    released = asyncio.Event()

    async def silent(_: dict[str, Any]) -> Response:
        await released.wait()
        return completion("late")

    async def drops() -> AsyncIterator[bytes]:
        while not released.is_set():
            yield b" "
            await asyncio.sleep(0.01)

    for reply in (silent, lambda _: StreamingResponse(drops())):
        async with connected(FakeServer(reply), timeout_s=0.2) as engine:
            try:
                with pytest.raises(EngineUnavailable, match=r"no answer in 0\.2 s"):
                    await asyncio.wait_for(engine.open("Triage.", PROMPT).turn(Sampling()), 10)
            finally:
                released.set()
        released.clear()


async def test_a_server_that_is_away_or_an_engine_that_is_stopped_say_so(connected: Any) -> None:
    """No server, no start, and a stop during a turn are all `EngineUnavailable`, each with its reason."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        away = OpenAiEngine(f"http://127.0.0.1:{held.getsockname()[1]}", "base")
    with pytest.raises(EngineUnavailable, match="start it"):
        await away.open("Triage.", PROMPT).turn(Sampling())
    await away.start()
    with pytest.raises(EngineUnavailable, match="cannot be asked: ConnectError"):
        await away.open("Triage.", PROMPT).turn(Sampling())
    await away.stop()

    asked, released = asyncio.Event(), asyncio.Event()

    async def hang(_: dict[str, Any]) -> Response:
        asked.set()
        await released.wait()
        return completion("late")

    async with connected(FakeServer(hang)) as engine:
        turn = asyncio.create_task(engine.open("Triage.", PROMPT).turn(Sampling()))
        await asked.wait()
        await engine.stop()
        with pytest.raises(EngineUnavailable, match="stopped"):
            await asyncio.wait_for(turn, 10)
        released.set()


async def test_adapters_are_the_models_that_the_server_lists(connected: Any) -> None:
    """Without loading, an adapter is usable once the server lists it; a turn names it as the model."""
    server = FakeServer(completion(ANSWER), models=("base", "cloud-v1"))
    async with connected(server) as engine:
        with pytest.raises(EngineUnavailable, match="'cloud-v1' is not loaded"):
            engine.open("Triage.", PROMPT, "cloud-v1")
        with pytest.raises(EngineUnavailable, match=r"no such model, only \['base', 'cloud-v1'\]"):
            await engine.load_adapter("cloud-v2", Path("/adapters/cloud-v2"))
        await engine.load_adapter("cloud-v1", Path("/adapters/cloud-v1"))
        assert engine.adapters == {"cloud-v1"}
        await engine.open("Triage.", PROMPT, "cloud-v1").turn(Sampling())
        await engine.chat([{"role": "user", "content": "x"}], "cloud-v1", Sampling())
        await engine.unload_adapter("cloud-v1")
        await engine.unload_adapter("cloud-v1")
        with pytest.raises(EngineUnavailable, match="not loaded"):
            await engine.chat([{"role": "user", "content": "x"}], "cloud-v1", Sampling())
    assert [asked["model"] for asked in server.asked] == ["cloud-v1", "cloud-v1"]
    assert server.posted == []


async def test_a_server_without_a_list_is_believed(connected: Any) -> None:
    """Where there is no list of models, the name is taken as it is."""
    async with connected(FakeServer(completion(ANSWER), models=None)) as engine:
        await engine.load_adapter("cloud-v1", Path("x"))
        assert engine.adapters == {"cloud-v1"}


async def test_adapters_are_loaded_where_that_is_allowed(connected: Any) -> None:
    """vLLM's API gets name and folder; what it holds already is not sent again; a refusal is not held as loaded."""
    refused = JSONResponse({"error": {"message": "LoRA rank 64 is greater than max_lora_rank 16."}}, 400)
    server = FakeServer(PlainTextResponse("Success"), refused, Response(status_code=404), models=("base", "there"))
    async with connected(server, allow_loading=True) as engine:
        await engine.load_adapter("cloud-v1", Path("/adapters/cloud-v1"))
        await engine.load_adapter("cloud-v1", Path("/adapters/cloud-v1"))
        await engine.load_adapter("there", Path("/adapters/there"))
        with pytest.raises(EngineUnavailable, match="rank 64"):
            await engine.load_adapter("cloud-v2", Path("/adapters/cloud-v2"))
        assert engine.adapters == {"cloud-v1", "there"}
        await engine.unload_adapter("cloud-v1")
        assert engine.adapters == {"there"}
    assert server.posted == [
        ("load_lora_adapter", {"lora_name": "cloud-v1", "lora_path": "/adapters/cloud-v1"}),
        ("load_lora_adapter", {"lora_name": "cloud-v2", "lora_path": "/adapters/cloud-v2"}),
        ("unload_lora_adapter", {"lora_name": "cloud-v1"}),
    ]


async def test_an_adapter_that_the_server_lost_is_loaded_again(connected: Any) -> None:
    """By a restart, or by another replica's word: the turn that finds out is answered all the same."""
    missing, loaded = JSONResponse({"message": "no such model"}, 404), Response()
    server = FakeServer(loaded, missing, loaded, completion(ANSWER))
    async with connected(server, allow_loading=True) as engine:
        await engine.load_adapter("cloud-v1", Path("/cache/cloud-v1"))
        session = engine.open("s", "u", "cloud-v1")
        assert ANSWER == (await session.turn(Sampling())).text
    told = ("load_lora_adapter", {"lora_name": "cloud-v1", "lora_path": "/cache/cloud-v1"})
    assert [told, told] == server.posted


async def test_chat_maps_tool_messages(connected: Any) -> None:
    """A conversation in the OpenAI form is sent as it is, but that tool results go as user text."""
    server = FakeServer(completion("fine"))
    roles = ("system", "user", "assistant", "tool")
    async with connected(server) as engine:
        turn = await engine.chat([{"role": role, "content": role} for role in roles], None, Sampling())
    assert turn.text == "fine"
    assert [message["role"] for message in server.asked[0]["messages"]] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, SpecError), (413, SpecError), (422, SpecError), (404, EngineUnavailable), (503, EngineUnavailable)],
)
async def test_a_conversation_that_the_server_refuses_is_its_callers_error(
    connected: Any, status: int, error: type[Exception]
) -> None:
    """What is too long for the server stays so; a server that is away or has no such model is another matter."""
    async with connected(FakeServer(JSONResponse({"error": {"message": "maximum context length"}}, status))) as engine:
        with pytest.raises(error, match=f"status {status}.*maximum context"):
            await engine.chat([{"role": "user", "content": "x"}], None, Sampling())


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x/v1", "http://", "/v1", "http://[::1"])
def test_urls_that_are_none_are_refused(url: str) -> None:
    """A URL that cannot be asked is named before anything starts."""
    with pytest.raises(SpecError, match="engine url"):
        OpenAiEngine(url, "base")


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("http://h:8000", "http://h:8000/v1"),
        ("http://h:8000/", "http://h:8000/v1"),
        ("http://h:8000/v1/", "http://h:8000/v1"),
        ("https://h/proxy/openai", "https://h/proxy/openai"),
    ],
)
def test_the_roots_path_is_added_to_a_bare_host_only(url: str, root: str) -> None:
    """A path is taken as it is; a bare host gets `/v1`."""
    assert root == OpenAiEngine(url, "base")._root


def test_digests_are_what_is_known() -> None:
    """The template's digest is the text protocol's on any server; the base's is what the owner says."""
    one, two = OpenAiEngine("http://a", "x", base_digest="sha256:1"), OpenAiEngine("http://b", "y")
    assert one.template_digest == two.template_digest
    assert (one.base_digest, two.base_digest) == ("sha256:1", "")


async def test_a_whole_investigation_over_http(connected: Any, answers: Any) -> None:
    """The loop is the same as in process: a call, its result, a cited verdict, and the server's token counts."""
    server = FakeServer(
        completion(render_call("dns", {"user": "mlee"}), usage=(50, 11)), completion(ANSWER, usage=(80, 21))
    )
    async with connected(server) as engine:
        found = await investigate(Alert({"title": "x"}), answers(dns=lambda _: "known=yes"), engine)
    trajectory = found.trajectory
    assert (trajectory.verdict, trajectory.citations, trajectory.ungrounded) == (Verdict.FALSE_POSITIVE, ("e1",), 0)
    assert (trajectory.tokens_generated, trajectory.tokens_read) == (32, 69)
    assert found.tokens is None
    assert json.dumps(server.asked[1]["messages"]).count("[e1] known=yes") == 1
