"""A folder of the adapter store behind any fsspec URI: bytes, JSON and files in and out, each write whole or not made.

Local writes go through a temporary file, fsync and rename. Object stores make an object visible only when it is
complete; on other remote file systems a torn write is possible, and `run_folder` detects it by digest. What the files
mean is left to `run_folder`, `cache` and `publication`, its callers.
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

import fsspec
from fsspec.implementations.local import LocalFileSystem

from socadapter_api.digest import canonical_json
from socadapter_api.errors import ManifestInvalid, SpecError
from socadapter_store.faults import reported

SMALL_BYTES = 64 * 2**20
"""The most that `read` takes into memory."""

_CHUNK_BYTES = 2**20
_UNFINISHED = ".unfinished"


class Store:
    """One folder of a store. Paths are relative to it, in POSIX form.

    `options` go to the file system as they are (see fsspec); without them it takes its own environment variables.

    Raises:
        SpecError: the URI names a protocol that is unknown or whose package is not installed.
    """

    def __init__(self, uri: str | Path, options: Mapping[str, Any] | None = None) -> None:
        self.uri = str(uri).rstrip("/") or "/"
        self._options = dict(options or {})
        try:
            self._fs, root = fsspec.core.url_to_fs(self.uri, **self._options)
        except (ImportError, ValueError) as error:
            raise SpecError(f"store {self.uri!r} cannot be opened: {error}") from error
        self._root = str(root).rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)

    @property
    def local_folder(self) -> Path | None:
        """The folder on this machine; None where the store is elsewhere."""
        return Path(self._root or "/") if self._local else None

    def folder(self, path: str) -> Self:
        """The store rooted at the folder `path` of this one."""
        self._at(path)
        return type(self)(f"{self.uri}/{path}", self._options)

    def read(self, path: str, limit_bytes: int = SMALL_BYTES) -> bytes | None:
        """The bytes of `path`, or None where there is no such file.

        Raises:
            ManifestInvalid: the file is larger than `limit_bytes`.
        """
        with reported("read", self._uri(path)):
            try:
                with self._fs.open(self._at(path), "rb") as source:
                    data = bytes(source.read(limit_bytes + 1))
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None
        if len(data) > limit_bytes:
            raise ManifestInvalid(f"{self._uri(path)} is larger than {limit_bytes} bytes; it is not what a run writes")
        return data

    def read_json(self, path: str) -> Any | None:
        """The JSON value in `path`, or None where there is no such file.

        Raises:
            ManifestInvalid: the file is not JSON.
        """
        data = self.read(path)
        if data is None:
            return None
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ManifestInvalid(f"{self._uri(path)} is not JSON: {error}") from error

    def write(self, path: str, data: bytes) -> None:
        """Makes `data` the whole content of `path`."""
        with reported("write", self._uri(path)):
            if self._local:
                write_atomically(Path(self._at(path)), lambda target: target.write(data))
            else:
                self._pipe(self._at(path), data)

    def write_json(self, path: str, value: Any) -> None:
        """Writes `value` as canonical JSON, so that equal values are equal files."""
        self.write(path, canonical_json(value))

    def upload(self, source: Path, path: str) -> None:
        """Copies the local file `source` to `path`."""
        with reported("write", self._uri(path)):
            if self._local:
                with source.open("rb") as data:
                    write_atomically(
                        Path(self._at(path)), lambda target: shutil.copyfileobj(data, target, _CHUNK_BYTES)
                    )
            else:
                self._fs.put_file(str(source), self._at(path))

    def download(self, path: str, target: Path, limit_bytes: int) -> bool:
        """Copies `path` to the new local file `target` and syncs it; False where there is no such file.

        Raises:
            ManifestInvalid: the file is larger than `limit_bytes`; what was copied so far is left in `target`.
        """
        with reported("read", self._uri(path)):
            try:
                source = self._fs.open(self._at(path), "rb")
            except (FileNotFoundError, NotADirectoryError):
                return False
            with source, target.open("xb") as copy:
                taken = 0
                while chunk := source.read(_CHUNK_BYTES):
                    taken += len(chunk)
                    if taken > limit_bytes:
                        raise ManifestInvalid(f"{self._uri(path)} is larger than the limit of {limit_bytes} bytes")
                    copy.write(chunk)
                copy.flush()
                os.fsync(copy.fileno())
        return True

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder at `path`, asked of the store and not of a cached listing."""
        with reported("look up", self._uri(path)):
            self._fs.invalidate_cache()
            return bool(self._fs.exists(self._at(path)))

    def size_bytes(self, path: str) -> int:
        """The size of the file `path`, which must be there."""
        with reported("look up", self._uri(path)):
            return int(self._fs.size(self._at(path)))

    def list(self, path: str = "") -> tuple[str, ...]:
        """The files below `path`, relative to it, sorted; empty where there is no such folder."""
        with reported("list", self._uri(path)):
            self._fs.invalidate_cache()
            start = self._at(path) if path else self._root
            try:
                found = self._fs.find(start)
            except (FileNotFoundError, NotADirectoryError):
                return ()
        names = (str(name) for name in found if str(name) != start and not str(name).endswith(_UNFINISHED))
        return tuple(sorted(name.removeprefix(start).lstrip("/") for name in names))

    def remove(self, path: str) -> None:
        """Removes the file `path` if it is there."""
        with reported("remove", self._uri(path)):
            try:
                self._fs.rm_file(self._at(path))
            except FileNotFoundError:
                return

    def sweep(self) -> None:
        """Removes what killed writers left half-written. Only for the folder's one writer, between its writes."""
        if self._local and Path(self._root).is_dir():
            with reported("sweep", self.uri):
                for path in Path(self._root).rglob(f".*{_UNFINISHED}"):
                    path.unlink(missing_ok=True)

    def _pipe(self, at: str, data: bytes) -> None:
        """Writes a remote file; its folder is made where the file system wants it first, as SFTP and SMB do."""
        try:
            self._fs.pipe_file(at, data)
        except FileNotFoundError:
            self._fs.makedirs(at.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(at, data)

    def _at(self, path: str) -> str:
        parts = path.split("/")
        if not all(parts) or ".." in parts or "." in parts or "\\" in path or "\0" in path:
            raise SpecError(f"{path!r} is no path below the store {self.uri!r}")
        return f"{self._root}/{path}"

    def _uri(self, path: str) -> str:
        return f"{self.uri}/{path}" if path else self.uri


def write_atomically(
    target: Path, fill: Callable[[BinaryIO], object], *, mode: int = 0o666, replace: bool = True
) -> None:
    """Fills a temporary file beside `target`, syncs it, renames it over `target` and syncs the folder.

    Who may read it is the umask's to say, as of any file, within `mode`.

    Raises:
        FileExistsError: `target` is there, and not to be replaced.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{secrets.token_hex(6)}{_UNFINISHED}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(target)
        else:
            _put_first(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def _put_first(temporary: Path, target: Path) -> None:
    """Gives the file its name where nobody was faster."""
    try:
        os.link(temporary, target)
        temporary.unlink()
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        temporary.rename(target)


def sync_tree(folder: Path) -> None:
    """Makes a local `folder` and all below it survive a power cut, as what vouches for it will."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        _sync(path)


def sync_folder(folder: Path) -> None:
    """Makes renames inside a local `folder` survive a power cut."""
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
