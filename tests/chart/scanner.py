"""checkov in an environment of its own, which is made from its lock, once, and kept in the cache.

It is installed only when asked for, by ``make checkov``: a test that misses it says so.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

_LOCK = Path(__file__).parents[2] / "requirements" / "checkov.txt"
_INSTALL = "make checkov"


class ScannerMissing(RuntimeError):
    """The scanner has not been installed."""


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the environment of this lock and this interpreter is kept."""
    root = environment.get("XDG_CACHE_HOME")
    base = Path(root) if root else Path.home() / ".cache"
    made_from = hashlib.sha256(_LOCK.read_bytes() + sys.version.encode()).hexdigest()
    return base / "socadapter" / "checkov" / made_from[:16]


def find(environment: Mapping[str, str] = os.environ) -> Path:
    """The interpreter of the environment; ``-m checkov.main`` is the scanner.

    Raises:
        ScannerMissing: it has not been installed.
    """
    python = cache_folder(environment) / "bin" / "python"
    if not python.is_file():
        raise ScannerMissing(f"checkov is not in {python.parents[1]}: run `{_INSTALL}`")
    return python


def install(environment: Mapping[str, str] = os.environ) -> Path:
    """The same, installed if it is not there. What is half installed is never found: a whole folder is moved there."""
    try:
        return find(environment)
    except ScannerMissing:
        folder = cache_folder(environment)
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"installing checkov into {folder} (once; a minute)", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as partial:
        made = Path(partial) / "environment"
        subprocess.run([sys.executable, "-m", "venv", made], check=True)
        command: list[str | Path] = [
            made / "bin" / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--require-hashes",
        ]
        subprocess.run([*command, "--requirement", _LOCK], check=True, stdin=subprocess.DEVNULL)
        try:
            made.rename(folder)
        except OSError:
            # Another one was faster.
            shutil.rmtree(made)
    return find(environment)


if __name__ == "__main__":
    print(install())
