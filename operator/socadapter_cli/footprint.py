"""How small an adapter is beside its base, in words: what `up`, `train`, `demo` and `verify` print."""

from socadapter_api.manifest import AdapterManifest
from socadapter_store import layout
from socadapter_store.store import Store
from socadapter_store.verify import MANIFEST_LIMIT_BYTES, parse_manifest


def footprint(manifest: AdapterManifest, size_bytes: int) -> str:
    """Such as ``0.91 % of the base's parameters, 4.9 MB``; `size_bytes` is that of the weights' file."""
    return _told(manifest.adapter_parameters, manifest.base_parameters, size_bytes)


def footprint_of_run(uri: str) -> str:
    """The footprint of what the run at `uri` published, unverified.

    Raises:
        ManifestInvalid: there is no manifest, or it cannot be read.
        StoreUnavailable: the store does not answer.
    """
    store = Store(uri)
    data = store.read(layout.MANIFEST, MANIFEST_LIMIT_BYTES) or b""
    return footprint(
        parse_manifest(data, f"{uri}/{layout.MANIFEST}"), store.size_bytes(layout.adapter_file(layout.WEIGHTS))
    )


def footprint_of_candidate(uri: str) -> str:
    """The footprint of what the run at `uri` judged and did not publish; empty where its evaluation does not tell.

    Raises:
        ManifestInvalid: the evaluation cannot be read.
        StoreUnavailable: the store does not answer.
    """
    evaluation = Store(uri).read_json(layout.EVALUATION)
    adapter = evaluation.get("adapter") if isinstance(evaluation, dict) else None
    known = adapter if isinstance(adapter, dict) else {}
    own, base, size_bytes = (known.get(key) for key in ("parameters", "base_parameters", "bytes"))
    return _told(own, base or 0, size_bytes) if own and size_bytes else ""


def _told(parameters: int, base_parameters: int, size_bytes: int) -> str:
    size = f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e5 else f"{size_bytes / 1e3:.1f} kB"
    if not base_parameters:
        return f"{parameters} parameters, {size}"
    return f"{100 * parameters / base_parameters:.2f} % of the base's parameters, {size}"
