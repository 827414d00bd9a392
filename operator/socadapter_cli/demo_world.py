"""What the demo needs before anything trains: the range's alerts, its tool server, and the resource files."""

import math
import shutil
import socket
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from socadapter_api.errors import BackendUnavailable
from socadapter_operator.backends import attached, process

TRAIN = 768
HOLDOUT = 88
SEED = 7
PORT = 8000
"""Of the demo's service, where it is free; the samples have another, so that both can run at once."""
CONTEXTS = ("cloud-infrastructure", "corporate-network")
_SERVER = "range-tools"
_READY_S = 60.0
_GRPO_SHARE = 0.3
"""How much of the demo's time reinforcement learning may take, of contexts that train at once and in turn."""


def prepare(out: Path, minutes: float | None, console: Console) -> tuple[Path, ...]:
    """Everything up to the resource files, which are returned; what is there already is kept.

    Raises:
        BackendUnavailable: the range's export or its tool server failed.
    """
    world = export(out, console)
    tools = serve_tools(out, world)
    return write_resources(out, world, tools, minutes)


def export(out: Path, console: Console) -> Path:
    """The range's alerts and telemetry below `out`, made once."""
    world = out / "range"
    if world.is_dir():
        return world
    console.print(f"simulating an enterprise: {TRAIN} alerts to learn from and {HOLDOUT} to judge by, per context")
    partial = out / "range.partial"
    shutil.rmtree(partial, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "socadapter_range", "export", "--out", str(partial)]
    command += ["--seed", str(SEED), "--train", str(TRAIN), "--holdout", str(HOLDOUT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BackendUnavailable(f"the range could not export its alerts: {done.stderr.strip()[-500:]}")
    partial.rename(world)
    return world


def serve_tools(out: Path, world: Path) -> str:
    """The URL of the range's MCP server, which is started unless it runs."""
    ready = attached.folder(out, _SERVER) / "url"
    command = [sys.executable, "-m", "socadapter_range", "serve", "--db", str(world / "telemetry.sqlite")]
    command += ["--port", str(_kept_port(ready)), "--ready-file", str(ready)]
    if not attached.running(out, _SERVER):
        ready.unlink(missing_ok=True)
        ready.parent.mkdir(parents=True, exist_ok=True)
        attached.ensure(out, _SERVER, command)
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        if ready.is_file():
            return ready.read_text().strip()
        if not attached.running(out, _SERVER):
            break
        time.sleep(0.1)
    log = attached.folder(out, _SERVER) / "log"
    raise BackendUnavailable(f"the range's tool server did not start: {process.last_line(log)} ({log})")


def end_tools(out: Path) -> None:
    """Ends the tool server."""
    attached.end_all(out)


def write_resources(out: Path, world: Path, tools_url: str, minutes: float | None) -> tuple[Path, ...]:
    """The sample resources with this demo's paths and addresses in them; unchanged files are left alone.

    Without `minutes`, what an earlier demo was told about time stays.
    """
    folder = out / "resources"
    pool = sample("pool")
    pool["spec"]["store"] = str(out / "store")
    pool["spec"]["tools"] = [_tool(pool["spec"]["tools"][0], tools_url)]
    pool["spec"]["port"] = _port(folder / "pool.yaml", PORT, pool["spec"]["host"])
    _write(folder / "pool.yaml", pool)
    cores = process.usable_cores()
    share = max(1, cores // len(CONTEXTS))  # all contexts at once, where there are enough
    turns = math.ceil(len(CONTEXTS) * share / cores)
    for context in CONTEXTS:
        adapter = sample(context)
        for name, sources in adapter["spec"]["data"].items():
            if name in ("trajectories", "alerts", "holdout"):
                for source in sources:
                    source["uri"] = str(world / context / Path(source["uri"]).name)
        adapter["spec"]["compute"]["cpusPerWorker"] = share
        limit = f"{max(round(minutes * 60 * _GRPO_SHARE / turns), 30)}s" if minutes else None
        limit = limit or _earlier(folder / f"{context}.yaml", "grpo", "timeLimit")
        if limit:
            adapter["spec"].setdefault("grpo", {})["timeLimit"] = limit
        _write(folder / f"{context}.yaml", adapter)
    return tuple(folder / f"{name}.yaml" for name in ("pool", *CONTEXTS))


def sample(name: str) -> dict[str, Any]:
    """One of the packaged resource files, which are those of ``manifests/samples``."""
    text = resources.files("socadapter_cli").joinpath("samples", f"{name}.yaml").read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    if not isinstance(document, dict):
        raise TypeError(f"packaged sample {name} is no resource")
    return document


def _tool(given: dict[str, Any], url: str) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key != "command"} | {"url": url}


def _port(earlier: Path, wanted: int, host: str) -> int:
    """The port of an earlier demo in the same folder; else `wanted` if it is free, or else another one."""
    before = _earlier(earlier, "port")
    if before:
        return int(before)
    with socket.socket() as probe:
        try:
            probe.bind((host, wanted))
        except OSError:
            probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _kept_port(ready: Path) -> int:
    """The tool server's last port, so that resources keep their address over a restart; 0 for any."""
    try:
        port = int(ready.read_text().rsplit(":", 1)[1].split("/")[0])
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except (OSError, ValueError, IndexError):
        return 0
    return port


def _earlier(path: Path, *keys: str) -> Any:
    try:
        value: Any = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]
        for key in keys:
            value = value[key]
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        return None
    return value


def _write(path: Path, document: dict[str, Any]) -> None:
    text = yaml.safe_dump(document, sort_keys=False)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
