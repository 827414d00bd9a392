"""What the investigation loop asks of a model: sessions that keep their conversation, and turns sampled in them.

Implementations: `transformers_engine.TransformersEngine` (in process, batched over all open sessions, adapters mixed)
and `openai_engine.OpenAiEngine` (any OpenAI-compatible server, vLLM included). An in-process vLLM engine fits the same
protocol: a session is a token list, an adapter is a name that was loaded before.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from socadapter_api.training import Precision


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one turn is sampled. Temperature 0 is greedy, the default at serving and evaluation.

    `stop_at_verdict` ends a turn once its verdict is said, `stop_when_hopeless` once nothing that follows could make it
    a turn of the protocol; an engine that sees a turn only when it has ended may pass over the latter.
    """

    temperature: float = 0.0
    max_turn_tokens: int = 96
    stop_at_verdict: bool = False
    stop_when_hopeless: bool = False
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One sampled turn.

    `token_ids` are exactly the ids that the model sampled, end-of-turn included where it was sampled; `logprobs` are
    theirs under the distribution that was sampled from (at temperature 1 where sampling is greedy). `probabilities` are
    over `case.ANSWERS` at the verdict's first token, where the turn is an answer. `truncated`: the token limit ended
    the turn. `tokens_sampled` counts them where an engine sees no ids.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    probabilities: tuple[float, float, float, float] | None = None
    truncated: bool = False
    tokens_read: int = 0
    tokens_sampled: int = 0


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A conversation as the token ids that were really read and sampled, for training on exactly those.

    `mask` is 1 where the model sampled the token, 0 where the environment wrote it; `ids`, `mask` and `logprobs` cover
    everything after the prompt and have one length.
    """

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    mask: tuple[int, ...]
    logprobs: tuple[float, ...]


class Session(Protocol):
    """One conversation."""

    async def turn(self, sampling: Sampling) -> Turn:
        """Samples the next assistant turn and appends it to the conversation."""
        ...

    def add_result(self, text: str) -> None:
        """Appends a tool's answer; the next `turn` reads it."""
        ...

    @property
    def context_tokens(self) -> int:
        """Tokens in the conversation so far."""
        ...

    def record(self) -> TokenRecord | None:
        """The conversation's tokens; None where the engine does not see them."""
        ...

    def close(self) -> None:
        """Frees what the engine keeps for the conversation."""
        ...


class Engine(Protocol):
    """A model with adapters by name."""

    @property
    def base_digest(self) -> str: ...

    @property
    def template_digest(self) -> str: ...

    @property
    def precision(self) -> Precision | None:
        """The number format of the base's weights; None where a server does not tell."""
        ...

    @property
    def adapters(self) -> frozenset[str]: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def load_adapter(self, name: str, directory: Path) -> None: ...

    async def unload_adapter(self, name: str) -> None: ...

    def open(self, system: str, user: str, adapter: str | None = None) -> Session: ...

    async def chat(self, messages: list[dict[str, str]], adapter: str | None, sampling: Sampling) -> Turn: ...
