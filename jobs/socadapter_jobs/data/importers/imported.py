"""What an importer hands back, and how it reads text that may lie in a zip archive."""

import io
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

import fsspec

from socadapter_api.case import Case
from socadapter_api.errors import EmptyData, MalformedRow, SpecError
from socadapter_jobs.data.case_files import file_system, reaching


@dataclass(frozen=True, slots=True)
class Imported:
    """The cases of a data set, and how many rows were left out and why."""

    cases: tuple[Case, ...]
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TextFile:
    """One text file of a source: its path inside it, and the name that an error should show."""

    path: str
    shown: str
    archive: str = ""

    @contextmanager
    def open(self) -> Iterator[IO[str]]:
        """The file's lines, UTF-8.

        Raises:
            MalformedRow: from the block that reads them, for the first line that is not UTF-8.
        """
        try:
            with self._bytes() as raw:
                yield io.TextIOWrapper(raw, encoding="utf-8", newline="")
        except UnicodeDecodeError as error:
            raise MalformedRow(f"{self.shown}:{self._undecodable()}: the line is not UTF-8 ({error.reason})") from None

    @contextmanager
    def _bytes(self) -> Iterator[IO[bytes]]:
        outer = self.archive or self.path
        with reaching(outer), fsspec.open(outer, "rb") as raw:
            if not self.archive:
                yield raw
                return
            with zipfile.ZipFile(raw) as archive, archive.open(self.path) as member:
                yield member

    def _undecodable(self) -> int:
        """The number of the first line that is not UTF-8."""
        with self._bytes() as raw:
            for number, line in enumerate(raw, 1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError:
                    return number
        return 1


def text_files(uri: str, suffix: str) -> list[TextFile]:
    """Files that end in `suffix`: `uri` itself, those in a folder, and those in zip archives found there; sorted.

    Raises:
        EmptyData: there is none.
        MalformedRow: an archive cannot be read.
        SpecError: `uri` is no address, or holds a file beside the archive that it came from.
        StoreUnavailable: it cannot be reached.
    """
    with reaching(uri):
        filesystem, root = file_system(uri)
        if not filesystem.exists(root):
            raise EmptyData(f"{uri}: no such file or folder")
        paths = [root] if filesystem.isfile(root) else sorted(filesystem.find(root))
    found: list[TextFile] = []
    for path in paths:
        whole = filesystem.unstrip_protocol(path)
        if path.endswith(".zip"):
            found += [TextFile(name, f"{path}!{name}", whole) for name in _members(whole) if name.endswith(suffix)]
        elif path.endswith(suffix):
            found.append(TextFile(whole, path))
    _require_once(uri, found)
    if not found:
        raise EmptyData(f"{uri} holds no file whose name ends in {suffix!r}, neither plain nor in a zip archive")
    return found


def _require_once(uri: str, files: Sequence[TextFile]) -> None:
    """Raises SpecError where a file lies beside an archive that holds one of its name: rows would be read twice."""
    plain = [file.path for file in files if not file.archive]
    for packed in (file for file in files if file.archive):
        if twin := next((path for path in plain if f"/{path}".endswith(f"/{packed.path}")), None):
            raise SpecError(
                f"{uri} holds {twin} and, in {packed.archive}, {packed.path}: one seems to be unpacked from the other, "
                "and every row would be read twice. Name one of them, or take one away"
            )


def _members(path: str) -> list[str]:
    with fsspec.open(path, "rb") as raw:
        try:
            with zipfile.ZipFile(raw) as archive:
                return sorted(archive.namelist())
        except zipfile.BadZipFile as error:
            raise MalformedRow(f"{path} is no readable zip archive: {error}") from None
