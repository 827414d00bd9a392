"""An MCP server over standard input and output, for the tests; it ends when asked about `crash`."""

import os

from mcp.server.mcpserver import MCPServer

server = MCPServer("stdio", log_level="ERROR")


@server.tool(description="Owner of a host.")
def owner(host: str) -> str:
    if host == "crash":
        os._exit(3)
    return f"host={host} owner=finance"


if __name__ == "__main__":
    server.run("stdio")
