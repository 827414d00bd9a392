"""The whole application as local mode runs it: a process with its own Ray, real HTTP, real MCP, real `openai`."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import httpx
import openai
import pytest

from socadapter_api import digest
from socadapter_api.feedback import FeedbackRecord
from socadapter_api.serving_table import ContextRoute, ReplicaReport, ServedVersion, ServingTable
from socadapter_serve.config import ServeConfig
from socadapter_serve.local import write_json
from socadapter_store import signatures

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

    def log(self) -> str:
        return (self.state / "serve.log").read_text()[-6000:]

    def replicas(self) -> set[str]:
        return {report.replica for report in self.reports()}

    def triage(self, alert: dict[str, Any]) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/triage", json={"alert": alert}, timeout=60)

    def failed_to_start(self) -> bool:
        """Waits until it answers; whether it ended first because Ray did not start."""
        deadline = time.monotonic() + 240
        while not (self.state / "endpoint.json").exists():
            assert time.monotonic() < deadline, self.log()
            if self.process.poll() is not None:
                assert "Ray did not start" in (self.state / "failure.json").read_text(), self.log()
                return True
            time.sleep(0.05)
        assert self.url == json.loads((self.state / "endpoint.json").read_text())["url"]
        return False

    def processes(self) -> dict[int, str]:
        """Every process below the service's, and its own, with its command line."""
        parents, lines = {}, {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                lines[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        found = {self.process.pid}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return {pid: lines[pid] for pid in found if pid in lines}

    def pids(self, title: str) -> list[int]:
        return sorted(pid for pid, line in self.processes().items() if title in line)

    def listening(self) -> set[tuple[str, int]]:
        """Addresses and ports on which the service's processes take TCP connections."""
        inodes = set()
        for pid in self.processes():
            for link in Path(f"/proc/{pid}/fd").glob("*"):
                with contextlib.suppress(OSError):
                    inodes.add(str(link.readlink()))
        rows = Path("/proc/net/tcp").read_text().splitlines()[1:] + Path("/proc/net/tcp6").read_text().splitlines()[1:]
        fields = [row.split() for row in rows]
        return {_address(row[1]) for row in fields if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}

    def apply(self, table: ServingTable) -> None:
        """Writes the table and waits until every replica holds all of it."""
        write_json(self.state / "table.json", table.model_dump(mode="json"))
        wait(lambda: self.holds(table), 90, self)

    def holds(self, table: ServingTable) -> bool:
        reports = self.reports()
        return len(reports) == self.config.spec.replicas and all(
            report.generation == table.generation and decided(report, table) for report in reports
        )


def _address(text: str) -> tuple[str, int]:
    """An address of ``/proc/net/tcp``: hexadecimal words in the machine's order."""
    words, _, port = text.partition(":")
    raw = b"".join(bytes.fromhex(words[n : n + 8])[::-1] for n in range(0, len(words), 8))
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw), int(port, 16)


generations = iter(range(1, 1000))


def cloud(stable: ServedVersion, **more: Any) -> ServingTable:
    route = ContextRoute(context="cloud", match='alert.provider == "aws"', stable=stable, **more)
    return ServingTable(generation=next(generations), routes=(route,))


def decided(report: ReplicaReport, table: ServingTable) -> bool:
    """Whether the replica has loaded or refused every version of the table."""
    settled = {found.name for found in report.loaded if found.ready or found.refused}
    return settled == set(table.versions())


def wait(condition: Callable[[], Any], seconds: float, service: Service) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert service.process.poll() is None, service.log()
        assert time.monotonic() < deadline, service.log()
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def service(make_config: Callable[..., ServeConfig], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    state = tmp_path_factory.mktemp("serving")
    config = make_config(state, replicas=2)
    (state / "config.json").write_text(config.model_dump_json())
    running = started(config)
    while running.failed_to_start():  # on a machine that is very busy Ray gives up on its own processes
        running = started(config)
    yield running
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(30)


def started(config: ServeConfig) -> Service:
    command = [sys.executable, "-m", "socadapter_serve", "--config", str(config.state_dir / "config.json")]
    with (config.state_dir / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)
    return Service(config, process, f"http://127.0.0.1:{config.spec.port}")


def test_an_alert_is_answered_by_the_version_of_its_context(
    service: Service, make_version: Callable[..., ServedVersion], alert: dict[str, Any]
) -> None:
    """Context by expression, tools over MCP, version and digest in answer and headers; feedback joins it."""
    version = make_version("cloud", 1)
    service.apply(cloud(version))
    answer = service.triage(alert)
    body = answer.json()
    assert ("cloud", version.name, version.digest) == (body["context"], body["version"], body["digest"])
    assert ("false_positive", ["e1"]) == (body["verdict"], body["citations"])
    assert [("signins", "ok")] == [(call["tool"], call["outcome"]) for call in body["calls"]]
    assert version.name == answer.headers["x-socadapter-version"]
    feedback = {"trajectory_id": body["trajectory_id"], "verdict": "true_positive", "analyst": "ann"}
    assert 201 == httpx.post(f"{service.url}/v1/feedback", json=feedback).status_code
    record = FeedbackRecord.model_validate_json(httpx.get(f"{service.url}/v1/feedback").text.splitlines()[0])
    assert (version.name, alert) == (record.version, record.alert)


def test_the_openai_client_talks_to_it(service: Service, make_version: Callable[..., ServedVersion]) -> None:
    """Models, completions, streams, and the client's own errors for an unknown model and a long answer."""
    version = make_version("cloud", 1)
    service.apply(cloud(version))
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0) as client:
        assert version.name in {model.id for model in client.models.list()}
        messages: Any = [{"role": "user", "content": "hello"}]
        whole = client.chat.completions.create(model=version.name, messages=messages, max_tokens=12)
        assert (version.name, version.digest) == (whole.model, whole.system_fingerprint)
        assert (version.name, 12) == (whole.model, whole.usage and whole.usage.completion_tokens)
        stream = client.chat.completions.create(model=version.name, messages=messages, max_tokens=12, stream=True)
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
        assert whole.choices[0].message.content == "".join(pieces)
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="cloud-v9-deadbeef", messages=messages)
        assert "model_not_found" == caught.value.code
        with pytest.raises(openai.BadRequestError, match="a chat here may take 2048") as refused:
            client.chat.completions.create(model="cloud", messages=messages, max_tokens=2048)
        assert "RequestRefused" == refused.value.code


