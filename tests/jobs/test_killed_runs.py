"""A run that is killed, or stopped, wherever it is, goes on from there and ends as if nothing had happened.

Once without Ray, killed in each of the five stages; once as it is really started, on Ray and Ray Train, watched
meanwhile: no process of it ever turns to another machine.
"""

import contextlib
import json
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.controlplane.processes import alive, family, kill

from socadapter_api import errors
from socadapter_api.manifest import STAGES, Outcome, Stage
from socadapter_api.training import RunSpec
from socadapter_jobs.workspace import Workspace
from socadapter_store import layout, signatures
from socadapter_store.cache import download
from socadapter_store.verify import verify_version

pytestmark = [pytest.mark.slow, pytest.mark.alone]

DEADLINE_S = 900
_PEER = re.compile(r"sa_family=(AF_\w+)(?:.*?inet_addr\(\"([^\"]+)\"\)|.*?inet_pton\(AF_INET6, \"([^\"]+)\")?")
_LOOPBACK = re.compile(r"127\.|::1$|::ffff:127\.")
_LOCAL_NOTE = re.compile(r"127\.0\.0\.\d+|'localhost'|'::1'|getaddrinfo\t\(None,|b?'(/|\\x00)[^']*'\)$")


forkserver = multiprocessing.get_context("forkserver")
forkserver.set_forkserver_preload(
    [f"socadapter_jobs.{name}" for name in ("training_stages", "judging_stage", "publishing_stage")]
)


@dataclass
class Started:
    """A started run: its process, or that of the tracer around it."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def interrupt(self) -> None:
        """SIGINT to the run itself, not to a tracer around it."""
        for pid in family(self.process.pid):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:3] == [b"-m", b"socadapter_jobs"]:
                    os.kill(pid, signal.SIGINT)
                    return
        raise AssertionError(f"the run is not there any more: {self.tail()}")

    def end(self) -> int:
        """Waits for the exit status."""
        until(lambda: self.process.poll() is not None, self)
        return self.process.returncode

    def kill(self) -> None:
        """Everything at once, as a machine or a container that dies."""
        everyone = family(self.process.pid)
        kill(everyone)
        self.process.wait(30)
        until(lambda: not any(alive(pid) for pid in everyone), self)

    def tail(self) -> str:
        return self.log.read_text()[-4000:]


def until(condition: Callable[[], Any], started: Started, *, running: bool = False) -> None:
    """Waits for a condition; with `running`, only while the run goes on."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert not running or started.process.poll() is None, started.tail()
        assert time.monotonic() < deadline, started.tail()
        time.sleep(0.005)


@dataclass
class Run:
    """A run's spec and folders, and what its processes said and connected to."""

    spec: RunSpec
    workspace: Workspace
    traces: Path

    @property
    def folder(self) -> Path:
        return Path(self.workspace.store.uri)

    def start(self, *, traced: bool = False) -> Started:
        """As local mode does; `traced` down to its system calls, where there is a tracer."""
        watching: list[str] = []
        if traced and (tracer := shutil.which("strace")):
            watching = [tracer, "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect", "-e", "signal=none"]
            watching += ["-o", str(self.traces / "strace")]
        return self._start([*watching, sys.executable, "-m", "socadapter_jobs"])

    def without_ray(self, target: str = "", count: int = 0) -> int:
        """The exit status of a child that runs it, and kills itself after so many calls of `target`."""
        script = str(Path(__file__).parent / "job_without_ray.py")
        log = str(self.traces / f"log.{len(list(self.traces.glob('log.*')))}")
        given = {"SPEC": self.spec.model_dump_json(), "LOG": log, "TARGET": target, "COUNT": count}
        child = forkserver.Process(target=runpy.run_path, args=(script, given, "__main__"))
        child.start()
        child.join(DEADLINE_S)
        assert child.exitcode is not None, Path(log).read_text()[-4000:]
        return child.exitcode

    def _start(self, command: list[str]) -> Started:
        path = self.traces / "spec.json"
        path.write_text(self.spec.model_dump_json())
        log = self.traces / f"log.{len(list(self.traces.glob('log.*')))}"
        environment = os.environ | {
            "SOCADAPTER_RUN_SPEC": str(path),
            "SOCADAPTER_TEST_ADDRESSES": str(self.traces),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "watch"), *filter(None, sys.path)]),
        }
        environment.pop("RAY_ADDRESS", None)
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
        return Started(process, log)

    def steps(self, stage: Stage) -> list[int]:
        """The steps of a stage that were made, in their order."""
        path = self.workspace.scratch / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        return [row["step"] for row in rows if row["stage"] == stage.value and "message" not in row]

    def markers(self) -> dict[str, int]:
        """Times of the finished stages' markers."""
        return {path.stem: path.stat().st_mtime_ns for path in (self.folder / layout.STAGES).glob("*.json")}

    def require_nothing_published(self, cache: Path) -> None:
        assert self.workspace.store.read_result() is None
        with pytest.raises(errors.ManifestInvalid, match="has not finished"):
            download(self.folder, cache)


MakeRun = Callable[..., Run]
SPEC: dict[str, Any] = {"sft": {"epochs": 12.0}, "grpo": {"steps": 8, "eval_every": 2}, "evaluation": {"summaries": 2}}


