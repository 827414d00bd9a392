"""The OpenAI-compatible part of the API: what a chat request may ask for, and answers in that form. Pure.

What would change the answer and is not supported is refused by name; what cannot change it is ignored. The whole
answer is made before the first streamed byte, so that an error still has its status code.
"""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from socadapter_agent.engine import Sampling
from socadapter_api.errors import SpecError
from socadapter_api.serving_table import ServedVersion
from socadapter_serve.messages import ChatJob, ChatOutcome, Wire
from socadapter_serve.routing import Answerer

_IGNORED = frozenset(
    {
        "user", "metadata", "store", "service_tier", "stream_options", "parallel_tool_calls", "safety_identifier",
        "prompt_cache_key",
    }
)  # fmt: skip
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "top_p": (None, 1, 1.0),
    "frequency_penalty": (None, 0, 0.0),
    "presence_penalty": (None, 0, 0.0),
    "logprobs": (None, False),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
}
_PIECE_CHARACTERS = 64


class TextPart(Wire):
    """One text part of a message."""

    type: Literal["text"]
    text: str


class Message(Wire):
    """One message of the conversation."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | tuple[TextPart, ...] = ""

    def flat(self) -> dict[str, str]:
        """The message as the engine takes it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class ChatRequest(Wire):
    """What ``POST /v1/chat/completions`` takes."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(min_length=1, max_length=256)]
    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=1024)]
    stream: bool = False
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    max_tokens: int | None = Field(default=None, ge=1, le=8192)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=8192)
    seed: int | None = Field(default=None, ge=0)
    stop: str | tuple[str, ...] | None = None

    def refuse_unsupported(self) -> None:
        """Refuses options that would change the answer and that no engine here honours.

        Raises:
            SpecError: the first such option.
        """
        for name, value in (self.model_extra or {}).items():
            if name not in _IGNORED and value not in _NEUTRAL.get(name, (None,)):
                raise SpecError(f"option {name!r} with {value!r} is not supported: leave it out")

    @property
    def wants_usage(self) -> bool:
        """Whether the stream ends with a chunk of token counts."""
        options = (self.model_extra or {}).get("stream_options")
        return isinstance(options, dict) and bool(options.get("include_usage"))

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts before which the answer is cut."""
        found = (self.stop,) if isinstance(self.stop, str) else (self.stop or ())
        return tuple(text for text in found if text)

    def job(self, version: ServedVersion | None) -> ChatJob:
        """The request as an engine takes it. Temperature 0 where none is given: triage wants the same answer twice."""
        sampling = Sampling(
            temperature=self.temperature or 0.0,
            max_turn_tokens=self.max_completion_tokens or self.max_tokens or 256,
            seed=self.seed,
        )
        return ChatJob(tuple(message.flat() for message in self.messages), version, sampling)


def cut(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """`text` up to the first of `stops`, and whether there was one."""
    ends = [found for stop in stops if (found := text.find(stop)) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)


def completion(
    request: ChatRequest, outcome: ChatOutcome, answerer: Answerer, identifier: str, created: int
) -> dict[str, Any]:
    """The answer as one object. OpenAI's name for the digest of what answered is `system_fingerprint`."""
    text, reason = _text_and_reason(request, outcome)
    return {
        "id": identifier,
        "object": "chat.completion",
        "created": created,
        "model": answerer.version,
        "system_fingerprint": answerer.digest or None,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": reason,
                "logprobs": None,
            }
        ],
        "usage": _usage(outcome),
    }


def chunks(
    request: ChatRequest, outcome: ChatOutcome, answerer: Answerer, identifier: str, created: int
) -> Iterator[str]:
    """The answer as server-sent events."""
    text, reason = _text_and_reason(request, outcome)
    head = {
        "id": identifier,
        "object": "chat.completion.chunk",
        "created": created,
        "model": answerer.version,
        "system_fingerprint": answerer.digest or None,
    }

    def event(delta: dict[str, str], finish: str | None = None) -> str:
        return _event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    yield event({"role": "assistant", "content": ""})
    for start in range(0, len(text), _PIECE_CHARACTERS):
        yield event({"content": text[start : start + _PIECE_CHARACTERS]})
    yield event({}, reason)
    if request.wants_usage:
        yield _event({**head, "choices": [], "usage": _usage(outcome)})
    yield "data: [DONE]\n\n"


def _text_and_reason(request: ChatRequest, outcome: ChatOutcome) -> tuple[str, str]:
    text, stopped = cut(outcome.text, request.stops)
    return text, "length" if outcome.truncated and not stopped else "stop"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _usage(outcome: ChatOutcome) -> dict[str, int]:
    read, generated = outcome.tokens_read, outcome.tokens_generated
    return {"prompt_tokens": read, "completion_tokens": generated, "total_tokens": read + generated}
