"""The store's folder: paths that stay inside, writes that are whole, and failures with a name."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem
from hypothesis import given
from hypothesis import strategies as st

from socadapter_api.errors import DiskFull, ManifestInvalid, SpecError, StoreUnavailable
from socadapter_store import layout
from socadapter_store.store import Store


@pytest.fixture(params=["path", "file", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty folder of each kind of file system that needs no server."""
    if request.param != "memory":
        yield str(tmp_path / "store") if request.param == "path" else f"file://{tmp_path}/store"
        return
    name = f"/{uuid4().hex}"
    yield f"memory:/{name}"
    fsspec.filesystem("memory").rm(name, recursive=True)


def test_bytes_json_and_files_come_back(uri: str, tmp_path: Path) -> None:
    """The same on every file system; what is not there is None or empty, not an error."""
    store = Store(uri)
    assert store.read("a/b.json") is None
    assert store.read_json("a/b.json") is None
    assert store.list() == ()
    assert not store.exists("a")
    assert not store.download("a/b.json", tmp_path / "none", 10)
    store.remove("a/b.json")

    store.write_json("a/b.json", {"z": 1, "a": "ü"})
    source = tmp_path / "source"
    source.write_bytes(b"\0" * 3_000_000)
    store.upload(source, "a/c/big")

    assert store.read("a/b.json") == '{"a":"ü","z":1}'.encode()
    assert store.read_json("a/b.json") == {"z": 1, "a": "ü"}
    assert store.exists("a")
    assert store.list() == ("a/b.json", "a/c/big")
    assert store.folder("a").list() == ("b.json", "c/big")
    assert store.list("a/c") == ("big",)
    assert store.download("a/c/big", tmp_path / "copy", 3_000_000)
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    store.write("a/b.json", b"short")
    assert store.read("a/b.json") == b"short"
    store.remove("a/b.json")
    assert store.read("a/b.json") is None


def test_files_beyond_their_limit_are_refused(uri: str, tmp_path: Path) -> None:
    """Whoever can write to the store cannot exhaust the reader's memory or disk."""
    store = Store(uri)
    store.write("big", b"x" * 101)
    with pytest.raises(ManifestInvalid, match="larger than 100"):
        store.read("big", limit_bytes=100)
    with pytest.raises(ManifestInvalid, match="limit of 100"):
        store.download("big", tmp_path / "copy", 100)
    store.write("broken.json", b"{")
    with pytest.raises(ManifestInvalid, match="not JSON"):
        store.read_json("broken.json")


CLIMBING = st.builds(
    lambda before, bad, after: "/".join((*before, bad, *after)),
    st.lists(st.text(max_size=3), max_size=3),
    st.sampled_from(["", ".", "..", "a\\b", "a\0"]),
    st.lists(st.text(max_size=3), max_size=3),
)


@given(path=CLIMBING)
def test_no_path_leaves_the_folder(path: str) -> None:
    """Absolute paths, dots and empty parts are refused before the file system sees them."""
    store = Store("memory://closed")
    for use in (store.read, store.exists, store.remove, store.folder, lambda at: store.write(at, b"")):
        with pytest.raises(SpecError, match="no path below"):
            use(path)


@pytest.mark.parametrize("part", ["", "..", "a/b", "/etc", "-x", "a b", "a\n"])
def test_no_run_leaves_the_store(part: str) -> None:
    """Namespace, context and run id come from resources; none may climb."""
    with pytest.raises(SpecError, match="not a plain name"):
        layout.run_uri("/store", "soc", "cloud", part)
    with pytest.raises(SpecError, match="not a plain name"):
        layout.run_uri("/store", part, "cloud", "run")
    assert layout.run_uri("s3://bucket/a/", "soc", "cloud", "run-1") == "s3://bucket/a/soc/cloud/run-1"


