"""`make cluster`: a control plane that stays, is found again, is stopped, and leaves nothing when it is killed."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.controlplane.background import Keeper, main
from tests.controlplane.cluster import client_of, wait_for
from tests.controlplane.fixtures import program
from tests.controlplane.plane import PROGRAMS


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    """A keeper with a folder of its own, stopped at the end."""
    for name in PROGRAMS:
        program(name)
    keeper = Keeper(tmp_path / "cluster")
    yield keeper
    keeper.down()


def kubeconfig_in(text: str) -> Path:
    return Path(text.splitlines()[0].removeprefix("export KUBECONFIG="))


@pytest.mark.slow
def test_stays_until_stopped(keeper: Keeper) -> None:
    """It answers after the command that started it; a second start finds it; stopping it removes its folder."""
    text = keeper.up()
    config = kubeconfig_in(text)
    with client_of(config) as client:
        assert client.get("/apis/socadapter.io/v1alpha1/socadapters").json()["items"] == []
    assert "make cluster-down" in text
    assert keeper.up() == text
    assert keeper.down()
    assert not config.parent.exists()
    assert not keeper.down()


@pytest.mark.slow
def test_killed_keeper(keeper: Keeper) -> None:
    """A keeper that is killed takes its programs along, and the next start does not stumble over what it left."""
    config = kubeconfig_in(keeper.up())
    state = json.loads((keeper.folder / "keeper.json").read_text("utf-8"))
    os.kill(state["pid"], signal.SIGKILL)
    server = client_of(config)
    wait_for(lambda: refuses(server), "the API server's end")
    server.close()
    again = kubeconfig_in(keeper.up())
    assert again != config
    assert not config.parent.exists()


def refuses(server: httpx.Client) -> bool:
    """Whether nothing listens at the server's address."""
    try:
        server.get("/readyz")
    except httpx.ConnectError:
        return True
    except httpx.TransportError:
        return False  # it was cut off: the server is just ending
    return False


def test_missing_programs_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the programs, starting fails with the command that builds them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    assert main(["up", "--folder", str(tmp_path / "cluster")]) == 1
    assert "make kube" in capsys.readouterr().err


def test_nothing_to_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stopping what does not run is no failure."""
    assert main(["down", "--folder", str(tmp_path)]) == 0
    assert "no cluster was running" in capsys.readouterr().out
