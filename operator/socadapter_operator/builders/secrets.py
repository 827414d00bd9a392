"""Secrets that the operator makes: Ray's bearer tokens and the serving application's configuration.

Values come in as arguments; no other manifest ever holds one.
"""

import base64
from collections.abc import Mapping
from typing import Any

from socadapter_api import digest
from socadapter_api.pool import SocServingPool
from socadapter_operator.builders import labels, pods
from socadapter_operator.builders.installation import refuse_large

TOKEN_KEY = "auth_token"  # noqa: S105  the key that KubeRay looks for
CONFIG_FILE = "config.json"

_TOLD_OTHERWISE = ("access", "ray", "replicas", "storeSecretRef")
"""Parts of a pool that reach its pods by other ways; the application needs none of them."""


def token_name(service: str) -> str:
    """The name of the Secret with the token of the Ray clusters of a RayService."""
    return f"{service}-ray-token"


def ray_token(service: str, token: str, pool: SocServingPool) -> dict[str, Any]:
    """The Secret with the bearer token of a RayService's clusters. It never changes: another token, another cluster."""
    return _secret(token_name(service), {TOKEN_KEY: token.encode()}, pool)


def serving_config(service: str, config: Mapping[str, Any], pool: SocServingPool) -> dict[str, Any]:
    """The Secret with the serving application's configuration, as `backends.serve_config.build` makes it.

    Its name ends in its content's digest. A kubelet updates a mounted Secret when it gets to it, replica after replica;
    under a name of its own a pod sees the configuration that it was made for, from its first moment to its last.
    Where its pods run and how many there are is left out, so that a change of that is no new configuration.

    Raises:
        SpecError: it does not fit into a Secret.
    """
    spec = {key: value for key, value in config["pool"]["spec"].items() if key not in _TOLD_OTHERWISE}
    told = digest.canonical_json({**config, "pool": {**config["pool"], "spec": spec}})
    files = {CONFIG_FILE: told, pods.BOOTSTRAP_FILE: pods.BOOTSTRAP.encode()}
    name = f"{service}-config-{digest.of_bytes(told).removeprefix('sha256:')[:10]}"
    made = _secret(name, files, pool)
    refuse_large(made, f"the serving configuration of pool {pool.metadata.name!r}")
    return made


def _secret(name: str, files: Mapping[str, bytes], pool: SocServingPool) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": dict(labels.metadata(name, pool, labels.of_pool(pool))),
        "type": "Opaque",
        "immutable": True,
        "data": {key: base64.b64encode(content).decode() for key, content in sorted(files.items())},
    }
