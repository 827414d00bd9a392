"""Publishes a finished run: manifest, signature, self-check, upload, report, result, and `_SUCCESS` last.

A reader that comes at any moment sees either no result or a complete, verified version. A run that died half way
publishes again from the start: the adapter's digest is that of its files, so it comes out the same. Called by the
publish stage of `socadapter_jobs`.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from socadapter_api import digest, names
from socadapter_api.errors import AlreadyPublished, ManifestInvalid
from socadapter_api.manifest import AdapterManifest, Outcome, RunResult
from socadapter_store import layout, signatures, static_checks
from socadapter_store.run_folder import RunFolder
from socadapter_store.verify import file_digests, parse_manifest, verify_version

SIGNED_BY = "signed_by"
"""Where the manifest's provenance names the public key. A label for people: `verify_version` never believes it."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What was published."""

    result: RunResult
    manifest: AdapterManifest

    @property
    def signed_by(self) -> str:
        """Fingerprint of the public key, as `signatures.fingerprint` gives it."""
        return str(self.manifest.provenance[SIGNED_BY])


def publish(
    local: Path,
    fields: Mapping[str, Any],
    result: RunResult,
    run: RunFolder,
    key: Path,
    max_rank: int | None = None,
    report: Callable[[AdapterManifest, RunResult], str] | None = None,
) -> Publication:
    """Publishes the adapter in ``local/adapter`` as the version of `run`.

    `fields` are those of `AdapterManifest` except what follows from the files and the clock: version, files,
    adapter_digest, adapter_parameters, rank, alpha, target_modules and created_at. `result` is the run's result
    without version, digest and uri; `key` is the path of the private key. `report` makes ``report.html`` from the
    manifest and the result as they are published.

    Publishing again what is already published gives the same result and changes nothing.

    Raises:
        AlreadyPublished: the run's folder holds another result.
        ManifestInvalid: `fields` do not make a manifest.
        ForeignFile, UnsafeFormat, RankTooHigh: the adapter fails the static checks.
        SecretNotFound: the key cannot be used.
    """
    facts = static_checks.check_folder(local / layout.ADAPTER, max_rank)
    files = file_digests(local / layout.ADAPTER)
    adapter_digest = digest.of_files(files)
    if (present := run.read_result()) is not None:
        return _present_publication(present, run, adapter_digest)
    public_key = signatures.public_key_of(key)
    described = {
        **fields,
        "version": names.version_name(str(fields["context"]), int(fields["number"]), adapter_digest),
        "files": files,
        "adapter_digest": adapter_digest,
        "adapter_parameters": facts.parameters,
        "rank": facts.rank,
        "alpha": facts.alpha,
        "target_modules": facts.target_modules,
        "provenance": {**fields.get("provenance", {}), SIGNED_BY: signatures.fingerprint(public_key)},
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        manifest = AdapterManifest.model_validate(described)
    except ValidationError as error:
        raise ManifestInvalid(f"the manifest of run {result.run_id!r} cannot be made: {error}") from error
    with tempfile.TemporaryDirectory(prefix=".publish-", dir=local) as folder:
        _stage(Path(folder), local / layout.ADAPTER, manifest, key)
        verify_version(Path(folder), adapter_digest, [public_key], manifest.base_digest, max_rank)
        for path in (*map(layout.adapter_file, sorted(files)), layout.MANIFEST, layout.SIGNATURE):
            run.upload(Path(folder) / path, path)
    finished = result.model_copy(
        update={
            "outcome": Outcome.PUBLISHED,
            "version": manifest.version,
            "digest": adapter_digest,
            "uri": run.uri,
        }
    )
    if report is not None:
        run.write(layout.REPORT, report(manifest, finished).encode())
    return Publication(run.finish(finished), manifest)


def _stage(folder: Path, adapter: Path, manifest: AdapterManifest, key: Path) -> None:
    """Lays out in `folder` exactly what will be published, and signs it."""
    (folder / layout.ADAPTER).mkdir()
    for name in manifest.files:
        _link(adapter / name, folder / layout.ADAPTER / name)
    (folder / layout.MANIFEST).write_bytes(digest.canonical_json(manifest.model_dump(mode="json")))
    signatures.sign(folder, key, folder / layout.SIGNATURE)


def _link(source: Path, target: Path) -> None:
    """A second name for `source`; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _present_publication(present: RunResult, run: RunFolder, adapter_digest: str) -> Publication:
    if present.outcome is not Outcome.PUBLISHED or present.digest != adapter_digest:
        raise AlreadyPublished(
            f"{run.uri} already ended as {present.outcome.value} with digest {present.digest}; it cannot publish"
            f" {adapter_digest}. Start a new run"
        )
    data = run.store.read(layout.MANIFEST) or b""
    return Publication(present, parse_manifest(data, f"{run.uri}/{layout.MANIFEST}"))
