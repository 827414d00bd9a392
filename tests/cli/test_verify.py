"""``socadapter verify``: whose key is believed, and what is told."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from socadapter_api import digest
from socadapter_api.manifest import Outcome, RunResult
from socadapter_api.training import RunSpec
from socadapter_cli.footprint import footprint
from socadapter_store import layout, signatures
from socadapter_store.run_folder import RunFolder
from socadapter_store.verify import read_manifest

STAND_IN = Path(__file__).parent.parent / "local" / "stand_in_job.py"

Call = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder as whoever made it hands it over, with a key of theirs inside."""
    folder = tmp_path / "handed-over"
    keys = signatures.make_key(folder / ".socadapter" / "keys")
    spec = RunSpec.model_validate(
        {
            "runId": "cloud-1-a",
            "adapter": "cloud",
            "context": "cloud",
            "versionNumber": 1,
            "trainingHash": digest.of_bytes(b"training"),
            "base": {"uri": "builtin://tiny"},
            "store": str(tmp_path),
            "data": {},
            "signingKey": str(keys.private),
        }
    )
    _stand_in().publish_version(spec, RunFolder.at(folder), tmp_path / "scratch")
    return folder


def _stand_in() -> Any:
    found = importlib.util.spec_from_file_location("stand_in_job", STAND_IN)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("folder", "arguments"),
    [
        pytest.param(".", ("handed-over",), id="no state folder"),
        pytest.param("handed-over", (".",), id="called inside"),
        pytest.param("handed-over", ("../handed-over/../handed-over",), id="by a detour"),
        pytest.param(".", ("handed-over", "--state", "handed-over/.socadapter"), id="state folder inside"),
        pytest.param(".", ("handed-over", "--state", "linked"), id="state folder linked to inside"),
    ],
)
def test_a_key_that_came_with_the_run_is_not_believed(
    folder: str, arguments: tuple[str, ...], call: Call, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wrote the adapter wrote that key too; the error says how to name one."""
    (tmp_path / "linked").symlink_to(run / ".socadapter")
    monkeypatch.chdir(tmp_path / folder)
    result = call("verify", *arguments)
    assert (2, "") == (result.exit_code, result.stdout)
    assert "error[SecretNotFound]" in result.stderr
    assert "--public-key" in result.stderr


def test_a_file_uri_is_a_folder_of_this_machine(call: Call, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key inside is not believed either when the run is named by its URI."""
    monkeypatch.chdir(run)
    result = call("verify", run.as_uri())
    assert (2, True) == (result.exit_code, "error[SecretNotFound]" in result.stderr), result.output


def test_a_named_key_is_believed_and_told(call: Call, run: Path) -> None:
    """With --public-key the signer's fingerprint and the key's file are printed."""
    key = run / ".socadapter" / "keys" / signatures.PUBLIC_KEY
    result = call("verify", str(run), "--public-key", str(key))
    assert result.exit_code == 0, result.output
    assert f"signed by: {signatures.fingerprint(key.read_text())}, the key in {key}" in result.output


def test_size_is_told_beside_the_base(call: Call, run: Path) -> None:
    """The adapter's share of the base's parameters and its weights' bytes, in a unit that fits."""
    key = run / ".socadapter" / "keys" / signatures.PUBLIC_KEY
    size = (run / "adapter" / "adapter_model.safetensors").stat().st_size
    told = call("verify", str(run), "--public-key", str(key)).output
    assert f"size: 6.40 % of the base's parameters, {size / 1000:.1f} kB" in told
    manifest = read_manifest(run).model_copy(update={"adapter_parameters": 1_221_120, "base_parameters": 134_515_008})
    assert footprint(manifest, 4_912_345) == "0.91 % of the base's parameters, 4.9 MB"


def test_the_state_folder_s_key_is_believed(call: Call, run: Path, tmp_path: Path) -> None:
    """The key that local mode made outside the run needs not be named; another one refuses the adapter."""
    kept = shutil.copytree(run / ".socadapter", tmp_path / ".socadapter")
    assert call("verify", str(run)).exit_code == 0
    shutil.rmtree(kept)
    signatures.make_key(kept / "keys")
    refused = call("verify", str(run))
    assert (1, True) == (refused.exit_code, "error[SignatureInvalid]" in refused.stderr), refused.output


def test_what_serving_refuses_is_not_called_verified(call: Call, run: Path, tmp_path: Path) -> None:
    """A run that failed after it had signed its adapter left all that a good one leaves, and a word that it failed."""
    (run / ".socadapter").rename(tmp_path / "theirs")
    key = str(tmp_path / "theirs/keys" / signatures.PUBLIC_KEY)
    assert 0 == call("verify", str(run), "--public-key", key).exit_code
    for name in (layout.SUCCESS, layout.RESULT):
        (run / name).unlink()
    assert 0 == call("verify", str(run), "--public-key", key).exit_code, "a copy without a result"
    failed = RunResult(run_id="cloud-1-a", context="cloud", outcome=Outcome.FAILED, reason="DiskFull")
    RunFolder.at(run).finish(failed)
    refused = call("verify", str(run), "--public-key", key)
    assert (1, True) == (refused.exit_code, "ended as Failed" in refused.stderr), refused.output
