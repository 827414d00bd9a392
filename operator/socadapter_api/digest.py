"""Content digests: of bytes, of JSON values, and of a set of files.

Every digest is ``sha256:<hex>``. JSON is hashed in one canonical form (sorted keys, no white space, UTF-8), so
that equal values have equal digests whatever wrote them. Reading files is the caller's job.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from socadapter_api.names import Digest


def of_bytes(data: bytes) -> Digest:
    """The digest of `data`."""
    return Digest(f"sha256:{hashlib.sha256(data).hexdigest()}")


def canonical_json(value: Any) -> bytes:
    """`value` as canonical JSON: sorted keys, no white space, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def of_json(value: Any) -> Digest:
    """The digest of a JSON value in canonical form."""
    return of_bytes(canonical_json(value))


def of_files(digests: Mapping[str, str]) -> Digest:
    """The digest of a file tree, from each file's POSIX path to that file's digest; order does not matter."""
    return of_json([[path, digests[path]] for path in sorted(digests)])


def of_stream(chunks: Iterable[bytes]) -> Digest:
    """The digest of `chunks` read one after another; equal to `of_bytes` of their concatenation."""
    running = hashlib.sha256()
    for chunk in chunks:
        running.update(chunk)
    return Digest(f"sha256:{running.hexdigest()}")
