"""Secrets of a run as files: in a folder that was mounted, or in one made here from what the environment hands over.

A Ray cluster that is reached by its REST API alone can mount nothing: there every process of the run finds the values
in `VALUES_VARIABLE`, and keeps them in a folder of its own, in memory where the machine allows it, while it runs.
"""

import atexit
import json
import os
import shutil
import tempfile
from pathlib import Path, PurePosixPath

from socadapter_api.errors import SpecError
from socadapter_api.training import RunSpec

SECRETS_VARIABLE = "SOCADAPTER_SECRETS"
"""Folder with ``<secret>/<key>`` files: a mounted volume in a cluster, the state folder's in local mode."""

VALUES_VARIABLE = "SOCADAPTER_SECRET_VALUES"
"""JSON object from such a path to the file's text."""

_IN_MEMORY = Path("/dev/shm")  # noqa: S108  the folder made in it is this process's alone


def unpack() -> None:
    """Makes the folder of secrets where their values were handed over, and forgets the variable. Done once a process.

    Raises:
        SpecError: the variable does not hold what a backend writes.
    """
    text = os.environ.pop(VALUES_VARIABLE, None)
    if text is None:
        return
    try:
        values = json.loads(text)
        files = {PurePosixPath(path): str(value) for path, value in values.items()}
    except (ValueError, AttributeError) as error:
        raise SpecError(f"{VALUES_VARIABLE} is no JSON object of files: {type(error).__name__}") from None
    if any(path.is_absolute() or ".." in path.parts for path in files):
        raise SpecError(f"{VALUES_VARIABLE} names a path outside of its folder")
    within = _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="socadapter-secrets-", dir=within))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for path, value in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(value, encoding="utf-8")
    os.environ[SECRETS_VARIABLE] = str(folder)


def secret_path(path: str) -> Path:
    """Where the secret `path` lies: below the folder of secrets, or where it says where it is absolute."""
    return Path(os.environ.get(SECRETS_VARIABLE, "")) / path


def signing_key(spec: RunSpec) -> Path | None:
    """The file with the run's private key; None where the spec names none."""
    return None if spec.signing_key is None else secret_path(spec.signing_key)