def test_unknown_protocol_says_so() -> None:
    """A URI that no installed file system serves is a mistake in the spec."""
    with pytest.raises(SpecError, match="nosuch"):
        Store("nosuch://bucket")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(OSError(errno.ENOSPC, "No space left on device"), DiskFull, id="disk full"),
        pytest.param(OSError(errno.EDQUOT, "Disk quota exceeded"), DiskFull, id="quota"),
        pytest.param(PermissionError(errno.EACCES, "Permission denied"), StoreUnavailable, id="no permission"),
        pytest.param(ConnectionResetError(errno.ECONNRESET, "reset"), StoreUnavailable, id="connection lost"),
        pytest.param(TimeoutError("timed out"), StoreUnavailable, id="time-out"),
    ],
)
def test_local_write_that_fails_keeps_the_old_content(
    error: OSError, expected: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure has its own class, a retry may help, and neither old content nor folder is disturbed."""
    store = Store(tmp_path)
    store.write("progress.json", b"old")

    def fail(_handle: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(expected, match="cannot write"):
        store.write("progress.json", b"new")
    with pytest.raises(expected, match="cannot write"):
        store.upload(tmp_path / "progress.json", "copy.json")
    assert store.read("progress.json") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]


class FailingFileSystem(MemoryFileSystem):
    """A file system whose every access fails with `error`."""

    protocol = "failing"
    error: Exception = OSError()

    def _fail(self, *_args: Any, **_options: Any) -> Any:
        raise self.error

    open = pipe_file = put_file = find = exists = rm_file = _fail


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_the_umask_says_who_may_read_what_is_written(umask: int, mode: int, tmp_path: Path) -> None:
    """As of any other file: a user who hides files hides these too."""
    before = os.umask(umask)
    try:
        Store(str(tmp_path)).write("a.json", b"{}")
    finally:
        os.umask(before)
    assert mode == (tmp_path / "a.json").stat().st_mode & 0o777


def test_a_remote_store_that_fails_is_unavailable(tmp_path: Path) -> None:
    """Each access of a broken remote store says what it could not do, and where."""
    fsspec.register_implementation("failing", FailingFileSystem, clobber=True)
    FailingFileSystem.error = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    store = Store("failing://bucket/run")
    (tmp_path / "source").write_bytes(b"")
    accesses: dict[str, Callable[[], object]] = {
        "read": lambda: store.read("a"),
        "write": lambda: store.write("a", b""),
        "write ": lambda: store.upload(tmp_path / "source", "a"),
        "look up": lambda: store.exists("a"),
        "list": lambda: store.list("a"),
        "remove": lambda: store.remove("a"),
    }
    for action, access in accesses.items():
        with pytest.raises(StoreUnavailable, match=rf"cannot {action.strip()} failing://bucket/run/a: .*refused"):
            access()


class FoldersFirst(AbstractFileSystem):
    """A file system that makes no folder by itself, as SFTP and SMB."""

    protocol = "foldersfirst"
    _disk = LocalFileSystem(auto_mkdir=False)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        return self._disk._open(path, mode)

    def ls(self, path: str, detail: bool = True, **_: Any) -> Any:
        return self._disk.ls(path, detail)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._disk.makedirs(path, exist_ok)


def test_a_file_system_that_wants_folders_first_gets_them(tmp_path: Path) -> None:
    """The first file of a run is written there as anywhere, and what lies beside it stays."""
    fsspec.register_implementation("foldersfirst", FoldersFirst, clobber=True)
    store = Store(f"foldersfirst://{tmp_path}/soc/run")
    store.write("stages/sft.json", b"first")
    store.write("stages/sft.json", b"second")
    store.write("result.json", b"{}")
    assert ("result.json", "stages/sft.json") == store.list()
    assert b"second" == (tmp_path / "soc/run/stages/sft.json").read_bytes()


def test_an_object_store_that_is_down_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The errors of a real S3 client arrive as ours too: nothing listens on the port asked for."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    options = {
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"retries": {"max_attempts": 0}, "connect_timeout": 1},
    }
    store = Store("s3://bucket/run", options)
    with pytest.raises(StoreUnavailable, match=r"cannot read s3://bucket/run/result\.json"):
        store.read("result.json")
