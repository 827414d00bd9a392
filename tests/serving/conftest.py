"""A tiny base that has learned one investigation by heart, signed adapters for it, and a real MCP server with tools.

The base is a two-layer Llama over bytes. After a short training it answers one alert with a tool call and then a
cited verdict, so that everything between HTTP and MCP is exercised by a real engine.
"""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from socadapter_agent import protocol
from socadapter_agent.chat_format import chat_format
from socadapter_agent.tools import ToolSpec, tools_digest
from socadapter_api import digest
from socadapter_api.case import Alert, Verdict
from socadapter_api.manifest import Calibration, Outcome, RunResult
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ServedVersion
from socadapter_serve.config import Limits, ServeConfig
from socadapter_store import signatures
from socadapter_store.publication import publish
from socadapter_store.run_folder import RunFolder

ALERT: dict[str, Any] = {"title": "Impossible travel", "user": "mlee", "provider": "aws"}
SIGN_INS = "3 sign-ins from Vienna"
SUMMARY = "Known traveller [e1]."


def _tool(name: str, description: str, argument: str) -> ToolSpec:
    properties = {argument: {"type": "string"}}
    return ToolSpec(name, description, {"type": "object", "properties": properties, "required": [argument]})


TOOLS = (_tool("assets", "Asset inventory.", "host"), _tool("signins", "Sign-ins of a user.", "user"))

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Base:
    """The tiny base on disk, as an engine will know it."""

    path: Path
    digest: str
    template_digest: str
    tools: tuple[ToolSpec, ...] = ()


@pytest.fixture(scope="session")
def alert() -> dict[str, Any]:
    return dict(ALERT)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """The trained base; takes a few seconds."""
    from socadapter_agent.base_model import resolve_base
    from socadapter_api.training import BaseModelRef

    path = tmp_path_factory.mktemp("base")
    tokenizer = _byte_tokenizer()
    tokenizer.save_pretrained(path)
    _trained(tokenizer).save_pretrained(path)
    resolved = resolve_base(BaseModelRef(uri=str(path)), tmp_path_factory.mktemp("base-cache"))
    return Base(path, resolved.digest, chat_format(tokenizer).digest, TOOLS)


