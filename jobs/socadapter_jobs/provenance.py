"""What made an adapter, besides its data: the code, the configuration, the libraries and the machine."""

import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path
from typing import Any

from socadapter_api import digest
from socadapter_api.names import Digest
from socadapter_api.training import RunSpec

_PACKAGES = ("socadapter_api", "socadapter_store", "socadapter_agent", "socadapter_jobs")
_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "ray", "deepspeed", "model-signing")
_NOT_LEARNING = {"run_id", "store", "scratch", "signing_key", "trusted_keys", "feedback", "other_runs"}


def code_digest() -> Digest:
    """The digest of the source files that trained and judged."""
    files = {}
    for package in _PACKAGES:
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            continue
        root = Path(found.origin).parent
        for path in sorted(root.rglob("*.py")):
            files[f"{package}/{path.relative_to(root).as_posix()}"] = digest.of_bytes(path.read_bytes())
    return digest.of_files(files)


def config_digest(spec: RunSpec) -> Digest:
    """The digest of the run's configuration, without names and places that change nothing that is learned."""
    return digest.of_json(spec.model_dump(mode="json", exclude=_NOT_LEARNING))


def public_uri(uri: str) -> str:
    """`uri` without user, password and query, which let in whoever reads them; a path as it is."""
    return "::".join(map(_public, uri.split("::")))  # fsspec chains them, as in zip://alerts.jsonl::https://...


def _public(uri: str) -> str:
    scheme, separator, place = uri.partition("://")
    if not separator:
        return uri
    authority, slash, path = place.partition("?")[0].partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def surroundings(spec: RunSpec, seconds: dict[str, float | None], accelerator: str) -> dict[str, Any]:
    """Library versions, machine, seed and durations in seconds per stage."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "libraries": versions,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "accelerator": accelerator,
        "seed": spec.seed,
        "workers": spec.compute.workers,
        "strategy": spec.compute.strategy.value,
        "seconds": {stage: round(value, 1) for stage, value in seconds.items() if value is not None},
    }
