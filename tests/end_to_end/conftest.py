"""The walk-through of docs/cluster.md: its commands, and a machine on which they run. And a run of seconds."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.backends.benches import TOKEN, small_ray
from tests.controlplane.plane import ControlPlane
from tests.controlplane.processes import free_port
from tests.end_to_end.world import TOOL_TOKEN, World, world

from socadapter_operator.backends import process
from socadapter_operator.backends.process import Process

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text("utf-8")
STEPS = dict(re.findall(r"<!-- run: (\w+) -->\n```sh\n(.+?)```", PAGE, re.DOTALL))
"""The page's commands, by the name that stands above them."""

SAMPLES = "manifests/ray-samples"
NAMESPACE = "soc"
OPERATOR_NAMESPACE, ACCOUNT = "socadapter-system", "socadapter"
CALLER_TOKEN = "token-of-the-soar-platform"
DEADLINE_S = int(os.environ.get("SOCADAPTER_TEST_END_TO_END_S", "900"))
"""How long one step of the walk may take on a busy machine before it counts as a failure."""

_INSTALLED = ("namespace.yaml", "operator.yaml")
QUICK: dict[str, Any] = {
    "lora": {"rank": 4, "alpha": 8},
    "sft": {"epochs": 1, "learningRate": 0.005, "batchSize": 4, "maxLengthTokens": 512},
    "grpo": {
        "steps": 0,
        "maxTurns": 4,
        "maxCalls": 2,
        "maxTurnTokens": 48,
        "maxSummaryTokens": 0,
        "maxContextTokens": 512,
    },
    "compute": {"precision": "Float32"},
    "evaluation": {"developmentPercent": 25, "maxDevelopment": 8, "summaries": 0},
}
"""A run of seconds on the tiny base, which no gate keeps from being published."""


@dataclass
class Walk:
    """A folder with the samples, an API server, a Ray cluster, and the operator under its own account."""

    plane: ControlPlane
    ray: str
    world: World
    folder: Path
    operator: Process | None = None

    def run(self, step: str, **variables: str) -> str:
        """What the commands of `step` print, with `variables` in the environment."""
        commands = STEPS[step].replace("--timeout=1h", f"--timeout={DEADLINE_S}s")
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", commands],
            cwd=self.folder,
            env=self._environment() | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert 0 == done.returncode, f"{step}: {done.stdout}{done.stderr}\n{self.told()}"
        return done.stdout

    def operate(self) -> None:
        """Starts the operator as its image would, with its ServiceAccount's token."""
        for name in _INSTALLED:
            self.plane.kubectl("apply", "--server-side", "-f", ROOT / "manifests" / "operator" / name)
        login = self.plane.service_account_kubeconfig(OPERATOR_NAMESPACE, ACCOUNT, seconds=4 * 3600)
        settings = {
            "TRAINING_IMAGE": "none",
            "SERVING_IMAGE": "none",
            "POD_NAMESPACE": OPERATOR_NAMESPACE,
            "CACHE": str(self.folder / "cache"),
            "HEALTH_PORT": "0",
        }
        environment = os.environ | {f"SOCADAPTER_OPERATOR_{name}": value for name, value in settings.items()}
        command = [sys.executable, "-P", "-m", "socadapter_operator"]
        log, record = self.folder / "operator.log", self.folder / "operator.json"
        self.operator = process.launch(command, {**environment, "KUBECONFIG": str(login)}, log, record)

    def get(self, kind: str, name: str = "") -> dict[str, Any]:
        """The resource, or all of them as a list, as kubectl shows them."""
        named = (kind, *filter(None, [name]))
        found: dict[str, Any] = json.loads(self.plane.kubectl("get", *named, "-o", "json", namespace=NAMESPACE))
        return found

    def give_tool_token(self) -> None:
        """Makes the Secret that the page's pool, whose tools ask for no token, does without."""
        token = f"--from-literal=token={TOOL_TOKEN}"
        self.plane.kubectl("create", "secret", "generic", "tools", token, namespace=NAMESPACE)

    def of_ray(self, path: str) -> Any:
        """What Ray's dashboard says at `path`."""
        headers = {"authorization": f"Bearer {TOKEN}"}
        return httpx.get(f"{self.ray}{path}", headers=headers, timeout=60, trust_env=False).raise_for_status().json()

    def told(self) -> str:
        """Every status, and the end of the operator's log, for the reader of a test that failed."""
        shown = self.plane.try_kubectl("get", "socservingpools,socadapters", "-o", "yaml", namespace=NAMESPACE).stdout
        log = self.folder / "operator.log"
        return f"{shown[-8000:]}\n{log.read_text()[-4000:] if log.exists() else ''}"

    def end(self) -> None:
        """Ends the operator and removes what was installed."""
        if self.operator is not None:
            self.operator.end(20)
        for name in _INSTALLED:
            self.plane.try_kubectl("delete", "--wait=false", "-f", ROOT / "manifests" / "operator" / name)
        self.plane.try_kubectl("delete", "--wait=false", "namespace", NAMESPACE)

    def _environment(self) -> dict[str, str]:
        programs = [self.plane.kubectl_program.parent, Path(sys.executable).parent, os.environ["PATH"]]
        return {
            **os.environ,
            "PATH": os.pathsep.join(map(str, programs)),
            "KUBECONFIG": str(self.plane.kubeconfig_of()),
            "KUBECACHEDIR": str(self.plane.folder / "kubectl"),
            "RAY_AUTH_TOKEN": TOKEN,
            "SOAR_TOKEN": CALLER_TOKEN,
        }


@pytest.fixture
def walk(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Walk]:
    with small_ray(_made(tmp_path / "ray")) as ray, world(tmp_path / "world") as made:
        ready = Walk(control_plane, ray, made, tmp_path)
        _write_samples(ready)
        try:
            yield ready
        finally:
            ready.end()


def _write_samples(walk: Walk) -> None:
    """The page's manifests with this machine's addresses and folders, and what makes a run take seconds."""
    folder = _made(walk.folder / SAMPLES)
    for path in sorted((ROOT / SAMPLES).glob("*.yaml")):
        item = yaml.safe_load(path.read_text("utf-8"))
        spec = item["spec"]
        if item["kind"] == "SocServingPool":
            spec["base"] = {"uri": str(walk.world.base)}
            spec["ray"]["address"] = walk.ray
            spec["store"] = str(walk.folder / "store")
            token = {"name": "tools", "key": "token"}
            spec["tools"] = [{"name": "telemetry", "url": walk.world.tools, "tokenSecretRef": token}]
            spec["port"] = free_port()
        else:
            data = walk.world.data / spec["context"]
            sources = {name: [{"uri": str(data / f"{name}.jsonl")}] for name in ("alerts", "trajectories")}
            spec |= QUICK | {"data": {**sources, "holdoutPercent": 25, "maxHoldout": 10}}
        (folder / path.name).write_text(yaml.safe_dump(item), "utf-8")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
