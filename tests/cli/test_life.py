"""Whole lives on the command line: up, look, verify, train, demo, down, with real child processes."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result

from socadapter_cli import demo_world
from socadapter_operator.backends import attached
from socadapter_store import signatures

pytestmark = pytest.mark.slow

Call = Callable[..., Result]
Resources = Callable[..., Path]
Play = Callable[[str], object]


def test_up_to_down(call: Call, resources: Resources, tmp_path: Path) -> None:
    """`up --wait` trains and serves; every look shows it; the adapter verifies; `down` ends all; `up` serves again."""
    result = call("up", "--wait", "-f", str(resources()))
    assert result.exit_code == 0, result.output
    assert "signing-key.pem" in result.output
    assert "ToolSchemaMismatch: pool 'base' names no tools" in result.output
    assert "http://127.0.0.1:8123" in result.output
    assert re.search(r"cloud: the adapter has \d+\.\d\d % of the base's parameters, \d+\.\d kB", result.output)
    shown = call("get").output
    assert "cloud-v1-" in shown
    (adapter,) = json.loads(call("get", "adapters", "-o", "json").output)["items"]
    stable = adapter["status"]["versions"]["stable"]
    assert yaml.safe_load(call("get", "adapters", "cloud", "-o", "yaml").output)["kind"] == "SocAdapter"
    described = call("describe", "cloud").output
    for word in ("Ready", "Published", stable["name"], stable["digest"], "balancedAccuracy=0.900"):
        assert word in described
    assert "http://127.0.0.1:8123" in call("describe", "base").output
    assert "attempt 0 of" in call("logs", "cloud").output
    verified = call("verify", stable["uri"])
    assert (0, True) == (verified.exit_code, stable["digest"] in verified.output), verified.output
    assert call("plan").output.count("nothing to do") == 2
    stopped = call("down")
    assert (0, True) == (stopped.exit_code, "stopping the service of base" in stopped.output)
    assert call("get", "adapters").output.split().count("Stopped") == 1
    assert "no pool serves" in call("triage", "-", stdin='{"title": "t"}').stderr
    again = call("up", "--wait")
    assert (0, "attempt 1" in call("logs", "cloud").output) == (again.exit_code, False)
    assert "the adapter has" not in again.output


def test_a_tampered_adapter_is_refused(call: Call, resources: Resources, tmp_path: Path) -> None:
    """`verify` says what is wrong and fails."""
    call("up", "--wait", "-f", str(resources()))
    (adapter,) = json.loads(call("get", "adapters", "-o", "json").output)["items"]
    uri = adapter["status"]["versions"]["stable"]["uri"]
    card = Path(uri) / "adapter" / "README.md"
    card.write_text(card.read_text() + "more")
    result = call("verify", uri)
    assert (1, True) == (result.exit_code, "error[DigestMismatch]" in result.stderr), result.output


def test_plan_changes_nothing(call: Call, resources: Resources, tmp_path: Path) -> None:
    """It names the run that `up` would start, and leaves no file behind."""
    (tmp_path / "alerts.jsonl").touch()
    result = call("plan", "-f", str(resources()))
    assert (0, True) == (result.exit_code, "start run cloud-" in result.output), result.output
    assert not (tmp_path / ".socadapter").exists()


@pytest.mark.parametrize(
    ("line", "code", "reason"),
    [
        pytest.param("gate-failed", 1, "GateFailed", id="gate failed"),
        pytest.param("broken", 2, "OneClass", id="bad data"),
    ],
)
def test_up_wait_says_why_it_is_not_ready(
    line: str, code: int, reason: str, call: Call, resources: Resources, play: Play
) -> None:
    """The condition's reason, and its kind of exit code."""
    play(line)
    result = call("up", "--wait", "-f", str(resources()))
    assert (code, True) == (result.exit_code, f"error[{reason}]: SocAdapter cloud" in result.stderr), result.output


def test_train_here_and_now(call: Call, resources: Resources, play: Play, tmp_path: Path) -> None:
    """One run in the foreground; OUT is then a run's folder that verifies as told; calling again trains nothing."""
    result = call("train", "-f", str(resources()), "--out", "out")
    assert result.exit_code == 0, result.output
    for name in ("adapter/adapter_model.safetensors", "manifest.json", "result.json", "_SUCCESS"):
        assert (tmp_path / "out" / name).is_file()
    assert "the adapter has" in result.output
    told = re.search(r"verify with: socadapter (.+)", result.output)
    assert told is not None, result.output
    verified = call(*shlex.split(told[1]))
    assert verified.exit_code == 0, verified.output
    play("broken")
    assert call("train", "-f", str(resources()), "--out", "out").exit_code == 0


