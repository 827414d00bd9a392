"""The loop of local mode around a service that is not there: files in, files out, one process, a clean stop."""

import errno
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from socadapter_api.errors import BackendUnavailable, InsecureBind, SpecError
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ContextRoute, ReplicaReport, ServingTable
from socadapter_serve import local
from socadapter_serve.__main__ import main
from socadapter_serve.config import ServeConfig, base_model_name, read_config
from socadapter_serve.local import LocalServing, TableFile, url_of, write_json

TOKEN = {"name": "soar", "key": "token"}


def config(state: Path, port: int = 0, **spec: Any) -> ServeConfig:
    pool = {
        "metadata": {"name": "p"},
        "spec": {"base": {"uri": "b"}, "store": "s", "port": port or free_port(), **spec},
    }
    return ServeConfig(pool=SocServingPool.model_validate(pool), state_dir=state, cache_dir=state)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class StandInServe:
    """Takes tables and reports them back; `after` runs each time it is asked for reports."""

    def __init__(self, after: Callable[["StandInServe"], None]) -> None:
        self.tables: list[ServingTable] = []
        self.stopped = False
        self._after = after

    def start(self, table: ServingTable) -> None:
        self.tables.append(table)

    def apply(self, table: ServingTable) -> None:
        self.tables.append(table)

    def is_running(self) -> bool:
        return True

    def reports(self) -> tuple[ReplicaReport, ...]:
        self._after(self)
        return (ReplicaReport(replica="r0", generation=self.tables[-1].generation),)

    def stop(self) -> None:
        self.stopped = True


def table(generation: int) -> ServingTable:
    return ServingTable(generation=generation, routes=(ContextRoute(context="cloud"),))


def test_a_table_is_read_when_it_changes(tmp_path: Path) -> None:
    """Once for each content; a missing, broken or merely touched file changes nothing."""
    path = tmp_path / "table.json"
    file = TableFile(path)
    assert file.changed() is None
    write_json(path, table(1).model_dump(mode="json"))
    assert table(1) == file.changed()
    assert file.changed() is None
    os.utime(path)
    assert file.changed() is None
    path.write_text("{")
    assert file.changed() is None
    write_json(path, table(2).model_dump(mode="json"))
    assert table(2) == file.changed()


def test_the_loop_applies_tables_and_reports(tmp_path: Path) -> None:
    """The endpoint is named while it serves, tables go in, reports come out, and a stop leaves no endpoint behind."""
    seen: dict[str, Any] = {}
    stopping = threading.Event()
    write_json(tmp_path / "table.json", table(1).model_dump(mode="json"))
    write_json(tmp_path / "failure.json", {"reason": "old"})

    def after(serve: StandInServe) -> None:
        seen["endpoint"] = json.loads((tmp_path / "endpoint.json").read_text())
        if len(serve.tables) == 1:
            write_json(tmp_path / "table.json", table(2).model_dump(mode="json"))
        else:
            stopping.set()

    serve = StandInServe(after)
    settings = config(tmp_path)
    LocalServing(settings, serve, stopping).run()  # type: ignore[arg-type]  # a stand-in of the same shape
    assert [table(1), table(2)] == serve.tables
    assert {"url": url_of(settings), "pid": os.getpid()} == seen["endpoint"]
    assert [2] == [report["generation"] for report in json.loads((tmp_path / "replicas.json").read_text())]
    assert serve.stopped
    assert not (tmp_path / "endpoint.json").exists()
    assert not (tmp_path / "failure.json").exists()


