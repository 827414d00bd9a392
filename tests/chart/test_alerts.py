"""Alerts: what their expressions take for granted about the conditions of a pool."""

from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from tests.chart.conftest import CHART

from socadapter_api.pool import SocServingPool
from socadapter_operator.domain.observed import PoolObserved, ServingState, ServingView
from socadapter_operator.domain.pool_planner import plan_pool

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MOVES = 'type=~"Reconciling|Stalled",status="True"'
"""Where neither is so, a pool that is not ready is not meant to be."""


def conditions(replicas: int, view: ServingView, **observed: Any) -> dict[str, str]:
    """The status of each condition of a pool."""
    pool = SocServingPool.model_validate(
        {
            "metadata": {"name": "base", "namespace": "soc"},
            "spec": {"base": {"uri": "builtin://tiny"}, "store": "store", "replicas": replicas},
        }
    )
    plan = plan_pool(pool, (), PoolObserved(view, **observed), NOW)
    return {condition.type: condition.status.value for condition in plan.status.conditions}


@pytest.mark.parametrize(
    ("replicas", "view", "held", "expected"),
    [
        pytest.param(0, ServingView(), False, False, id="scaled to zero"),
        pytest.param(0, ServingView(ServingState.RUNNING), False, False, id="scaled to zero, still there"),
        pytest.param(1, ServingView(), True, False, id="waits for a version"),
        pytest.param(1, ServingView(), False, True, id="starts"),
        pytest.param(1, ServingView(ServingState.STARTING), False, True, id="never comes up"),
        pytest.param(1, ServingView(ServingState.FAILED, failures=9), False, True, id="fails"),
        pytest.param(1, ServingView(ServingState.UNKNOWN), False, True, id="nobody can say"),
        pytest.param(1, ServingView(reason="Refused", retryable=False), False, True, id="cannot be started"),
    ],
)
def test_a_pool_that_should_serve_moves_or_is_stuck(
    replicas: int, view: ServingView, held: bool, expected: bool
) -> None:
    """One that is not ready is Reconciling or Stalled, unless it is scaled to zero or waits for its first version."""
    found = conditions(replicas, view, hold=held)
    assert "False" == found["Ready"]
    assert expected is ("True" in (found["Reconciling"], found["Stalled"]))


def test_alerts_about_serving_leave_out_pools_that_rest() -> None:
    """Neither a pool that was scaled to zero on purpose nor its adapters wake anybody."""
    (group,) = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text("utf-8"))["groups"]
    expressions = {rule["alert"]: rule["expr"] for rule in group["rules"]}
    assert MOVES in expressions["SocServingPoolNotReady"]
    assert MOVES in expressions["SocAdapterNotServing"]
