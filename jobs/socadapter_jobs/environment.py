"""The tools of a run: live MCP servers where the spec names them, recorded evidence where it does not."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from socadapter_agent.mcp_tools import McpToolbox
from socadapter_agent.replay import ReplayToolbox, specs_of_cases
from socadapter_agent.tools import GuardedToolbox, JoinedToolbox, Toolbox, ToolSpec, tools_digest
from socadapter_api.case import Case
from socadapter_api.errors import SecretNotFound, ToolSchemaMismatch
from socadapter_api.model import parse_duration
from socadapter_api.training import ReplayMiss, ToolServer
from socadapter_jobs.secret_files import SECRETS_VARIABLE, secret_path

ToolboxOf = Callable[[Case], Toolbox]


def tool_tokens(servers: tuple[ToolServer, ...]) -> dict[str, str]:
    """The bearer token of each server that names one, by the server's name.

    Raises:
        SecretNotFound: the file that holds it is not there.
    """
    tokens: dict[str, str] = {}
    for server in servers:
        if (ref := server.token_secret_ref) is None:
            continue
        path = secret_path(f"{ref.name}/{ref.key}")
        try:
            tokens[server.name] = path.read_text().strip()
        except OSError as error:
            raise SecretNotFound(
                f"tool server {server.name!r} needs the token in Secret {ref.name!r}, key {ref.key!r}, and {path} "
                f"cannot be read ({error.strerror}): create it, or set {SECRETS_VARIABLE}"
            ) from error
    return tokens


@asynccontextmanager
async def open_environment(
    servers: tuple[ToolServer, ...],
    cases: Iterable[Case],
    miss: ReplayMiss,
    specs: tuple[ToolSpec, ...] | None = None,
) -> AsyncIterator[ToolboxOf]:
    """A function from a case to its toolbox, valid while the context is open.

    Live tools are shared by all cases and guarded once, so that a circuit opened by one investigation spares the
    others; those that ask the same at the same time get one answer. Recorded evidence offers `specs`, or what `cases`
    hold where none are given.

    Raises:
        ToolSchemaMismatch: live tools are not `specs`, with which the run was prepared.
    """
    if servers:
        timeout_s = max(parse_duration(server.timeout).total_seconds() for server in servers)
        async with McpToolbox(servers, tool_tokens(servers)) as live:
            _require_same(live.specs, specs)
            joined = JoinedToolbox(GuardedToolbox(live, timeout_s=timeout_s))
            yield lambda _case: joined
        return
    offered = specs_of_cases(cases) if specs is None else specs
    yield lambda case: GuardedToolbox(ReplayToolbox(case.evidence, offered, miss))


def _require_same(found: tuple[ToolSpec, ...], expected: tuple[ToolSpec, ...] | None) -> None:
    if expected is not None and tools_digest(found) != tools_digest(expected):
        was, now = (sorted(spec.name for spec in specs) for specs in (expected, found))
        what = f"{was} became {now}" if was != now else f"schemas of {now} changed"
        raise ToolSchemaMismatch(f"the tools are not those that the run was prepared with: {what}. Start the run anew")
