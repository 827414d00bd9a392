"""Names and identifiers, and how a version's name is made.

A version's name is the id that reaches an engine. It is unique for ever and never reused for other bytes:
``<context>-v<N>-<first 8 hex of digest>``.
"""

import re
from typing import NewType

Digest = NewType("Digest", str)
"""``sha256:<64 lower-case hex>``."""

ContextName = NewType("ContextName", str)
"""A business context, a DNS-1123 label such as ``cloud-infrastructure``."""

VersionName = NewType("VersionName", str)
"""``<context>-v<N>-<sha8>``, at most 63 characters."""

RunId = NewType("RunId", str)

DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
CONTEXT_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
VERSION_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?-v[0-9]+-[0-9a-f]{8}$"

CONTEXT_MAX_LENGTH = 45
"""Leaves room for ``-v<N>-<sha8>`` within the 63 characters of a DNS label."""


def version_name(context: str, number: int, digest: str) -> VersionName:
    """The name of version `number` of `context` whose content has `digest`."""
    if not re.fullmatch(DIGEST_PATTERN, digest):
        raise ValueError(f"digest {digest!r} is not 'sha256:' and 64 hex digits")
    return VersionName(f"{context}-v{number}-{digest.removeprefix('sha256:')[:8]}")
