"""The alerts that an agent can investigate as they were. Called by prepare and by ``socadapter evaluate``."""

from collections.abc import Sequence

from socadapter_agent.protocol import render_alert
from socadapter_api.case import Case
from socadapter_api.errors import AlertTooLarge, MalformedRow
from socadapter_api.training import ToolServer


def require_readable(name: str, cases: Sequence[Case], servers: Sequence[ToolServer]) -> None:
    """Does nothing where an agent that asks `servers` can investigate each of the cases `name` as it was.

    Raises:
        MalformedRow: an alert is too long for a model, or of no time where tools are asked as of the alert's.
    """
    frozen = [server.name for server in servers if server.bind]
    for case in cases:
        try:
            render_alert(case.visible())
        except AlertTooLarge as error:
            raise MalformedRow(f"{name}: case {case.id!r}: {error}") from error
        if frozen and case.observed_at is None:
            raise MalformedRow(
                f"{name}: case {case.id!r} has no observed_at, and tool server {frozen[0]!r} answers as of the alert's "
                "time (bind): it would tell what came after the alert. Say when it was raised, or take the case out"
            )
