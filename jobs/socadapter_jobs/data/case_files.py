"""Case and trajectory files: JSON lines, one file or a folder of them, at any fsspec address.

Rows are read one at a time and the first wrong one is named by file and line. A source's digest is taken from the very
bytes that were parsed, so a pinned source cannot change between check and use. What the rows mean is left to
`importers`, whether they are fit for training to `check`. Called by the prepare stage, `socadapter evaluate` and
`socadapter data`.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Generic, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ValidationError

from socadapter_api import digest
from socadapter_api.case import Case
from socadapter_api.errors import (
    AlertTooLarge,
    DigestMismatch,
    EmptyData,
    MalformedRow,
    SpecError,
    StoreUnavailable,
    UnknownLabel,
)
from socadapter_api.names import Digest
from socadapter_api.training import DataSource
from socadapter_api.trajectory import ExpertTrajectory
from socadapter_store.faults import reported
from socadapter_store.store import write_atomically

MAX_ALERT_BYTES = 256 * 1024
"""Largest alert, as JSON."""

MAX_ROW_BYTES = 8 * 1024 * 1024
"""Longest line: an alert with all of its recorded evidence."""

MAX_ROW_LEVELS = 128
"""Deepest nesting of a row: half of what pydantic writes again."""

_CHUNK_BYTES = 1024 * 1024
_SHOWN_CHARACTERS = 80

Row = TypeVar("Row", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Source(Generic[Row]):
    """A source that was read to its end: its rows, and the digest of the bytes that they came from."""

    uri: str
    digest: Digest
    rows: tuple[Row, ...]


def load_cases(source: DataSource) -> Source[Case]:
    """All cases of `source`.

    Raises:
        MalformedRow, UnknownLabel, AlertTooLarge: the first wrong row, by file and line.
        EmptyData: nothing is there.
        DigestMismatch: the content is not what `source.digest` pins.
    """
    return _load(source, _case)


def load_trajectories(source: DataSource) -> Source[ExpertTrajectory]:
    """All expert investigations of `source`; errors as in `load_cases`."""
    return _load(source, _trajectory)


def read_cases(uri: str) -> tuple[Case, ...]:
    """All cases at `uri`, unpinned."""
    return load_cases(DataSource(uri=uri)).rows


def read_trajectories(uri: str) -> tuple[ExpertTrajectory, ...]:
    """All expert investigations at `uri`, unpinned."""
    return load_trajectories(DataSource(uri=uri)).rows


def stream_rows(uri: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row at `uri` as it stands, with the place that an error should name. For importers."""
    for name, path in _files(uri):
        yield from _rows(uri, name, path, hashlib.sha256())


def write_cases(uri: str, cases: Iterable[Case]) -> Digest:
    """`cases` as one file at `uri`, complete or not there at all; its digest."""
    return _write(uri, (case.model_dump(mode="json", exclude_defaults=True) for case in cases))


def write_trajectories(uri: str, trajectories: Iterable[ExpertTrajectory]) -> Digest:
    """`trajectories` as one file at `uri`; its digest."""
    return _write(uri, (row.model_dump(mode="json", exclude_defaults=True) for row in trajectories))


def require_apart(places: Mapping[str, str]) -> None:
    """Refuses two of `places` (what each is for, and its address) that are one and the same file.

    Raises:
        SpecError: writing one would overwrite the other.
    """
    seen: dict[str, str] = {}
    for purpose, uri in places.items():
        filesystem, path = file_system(uri)
        whole = str(Path(path).resolve()) if isinstance(filesystem, LocalFileSystem) else f"{filesystem!r}{path}"
        if whole in seen:
            raise SpecError(f"{seen[whole]} and {purpose} are the same file, {uri}; name another file for one of them")
        seen[whole] = purpose


def parse_case(where: str, row: dict[str, Any]) -> Case:
    """One row as a case. `where` (file and line) opens every error's text."""
    try:
        case = Case.model_validate(row)
    except UnknownLabel as error:
        raise UnknownLabel(f"{where}: {error}") from None
    except ValidationError as error:
        raise MalformedRow(f"{where}: {first_problem(error)}") from None
    size = len(digest.canonical_json(case.alert))
    if size > MAX_ALERT_BYTES:
        longest = max(case.alert, key=lambda key: len(str(case.alert[key])))
        raise AlertTooLarge(
            f"{where}: the alert of case {case.id!r} has {size} bytes of JSON, more than {MAX_ALERT_BYTES}; "
            f"its longest field is {longest!r}. Shorten it at the source: nothing is cut silently"
        )
    return case


def _case(where: str, row: dict[str, Any]) -> tuple[str, Case]:
    case = parse_case(where, row)
    return case.id, case


def _trajectory(where: str, row: dict[str, Any]) -> tuple[str, ExpertTrajectory]:
    try:
        trajectory = ExpertTrajectory.model_validate(row)
    except UnknownLabel as error:
        raise UnknownLabel(f"{where}: {error}") from None
    except ValidationError as error:
        raise MalformedRow(f"{where}: {first_problem(error)}") from None
    return trajectory.case_id, trajectory


