"""The commands of docs/artifacts.md do what the page says, on a run that was really published."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from socadapter_api.manifest import Progress, RunResult, Stage
from socadapter_store import layout, signatures
from socadapter_store.publication import publish
from socadapter_store.run_folder import RunFolder
from socadapter_store.signatures import KeyPair

pytestmark = pytest.mark.slow  # a program for each command of the page

PAGE = Path(__file__).parents[2] / "docs/artifacts.md"
COMMANDS = re.findall(r"```sh\n(.+?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def _run(command: str, run: RunFolder, key: KeyPair, folder: Path) -> str:
    python = Path(sys.executable).parent
    environment = os.environ | {
        "RUN": run.uri,
        "PUBLIC_KEY": str(key.public),
        "PATH": f"{python}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=folder,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_commands_of_the_page_work(
    adapter: Path,
    key: KeyPair,
    fields: Callable[..., dict[str, Any]],
    result: Callable[..., RunResult],
    tmp_path: Path,
) -> None:
    """Verifying with the public tool, naming a key, and writing the report; with all of a run's files beside."""
    run = RunFolder.at(tmp_path / "store/soc/cloud/run")
    run.write_progress(Progress(stage=Stage.PUBLISH, at=0.0))
    run.finish_stage(Stage.EVALUATE)
    run.write_json(layout.EVALUATION, {"context": "cloud"})
    publish(adapter.parent, fields(), result(), run, key.private)

    verify, fingerprint, report = COMMANDS
    assert "succeeded" in _run(verify, run, key, tmp_path).lower()
    _run(report, run, key, tmp_path)
    assert "cloud" in (tmp_path / "report.html").read_text(encoding="utf-8")
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: the command that names a key was not run")
    shown = _run(fingerprint, run, key, tmp_path).split()[0]
    assert f"sha256:{shown}" == signatures.fingerprint(key.public_pem())


def test_page_names_every_file_of_a_run() -> None:
    """The drawing on the page and the layout in the code are the same."""
    page = PAGE.read_text(encoding="utf-8")
    for name in (*layout.ADAPTER_FILES, *layout.UNSIGNED, layout.MANIFEST):
        assert name in page
