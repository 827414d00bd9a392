"""The whole application as local mode runs it: a process with its own Ray, real HTTP, real MCP, real `openai`."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from socadapter_api.serving_table import ContextRoute, ReplicaReport, ServedVersion, ServingTable
from socadapter_serve.config import ServeConfig
from socadapter_serve.local import write_json

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # peft asks for it
]


@dataclass
class Service:
    """The running process and its files."""

    config: ServeConfig
    process: "subprocess.Popen[bytes]"
    url: str

    @property
    def state(self) -> Path:
        return self.config.state_dir

    def reports(self) -> list[ReplicaReport]:
        path = self.state / "replicas.json"
        return [ReplicaReport.model_validate(item) for item in json.loads(path.read_text())] if path.exists() else []

    def apply(self, table: ServingTable) -> None:
        """Writes the table and waits until every replica holds all of it."""
        write_json(self.state / "table.json", table.model_dump(mode="json"))
        wait(lambda: self.holds(table), 30, self)

    def holds(self, table: ServingTable) -> bool:
        reports = self.reports()
        return bool(reports) and all(
            report.generation == table.generation and decided(report, table) for report in reports
        )


def decided(report: ReplicaReport, table: ServingTable) -> bool:
    """Whether the replica has loaded or refused every version of the table."""
    settled = {found.name for found in report.loaded if found.ready or found.reason != "Loading"}
    return settled == set(table.versions())


def wait(condition: Callable[[], Any], seconds: float, service: Service) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert service.process.poll() is None, (service.state / "serve.log").read_text()[-4000:]
        assert time.monotonic() < deadline, (service.state / "serve.log").read_text()[-4000:]
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def service(make_config: Callable[..., ServeConfig], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    state = tmp_path_factory.mktemp("serving")
    config = make_config(state, replicas=2)
    path = state / "config.json"
    path.write_text(config.model_dump_json())
    command = [sys.executable, "-m", "socadapter_serve", "--config", str(path)]
    with (state / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)
    running = Service(config, process, "")
    try:
        wait((state / "endpoint.json").exists, 90, running)
        running.url = json.loads((state / "endpoint.json").read_text())["url"]
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def test_an_alert_is_answered_by_the_version_of_its_context(
    service: Service, make_version: Callable[..., ServedVersion], alert: dict[str, Any]
) -> None:
    """The context is found by its expression; version and digest come back in the answer and in its headers."""
    version = make_version("cloud", 1)
    route = ContextRoute(context="cloud", match='alert.provider == "aws"', stable=version)
    service.apply(ServingTable(generation=1, routes=(route,)))
    answer = httpx.post(f"{service.url}/v1/triage", json={"alert": alert}, timeout=60)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert ("cloud", version.name, version.digest) == (body["context"], body["version"], body["digest"])
    assert (body["verdict"], body["citations"]) == ("false_positive", ["e1"])
    assert [call["tool"] for call in body["calls"]] == ["signins"]
    assert version.name == answer.headers["x-socadapter-version"]
