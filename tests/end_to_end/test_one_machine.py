"""The whole line on one machine: `socadapter up` with the real job and the real service, on a tiny base.

All five stages run on Ray Train with TRL's trainers, everything is killed in the middle of them once, and what comes
out is served by Ray Serve and asked through the gateway.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.controlplane.cluster import wait_for
from tests.controlplane.processes import alive, family, free_port, kill
from tests.end_to_end.conftest import DEADLINE_S, QUICK
from tests.end_to_end.world import SENSORS, SIGN_INS, TOOL_TOKEN, World, world

from socadapter_api.manifest import STAGES, Stage
from socadapter_store import layout

pytestmark = [pytest.mark.slow, pytest.mark.alone]

CONTEXT = "cloud-infrastructure"
LEARNED: dict[str, Any] = {
    "sft": QUICK["sft"] | {"epochs": 6},
    "grpo": QUICK["grpo"] | {"steps": 3, "groupSize": 4, "alertsPerStep": 2, "startAuc": 0, "startValidPercent": 0},
}
"""Enough of both that each is under way for seconds, and a start gate that lets any adapter in."""


@dataclass
class Machine:
    """A folder with a file of resources, and the command line in it."""

    folder: Path
    world: World
    port: int

    @property
    def state(self) -> Path:
        return self.folder / ".socadapter"

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """The command as a user's shell would start it, its output in ``NAME.log``."""
        environment = os.environ | {"SOCADAPTER_CACHE": str(self.folder / "cache")}
        with (self.folder / f"{arguments[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "socadapter_cli", *arguments],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def call(self, *arguments: str) -> str:
        """What a command prints that must succeed."""
        before = len(self.log(arguments[0]))
        code = self.start(*arguments).wait(DEADLINE_S)
        said = self.log(arguments[0])[before:]
        assert 0 == code, f"{arguments}: {said}"
        return said

    def log(self, command: str) -> str:
        path = self.folder / f"{command}.log"
        return path.read_text() if path.exists() else ""

    def adapter(self) -> dict[str, Any]:
        (item,) = json.loads(self.call("get", "adapters", "-o", "json"))["items"]
        found: dict[str, Any] = item
        return found

    def markers(self) -> dict[str, int]:
        """Times of the finished stages' markers, by stage."""
        paths = self.folder.glob(f"store/soc/{CONTEXT}/*/{layout.STAGES}/*.json")
        return {path.stem: path.stat().st_mtime_ns for path in paths}

    def steps(self, stage: Stage) -> int:
        """How many steps of a stage were made so far."""
        rows = [
            json.loads(line)
            for path in self.state.glob("runs/*/scratch/metrics.jsonl")
            for line in path.read_text().splitlines()
        ]
        return sum(row["stage"] == stage.value for row in rows)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with world(tmp_path / "world") as made:
        ready = Machine(tmp_path, made, free_port())
        _write_resources(ready)
        try:
            yield ready
        finally:
            if ready.state.is_dir():
                ready.call("down")


def _write_resources(machine: Machine) -> None:
    secret = machine.state / "secrets" / "tools" / "token"
    secret.parent.mkdir(parents=True, mode=0o700)
    secret.write_text(TOOL_TOKEN)
    secret.chmod(0o600)
    data = machine.world.data / CONTEXT
    sources = {name: [{"uri": str(data / f"{name}.jsonl")}] for name in ("alerts", "trajectories")}
    pool = {
        "base": {"uri": str(machine.world.base)},
        "store": "store",
        "port": machine.port,
        "tools": [
            {"name": "telemetry", "url": machine.world.tools, "tokenSecretRef": {"name": "tools", "key": "token"}}
        ],
    }
    adapter = {
        "context": CONTEXT,
        "match": f'alert.sensor == "{SENSORS[CONTEXT]}"',
        "servingPoolRef": {"name": "soc-base"},
        "data": {**sources, "holdoutPercent": 25, "maxHoldout": 10},
        **QUICK,
        **LEARNED,
    }
    named = (("SocServingPool", "soc-base", pool), ("SocAdapter", CONTEXT, adapter))
    documents = [
        {
            "apiVersion": "socadapter.io/v1alpha1",
            "kind": kind,
            "metadata": {"name": name, "namespace": "soc"},
            "spec": spec,
        }
        for kind, name, spec in named
    ]
    (machine.folder / "resources.yaml").write_text(yaml.safe_dump_all(documents))


def test_alerts_go_in_and_a_served_adapter_comes_out(machine: Machine) -> None:
    """Killed with everything below it in SFT; then trained to its end, signed, served, asked, verified and stopped."""
    killed = machine.start("up", "--wait", "-f", "resources.yaml")
    wait_for(lambda: machine.steps(Stage.SFT) >= 2, "steps of SFT", DEADLINE_S)
    everyone = family(killed.pid)
    assert any("libjemalloc" in maps for maps in mapped_by("RayTrainWorker", everyone))
    kill(everyone)
    killed.wait(30)
    wait_for(lambda: not any(alive(pid) for pid in everyone), "the end of all processes", 60)
    finished = machine.markers()
    assert [Stage.PREPARE.value] == list(finished)

    machine.call("up", "--wait")
    assert {stage.value for stage in STAGES if stage is not Stage.PUBLISH} <= set(machine.markers())
    assert finished == {name: machine.markers()[name] for name in finished}
    assert machine.steps(Stage.GRPO) > 0, machine.log("up")
    status = machine.adapter()["status"]
    stable = status["versions"]["stable"]
    is_told_as_it_was(machine, stable)
    answers_as_its_context(machine, stable)
    assert stable["digest"] in machine.call("verify", stable["uri"])

    told = machine.call("down")
    assert "stopping the service of soc-base" in told
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{machine.port}/v1/models", timeout=10, trust_env=False)


def mapped_by(name: str, pids: list[int]) -> list[str]:
    """What the processes of that name, among `pids`, have in memory."""
    found = []
    for folder in (Path("/proc") / str(pid) for pid in pids):
        with contextlib.suppress(OSError):
            if name in (folder / "cmdline").read_text():
                found.append((folder / "maps").read_text())
    return found


def is_told_as_it_was(machine: Machine, stable: dict[str, Any]) -> None:
    """Result and report of the run that the version came from."""
    run = Path(stable["uri"])
    result = json.loads((run / layout.RESULT).read_text())
    assert ("Published", "Completed", 3) == (result["outcome"], result["grpo"]["status"], result["grpo"]["steps"])
    assert (run / layout.REPORT).stat().st_size > 0


def answers_as_its_context(machine: Machine, stable: dict[str, Any]) -> None:
    """The alert of its context is answered by the version, with a verdict that rests on the pool's tools."""
    alert = {"sensor": SENSORS[CONTEXT], "title": "Odd sign-in", "user": "ann", "count": 3}
    url = f"http://127.0.0.1:{machine.port}/v1/triage"
    answer = httpx.post(url, json={"alert": alert}, timeout=60, trust_env=False).raise_for_status().json()
    expected = (CONTEXT, stable["name"], stable["digest"])
    assert expected == tuple(answer[key] for key in ("context", "version", "digest")), answer
    first = answer["calls"][0]
    assert ("signins", "ok", SIGN_INS) == (first["tool"], first["outcome"], first["result"]), answer
