"""What the serving application is told: its configuration, the same document wherever it runs. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from socadapter_api.pool import SocServingPool


def build(
    pool: SocServingPool, *, state_dir: str, cache_dir: str, trusted_keys: Sequence[str], tokens: Mapping[str, str]
) -> dict[str, Any]:
    """`socadapter_serve.config.ServeConfig` as JSON. It holds `tokens` by value: keep it as secret as they are."""
    return {
        "pool": pool_document(pool),
        "stateDir": state_dir,
        "cacheDir": cache_dir,
        "trustedKeys": list(trusted_keys),
        "tokens": dict(tokens),
    }


def pool_document(pool: SocServingPool) -> dict[str, Any]:
    """The pool as the application is told it: identity and spec, so that a new status is no new configuration."""
    metadata = {"name": pool.metadata.name, "namespace": pool.metadata.namespace, "uid": pool.metadata.uid}
    dumped: dict[str, Any] = pool.model_dump(mode="json", include={"api_version", "kind", "spec"})
    return {**dumped, "metadata": metadata}
