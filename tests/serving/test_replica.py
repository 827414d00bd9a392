"""One engine replica with a real engine, real signed adapters and real tools, in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from socadapter_api.case import Alert, Verdict
from socadapter_api.serving_table import ContextRoute, ServedVersion, ServingTable
from socadapter_api.trajectory import CallOutcome
from socadapter_serve.config import ServeConfig
from socadapter_serve.engines import build_engine, build_tools
from socadapter_serve.messages import TriageJob
from socadapter_serve.replica import Replica

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # peft asks for it
]


async def test_an_alert_is_answered_with_tools(
    make_config: Callable[..., ServeConfig],
    make_version: Callable[..., ServedVersion],
    alert: dict[str, Any],
    tmp_path: Path,
    until: Callable[..., Any],
) -> None:
    """A loaded version asks its tool, reads the answer and gives a cited verdict."""
    config = make_config(tmp_path)
    replica = Replica("r0", config, build_engine(config), build_tools(config))
    await replica.start()
    try:
        version = make_version("cloud", 1)
        replica.apply(ServingTable(generation=1, routes=(ContextRoute(context="cloud", stable=version),)))
        await until(lambda: any(found.ready for found in replica.report().loaded))
        outcome = await replica.triage(TriageJob(Alert(alert), version))
        assert [(c.tool, c.outcome) for c in outcome.trajectory.calls] == [("signins", CallOutcome.OK)]
        assert outcome.trajectory.verdict is Verdict.FALSE_POSITIVE
    finally:
        await replica.stop()
