"""What a pool's gateway says about its replicas: asked by every backend that has no other sight of them."""

from dataclasses import dataclass
from functools import partial

import httpx
from pydantic import TypeAdapter, ValidationError

from socadapter_api.errors import SecretNotFound, SocAdapterError, Unauthorized
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ReplicaReport
from socadapter_operator.backends import tls
from socadapter_operator.backends.pool_secrets import PoolSecrets, caller_tokens
from socadapter_operator.domain.observed import ServingState, ServingView
from socadapter_operator.kube.connections import Connections

_TIMEOUT_S = 5.0
_REPORTS = TypeAdapter(tuple[ReplicaReport, ...])


@dataclass(frozen=True, slots=True)
class Sight:
    """What a gateway tells. `answers`: an engine is there. `reason`: why `reports` are those told last, not now."""

    answers: bool = False
    reports: tuple[ReplicaReport, ...] = ()
    reason: str = ""
    message: str = ""


class Gateways:
    """Asks the gateways of pools, in the name of one of their callers. Safe to share between threads."""

    def __init__(self, secrets: PoolSecrets) -> None:
        self._secrets = secrets
        self._connections = Connections(
            partial(httpx.Client, verify=tls.public_authorities(), timeout=_TIMEOUT_S, trust_env=False)
        )

    def look(self, pool: SocServingPool, endpoint: str) -> Sight:
        """What the replicas behind `endpoint` hold.

        A token that is missing here, or is another than the service still has, takes nothing away from what serves:
        whether an engine answers is told to anybody, and what the replicas hold is what they told last.
        """
        try:
            tokens = caller_tokens(pool, self._secrets)
        except SecretNotFound as error:
            return self._from_outside(pool, endpoint, error)
        for token in tokens or (None,):
            headers = {"authorization": f"Bearer {token}"} if token else {}
            try:
                answer = self._get(f"{endpoint}/v1/replicas", headers)
                if answer.status_code not in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                    reports = _REPORTS.validate_python(answer.raise_for_status().json()["replicas"])
                    return Sight(bool(reports), reports)
            except (httpx.HTTPError, ValidationError, ValueError, LookupError, TypeError):
                return Sight()
        refused = Unauthorized(
            f"the gateway at {endpoint} takes none of the callers' tokens in the Secrets of pool "
            f"{pool.metadata.name!r}: it was started with others, and takes up these when it is started anew"
        )
        return self._from_outside(pool, endpoint, refused)

    def unseen(self, pool: SocServingPool, error: SocAdapterError) -> ServingView:
        """The pool as its gateway shows it, where `error` hides everything else."""
        if (endpoint := pool.status.endpoint) and (sight := self.look(pool, endpoint)).answers:
            return ServingView(
                ServingState.RUNNING,
                endpoint=endpoint,
                reports=sight.reports,
                base_digest=base_digest(sight.reports),
                reason=error.reason,
                message=str(error),
                retryable=error.retryable,
                unseen=True,
            )
        state = ServingState.UNKNOWN if error.retryable else ServingState.ABSENT
        return ServingView(state, reason=error.reason, message=str(error), retryable=error.retryable)

    def close(self) -> None:
        """Closes the connections."""
        self._connections.close()

    def _get(self, url: str, headers: dict[str, str]) -> httpx.Response:
        with self._connections.one() as client:
            return client.get(url, headers=headers)

    def _from_outside(self, pool: SocServingPool, endpoint: str, error: SocAdapterError) -> Sight:
        try:
            answers = self._get(f"{endpoint}/readyz", {}).is_success
        except httpx.HTTPError:
            answers = False
        return Sight(True, pool.status.replicas, error.reason, str(error)) if answers else Sight()


def base_digest(reports: tuple[ReplicaReport, ...]) -> str | None:
    """The digest of the base that replicas report; None while none does."""
    return next((report.base_digest for report in reports if report.base_digest), None)