def test_a_full_disk_ends_no_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alerts are answered all the same, and what replicas hold is told once there is room."""
    stopping = threading.Event()
    tries = 0

    def fills(path: Path, value: Any) -> None:
        nonlocal tries
        tries += path.name == "replicas.json"
        if path.name == "replicas.json" and tries < 3:
            raise OSError(errno.ENOSPC, "no space left")
        write_json(path, value)

    def after(serve: StandInServe) -> None:
        if (tmp_path / "replicas.json").exists():
            stopping.set()

    monkeypatch.setattr(local, "write_json", fills)
    monkeypatch.setattr(local, "_REPORT_EVERY_S", 0.0)
    write_json(tmp_path / "table.json", table(1).model_dump(mode="json"))
    LocalServing(config(tmp_path), StandInServe(after), stopping).run()  # type: ignore[arg-type]
    assert 3 == tries
    assert not (tmp_path / "failure.json").exists()


def test_one_process_serves_a_state_folder(tmp_path: Path) -> None:
    """A second one is refused, and the first is not disturbed."""
    stopping = threading.Event()
    caught: list[SpecError] = []

    def after(serve: StandInServe) -> None:
        second = LocalServing(config(tmp_path), StandInServe(lambda _: None), stopping)  # type: ignore[arg-type]
        try:
            second.run()
        except SpecError as error:
            caught.append(error)
        assert (tmp_path / "endpoint.json").exists()
        stopping.set()

    LocalServing(config(tmp_path), StandInServe(after), stopping).run()  # type: ignore[arg-type]
    assert "another process" in str(caught[0])


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """Before Ray is started at all."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        serve = StandInServe(lambda _: None)
        settings = config(tmp_path, port=other.getsockname()[1])
        with pytest.raises(SpecError, match="choose another port"):
            LocalServing(settings, serve, threading.Event()).run()  # type: ignore[arg-type]
    assert [] == serve.tables


def test_a_service_that_breaks_is_stopped_and_says_why(tmp_path: Path) -> None:
    """Whatever ends the loop, Ray is ended too."""

    def after(serve: StandInServe) -> None:
        raise BackendUnavailable("gone")

    serve = StandInServe(after)
    with pytest.raises(BackendUnavailable):
        LocalServing(config(tmp_path), serve, threading.Event()).run()  # type: ignore[arg-type]
    assert serve.stopped
    assert not (tmp_path / "endpoint.json").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param("{", "InvalidSpec", id="no JSON"),
        pytest.param("{}", "InvalidSpec", id="no configuration"),
        pytest.param(None, "InvalidSpec", id="no file"),
        pytest.param({"host": "0.0.0.0"}, "InsecureBind", id="open to everyone"),
        pytest.param({"base": {"uri": "/no/such/folder"}}, "BaseNotFound", id="no base"),
        pytest.param({"callers": [{"name": "soar", "token_secret_ref": TOKEN}]}, "SecretNotFound", id="no token"),
        pytest.param({"feedback_store": {"url_secret_ref": TOKEN}}, "SecretNotFound", id="no database"),
    ],
)
def test_what_cannot_start_says_why(
    tmp_path: Path, content: str | dict[str, Any] | None, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason stands in ``failure.json`` and on standard error, and the exit status is 1."""
    path = tmp_path / "config.json"
    if isinstance(content, dict):
        content = config(tmp_path, 0, **content).model_dump_json()
    if content is not None:
        path.write_text(content)
    assert 1 == main(["--config", str(path)])
    assert reason == json.loads((tmp_path / "failure.json").read_text())["reason"]
    assert reason in capsys.readouterr().err


def test_a_refused_configuration_shows_no_secret(tmp_path: Path) -> None:
    """A wrong type in the tokens names the place, never the value."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"tokens": {"soar": ["top-secret-value"]}}))
    with pytest.raises(SpecError, match=r"tokens\.soar") as caught:
        read_config(path)
    assert "top-secret-value" not in str(caught.value)


def test_an_open_address_needs_callers(tmp_path: Path) -> None:
    """With a caller it is read."""
    path = tmp_path / "config.json"
    path.write_text(config(tmp_path, host="0.0.0.0").model_dump_json())
    with pytest.raises(InsecureBind):
        read_config(path)
    caller = {"name": "soar", "token_secret_ref": {"name": "soar"}}
    path.write_text(config(tmp_path, host="0.0.0.0", callers=[caller]).model_dump_json())
    assert "0.0.0.0" == read_config(path).spec.host


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("builtin://smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("/models/tiny/", "tiny"),
        ("./tiny", "tiny"),
        ("s3://models/tiny", "tiny"),
    ],
)
def test_the_base_has_a_model_name(tmp_path: Path, uri: str, name: str) -> None:
    """A folder's last part, or the hub's id."""
    assert name == base_model_name(config(tmp_path, base={"uri": uri}).spec)


def test_the_configuration_may_be_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can put a file; folders below ``~`` are then those of whoever serves."""
    document = config(tmp_path).model_dump(mode="json") | {"stateDir": "~/state"}
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SERVE_CONFIG", json.dumps(document))
    assert tmp_path / "state" == read_config("env:SERVE_CONFIG").state_dir
    with pytest.raises(SpecError, match="no such environment variable"):
        read_config("env:ANOTHER")
