"""What the walk-through learns from and asks: a tiny base that knows the protocol, labelled alerts, a tool server."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.controlplane.processes import free_port
from tests.jobs.conftest import make_cases, make_expert, make_model, make_tokenizer, teach_protocol

from socadapter_api.case import Case
from socadapter_jobs.data import case_files

SENSORS = {"cloud-infrastructure": "cloud", "corporate-network": "corporate"}
"""By context, the value by which its adapter's expression knows an alert."""

ALERTS = 40
TOOL_TOKEN = "token-of-the-tool-server"
SIGN_INS = "device=unknown; city=Graz"
_LAST_LOSS = 0.3


@dataclass(frozen=True)
class World:
    """A base, the folder with each context's files, and the address of the tools."""

    base: Path
    data: Path
    tools: str


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """A world below `folder`, whose tools answer as long as the context is open."""
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    cases = {context: _cases(context) for context in SENSORS}
    loss = teach_protocol(model, tokenizer, cases=[case for some in cases.values() for case in some])
    assert loss < _LAST_LOSS, f"the tiny base did not learn the protocol: loss {loss}"
    tokenizer.save_pretrained(folder / "base")
    model.save_pretrained(folder / "base")
    for context, some in cases.items():
        case_files.write_cases(str(folder / "data" / context / "alerts.jsonl"), some)
        experts = [make_expert(case) for case in some]
        case_files.write_trajectories(str(folder / "data" / context / "trajectories.jsonl"), experts)
    with _tool_server() as url:
        yield World(folder / "base", folder / "data", url)


def _cases(context: str) -> list[Case]:
    return [
        case.model_copy(update={"context": context, "alert": {"sensor": SENSORS[context], **case.alert}})
        for case in make_cases(ALERTS)
    ]


@contextmanager
def _tool_server() -> Iterator[str]:
    """A real MCP server with the tools of the cases, which knows its callers by a token; its URL."""
    import uvicorn
    from mcp.server.mcpserver import MCPServer

    mcp = MCPServer("telemetry")
    mcp.tool(name="signins", description="")(lambda: SIGN_INS)
    mcp.tool(name="assets", description="")(lambda: "owner=ann; tier=1")
    inner: Any = mcp.streamable_http_app()

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        shown = dict(scope.get("headers") or ()).get(b"authorization")
        if scope["type"] == "http" and shown != f"Bearer {TOOL_TOKEN}".encode():
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await inner(scope, receive, send)

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(guarded, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.02)
    try:
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        server.should_exit = True
        thread.join(10)