def test_train_takes_several_files_and_a_name(call: Call, resources: Resources, tmp_path: Path) -> None:
    """Behind -f, what is no Kubernetes name is one more file; a name picks one of several adapters."""
    pool, adapter = yaml.safe_load_all(resources().read_text())
    office = {**adapter, "metadata": {**adapter["metadata"], "name": "office-v2"}}
    office["spec"] = {**adapter["spec"], "context": "office"}
    for name, document in (("pool.yaml", pool), ("cloud.yml", adapter), ("office", office)):
        (tmp_path / name).write_text(yaml.safe_dump(document))
    files = ("-f", "pool.yaml", "cloud.yml")
    assert 0 == call("train", *files, "--out", "out").exit_code
    several = call("train", *files, "office", "--out", "both")
    assert (2, True) == (several.exit_code, "the files hold cloud, office-v2: name one" in several.stderr)
    for place in (("office-v2", *files, "office"), (*files, "office", "office-v2")):
        assert 0 == call("train", *place, "--out", "out/office").exit_code
    gone = call("train", *files, "gone.yaml", "--out", "out")
    assert (2, True) == (gone.exit_code, "'gone.yaml' does not exist" in gone.stderr)
    two = call("train", *files, "cloud", "office-v2", "--out", "out")
    assert (2, True) == (two.exit_code, "one adapter is trained at a time" in two.stderr)


@pytest.mark.parametrize("line", ["publish", "broken"])
def test_a_folder_with_a_result_takes_no_other_run(
    line: str, call: Call, resources: Resources, play: Play, tmp_path: Path
) -> None:
    """An edited spec is refused before it trains, and the spec of before still finds its result."""
    assert call("train", "-f", str(resources()), "--out", "out").exit_code == 0
    held = (tmp_path / "out/_SUCCESS").read_bytes()
    play(line)
    other = call("train", "-f", str(resources(lora={"rank": 4})), "--out", "out")
    assert (1, True) == (other.exit_code, "error[AlreadyPublished]" in other.stderr), other.output
    assert len(list((tmp_path / "out/.socadapter/runs").iterdir())) == 1
    again = call("train", "-f", str(resources()), "--out", "out")
    assert (0, held) == (again.exit_code, (tmp_path / "out/_SUCCESS").read_bytes()), again.output


def test_nothing_of_a_run_that_failed_stays_beside_the_next_one_s(
    call: Call, resources: Resources, play: Play, tmp_path: Path
) -> None:
    """Its adapter, signed and whole, would pass for what the next run made."""
    play("broken")
    assert call("train", "-f", str(resources()), "--out", "out").exit_code == 2
    left, own = tmp_path / "out/adapter/adapter_config.json", tmp_path / "out/notes.txt"
    left.parent.mkdir()
    for path in (left, tmp_path / "out/manifest.sig", own):
        path.write_text("as it was")
    play("gate-failed")
    call("train", "-f", str(resources()), "--out", "out")
    assert "GateFailed" in (tmp_path / "out/result.json").read_text()
    assert ["as it was"] == [path.read_text() for path in (tmp_path / "out").rglob("*") if path.name == "notes.txt"]
    assert not left.exists()
    assert not (tmp_path / "out/manifest.sig").exists()


def test_files_that_cannot_be_trained_are_told_over_a_result(call: Call, resources: Resources, tmp_path: Path) -> None:
    """What OUT holds is of other files, and saying so again would be a lie."""
    assert call("train", "-f", str(resources()), "--out", "out").exit_code == 0
    edited = call("train", "-f", str(resources(lora={"rank": 128})), "--out", "out")
    assert (2, True) == (edited.exit_code, "error[RankTooHigh]" in edited.stderr), edited.output
    assert "Published" not in edited.stdout


def test_a_pin_is_for_what_serves(call: Call, resources: Resources) -> None:
    """A run in the foreground serves nothing, so a version that only the service's store has is not missed."""
    pin = {"version": "cloud-v1-00000000", "digest": f"sha256:{'0' * 64}"}
    result = call("train", "-f", str(resources(rollout={"pin": pin})), "--out", "out")
    assert result.exit_code == 0, result.output


def test_a_status_that_cannot_be_read_is_told_and_the_rest_goes_on(
    call: Call, resources: Resources, tmp_path: Path
) -> None:
    """`up` drives what it can and does not call it ready; `down` stops it."""
    assert call("up", "--wait", "-f", str(resources())).exit_code == 0
    (tmp_path / ".socadapter/soc/SocAdapter/cloud.json").write_text("torn")
    again = call("up", "--wait")
    assert (2, True) == (again.exit_code, "error[InvalidSpec]" in again.stderr), again.output
    assert "state folder: InvalidSpec" in again.stdout
    stopped = call("down")
    assert (0, True) == (stopped.exit_code, "stopping the service of base" in stopped.output)


def test_a_result_outlives_its_state_folder(call: Call, resources: Resources, tmp_path: Path) -> None:
    """Where OUT's own state is gone the same files would train anew, so OUT is refused and stays as it is."""
    assert call("train", "-f", str(resources()), "--out", "out").exit_code == 0
    shutil.rmtree(tmp_path / "out/.socadapter")
    again = call("train", "-f", str(resources()), "--out", "out")
    assert (1, True) == (again.exit_code, "error[AlreadyPublished]" in again.stderr), again.output
    assert not (tmp_path / "out/.socadapter/runs").exists()