@pytest.fixture
def make_run(make_spec: Callable[..., RunSpec], base: Path, tmp_path: Path) -> MakeRun:
    def make(name: str, **changes: Any) -> Run:
        places = {"store": str(tmp_path / name / "store"), "scratch": str(tmp_path / name / "scratch")}
        spec = make_spec(base, **SPEC | places | changes)
        traces = tmp_path / name / "traces"
        traces.mkdir(parents=True)
        return Run(spec, Workspace.of(spec), traces)

    return make


KILLED_AFTER = {
    Stage.PREPARE: ("socadapter_jobs.prepare:_write", 1),
    Stage.SFT: ("socadapter_jobs.workspace:LiveMetrics.__call__", 15),
    Stage.GRPO: ("socadapter_jobs.grpo:_Stage.stepped", 3),
    Stage.EVALUATE: ("socadapter_jobs.evaluation:_keep", 1),
    Stage.PUBLISH: ("socadapter_store.run_folder:RunFolder.upload", 2),
}
"""What has been called, and how often, in the middle of each stage."""


def check_the_end(run: Run, key: signatures.KeyPair) -> None:
    """Published and verified, with whole curves."""
    result = run.workspace.store.read_result()
    assert result is not None
    assert Outcome.PUBLISHED is result.outcome
    manifest = verify_version(run.folder, result.digest, [key.public_pem()])
    assert result.inputs == manifest.inputs
    assert result.grpo is not None
    assert ("Completed", 8) == (result.grpo.status, result.grpo.steps)
    curve = json.loads((run.folder / layout.EVALUATION).read_text())["learning"]["grpo"]
    assert list(range(1, 9)) == [row["step"] for row in curve]


def check_same(killed: Run, alone: Run) -> None:
    """Both had the same inputs and the same split, and came to the same SFT adapter, byte for byte."""
    results = [run.workspace.store.read_result() for run in (killed, alone)]
    assert results[0] is not None
    assert results[1] is not None
    assert results[0].inputs == results[1].inputs
    for stage, what in ((Stage.PREPARE, "digests"), (Stage.SFT, "adapter")):
        facts = [run.workspace.store.finished_stage(stage) or {} for run in (killed, alone)]
        assert facts[0][what] == facts[1][what]


def test_a_run_that_is_killed_in_every_stage_ends_as_if_it_were_not(
    make_run: MakeRun, run_here: Callable[[RunSpec], Any], tmp_path: Path, key: signatures.KeyPair
) -> None:
    """Finished stages are not repeated, nothing half-published is ever seen, and the inputs are the same."""
    run = make_run("killed")
    for number, stage in enumerate(STAGES):
        before = run.markers()
        assert -signal.SIGKILL == run.without_ray(*KILLED_AFTER[stage])
        assert {earlier.value for earlier in STAGES[:number]} == set(run.markers())
        assert before == {name: run.markers()[name] for name in before}
        run.require_nothing_published(tmp_path / "cache")
    assert {layout.CONFIG, layout.MODEL_CARD} == {path.name for path in (run.folder / "adapter").iterdir()}
    before = run.markers()
    assert 0 == run.without_ray()
    assert before == {name: run.markers()[name] for name in before}
    made = run.steps(Stage.SFT)
    assert 66 == made[-1]  # twelve epochs of 44 examples, eight a step
    assert 1 == made.count(1), "it began anew instead of resuming"
    check_the_end(run, key)
    alone = make_run("alone", grpo={"steps": 0}, evaluation={"summaries": 0})
    run_here(alone.spec)
    check_same(run, alone)


def test_a_run_on_ray_survives_a_kill_and_a_stop(make_run: MakeRun, tmp_path: Path, key: signatures.KeyPair) -> None:
    """Everything killed in SFT, stopped in GRPO with a checkpoint and exit status 130, then published."""
    run = make_run("ray")
    first = run.start()
    until(lambda: len(run.steps(Stage.SFT)) >= 15, first, running=True)
    first.kill()
    assert {"prepare"} == set(run.markers())
    run.require_nothing_published(tmp_path / "cache")
    second = run.start(traced=True)
    until(lambda: len(run.steps(Stage.GRPO)) >= 2, second, running=True)
    second.interrupt()
    assert 130 == second.end(), second.tail()
    made = run.steps(Stage.GRPO)
    assert (run.workspace.scratch / f"grpo/checkpoint-{made[-1]}/sealed.json").is_file()
    before = run.markers()
    assert {"prepare", "sft"} == set(before)
    run.require_nothing_published(tmp_path / "cache")
    third = run.start()
    assert 0 == third.end(), third.tail()
    assert before == {name: run.markers()[name] for name in before}
    assert list(range(1, 9)) == run.steps(Stage.GRPO)
    assert 1 == run.steps(Stage.SFT).count(1)
    check_the_end(run, key)
    check_addresses(run)


def check_addresses(run: Run) -> None:
    """Nothing was connected to, or asked for by name, but this machine's own loopback and local sockets."""
    notes = [line for path in run.traces.glob("python.*") for line in path.read_text().splitlines()]
    assert notes, "the processes noted nothing: the watch was not imported"
    strange = {line for line in notes if not _LOCAL_NOTE.search(line)}
    traced = [line for path in run.traces.glob("strace") for line in path.read_text().splitlines()]
    assert traced or shutil.which("strace") is None
    for line in traced:
        peer = _PEER.search(line)
        if peer and peer[1] in ("AF_INET", "AF_INET6") and not _LOOPBACK.match(peer[2] or peer[3] or "?"):
            strange.add(line.partition("connect(")[2])
    assert not strange, sorted(strange)[:10]
