"""What every connection to a Ray cluster or a gateway trusts: one context, since each holds all public authorities."""

import ssl
from functools import cache

import httpx


@cache
def public_authorities() -> ssl.SSLContext:
    """Verifies servers against the authorities that come with the HTTP client. The environment changes nothing."""
    return httpx.create_ssl_context(trust_env=False)