def test_a_named_key_s_public_half_is_told(call: Call, resources: Resources, tmp_path: Path) -> None:
    """Where the pool names its signing key, the verify command that is printed has that key's public half."""
    pool, adapter = yaml.safe_load_all(resources().read_text())
    pool["spec"]["signing"] = {"keySecretRef": {"name": "soc-key", "key": "key.pem"}}
    (tmp_path / "named.yaml").write_text(yaml.safe_dump_all([pool, adapter]))
    secret = tmp_path / "out/.socadapter/secrets/soc-key"
    signatures.make_key(secret).private.rename(secret / "key.pem")
    result = call("train", "-f", "named.yaml", "--out", "out")
    told = re.search(r"verify with: socadapter (.+)", result.output)
    assert told is not None, result.output
    verified = call(*shlex.split(told[1]))
    assert verified.exit_code == 0, verified.output


def test_a_half_copied_result_does_not_count(call: Call, resources: Resources, tmp_path: Path) -> None:
    """Where the weights cannot be copied OUT has no marker; the next call copies them and it has."""
    in_the_way = tmp_path / "out/adapter/adapter_model.safetensors"
    in_the_way.mkdir(parents=True)
    assert call("train", "-f", str(resources()), "--out", "out").exit_code != 0
    assert not (tmp_path / "out/_SUCCESS").exists()
    in_the_way.rmdir()
    assert call("train", "-f", str(resources()), "--out", "out").exit_code == 0
    assert in_the_way.is_file()
    assert (tmp_path / "out/_SUCCESS").is_file()


def test_a_failed_run_has_the_exit_code_of_its_reason(
    call: Call, resources: Resources, play: Play, tmp_path: Path
) -> None:
    """And the next call tries again, with mended data; the mark of the failure goes."""
    play("broken")
    result = call("train", "-f", str(resources()), "--out", "out")
    assert (2, True) == (result.exit_code, "error[OneClass]" in result.stderr), result.output
    assert (tmp_path / "out/_FAILED").is_file()
    play("publish")
    assert call("train", "-f", str(resources()), "--out", "out").exit_code == 0
    assert not (tmp_path / "out/_FAILED").exists()


def test_a_request_is_taken_up_by_the_next_up(call: Call, resources: Resources) -> None:
    """`train NAME` makes a second version."""
    call("up", "--wait", "-f", str(resources()))
    assert "next `socadapter up`" in call("train", "cloud").output
    call("up", "--wait", "-f", str(resources()))
    assert len(call("get", "versions", "-o", "name").output.split()) == 2


def test_a_second_up_is_refused(call: Call, resources: Resources, tmp_path: Path) -> None:
    """One process drives a state folder; the other is told which one does."""
    from socadapter_operator.local.state_folder import StateFolder

    with StateFolder(tmp_path / ".socadapter").locked():
        result = call("up", "--once", "-f", str(resources()))
    assert (3, True) == (result.exit_code, "error[BackendUnavailable]" in result.stderr), result.output


def test_demo(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Range, tool server, two adapters, figures per arm; again: nothing trains; down: nothing runs."""
    monkeypatch.setattr(demo_world, "TRAIN", 8)
    monkeypatch.setattr(demo_world, "HOLDOUT", 8)
    result = call("demo", "--out", "demo")
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "demo/result.json").read_text())
    assert {"cloud-infrastructure", "corporate-network"} == set(written["contexts"])
    for held in written["contexts"].values():
        for arm in ("base", "adapter", "other_adapter"):
            assert {"balanced_accuracy", "fnr", "n"} == set(held[arm])
        assert held["version"]
        assert held["digest"].startswith("sha256:")
    assert result.output.count("the adapter has") == 2
    for word in ("curl -s http://127.0.0.1:", "socadapter down --state demo"):
        assert word in result.output
    for name, other in (("cloud-infrastructure", "corporate-network"), ("corporate-network", "cloud-infrastructure")):
        assert f"report of {name}: demo/report-{name}.html" in result.output
        assert f"Adapter of {other}" in (tmp_path / f"demo/report-{name}.html").read_text()
    again = call("demo", "--out", "demo")
    assert again.exit_code == 0, again.output
    versions = call("get", "versions", "-o", "name", "--state", "demo").output.split()
    assert len(versions) == 2
    assert attached.running(tmp_path / "demo", "range-tools")
    assert "stopped range-tools" in call("down", "--state", "demo").output
    assert not attached.running(tmp_path / "demo", "range-tools")


def test_a_demo_that_missed_its_gates_goes_on(
    call: Call, play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says where the reports are and how to train again; what it says works."""
    monkeypatch.setattr(demo_world, "TRAIN", 8)
    monkeypatch.setattr(demo_world, "HOLDOUT", 8)
    play("gate-failed")
    missed = call("demo", "--out", "demo")
    assert missed.exit_code != 0
    for word in ("report of cloud-infrastructure", "not published", "down --state demo"):
        assert word in missed.output, missed.output
    play("publish")
    for name in ("cloud-infrastructure", "corporate-network"):
        assert f"train {name} --state demo, then the demo" in missed.output
        assert call("train", name, "--state", "demo").exit_code == 0
    again = call("demo", "--out", "demo")
    assert again.exit_code == 0, again.output
    assert again.output.count("curl -s") == 2