def _byte_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(alphabet)}, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token=special[1], pad_token=special[1])
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _trained(tokenizer: Any) -> Any:
    """A Llama that has learned the one investigation: the loss is on what an assistant says."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    ids, labels = _lesson(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    loss = torch.tensor(0.0)
    for _ in range(400):
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if float(loss.detach()) < 0.01:
            return model
    raise AssertionError(f"the tiny base did not learn its lesson: loss {float(loss.detach())}")


def _lesson(tokenizer: Any) -> tuple[Any, Any]:
    import torch

    chat = chat_format(tokenizer)
    turns = [
        (chat.prompt_ids(protocol.system_prompt(TOOLS), protocol.render_alert(Alert(ALERT))), False),
        (chat.turn_ids(protocol.render_call("signins", {"user": "mlee"})), True),
        (chat.result_ids(protocol.render_result("e1", SIGN_INS)), False),
        (chat.turn_ids(protocol.render_answer(Verdict.FALSE_POSITIVE, SUMMARY, ["e1"])), True),
    ]
    ids = [token for part, _ in turns for token in part]
    labels = [token if said else -100 for part, said in turns for token in part]
    return torch.tensor([ids]), torch.tensor([labels])


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> signatures.KeyPair:
    return signatures.make_key(tmp_path_factory.mktemp("key"))


@pytest.fixture(scope="session")
def make_version(
    base: Base, key: signatures.KeyPair, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., ServedVersion]:
    """Publishes a signed adapter of the tiny base. It changes nothing that the base says, but is loaded like any."""
    store = tmp_path_factory.mktemp("store")

    def publish_one(
        context: str, number: int, signer: signatures.KeyPair | None = None, **changes: Any
    ) -> ServedVersion:
        run_id = f"{context}-{number}-{digest.of_json(sorted(changes))[7:11]}{'-x' if signer else ''}"
        local = tmp_path_factory.mktemp(run_id)
        _save_adapter(base.path, local / "adapter", seed=number)
        fields = {
            "context": context,
            "namespace": "soc",
            "run_id": run_id,
            "number": number,
            "base_uri": str(base.path),
            "base_digest": base.digest,
            "base_parameters": 1,
            "template_digest": base.template_digest,
            "tools_digest": tools_digest(TOOLS),
            "calibration": Calibration(escalate_at=0.99),
            "budgets": {"max_turns": 4, "max_turn_tokens": 120},
            "config_digest": digest.of_bytes(b"config"),
            "code_digest": digest.of_bytes(b"code"),
        }
        result = RunResult(run_id=run_id, context=context, outcome=Outcome.PUBLISHED)
        run = RunFolder.at(store / run_id)
        done = publish(local, fields | changes, result, run, (signer or key).private)
        return ServedVersion(name=done.manifest.version, uri=str(store / run_id), digest=done.manifest.adapter_digest)

    return publish_one


def _save_adapter(base_path: Path, folder: Path, seed: int) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base_path)
    targets = ["q_proj", "v_proj"]
    adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=targets, task_type="CAUSAL_LM"))
    adapted.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": sorted(targets)}))


@dataclass
class ToolServerProcess:
    """The running MCP server, and what it was asked. While `gate` is clear, sign-ins are not answered."""

    url: str
    calls: list[tuple[str, dict[str, str]]]
    gate: threading.Event


@pytest.fixture(scope="session")
def tool_server() -> Iterator[ToolServerProcess]:
    """A real MCP server with two tools over streamable HTTP, in a thread."""
    import uvicorn
    from mcp.server.mcpserver import MCPServer

    calls: list[tuple[str, dict[str, str]]] = []
    mcp = MCPServer("telemetry")

    gate = threading.Event()
    gate.set()

    def signins(user: str) -> str:
        calls.append(("signins", {"user": user}))
        gate.wait(10)
        return SIGN_INS

    def assets(host: str) -> str:
        calls.append(("assets", {"host": host}))
        return f"host={host} owner=finance"

    mcp.tool(name="signins", description="Sign-ins of a user.")(signins)
    mcp.tool(name="assets", description="Asset inventory.")(assets)
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(mcp.streamable_http_app(), port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.02)
    yield ToolServerProcess(f"http://127.0.0.1:{port}/mcp", calls, gate)
    server.should_exit = True
    thread.join(10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def make_config(
    base: Base, key: signatures.KeyPair, tool_server: ToolServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., ServeConfig]:
    """A serving configuration of the tiny base and the MCP server, with changes to the pool's spec."""

    def make(
        state: Path, limits: Limits | None = None, tokens: dict[str, str] | None = None, **spec: Any
    ) -> ServeConfig:
        pool = {
            "metadata": {"name": "soc-base", "namespace": "soc"},
            "spec": {
                "base": {"uri": str(base.path)},
                "store": str(state / "store"),
                "tools": [{"name": "telemetry", "url": tool_server.url}],
                "port": free_port(),
                **spec,
            },
        }
        return ServeConfig(
            pool=SocServingPool.model_validate(pool),
            state_dir=state,
            cache_dir=state / "cache",
            trusted_keys=(key.public_pem(),),
            num_cpus=2,
            limits=limits or Limits(),
            tokens=tokens or {},
        )

    return make


@pytest.fixture
async def until() -> Callable[..., Any]:
    """Waits until a condition holds, at most so many seconds."""

    async def wait(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
        async with asyncio.timeout(seconds):
            while not (found := condition()):  # noqa: ASYNC110  it is another process, or a thread
                await asyncio.sleep(0.02)
        return found

    return wait
