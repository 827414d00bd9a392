"""A tiny base, adapters for it, engines on it, and alerts. What needs torch is imported by who asks for it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from socadapter_agent.tools import ToolAnswer, ToolSpec
from socadapter_api.case import Alert


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Any]:
    from tests.agent.tiny_models import byte_tokenizer

    return byte_tokenizer


@pytest.fixture(scope="session")
def tokenizer(make_tokenizer: Callable[..., Any]) -> Any:
    return make_tokenizer()


@pytest.fixture(scope="session")
def base_dir(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base on disk."""
    import torch
    from tests.agent.tiny_models import tiny_config
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny") / "base"
    torch.manual_seed(0)
    LlamaForCausalLM(tiny_config(len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(base_dir: Path) -> Any:
    """The tiny base in memory, for what the engine is compared with."""
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(base_dir).eval()


@pytest.fixture(scope="session")
def adapters(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three adapters with random weights, which say other things than the base and each other."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    folders = {}
    for seed, name in enumerate(("cloud-v1", "corporate-v1", "cloud-v2"), start=1):
        torch.manual_seed(seed)
        settings = LoraConfig(
            r=2 * seed,
            lora_alpha=8 * seed,
            target_modules=["q_proj", "v_proj", "down_proj"],
            init_lora_weights=False,
            task_type="CAUSAL_LM",
        )
        adapted = get_peft_model(LlamaForCausalLM.from_pretrained(base_dir), settings)
        with torch.no_grad():
            for key, parameter in adapted.named_parameters():
                if "lora_" in key:
                    parameter.normal_(0.0, 0.3)
        folders[name] = tmp_path_factory.mktemp("adapter") / name
        adapted.save_pretrained(folders[name])
    return folders


@asynccontextmanager
async def running(engine: Any) -> AsyncIterator[Any]:
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


@pytest.fixture
def make_engine(base_dir: Path) -> Callable[..., Any]:
    """Starts an engine on the tiny base, as a context manager."""
    from socadapter_agent.transformers_engine import TransformersEngine

    return lambda **settings: running(TransformersEngine(base_dir, threads=1, **settings))


@pytest.fixture
def steered(tokenizer: Any) -> Callable[..., Any]:
    """Starts an engine on a model that follows a script."""
    import torch
    from tests.agent.tiny_models import Steered, tiny_config

    from socadapter_agent.transformers_engine import TransformersEngine

    def start(max_batch: int = 4) -> Any:
        torch.manual_seed(0)
        model = Steered(tiny_config(len(tokenizer))).eval()
        model.script = {}
        return running(TransformersEngine.around(model, tokenizer, max_batch=max_batch))

    return start


@asynccontextmanager
async def listening(app: Any, port: int = 0) -> AsyncIterator[str]:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(64)
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1, ws="none")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


@pytest.fixture
def serve_app() -> Callable[..., Any]:
    """Serves an ASGI application on loopback, as a context manager that gives its root URL."""
    return listening


@pytest.fixture
def alert() -> Alert:
    return Alert({"title": "Impossible travel", "user": "mlee"})


def tool_spec(name: str, argument: str) -> ToolSpec:
    properties = {argument: {"type": "string"}}
    return ToolSpec(name, f"About {name}.", {"type": "object", "properties": properties, "required": [argument]})


class Answers:
    """A toolbox of tools that take a `user`, answers from functions, and notes what it was asked."""

    def __init__(self, **tools: Callable[[Mapping[str, Any]], Any]) -> None:
        self._tools = tools
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.specs = tuple(tool_spec(name, "user") for name in tools)

    async def call(self, tool: str, args: Mapping[str, Any], alert: Alert) -> ToolAnswer:
        self.calls.append((tool, dict(args)))
        found = self._tools[tool](args)
        answer = await found if asyncio.iscoroutine(found) else found
        return answer if isinstance(answer, ToolAnswer) else ToolAnswer(answer)


@pytest.fixture
def answers() -> type[Answers]:
    return Answers
