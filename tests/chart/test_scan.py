"""The chart under checkov: what a security team's scanner finds in it without a value set."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.chart import scanner
from tests.chart.conftest import CHART, Helm
from tests.controlplane.fixtures import REQUIRED

SHARE = 0.98


@pytest.fixture
def checkov() -> Path:
    """The scanner's interpreter; where it is not installed the test is skipped, or fails under `make test-slow`."""
    try:
        return scanner.find()
    except scanner.ScannerMissing as missing:
        if os.environ.get(REQUIRED):
            raise
        pytest.skip(str(missing))


def scanned(python: Path, manifests: Path, home: Path) -> dict[str, Any]:
    """What checkov says of a file, without looking for a newer version of itself."""
    # Nobody listens there: whatever else it may ask for stays on this machine.
    nobody = "http://127.0.0.1:9"
    environment = {
        "PATH": os.defpath,
        "HOME": str(home),
        "CKV_SKIP_PACKAGE_UPDATE_CHECK": "true",
        "HTTP_PROXY": nobody,
        "HTTPS_PROXY": nobody,
    }
    command: list[str | Path] = [
        python,
        "-m",
        "checkov.main",
        "--file",
        manifests,
        "--framework",
        "kubernetes",
        "--output",
        "json",
    ]
    done = subprocess.run(
        [*command, "--skip-download", "--compact", "--soft-fail"],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_missing_scanner_says_what_to_do(tmp_path: Path) -> None:
    """A scanner that is not installed: the message names where it was looked for and the command that installs it."""
    with pytest.raises(scanner.ScannerMissing) as missing:
        scanner.find({"XDG_CACHE_HOME": str(tmp_path)})
    assert all(word in str(missing.value) for word in (str(tmp_path), "make checkov"))


@pytest.mark.slow
def test_defaults_pass_the_scanner(
    helm: Helm, checkov: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the scanner's checks on what the defaults render, 98 % pass, where one that is skipped counts as failed.

    Two ask for images by digest, which a release sets, and two for probes of the pod of `helm test`, which only ends.
    """
    manifests = tmp_path / "manifests.yaml"
    manifests.write_text(helm("template", "soc", CHART, "--namespace", "ops"), "utf-8")
    report = scanned(checkov, manifests, tmp_path)
    passed, failed, skipped = (report["summary"][key] for key in ("passed", "failed", "skipped"))
    found = sorted((check["check_id"], check["resource"]) for check in report["results"]["failed_checks"])
    share = passed / (passed + failed + skipped)
    version = report["summary"]["checkov_version"]
    with capsys.disabled():
        print(f"\ncheckov {version}: {passed} passed, {failed} failed, {skipped} skipped: {share:.1%}")
    assert report["summary"]["parsing_errors"] == 0
    assert passed > 200
    assert share >= SHARE, found
