"""What the scripted engines of these tests have in common: no adapters to load, and no chats."""

from pathlib import Path

from socadapter_agent.engine import Sampling, Turn
from socadapter_api.errors import EngineUnavailable


class EngineWithoutModel:
    """All of an engine but its conversations."""

    base_digest = template_digest = ""
    adapters: frozenset[str] = frozenset()
    precision = None

    async def start(self) -> None:
        return

    async def stop(self) -> None:
        return

    async def load_adapter(self, name: str, directory: Path) -> None:
        raise EngineUnavailable(name)

    async def unload_adapter(self, name: str) -> None:
        raise EngineUnavailable(name)

    async def chat(self, messages: list[dict[str, str]], adapter: str | None, sampling: Sampling) -> Turn:
        raise EngineUnavailable("not for chats")
