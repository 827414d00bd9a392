"""The engine and the tools that a pool's spec asks for. Called by every engine replica as it starts; blocks.

What is heavy is imported where it is used: the gateway reads this module too, and needs none of it.
"""

from socadapter_agent.base_model import resolve_base
from socadapter_agent.engine import Engine
from socadapter_api.errors import SpecError
from socadapter_api.model import parse_duration
from socadapter_api.pool import EngineKind
from socadapter_api.training import Precision
from socadapter_serve.config import ServeConfig, base_model_name
from socadapter_serve.toolbox_keeper import ToolboxKeeper

ENGINE_KEY = "engine"
"""Under this name the configuration's tokens hold the API key of an engine behind HTTP."""

_DEFAULT_TOOL_TIMEOUT_S = 10.0


def build_engine(config: ServeConfig, precision: Precision | None = None) -> Engine:
    """The engine of the pool, not started. `precision` is the base's; None: the pool's.

    Raises:
        BaseNotFound, BaseMismatch: as `resolve_base`.
        SpecError: the kind of engine is not part of this installation.
    """
    spec = config.spec
    if spec.engine.kind is EngineKind.TRANSFORMERS:
        return _transformers(config, precision or spec.engine.precision)
    if spec.engine.kind is EngineKind.OPENAI and spec.engine.url is not None:
        from socadapter_agent.openai_engine import OpenAiEngine

        return OpenAiEngine(
            spec.engine.url,
            base_model_name(spec),
            config.tokens.get(ENGINE_KEY),
            base_digest=spec.base.digest or "",
            allow_loading=True,
        )
    raise SpecError(
        f"engine kind {spec.engine.kind.value!r} does not run inside the application: "
        "start that server beside it and name it with kind 'openai' and its url"
    )


def prepare(config: ServeConfig) -> None:
    """Puts the base in its place once, before several replicas look for it; raises as `build_engine`."""
    if config.spec.engine.kind is EngineKind.TRANSFORMERS:
        resolve_base(config.spec.base, config.cache_dir)


def _transformers(config: ServeConfig, precision: Precision) -> Engine:
    from socadapter_agent.precision import dtype_of
    from socadapter_agent.transformers_engine import TransformersEngine

    base = resolve_base(config.spec.base, config.cache_dir)
    return TransformersEngine(
        base.path,
        base_digest=base.digest,
        max_batch=config.spec.engine.max_batch,
        max_adapters=config.spec.max_loras,
        max_chat_tokens=config.limits.max_chat_tokens,
        threads=max(1, int(config.num_cpus)) if config.num_cpus is not None else None,
        dtype=dtype_of(precision),
    )


def build_tools(config: ServeConfig) -> ToolboxKeeper:
    """The keeper of the pool's tool servers, not connected."""
    from socadapter_agent.mcp_tools import McpToolbox

    servers, tokens = config.spec.tools, config.tool_tokens()
    timeouts_s = [parse_duration(server.timeout).total_seconds() for server in servers]
    return ToolboxKeeper(
        lambda: McpToolbox(servers, tokens), timeout_s=max(timeouts_s, default=_DEFAULT_TOOL_TIMEOUT_S)
    )
