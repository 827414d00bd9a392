"""What `helm test` runs, against the server that the operator answers it with."""

import subprocess
import sys

import pytest
from tests.chart.conftest import Render, of_kind

from socadapter_operator.shell.health import HealthServer
from socadapter_operator.shell.metrics import Metrics


@pytest.mark.parametrize(
    ("problem", "expected"), [pytest.param(None, True, id="ready"), pytest.param("no list yet", False, id="not ready")]
)
def test_pod_says_whether_the_operator_is_ready(render: Render, problem: str | None, expected: bool) -> None:
    """The pod's command asks the Service of the metrics on its port, and fails where the operator is not ready."""
    server = HealthServer(Metrics().registry, live={}, ready={"cache": lambda: problem})
    server.start()
    objects = render({"healthPort": server.port})
    (pod,), (service,) = of_kind(objects, "Pod"), of_kind(objects, "Service")
    (python, flag, script) = pod["spec"]["containers"][0]["command"]
    address = f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}/"
    assert (address in script, python) == (True, "python")
    # No name of a Service is known here.
    here = script.replace(service["metadata"]["name"], "127.0.0.1")
    done = subprocess.run([sys.executable, flag, here], env={}, capture_output=True, text=True, check=False)
    server.stop()
    asked = [line.split() for line in done.stdout.splitlines()]
    assert (done.returncode == 0) is expected, done.stderr
    assert asked == [["healthz", "200"], ["readyz", "200"], ["metrics", "200"]][: 3 if expected else 1]
