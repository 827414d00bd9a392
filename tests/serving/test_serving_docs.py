"""The page on serving says what the code does: its samples are read by the code, its lists are the code's."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from socadapter_api.feedback import Feedback
from socadapter_api.model import Contract
from socadapter_api.pool import SocServingPool
from socadapter_serve.auth import Callers
from socadapter_serve.config import Limits, ServeConfig
from socadapter_serve.endpoints import Endpoints
from socadapter_serve.feedback import FeedbackStore
from socadapter_serve.gateway import Gateway
from socadapter_serve.messages import TriageAnswer, TriageRequest
from socadapter_serve.metrics import GatewayMetrics

PAGE = (Path(__file__).parents[2] / "docs/serving.md").read_text()
KINDS: dict[str, type[Contract]] = {
    kind.__name__: kind for kind in (TriageRequest, TriageAnswer, Feedback, ServeConfig)
}
SAMPLES = re.findall(r"<!-- (\w+) -->\n```json\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("kind", "text"), SAMPLES, ids=[kind for kind, _ in SAMPLES])
def test_every_sample_is_read(kind: str, text: str) -> None:
    """What the page shows, the code takes."""
    KINDS[kind].model_validate(json.loads(text))


def test_every_kind_has_a_sample() -> None:
    """Nothing was dropped from the page by mistake."""
    assert set(KINDS) == {kind for kind, _ in SAMPLES}


def test_the_endpoints_are_those_of_the_application(tmp_path: Path) -> None:
    """Neither more nor fewer."""
    pool = {"metadata": {"name": "p"}, "spec": {"base": {"uri": "b"}, "store": "s"}}
    config = ServeConfig(pool=SocServingPool.model_validate(pool), state_dir=tmp_path, cache_dir=tmp_path)
    store = FeedbackStore(tmp_path / "f.sqlite3")
    engines: Any = None  # no request is made
    app = Endpoints(Gateway(config, engines, store), Callers((), {}), Limits()).application()
    served = {
        f"{method} {re.sub(r':path', '', route.path)}"
        for route in app.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    store.close()
    assert served == set(re.findall(r"^\| `((?:GET|POST) [^`]+)` \|", PAGE, re.MULTILINE))


def test_the_metrics_are_those_that_are_counted() -> None:
    """By the names under which Prometheus sees them."""
    kinds = re.findall(r"^# TYPE (\S+) ", GatewayMetrics().text().decode(), re.MULTILINE)
    assert set(kinds) == set(re.findall(r"^\| `(socadapter_\w+)` \|", PAGE, re.MULTILINE))