def _load(source: DataSource, parse: Callable[[str, dict[str, Any]], tuple[str, Row]]) -> Source[Row]:
    files: dict[str, str] = {}
    seen: dict[str, str] = {}
    rows: list[Row] = []
    for name, path in _files(source.uri):
        running = hashlib.sha256()
        for where, raw in _rows(source.uri, name, path, running):
            identity, row = parse(where, raw)
            if identity in seen:
                raise MalformedRow(f"{where}: id {identity!r} was already used at {seen[identity]}; ids must be unique")
            seen[identity] = where
            rows.append(row)
        files[name] = f"sha256:{running.hexdigest()}"
    found = Digest(files[""]) if "" in files else digest.of_files(files)
    if source.digest is not None and source.digest != found:
        raise DigestMismatch(
            f"{source.uri} has digest {found}, but {source.digest} is pinned. Pin the new digest if the change is meant"
        )
    if not rows:
        raise EmptyData(
            f"{source.uri} holds no rows. Expected JSON lines: one object a line, in a file or *.jsonl files"
        )
    return Source(source.uri, found, tuple(rows))


def _files(uri: str) -> list[tuple[str, str]]:
    """The files behind `uri`: (POSIX path below it, path), sorted; the path below is empty for a single file."""
    with reaching(uri):
        filesystem, root = file_system(uri)
        if filesystem.isfile(root):
            return [("", root)]
        found = sorted(path for path in filesystem.find(root) if path.endswith(".jsonl"))
    if not found:
        raise EmptyData(f"{uri} is neither a file nor a folder with *.jsonl files in it")
    return [(str(PurePosixPath(path).relative_to(PurePosixPath(root))), path) for path in found]


def file_system(uri: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it; SpecError where fsspec knows neither."""
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except ValueError as error:
        raise SpecError(f"{uri!r} is no path and no address that fsspec knows: {error}") from None
    return filesystem, path


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turns what a file system raises into what a run can act on."""
    with reported("reach", uri):
        try:
            yield
        except FileNotFoundError as error:
            raise EmptyData(f"{uri}: no such file or folder ({error})") from error
        except ImportError as error:
            raise StoreUnavailable(f"{uri} cannot be reached: {error}") from error


def _rows(uri: str, name: str, path: str, running: "hashlib._Hash") -> Iterator[tuple[str, dict[str, Any]]]:
    shown = f"{uri.rstrip('/')}/{name}" if name else uri
    with reaching(uri):
        filesystem, _ = file_system(uri)
        with filesystem.open(path, "rb") as file:
            for number, line in _lines(file, running, shown):
                if line.strip():
                    where = f"{shown}:{number}"
                    yield where, _parse_line(where, line)


def _lines(file: Any, running: "hashlib._Hash", shown: str) -> Iterator[tuple[int, bytes]]:
    number, pending = 0, b""
    while chunk := file.read(_CHUNK_BYTES):
        running.update(chunk)
        *whole, pending = (pending + chunk).split(b"\n")
        for line in whole:
            number += 1
            yield number, line
        if len(pending) > MAX_ROW_BYTES:
            raise AlertTooLarge(f"{shown}:{number + 1}: the line is longer than {MAX_ROW_BYTES} bytes")
    if pending:
        yield number + 1, pending


def _parse_line(where: str, line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line, parse_constant=_refuse_constant)
        digest.canonical_json(value)
    except (ValueError, RecursionError) as error:
        raise MalformedRow(f"{where}: not a line of JSON: {error}; it starts {_shown(line)}") from None
    if not isinstance(value, dict):
        raise MalformedRow(f"{where}: a row is a JSON object, not {_shown(value)}")
    if not _is_shallow(value):
        raise MalformedRow(
            f"{where}: the row is nested deeper than {MAX_ROW_LEVELS} levels; it starts {_shown(line)}. Flatten it at "
            "its source"
        )
    return value


def _is_shallow(row: dict[str, Any]) -> bool:
    level: list[Any] = [row]
    for _ in range(MAX_ROW_LEVELS):
        inner = [
            value.values() if isinstance(value, dict) else value for value in level if isinstance(value, (dict, list))
        ]
        level = [below for values in inner for below in values]
    return not level


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def first_problem(error: ValidationError) -> str:
    """The first wrong field of a row: its name, what is wrong, and the value."""
    problem = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in problem["loc"]) or "row"
    value = "" if problem["type"] == "missing" else f" (value {_shown(problem['input'])})"
    return f"field {field!r}: {problem['msg']}{value}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


def _write(uri: str, rows: Iterable[dict[str, Any]]) -> Digest:
    running = hashlib.sha256()

    def fill(file: BinaryIO) -> None:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
            running.update(line)
            file.write(line)

    with reaching(uri):
        filesystem, path = file_system(uri)
        if isinstance(filesystem, LocalFileSystem):
            # fsspec's own transaction copies the file over, from the system's temporary folder.
            write_atomically(Path(path), fill)
        else:
            filesystem.makedirs(filesystem._parent(path), exist_ok=True)
            with filesystem.transaction, filesystem.open(path, "wb") as file:
                fill(file)
    return Digest(f"sha256:{running.hexdigest()}")
