"""Secrets that the environment hands over become files that only this process reads, and nothing else."""

import json
import stat
import sys
from pathlib import Path
from subprocess import run

import pytest

from socadapter_api.errors import SpecError
from socadapter_jobs import secret_files


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv(secret_files.SECRETS_VARIABLE, "")
    return monkeypatch


def test_values_become_private_files(handed: pytest.MonkeyPatch) -> None:
    """Each value is a file in a folder that nobody else may enter, and the variable is gone from the environment."""
    handed.setenv(secret_files.VALUES_VARIABLE, json.dumps({"signing-key.pem": "KEY", "telemetry/token": "t0k"}))
    secret_files.unpack()
    folder = secret_files.secret_path("")
    assert ("KEY", "t0k") == (
        secret_files.secret_path("signing-key.pem").read_text(),
        secret_files.secret_path("telemetry/token").read_text(),
    )
    assert 0o700 == stat.S_IMODE(folder.stat().st_mode)
    secret_files.unpack()
    assert folder == secret_files.secret_path("")


def test_they_are_gone_with_the_process() -> None:
    """The folder lives no longer than the process that made it."""
    code = (
        "import os; os.environ['SOCADAPTER_SECRET_VALUES'] = '{\"a/b\": \"c\"}';"
        "from socadapter_jobs import secret_files; secret_files.unpack(); print(secret_files.secret_path('a/b'))"
    )
    said = run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert said.endswith("a/b")
    assert not Path(said).parent.parent.exists()


def test_a_mounted_folder_stays_as_it_is(handed: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without handed-over values the folder that was mounted is used, and an absolute path is left alone."""
    handed.setenv(secret_files.SECRETS_VARIABLE, str(tmp_path))
    secret_files.unpack()
    assert tmp_path / "a/b" == secret_files.secret_path("a/b")
    assert Path("/elsewhere/key.pem") == secret_files.secret_path("/elsewhere/key.pem")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("no json", id="not JSON"),
        pytest.param('["a"]', id="no object"),
        pytest.param('{"../a": "b"}', id="leaves the folder"),
        pytest.param('{"/a": "b"}', id="absolute"),
    ],
)
def test_what_no_backend_wrote_is_refused(handed: pytest.MonkeyPatch, text: str) -> None:
    """And the error repeats no value."""
    handed.setenv(secret_files.VALUES_VARIABLE, text)
    with pytest.raises(SpecError, match="SOCADAPTER_SECRET_VALUES") as error:
        secret_files.unpack()
    assert text not in str(error.value)
