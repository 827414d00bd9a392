"""An engine behind HTTP: any server that speaks OpenAI's chat completions, vLLM included.

The conversation is kept here as messages and sent whole each turn; batching, caches and the chat template are the
server's. What the server does not show is not made up: there are no token ids, and so no record to train on. Verdict
probabilities come from its `top_logprobs`. Adapters are model names on the server: loaded over vLLM's API where that
is allowed, else expected to be there. An error carries the server's words, never the conversation.
"""

import asyncio
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, Field, ValidationError

from socadapter_agent import protocol
from socadapter_agent.engine import Sampling, Turn
from socadapter_api import digest
from socadapter_api.case import ANSWERS, Verdict
from socadapter_api.errors import EngineUnavailable, SpecError

TOP_LOGPROBS = 20
"""As many as OpenAI and vLLM give."""

_AFTER_VERDICT = '", "summary"'
_CHARACTERS_PER_TOKEN = 3
_MISSING = 404
_MAX_WORDS = 300
_QUOTED_CHARACTERS = 16

_log = logging.getLogger(__name__)


class _Candidate(BaseModel):
    token: str
    logprob: float


class _Position(_Candidate):
    top_logprobs: tuple[_Candidate, ...] = ()


class _Logprobs(BaseModel):
    content: tuple[_Position, ...] | None = None


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(BaseModel):
    choices: tuple[_Choice, ...] = Field(min_length=1)
    usage: _Usage | None = None


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: tuple[_Model, ...]


class OpenAiSession:
    """One conversation; see `engine.Session`. The server keeps nothing of it."""

    def __init__(self, engine: "OpenAiEngine", messages: list[dict[str, str]], adapter: str | None) -> None:
        self._engine = engine
        self._messages = messages
        self._adapter = adapter
        self._counted = 0
        self._uncounted_characters = sum(len(message["content"]) for message in messages)

    @property
    def context_tokens(self) -> int:
        """What the server counted, and an estimate for what it has not read yet."""
        return self._counted + math.ceil(self._uncounted_characters / _CHARACTERS_PER_TOKEN)

    async def turn(self, sampling: Sampling) -> Turn:
        turn, context_tokens = await self._engine.complete(self._messages, self._adapter, sampling, self._counted)
        self._messages.append({"role": "assistant", "content": turn.text})
        if context_tokens:
            self._counted, self._uncounted_characters = context_tokens, 0
        else:
            self._uncounted_characters += len(turn.text)
        return turn

    def add_result(self, text: str) -> None:
        self._messages.append({"role": self._engine.result_role, "content": text})
        self._uncounted_characters += len(text)

    def record(self) -> None:
        """None: the server shows no token ids."""

    def close(self) -> None:
        """Nothing is kept on the server."""


class _Refused(EngineUnavailable):
    """The server will not take what it was asked, however often."""


class _NotUnderstood(_Refused):
    """Something in it, or all of it, is not to the server's taste."""


_REFUSALS: dict[int, type[EngineUnavailable]] = {400: _NotUnderstood, 413: _Refused, 422: _NotUnderstood}


