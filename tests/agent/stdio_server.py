"""An MCP server over standard input and output, for the tests.

It ends when asked about `crash`, and about a path where there is nothing yet: once, since it leaves a file there.
"""

import os
from pathlib import Path

from mcp.server.mcpserver import MCPServer

server = MCPServer("stdio", log_level="ERROR")


@server.tool(description="Owner of a host.")
def owner(host: str) -> str:
    if host == "crash":
        os._exit(3)
    if host.startswith("/") and not Path(host).exists():
        Path(host).touch()
        os._exit(3)
    return f"host={host} owner=finance"


if __name__ == "__main__":
    server.run("stdio")
