"""A real MCP server over standard input and output: the sign-ins of a user, under the name on its command line."""

import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("telemetry")


def answer(user: str) -> str:
    """One line, the same for every alert."""
    return f"device=known; user={user}"


server.tool(name=sys.argv[1], description="Sign-ins of a user.")(answer)
server.run()
