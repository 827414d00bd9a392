"""The analysts' verdicts of a pool, asked of its service: to be counted, and as the file that a run learns from."""

import json
from datetime import UTC, datetime

import httpx

from socadapter_api.errors import SocAdapterError
from socadapter_api.model import parse_duration
from socadapter_api.pool import SocServingPool
from socadapter_operator.backends import tls
from socadapter_operator.backends.pool_secrets import PoolSecrets, caller_headers

_TIMEOUT_S = 10.0


def fetch(
    pool: SocServingPool, endpoint: str, context: str, window: str, secrets: PoolSecrets
) -> tuple[str, ...] | None:
    """The records of the last `window` for `context`, a JSON line each; None where the service does not answer."""
    try:
        answer = httpx.get(
            f"{endpoint.rstrip('/')}/v1/feedback",
            params={"since": _began(window).timestamp()},
            headers=caller_headers(pool, secrets, context),
            timeout=_TIMEOUT_S,
            verify=tls.public_authorities(),
            trust_env=False,
        )
        answer.raise_for_status()
        lines = answer.text.split("\n")  # splitlines would also split at separators that stand within a record
        return tuple(line for line in lines if line and json.loads(line).get("context") == context)
    except (httpx.HTTPError, httpx.InvalidURL, SocAdapterError, ValueError, AttributeError):
        return None


def _began(window: str) -> datetime:
    """When a window that ends now began. One that is longer than there are dates holds everything."""
    try:
        return datetime.now(UTC) - parse_duration(window)
    except OverflowError:
        return datetime.fromtimestamp(0, UTC)