class OpenAiEngine:
    """See the module.

    Args:
        url: the API's root, such as ``http://127.0.0.1:8000/v1``; ``/v1`` is added to a bare host.
        model: the base's name on the server.
        api_key: sent as a bearer token; empty or None for none.
        verdict_logprobs: ask for `top_logprobs`. A server that refuses them is not asked for them again; there are no
            probabilities then.
        base_digest: of the base that the server is known to run; empty where that is not known.
        allow_loading: load and unload adapters over vLLM's API (``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1`` on the
            server, which must see the same files). Else adapters are models that the server already lists.
        result_role: under which role tool results are sent. The protocol is text: ``user`` works everywhere.
        timeout_s: for one turn, from the request to the last byte.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key: str | None = None,
        *,
        verdict_logprobs: bool = True,
        base_digest: str = "",
        allow_loading: bool = False,
        result_role: str = "user",
        timeout_s: float = 120.0,
    ) -> None:
        self._root = _root(url)
        self._model = model
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._verdict_logprobs = verdict_logprobs
        self._base_digest = base_digest
        self._allow_loading = allow_loading
        self.result_role = result_role
        self._timeout_s = timeout_s
        self._client: httpx.AsyncClient | None = None
        self._adapters: dict[str, Path] = {}
        self._loading = asyncio.Lock()

    @property
    def base_digest(self) -> str:
        return self._base_digest

    @property
    def template_digest(self) -> str:
        """The same for every server: its chat template cannot be seen, only the text protocol is ours."""
        return digest.of_json(["messages", self.result_role, protocol.system_prompt(())])

    @property
    def precision(self) -> None:
        """The server's own affair."""
        return None

    @property
    def adapters(self) -> frozenset[str]:
        return frozenset(self._adapters)

    async def start(self) -> None:
        """Opens the connection pool; the server itself is first asked when it is first needed."""
        if self._client is None:
            self._client = httpx.AsyncClient(headers=self._headers, timeout=self._timeout_s)

    async def stop(self) -> None:
        """Closes the connections; turns under way fail with `EngineUnavailable`."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def load_adapter(self, name: str, directory: Path) -> None:
        """Makes `name` usable: loaded from `directory`, or found among the server's models.

        Raises:
            EngineUnavailable: the server refused it, or lists no such model.
        """
        if name in self._adapters:
            return
        await self._offer(name, directory)
        self._adapters[name] = directory

    async def unload_adapter(self, name: str) -> None:
        """Forgets an adapter; unknown names are ignored."""
        if name not in self._adapters:
            return
        del self._adapters[name]
        if self._allow_loading:
            await self._send("POST", "unload_lora_adapter", {"lora_name": name}, fine=(_MISSING,))

    def open(self, system: str, user: str, adapter: str | None = None) -> OpenAiSession:
        self._check(adapter)
        return OpenAiSession(self, [_message("system", system), _message("user", user)], adapter)

    async def chat(self, messages: list[dict[str, str]], adapter: str | None, sampling: Sampling) -> Turn:
        """One answer to a conversation in the OpenAI form; nothing is kept.

        Raises:
            SpecError: the server refuses the conversation, as too long or of a form that its template has not.
        """
        self._check(adapter)
        roles = {"tool": self.result_role}
        sent = [_message(roles.get(message["role"], message["role"]), message["content"]) for message in messages]
        try:
            turn, _ = await self.complete(sent, adapter, sampling)
        except _Refused as error:
            raise SpecError(str(error)) from error
        return turn

    async def complete(
        self, messages: list[dict[str, str]], adapter: str | None, sampling: Sampling, counted: int = 0
    ) -> tuple[Turn, int]:
        """One turn, and how many tokens the conversation then has by the server's count (0: it does not count).

        `counted` of them were there before; what is more than that was read in this turn.
        """
        request = self._request(messages, adapter, sampling)
        done = await self._completion(request)
        if "stop" in request and not _is_turn(done.choices[0].message.content or ""):
            del request["stop"]  # it stood in something other than an answer: a turn must not be cut there
            done = await self._completion(request)
        choice, usage = done.choices[0], done.usage or _Usage()
        positions = (choice.logprobs.content if choice.logprobs else None) or ()
        turn = Turn(
            text=choice.message.content or "",
            probabilities=answer_probabilities(positions),
            truncated=choice.finish_reason == "length",
            tokens_read=max(usage.prompt_tokens - counted, 0),
            tokens_sampled=usage.completion_tokens,
        )
        return turn, usage.prompt_tokens + usage.completion_tokens

    async def _offer(self, name: str, directory: Path) -> None:
        """Has the server load an adapter that it does not list; raises as `load_adapter`."""
        async with self._loading:
            listed = await self._listed()
            if self._allow_loading and (listed is None or name not in listed):
                await self._send("POST", "load_lora_adapter", {"lora_name": name, "lora_path": str(directory)})
            elif listed is not None and name not in listed:
                raise EngineUnavailable(
                    f"adapter {name!r}: the server at {self._root} lists no such model, only {sorted(listed)}; "
                    "start it with that adapter, or let it load adapters at run time"
                )

    def _check(self, adapter: str | None) -> None:
        if adapter is not None and adapter not in self._adapters:
            raise EngineUnavailable(f"adapter {adapter!r} is not loaded; loaded: {sorted(self._adapters)}")

    def _request(self, messages: list[dict[str, str]], adapter: str | None, sampling: Sampling) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": adapter or self._model,
            "messages": messages,
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_turn_tokens,
        }
        if sampling.seed is not None:
            request["seed"] = sampling.seed
        if self._verdict_logprobs:
            request |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        if sampling.stop_at_verdict:
            request["stop"] = [_AFTER_VERDICT]
        return request

    async def _completion(self, request: dict[str, Any]) -> _Completion:
        """The answer; where the server takes the request without log probabilities only, they are left out of it."""
        try:
            return await self._answered(request)
        except _NotUnderstood as error:
            if "logprobs" not in request:
                raise
            refusal = error
        del request["logprobs"], request["top_logprobs"]
        done = await self._answered(request)
        if self._verdict_logprobs:
            self._verdict_logprobs = False
            _log.warning("logprobs_refused server=%s error=%s", self._root, refusal)
        return done

    async def _answered(self, request: dict[str, Any]) -> _Completion:
        directory = self._adapters.get(request["model"]) if self._allow_loading else None
        response = await self._send("POST", "chat/completions", request, fine=(_MISSING,) if directory else ())
        if directory and response.status_code == _MISSING:
            # The server was started anew, or another replica took the adapter from it.
            await self._offer(request["model"], directory)
            response = await self._send("POST", "chat/completions", request)
        try:
            return _Completion.model_validate_json(response.content)
        except ValidationError as error:
            raise self._not_understood("chat completion", error) from None

    async def _listed(self) -> frozenset[str] | None:
        """The models that the server names; None where it has no such list."""
        response = await self._send("GET", "models", fine=(404, 405))
        if response.is_error:
            return None
        try:
            return frozenset(model.id for model in _Models.model_validate_json(response.content).data)
        except ValidationError as error:
            raise self._not_understood("list of models", error) from None

    def _not_understood(self, what: str, error: ValidationError) -> EngineUnavailable:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the whole"
        return EngineUnavailable(f"the server at {self._root} answered with something other than a {what}: see {where}")

    async def _send(
        self, method: str, path: str, body: dict[str, Any] | None = None, fine: Iterable[int] = ()
    ) -> httpx.Response:
        client = self._client
        if client is None:
            raise EngineUnavailable("the engine is not running: start it before asking for a turn")
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await client.request(method, f"{self._root}/{path}", json=body)
        except (TimeoutError, httpx.TimeoutException):
            raise EngineUnavailable(f"the server at {self._root} gave no answer in {self._timeout_s:g} s") from None
        except (httpx.HTTPError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and self._client is client:
                raise
            what = "the engine was stopped" if self._client is not client else f"{type(error).__name__}: {error}"
            raise EngineUnavailable(f"the server at {self._root} cannot be asked: {what}") from error
        if not response.is_success and response.status_code not in fine:
            kind = _REFUSALS.get(response.status_code, EngineUnavailable)
            raise kind(
                f"the server at {self._root} refused {path} with status {response.status_code}: "
                f"{_words(response, body or {})}"
            )
        return response


def answer_probabilities(positions: Sequence[_Position]) -> tuple[float, float, float, float] | None:
    """Probabilities over `ANSWERS` from the candidates at the verdict's first token, found by the text before it.

    A candidate counts for the answer that it begins. None where the turn is no answer, or no candidate begins one.
    """
    said = ""
    for position in positions:
        reached = said + position.token
        if reached.startswith(protocol.VERDICT_PREFIX) and reached != protocol.VERDICT_PREFIX:
            return _over_answers({said + item.token: item.logprob for item in (position, *position.top_logprobs)})
        said = reached.lstrip()
        if not protocol.VERDICT_PREFIX.startswith(said):
            return None
    return None


def _over_answers(logprobs: Mapping[str, float]) -> tuple[float, float, float, float] | None:
    mass = dict.fromkeys(ANSWERS, 0.0)
    for text, logprob in logprobs.items():
        begun = _begun_by(text)
        if begun is not None:
            mass[begun] += math.exp(logprob)
    total = sum(mass.values())
    if not total:
        return None
    first, second, third, fourth = (mass[answer] / total for answer in ANSWERS)
    return first, second, third, fourth


def _begun_by(text: str) -> Verdict | None:
    """The only answer that `text`, which ends in or after the verdict's first token, can become."""
    value = text.removeprefix(protocol.VERDICT_PREFIX)
    if value in ("", text):
        return None
    begun = [answer for answer in ANSWERS if answer.startswith(value) or value.startswith(answer)]
    return begun[0] if len(begun) == 1 else None


def _is_turn(text: str) -> bool:
    return protocol.parse_head(text) is not None or not isinstance(protocol.parse_turn(text), protocol.Malformed)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _root(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise SpecError(f"engine url {url!r} is not a URL: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise SpecError(f"engine url {url!r} is not of the form http://host:port/v1")
    return (url if parsed.path.strip("/") else f"{str(parsed).rstrip('/')}/v1").rstrip("/")


def _words(response: httpx.Response, body: Mapping[str, Any]) -> str:
    """What the server says went wrong, without a word of the conversation, which some servers repeat."""
    try:
        said = response.json()
    except (ValueError, UnicodeDecodeError):
        said = response.text
    for key in ("error", "message", "detail"):
        if isinstance(said, dict) and key in said:
            said = said[key]
    text = said if isinstance(said, str) else json.dumps(said)
    text = text.strip()[:_MAX_WORDS] or response.reason_phrase
    if any(_quotes(text, message["content"]) for message in body.get("messages", ())):
        return "(its words repeat the conversation and are withheld)"
    return text


def _quotes(text: str, content: str) -> bool:
    """Whether `text` repeats a stretch of `content`."""
    size = min(_QUOTED_CHARACTERS, len(content))
    return size > 3 and any(text[start : start + size] in content for start in range(len(text) - size + 1))
