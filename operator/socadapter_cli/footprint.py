"""How small a published adapter is beside its base, in words: what `up`, `train`, `demo` and `verify` print."""

from socadapter_api.manifest import AdapterManifest
from socadapter_store import layout
from socadapter_store.store import Store
from socadapter_store.verify import MANIFEST_LIMIT_BYTES, parse_manifest


def footprint(manifest: AdapterManifest, size_bytes: int) -> str:
    """Such as ``0.91 % of the base's parameters, 4.9 MB``; `size_bytes` is that of the weights' file."""
    size = f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e5 else f"{size_bytes / 1e3:.1f} kB"
    if not manifest.base_parameters:
        return f"{manifest.adapter_parameters} parameters, {size}"
    share = 100 * manifest.adapter_parameters / manifest.base_parameters
    return f"{share:.2f} % of the base's parameters, {size}"


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
