"""YAML files of resources, as a cluster takes them, read for local mode.

Relative paths in them are taken from the current folder, as those on a command line are, and made absolute.
"""

import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from socadapter_api.adapter import SocAdapter
from socadapter_api.errors import SpecError
from socadapter_api.pool import SocServingPool

_KINDS: dict[str, type[SocServingPool] | type[SocAdapter]] = {
    "SocServingPool": SocServingPool,
    "SocAdapter": SocAdapter,
}
SUFFIXES = (".yaml", ".yml", ".json")
"""Of the files that a folder stands for."""

_UIDS = uuid.UUID("6f1d6e5c-6f0a-5c59-9d3f-0a6f5f2d8f51")


def load(files: Iterable[Path]) -> tuple[tuple[SocServingPool, ...], tuple[SocAdapter, ...]]:
    """Every pool and adapter in `files`; a folder stands for the YAML files in it.

    Raises:
        SpecError: a file cannot be read, holds something else, or names one resource twice.
    """
    found: dict[tuple[str, str, str], SocServingPool | SocAdapter] = {}
    for path in _expanded(files):
        for document in _documents(path):
            resource = _resource(document, path)
            key = (resource.kind, resource.metadata.namespace, resource.metadata.name)
            if key in found:
                raise SpecError(f"{path}: {key[0]} {key[1]}/{key[2]} is defined twice: remove one of the two")
            found[key] = resource
    if not found:
        raise SpecError("the files hold no SocServingPool and no SocAdapter")
    pools = tuple(r for r in found.values() if isinstance(r, SocServingPool))
    adapters = tuple(r for r in found.values() if isinstance(r, SocAdapter))
    return pools, adapters


def uid(kind: str, namespace: str, name: str) -> str:
    """The uid of a resource of local mode: the same whenever it is made again, so that its runs are found again."""
    return str(uuid.uuid5(_UIDS, f"{kind}/{namespace}/{name}"))


def _expanded(files: Iterable[Path]) -> list[Path]:
    expanded: list[Path] = []
    for path in files:
        inside = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES) if path.is_dir() else [path]
        expanded += inside
    return expanded


def _documents(path: Path) -> list[Mapping[str, Any]]:
    try:
        documents = [d for d in yaml.safe_load_all(path.read_text(encoding="utf-8")) if d is not None]
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(f"{path} is not YAML: {error}") from error
    for document in documents:
        if not isinstance(document, dict):
            raise SpecError(f"{path} holds {type(document).__name__} where a resource should be")
    return documents


def _resource(document: Mapping[str, Any], path: Path) -> SocServingPool | SocAdapter:
    kind = _KINDS.get(str(document.get("kind")))
    if kind is None:
        raise SpecError(f"{path}: kind {document.get('kind')!r} is none of {', '.join(_KINDS)}")
    try:
        resource = kind.model_validate({key: value for key, value in document.items() if key != "status"})
    except ValidationError as error:
        raise SpecError(f"{path}: {_where(document)}: {_told(error)}") from None
    metadata = resource.metadata.model_copy(
        update={"uid": uid(resource.kind, resource.metadata.namespace, resource.metadata.name)}
    )
    if isinstance(resource, SocServingPool):
        return _anchored_pool(resource.model_copy(update={"metadata": metadata}), Path.cwd())
    return _anchored_adapter(resource.model_copy(update={"metadata": metadata}), Path.cwd())


def _anchored_pool(pool: SocServingPool, folder: Path) -> SocServingPool:
    base = pool.spec.base
    uri = base.uri
    # A plain 'owner/name' is a hub's id unless there is such a folder.
    if uri.startswith((".", "~")) or (folder / uri).is_dir():
        base = base.model_copy(update={"uri": _anchored(uri, folder)})
    spec = pool.spec.model_copy(update={"base": base, "store": _anchored(pool.spec.store, folder)})
    return pool.model_copy(update={"spec": spec})


def _anchored_adapter(adapter: SocAdapter, folder: Path) -> SocAdapter:
    data = adapter.spec.data
    sources = {
        name: tuple(source.model_copy(update={"uri": _anchored(source.uri, folder)}) for source in getattr(data, name))
        for name in ("trajectories", "alerts", "holdout")
    }
    spec = adapter.spec.model_copy(update={"data": data.model_copy(update=sources)})
    return adapter.model_copy(update={"spec": spec})


def _anchored(uri: str, folder: Path) -> str:
    """`uri` as it is, or, where it is a relative path, from `folder`."""
    if "://" in uri:
        return uri
    trailing = "/" if uri.endswith("/") else ""
    return f"{folder / Path(uri).expanduser()}{trailing}"


def _where(document: Mapping[str, Any]) -> str:
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{document.get('kind')} {name or '(no name)'}"


def _told(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'resource'}: {item['msg']}"
        + (f" (got {item['input']!r})" if isinstance(item["input"], str | int | float | bool) else "")
        for item in error.errors()
    )