def test_a_new_table_loads_without_a_restart_and_bad_versions_are_refused(
    service: Service, make_version: Callable[..., ServedVersion], alert: dict[str, Any], tmp_path: Path
) -> None:
    """Tampered, foreign and wrongly tooled versions are named with their reason, while the old one goes on serving."""
    good = make_version("cloud", 1)
    service.apply(cloud(good))
    before = {report.replica for report in service.reports()}
    tampered = make_version("cloud", 66)  # a number of its own: its files are spoilt for every later test
    with Path(tampered.uri, "adapter/adapter_model.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"x")
    unsigned = make_version("cloud", 3, signer=signatures.make_key(tmp_path / "stranger"))
    other_tools = make_version("cloud", 4, tools_digest=digest.of_bytes(b"other tools"))
    service.apply(cloud(good, canary=tampered, previous=unsigned, shadow=other_tools, canary_weight_percent=100))
    for report in service.reports():
        reasons = {found.name: found.reason for found in report.loaded}
        assert {
            good.name: "",
            tampered.name: "DigestMismatch",
            unsigned.name: "SignatureInvalid",
            other_tools.name: "ToolSchemaMismatch",
        } == reasons
    assert before == {report.replica for report in service.reports()}
    body = service.triage(alert).json()
    assert (good.name, tampered.name) == (body["version"], body["fallback"]["intended"])
    assert "DigestMismatch" in body["fallback"]["reason"]


def test_unknown_names_leave_residents_alone(service: Service, make_version: Callable[..., ServedVersion]) -> None:
    """A flood of ids outside the table ends at the gateway: no replica loads or drops anything."""
    service.apply(cloud(make_version("cloud", 1)))
    before = service.reports()
    with httpx.Client(base_url=service.url) as http:
        for n in range(60):
            body = {"model": f"cloud-v{n}-deadbeef", "messages": [{"role": "user", "content": "x"}]}
            assert 404 == http.post("/v1/chat/completions", json=body).status_code
        found = http.get("/v1/replicas").json()["replicas"]
    after = sorted((ReplicaReport.model_validate(report) for report in found), key=lambda report: report.replica)
    assert before == after


def test_a_huge_alert_is_refused(service: Service) -> None:
    """10 MB of text come back as a 413 with its reason."""
    answer = service.triage({"body": "x" * 10_000_000})
    assert (413, "AlertTooLarge") == (answer.status_code, answer.json()["error"]["reason"])


def test_a_killed_replica_costs_no_answer_and_comes_back_warm(
    service: Service, make_version: Callable[..., ServedVersion], alert: dict[str, Any], tool_server: Any
) -> None:
    """Investigations on it are done again by another, with the same version; the new replica holds the table."""
    version = make_version("cloud", 1)
    table = cloud(version)
    service.apply(table)
    before, asked = service.replicas(), len(tool_server.calls)
    tool_server.gate.clear()
    with ThreadPoolExecutor(8) as threads:
        under_way = [threads.submit(service.triage, alert) for _ in range(8)]
        wait(lambda: len(tool_server.calls) >= asked + 8, 20, service)
        os.kill(service.pids("ServeReplica:socadapter:EngineReplica")[0], signal.SIGKILL)
        tool_server.gate.set()
        answers = [answer.result().json() for answer in under_way]
    assert [(version.name, None)] * 8 == [(body["version"], body["fallback"]) for body in answers]
    wait(lambda: service.holds(table) and service.replicas() != before, 240, service)
    assert before - service.replicas(), "the killed replica is still listed"


def test_strangers_find_nothing_that_answers_them(service: Service) -> None:
    """All listens on loopback, but for a port of Ray Serve's own in each replica, and that one wants Ray's token."""
    listening = service.listening()
    assert ("127.0.0.1", service.config.spec.port) in listening
    beyond = {port for address, port in listening if address not in ("127.0.0.1", "::ffff:127.0.0.1")}
    assert len(beyond) == len(service.pids("ServeReplica:socadapter"))
    for port in beyond:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/ray.serve.ASGIService/HandleRequest")(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_it_stops_when_it_is_told_to(service: Service) -> None:
    """SIGTERM ends every process, takes the endpoint away, and is no failure. Last, since it ends the service."""
    pids = set(service.processes())
    service.process.send_signal(signal.SIGTERM)
    assert 0 == service.process.wait(30), service.log()
    assert not (service.state / "endpoint.json").exists()
    assert not (service.state / "failure.json").exists()
    deadline = time.monotonic() + 10
    while left := {pid for pid in pids if Path(f"/proc/{pid}").exists()}:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
