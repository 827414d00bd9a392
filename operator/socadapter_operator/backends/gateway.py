"""What a pool's gateway says about its replicas: asked by every backend that has no other sight of them."""

import httpx
from pydantic import TypeAdapter, ValidationError

from socadapter_api.errors import SocAdapterError
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ReplicaReport
from socadapter_operator.backends.pool_secrets import PoolSecrets, caller_headers

_TIMEOUT_S = 5.0
_REPORTS = TypeAdapter(tuple[ReplicaReport, ...])


class Gateways:
    """Asks the gateways of pools, in the name of one of their callers. Safe to share between threads."""

    def __init__(self, secrets: PoolSecrets) -> None:
        self._secrets = secrets
        self._client = httpx.Client(timeout=_TIMEOUT_S, trust_env=False)

    def reports(self, pool: SocServingPool, endpoint: str) -> tuple[ReplicaReport, ...]:
        """What the replicas behind `endpoint` hold; empty where it does not answer."""
        try:
            headers = caller_headers(pool, self._secrets)
            answer = self._client.get(f"{endpoint}/v1/replicas", headers=headers)
            return _REPORTS.validate_python(answer.raise_for_status().json()["replicas"])
        except (httpx.HTTPError, SocAdapterError, ValidationError, ValueError, LookupError, TypeError):
            return ()

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()


def base_digest(reports: tuple[ReplicaReport, ...]) -> str | None:
    """The digest of the base that replicas report; None while none does."""
    return next((report.base_digest for report in reports if report.base_digest), None)
