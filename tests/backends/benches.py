"""The backends under test, each behind the same handle: stand-in jobs and, as the case may be, stand-in serving."""

import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from tests.controlplane.processes import free_port

from socadapter_api import digest
from socadapter_api.pool import SocServingPool
from socadapter_api.training import RunSpec
from socadapter_operator.backends.credentials import Credentials
from socadapter_operator.backends.local import LocalBackend
from socadapter_operator.backends.protocol import Backend
from socadapter_operator.backends.rayjobs import RayJobsBackend
from socadapter_operator.domain.state import BackendRun, RunState
from socadapter_store import layout
from socadapter_store.run_folder import RunFolder

STAND_INS = Path(__file__).parent.parent / "local"
TOKEN = "a-token-of-32-characters-or-more"
RAY_CPUS = 2
DEADLINE_S = 300.0
"""How long a condition may take on a busy machine before a test calls it a failure."""


class Bench(ABC):
    """One backend on an empty folder. `replicas_s` is how long its service may take for its first replica."""

    backend: Backend
    replicas_s = 30.0

    def __init__(self, root: Path) -> None:
        self.root = root
        self.script = root / "script"
        self.play("publish")
        self.started: list[str] = []

    @abstractmethod
    def restart(self) -> None:
        """A new operator in the place of the one before."""

    @abstractmethod
    def end(self) -> None:
        """Leaves no process behind."""

    def play(self, *lines: str) -> None:
        """What the attempts of a run do, in turn; see ``tests/local/stand_in_job.py``."""
        self.script.write_text("\n".join(lines))

    def pool(self, **spec: Any) -> SocServingPool:
        """The pool, with changes to its spec."""
        body = {"base": {"uri": "builtin://tiny"}, "store": str(self.root / "store"), "port": free_port()} | spec
        resource = {"metadata": {"name": "base", "namespace": "soc", "uid": "u-1"}, "spec": body}
        return SocServingPool.model_validate(resource)

    def run(self, run_id: str, **changes: Any) -> RunSpec:
        """The spec of a run, as the planner makes it."""
        self.started.append(run_id)
        told = {
            "run_id": run_id,
            "namespace": "soc",
            "adapter": "cloud",
            "context": "cloud",
            "version_number": 1,
            "training_hash": digest.of_bytes(run_id.encode()),
            "base": {"uri": "builtin://tiny"},
            "store": str(self.root / "store"),
            "data": {"alerts": [{"uri": "alerts.jsonl"}]},
        }
        return RunSpec.model_validate(told | changes)

    def folder(self, spec: RunSpec) -> RunFolder:
        """The run's folder in the store."""
        return RunFolder.at(layout.run_uri(spec.store, spec.namespace, spec.context, spec.run_id))

    @abstractmethod
    def attempts(self, run_id: str) -> int:
        """How many processes the run has had."""

    def reaches(self, run_id: str, *states: RunState, seconds: float = DEADLINE_S) -> BackendRun:
        """Waits until the run is in one of `states`."""
        seen: BackendRun = wait(
            lambda: self.backend.observe(run_id), lambda run: run.state in states, seconds, self.tend
        )
        return seen

    def works(self, run_id: str) -> None:
        """Waits until the run's process has printed something."""
        wait(lambda: list(self.backend.logs(run_id)), lambda lines: "hanging" in lines, DEADLINE_S, self.tend)

    def tend(self) -> None:
        """Does what the backend needs between two looks: nothing, as a rule."""
        return


