"""The operator as a process of its own on one core, and what it and the kernel say about it."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx
from tests.controlplane.cluster import wait_for
from tests.controlplane.processes import Child, free_port

DEADLINE_S = 600.0
_STOP_S = 60
_SERIES = re.compile(r"^(?P<name>[a-z_:0-9]+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$", re.IGNORECASE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_KINDS = 5
"""Kinds that the operator lists, KubeRay's included."""

Series = tuple[str, Mapping[str, str], float]


@dataclass(frozen=True, slots=True)
class Memory:
    """Of a process, in megabytes of 10^6 bytes: what is resident now, and the most that ever was."""

    resident_mb: float
    peak_mb: float


def pin(pid: int, cpus: Iterable[int]) -> None:
    """Keeps every thread of a process, and those that it will start, on `cpus`."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cpus)


class OperatorProcess:
    """``python -m socadapter_operator`` with the kubeconfig of KUBECONFIG, kept on `cpu`."""

    def __init__(self, folder: Path, cpu: int, *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        arguments = ["-m", "socadapter_operator", "--health-port", str(port), "--cache", str(folder / "cache")]
        images = ["--training-image", "registry.example/training:1", "--serving-image", "registry.example/serving:1"]
        self.started_at = time.time()
        self._child = Child.start(Path(sys.executable), [*arguments, *images, *options], folder)
        pin(self._child.process.pid, {cpu})
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False)

    def wait_until_ready(self) -> None:
        """Waits until it has listed everything and watches."""
        wait_for(self._ready, "the operator is ready", DEADLINE_S)

    def listed_at(self) -> float:
        """When the last of its kinds was listed for the first time, as Unix time."""
        return wait_for(self._listed_at, "every kind is listed", DEADLINE_S)

    def looked_at(self, controller: str) -> float:
        """How many reconciles of `controller` have ended."""
        told = self.metrics("controller_runtime_reconcile_total")
        return sum(value for _, labels, value in told if labels["controller"] == controller)

    def at_work(self) -> float:
        """How many keys wait or are being worked on."""
        return sum(value for _, _, value in self.metrics("workqueue_depth")) + self._active()

    def quantile_s(self, metric: str, controller: str, share: float) -> float:
        """A quantile of one of its histograms, interpolated in its bucket as Prometheus does."""
        told = self.metrics(f"{metric}_bucket")
        return quantile([(float(s["le"]), value) for _, s, value in told if s["controller"] == controller], share)

    def mean_s(self, metric: str, controller: str) -> float:
        """The mean of one of its histograms."""
        told = {
            name: v for name, s, v in self.metrics(f"{metric}_sum", f"{metric}_count") if s["controller"] == controller
        }
        return told[f"{metric}_sum"] / max(told[f"{metric}_count"], 1.0)

    def metrics(self, *names: str) -> list[Series]:
        """The series of those metrics; of all where none is named."""
        return list(parse(self.scrape(*names)))

    def scrape(self, *names: str) -> str:
        """What Prometheus would read."""
        answer = self._http.get("/metrics", params=[("name[]", name) for name in names])
        return answer.raise_for_status().text

    def memory(self) -> Memory:
        """What the kernel says."""
        status = Path(f"/proc/{self._child.process.pid}/status").read_text("ascii")
        told = dict(line.split(":", 1) for line in status.splitlines())
        resident, peak = (int(told[key].split()[0]) * 1024 / 1e6 for key in ("VmRSS", "VmHWM"))
        return Memory(resident, peak)

    def cpu_s(self) -> float:
        """Seconds of a core that it has used."""
        fields = Path(f"/proc/{self._child.process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """Ends it as a kubelet does."""
        self._http.close()
        self._child.process.send_signal(signal.SIGTERM)
        try:
            self._child.process.wait(_STOP_S)
        finally:
            self._child.kill()

    def _ready(self) -> bool:
        self._child.require_running()
        try:
            return self._http.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def _listed_at(self) -> float | None:
        self._child.require_running()
        lines = (json.loads(line) for line in self._child.log.read_text("utf-8").splitlines() if '"kind_served' in line)
        times = [datetime.fromisoformat(line["ts"]).timestamp() for line in lines]
        return max(times) if len(times) >= _KINDS else None

    def _active(self) -> float:
        told = self.metrics("workqueue_unfinished_work_seconds", "controller_runtime_active_workers")
        return sum(value for _, _, value in told)


def parse(text: str) -> Iterable[Series]:
    """The series in Prometheus' text format."""
    for line in text.splitlines():
        if not line.startswith("#") and (found := _SERIES.match(line)) is not None:
            labels = dict(_LABEL.findall(found["labels"] or ""))
            yield found["name"], labels, float(found["value"])


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float:
    """The `share` quantile (0 to 1) of cumulative `buckets`, each an upper bound and a count.

    Linear within its bucket; the bound below the last bucket where it lies beyond. 0 where nothing was counted.
    """
    ordered = sorted(buckets)
    wanted = share * (ordered[-1][1] if ordered else 0.0)
    below, counted = 0.0, 0.0
    for bound, count in ordered:
        if count >= wanted and count > counted:
            return below if bound == float("inf") else below + (bound - below) * (wanted - counted) / (count - counted)
        below, counted = bound, count
    return 0.0
