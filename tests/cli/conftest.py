"""The command line as a user calls it, with the job's and serving's programs replaced by stand-ins."""

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from socadapter_api import digest
from socadapter_api.training import BaseModelRef
from socadapter_cli import workspace
from socadapter_cli.main import cli
from socadapter_operator.backends.local import LocalBackend

STAND_INS = Path(__file__).parent.parent / "local"

Call = Callable[..., Result]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    """`call("up", "--wait", ...)` in a folder of its own; what is still running at the end is stopped."""
    (tmp_path / "script").write_text("publish")
    job = (sys.executable, str(STAND_INS / "stand_in_job.py"), str(tmp_path / "script"))
    serve = (sys.executable, str(STAND_INS / "stand_in_serve.py"))
    monkeypatch.setattr(workspace, "LocalBackend", functools.partial(LocalBackend, job=job, serve=serve))
    monkeypatch.setattr(workspace, "resolve_base", _base)
    monkeypatch.setenv("SOCADAPTER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()

    def call(*arguments: str, stdin: str | None = None) -> Result:
        return runner.invoke(cli, arguments, input=stdin)

    yield call
    for state in (tmp_path / ".socadapter", tmp_path / "demo", tmp_path / "out" / ".socadapter"):
        if state.is_dir():
            call("down", "--state", str(state))


@pytest.fixture
def play(tmp_path: Path) -> Callable[[str], object]:
    """What the next runs do."""
    return lambda line: (tmp_path / "script").write_text(line)


@pytest.fixture
def resources(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file with a pool and an adapter; keywords change the adapter's spec."""

    def write(**spec: object) -> Path:
        metadata = {"namespace": "soc"}
        pool = {"base": {"uri": "builtin://tiny"}, "store": "store", "port": 8123}
        adapter = {
            "context": "cloud",
            "servingPoolRef": {"name": "base"},
            "data": {"alerts": [{"uri": "alerts.jsonl"}]},
            **spec,
        }
        documents = [
            {"kind": "SocServingPool", "metadata": {"name": "base", **metadata}, "spec": pool},
            {"kind": "SocAdapter", "metadata": {"name": "cloud", **metadata}, "spec": adapter},
        ]
        path = tmp_path / "resources.yaml"
        path.write_text(yaml.safe_dump_all(documents))
        return path

    return write


def _base(ref: BaseModelRef) -> str:
    return digest.of_bytes(b"base")
