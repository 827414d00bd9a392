"""A file that an option of a command names: what it held before stays until the new content is whole.

Called by ``socadapter evaluate``, ``socadapter data check``, ``python -m socadapter_jobs.report`` and the demo.
"""

import tempfile
from pathlib import Path

from socadapter_api.errors import DiskFull, SpecError
from socadapter_store.store import write_atomically


def write_whole(option: str, path: Path, text: str) -> None:
    """Makes `text` all that `path` holds, and its folder where there is none. A link to it stays one.

    Raises:
        DiskFull: no space is left for it.
        SpecError: it cannot be written for another reason.
    """
    try:
        if _is_file(path):
            write_atomically(path.resolve(), lambda file: file.write(text.encode()))
        else:
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _refused(option, path, error) from error


def require_writable(option: str, path: Path) -> None:
    """Makes the folder of `path` and tries to write there, for who works long before `write_whole`; leaves no file.

    Raises:
        DiskFull, SpecError: as `write_whole` would.
    """
    try:
        if path.exists():
            with path.open("a"):
                pass
        if _is_file(path):
            folder = path.resolve().parent
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise _refused(option, path, error) from error


def _is_file(path: Path) -> bool:
    """Whether `path` is a file or will be one; a pipe or a terminal cannot be replaced."""
    return path.is_file() or not path.exists()


def _refused(option: str, path: Path, error: OSError) -> DiskFull | SpecError:
    why = f"{option} {path} cannot be written: {error.strerror or error}"
    if DiskFull.is_behind(error):
        return DiskFull(f"{why}; free some space, or name a file elsewhere. What it held before is as it was")
    return SpecError(f"{why}; name another file")