class LocalBench(Bench):
    """`LocalBackend`, with stand-ins for both commands."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.restart()

    def restart(self) -> None:
        self.backend = self.local = LocalBackend(
            self.root / "state",
            self.root / "cache",
            lambda ref: digest.of_bytes(b"base"),
            job=(sys.executable, str(STAND_INS / "stand_in_job.py"), str(self.script)),
            serve=(sys.executable, str(STAND_INS / "stand_in_serve.py")),
            cpus=1,
        )

    def attempts(self, run_id: str) -> int:
        return _lines(self.local.runs.scratch(run_id) / "attempts")

    def tend(self) -> None:
        self.local.tend()

    def end(self) -> None:
        for run_id in self.started:
            self.local.runs.kill(run_id)
        self.local.delete(self.pool())


class RayBench(Bench):
    """`RayJobsBackend` on a real Ray, with a stand-in for the job's command and the real serving application."""

    replicas_s = 300.0

    def __init__(self, root: Path, address: str, base: Path) -> None:
        super().__init__(root)
        self.address = address
        self.base = base
        self.token = TOKEN
        self.secrets = Credentials(root / "state")
        self._backends: list[RayJobsBackend] = []
        self.restart()

    def restart(self) -> None:
        self.backend = made = RayJobsBackend(
            self.address,
            lambda: self.token,
            self.secrets,
            workdir=str(self.root / "nodes"),
            job=f"exec {sys.executable} {STAND_INS / 'stand_in_job.py'} {self.script}",
            stop_grace_s=20,
        )
        self._backends.append(made)

    def pool(self, **spec: Any) -> SocServingPool:
        return super().pool(**({"base": {"uri": str(self.base)}} | spec))

    def attempts(self, run_id: str) -> int:
        return _lines(self.root / "nodes" / "runs" / run_id / "attempts")

    def end(self) -> None:
        try:
            for run_id in self.started:
                self.backend.stop(run_id)
            self.backend.delete(self.pool())
        finally:
            for backend in self._backends:
                backend.close()


@contextmanager
def small_ray(folder: Path) -> Iterator[str]:
    """A real Ray with two CPUs and a token; gives its dashboard's address once a job can be started."""
    (folder / "ray_bootstrap_config.yaml").write_text("{}\n")  # else Ray asks the metadata addresses of clouds
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on, Ray would not keep to 127.0.0.1
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",  # a busy machine takes more than Ray's minute and half-minute
        "RAY_raylet_start_wait_time_s": "300",
        "RAY_worker_niceness": "0",  # beside other tests, workers that yield to everything take several times as long
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # whose `python` the jobs are
        "HOME": str(folder),
    }
    address, process = _started(folder, environment)
    while process.poll() is not None:  # on a machine that is very busy Ray gives up on its own processes
        address, process = _started(folder, environment)
    try:
        yield address
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


def _started(folder: Path, environment: dict[str, str]) -> tuple[str, "subprocess.Popen[bytes]"]:
    """The address and process of a Ray that answers, or of one that has given up."""
    ports = [str(free_port()) for _ in range(4)]
    command = [sys.executable, str(Path(__file__).parent / "small_ray.py"), str(RAY_CPUS), *ports]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, cwd=folder, start_new_session=True)
    address, log = f"http://127.0.0.1:{ports[0]}", folder / "ray.log"
    deadline = time.monotonic() + 2 * DEADLINE_S
    while process.poll() is None and not _answers(address):
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.2)
    assert process.poll() is None or "timed out during startup" in log.read_text(), log.read_text()[-3000:]
    return address, process


def _answers(address: str) -> bool:
    try:
        headers = {"authorization": f"Bearer {TOKEN}"}
        with httpx.Client(headers=headers, timeout=60, trust_env=False) as client:
            serves = client.get(f"{address}/api/serve/applications/").is_success
            # The last to come is the agent that starts jobs.
            return serves and client.post(f"{address}/api/jobs/", json={"entrypoint": "true"}).is_success
    except httpx.HTTPError:
        return False


def tiny_base(folder: Path) -> Path:
    """A two-layer Llama over bytes that knows nothing: enough to be served and to have a digest."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(alphabet)}, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token=special[1], pad_token=special[1])
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=4096, **shape)).save_pretrained(
        folder
    )
    return folder


def wait(look: Callable[[], Any], enough: Callable[[Any], bool], seconds: float, between: Any = None) -> Any:
    """What `look` sees once it is `enough`; fails with what it saw last."""
    deadline = time.monotonic() + seconds
    while not enough(seen := look()):
        assert time.monotonic() < deadline, json.dumps(seen, default=str)[-3000:]
        if between is not None:
            between()
        time.sleep(0.05)
    return seen


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0
