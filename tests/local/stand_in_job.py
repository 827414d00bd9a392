"""A program in the place of ``python -m socadapter_jobs``: a real child process that leaves a real run's files.

Each attempt takes the next line of the script file named on its command line: ``publish``, ``gate-failed``,
``skipped``, ``broken`` (a failure that no retry mends), ``passing`` (one that a retry mends), ``crash``, ``vanish``
(ends well and leaves nothing) or ``hang`` (works until it is stopped). The last line repeats.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from socadapter_api import digest
from socadapter_api.manifest import Outcome, Progress, RunResult, Stage
from socadapter_api.training import RunSpec
from socadapter_jobs import secret_files
from socadapter_store import layout
from socadapter_store.publication import publish
from socadapter_store.run_folder import RunFolder

BASE_DIGEST = digest.of_bytes(b"base")


def main() -> int:
    """Plays the next line of the script."""
    secret_files.unpack()
    told = os.environ["SOCADAPTER_RUN_SPEC"]
    spec = RunSpec.model_validate_json(told if told.startswith("{") else Path(told).read_text())
    scratch = Path(spec.scratch or "")
    scratch.mkdir(parents=True, exist_ok=True)
    attempts = scratch / "attempts"
    attempt = len(attempts.read_text().splitlines()) if attempts.exists() else 0
    with attempts.open("a") as file:
        file.write(f"{os.getpid()}\n")
    lines = Path(sys.argv[1]).read_text().split()
    folder = RunFolder.at(layout.run_uri(spec.store, spec.namespace, spec.context, spec.run_id))
    if folder.read_result() is not None:
        return 0
    folder.write_progress(Progress(stage=Stage.SFT, step=1, steps=4, at=time.time()))
    print(f"attempt {attempt} of {spec.run_id}", flush=True)
    return play(lines[min(attempt, len(lines) - 1)], spec, folder, scratch)


def play(line: str, spec: RunSpec, folder: RunFolder, scratch: Path) -> int:
    """What the attempt does."""
    if line == "hang":
        return hang()
    if line == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if line == "publish":
        publish_version(spec, folder, scratch)
    if line in ("gate-failed", "skipped", "broken", "passing"):
        outcome = {"gate-failed": Outcome.GATE_FAILED, "skipped": Outcome.SKIPPED}.get(line, Outcome.FAILED)
        reason = {"broken": "OneClass", "passing": "DiskFull"}.get(line, "")
        finish(spec, folder, outcome, reason, line == "passing")
    return 1 if line in ("broken", "passing") else 0


def hang() -> int:
    """Works until it is interrupted, and leaves nothing in the store then."""
    interrupted = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: interrupted.set())
    print("hanging", flush=True)
    while not interrupted.wait(0.05):
        pass
    return 130


def finish(spec: RunSpec, folder: RunFolder, outcome: Outcome, reason: str, retryable: bool) -> None:
    """Writes the result and its marker."""
    folder.finish(
        RunResult(run_id=spec.run_id, context=spec.context, outcome=outcome, reason=reason, retryable=retryable)
    )


def publish_version(spec: RunSpec, folder: RunFolder, scratch: Path) -> None:
    """Publishes a small LoRA whose weights follow from the run's training hash."""
    figures = {"metrics": {"balanced_accuracy": 0.9, "fnr": 0.05, "n": 96}}
    others = {name: {"metrics": {"balanced_accuracy": 0.6, "fnr": 0.4, "n": 96}} for name in spec.other_contexts}
    measured = {"arms": {"base": figures, "candidate": figures}, "other_contexts": others}
    folder.write_json(layout.EVALUATION, {"context": spec.context} | measured)
    local = scratch / "local"
    adapter = local / layout.ADAPTER
    adapter.mkdir(parents=True, exist_ok=True)
    weights = np.full((spec.lora.rank, 4), int(spec.training_hash[7:11], 16), dtype=np.float32)
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{prefix}.lora_A.weight": weights, f"{prefix}.lora_B.weight": weights.T.copy()}
    save_file(tensors, adapter / layout.WEIGHTS, metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": spec.lora.rank, "lora_alpha": spec.lora.alpha, "target_modules": ["q_proj"]}
    (adapter / layout.CONFIG).write_text(json.dumps(config))
    (adapter / layout.MODEL_CARD).write_text("# Stand-in\n")
    fields = {
        "context": spec.context,
        "namespace": spec.namespace,
        "run_id": spec.run_id,
        "number": spec.version_number,
        "base_uri": spec.base.uri,
        "base_digest": BASE_DIGEST,
        "base_parameters": 1000,
        "template_digest": digest.of_bytes(b"template"),
        "tools_digest": digest.of_bytes(b"tools"),
        "config_digest": digest.of_bytes(b"config"),
        "code_digest": digest.of_bytes(b"code"),
    }
    result = RunResult(
        run_id=spec.run_id, context=spec.context, outcome=Outcome.PUBLISHED, metrics={"balancedAccuracy": 0.9}
    )
    page = "<p>Stand-in</p>"
    publish(local, fields, result, folder, secret_files.signing_key(spec) or Path(), report=lambda *_: page)


if __name__ == "__main__":
    sys.exit(main())
