"""Reads from the adapter store what a run left there: the only word on a run that counts.

Checks a published adapter (files, digest, signature) once, before it is recorded as a version. Called by the loops that
observe; decides nothing.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from socadapter_api.errors import ArtifactError, SecretNotFound, SocAdapterError, StoreUnavailable
from socadapter_api.manifest import AdapterManifest, Outcome, RunResult
from socadapter_api.training import RunSpec
from socadapter_operator.domain.state import Evidence, Marker, Verification
from socadapter_store import layout
from socadapter_store.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Checks:
    """What a published adapter is checked against."""

    public_keys: Sequence[str]
    cache: Path
    base_digest: str | None = None
    max_rank: int | None = None


def read(uri: str, checks: Callable[[], Checks] | None) -> Evidence:
    """What the run's folder at `uri` holds.

    `checks` is asked only where an adapter was published; None: it is not checked, and the evidence has no word on it.
    """
    try:
        folder = RunFolder.at(uri)
        progress = folder.read_progress()
        result = folder.read_result()
        if result is None:
            return Evidence(progress=progress, uri=uri)
        if result.outcome is Outcome.FAILED:
            return Evidence(Marker.FAILED, result, progress=progress, uri=uri)
        if result.outcome is not Outcome.PUBLISHED:
            return Evidence(Marker.SUCCESS, result, progress=progress, uri=uri)
        manifest = _manifest(folder)
        verification = _verified(uri, result, checks) if checks else None
        return Evidence(Marker.SUCCESS, result, manifest, verification, progress, uri)
    except ArtifactError as error:
        # A result that cannot be trusted is a finished run without one: the planner says so and keeps what serves.
        refused = Verification(ok=False, reason=error.reason, message=str(error))
        return Evidence(Marker.SUCCESS, verification=refused, uri=uri, message=str(error))
    except SocAdapterError as error:
        return Evidence(Marker.UNREADABLE, uri=uri, message=str(error))


def is_finished(spec: RunSpec) -> bool:
    """Whether the run left a result that is no failure, as of now.

    Raises:
        StoreUnavailable: nobody can say.
        ArtifactError: what is there cannot be read as a result.
    """
    folder = RunFolder.at(layout.run_uri(spec.store, spec.namespace, spec.context, spec.run_id))
    result = folder.read_result()
    return result is not None and result.outcome is not Outcome.FAILED


def _verified(uri: str, result: RunResult, asked: Callable[[], Checks]) -> Verification:
    from socadapter_store import cache, signatures

    try:
        checks = asked()
        with tempfile.TemporaryDirectory(prefix=".verify-", dir=_made(checks.cache)) as scratch:
            path, _ = cache.fetch_verified(
                uri, Path(scratch), result.digest or "", checks.public_keys, checks.base_digest, checks.max_rank
            )
            signed_by = signatures.verify(path, path / layout.SIGNATURE, checks.public_keys)
    except SecretNotFound as error:
        return Verification(ok=False, reason=error.reason, message=str(error), retryable=True)  # it may come back
    except SocAdapterError as error:
        return Verification(ok=False, reason=error.reason, message=str(error), retryable=error.retryable)
    except OSError as error:
        return Verification(False, reason=StoreUnavailable.reason, message=f"{uri}: {error}", retryable=True)
    return Verification(ok=True, signed_by=signed_by)


def _manifest(folder: RunFolder) -> AdapterManifest | None:
    from socadapter_store.verify import parse_manifest

    data = folder.store.read(layout.MANIFEST)
    return None if data is None else parse_manifest(data, f"{folder.uri}/{layout.MANIFEST}")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder
