"""A `SocAdapterVersion` as the API server takes it."""

from typing import Any

from socadapter_api import digest
from socadapter_api.names import version_name

DIGEST = digest.of_bytes(b"adapter")
OTHER = digest.of_bytes(b"other")
VERSION: dict[str, Any] = {
    "apiVersion": "socadapter.io/v1alpha1",
    "kind": "SocAdapterVersion",
    "metadata": {"name": version_name("cloud", 3, DIGEST)},
    "spec": {
        "version": version_name("cloud", 3, DIGEST),
        "context": "cloud",
        "number": 3,
        "digest": DIGEST,
        "uri": "store/run",
        "runId": "run",
        "baseDigest": OTHER,
        "trainingHash": OTHER,
        "configDigest": OTHER,
        "codeDigest": OTHER,
    },
}
