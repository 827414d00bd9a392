"""Which pool of one machine keeps an address that several name.

Ray's proxies bind with SO_REUSEPORT: two on one address both start, and the system splits their callers between them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from socadapter_api.pool import PoolSpec

EVERYWHERE = ("0.0.0.0", "::", "")  # noqa: S104  compared with, never bound to
_LOOPBACK = {"localhost": "127.0.0.1"}


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port of this machine."""

    host: str
    port: int

    @classmethod
    def of(cls, spec: PoolSpec) -> Self:
        """Where a pool of that spec answers."""
        host = spec.host.strip("[]")
        return cls(_LOOPBACK.get(host, host), spec.port)

    def meets(self, other: Self) -> bool:
        """Whether what is sent to the one may come to the other."""
        every = self.host in EVERYWHERE or other.host in EVERYWHERE
        return self.port == other.port and (every or self.host == other.host)


@dataclass(frozen=True, slots=True)
class Tenant:
    """A pool, the address that it names, and the one that its service has now; None where there is none."""

    pool: str
    named: Address | None
    held: Address | None


def keeper(address: Address, tenants: Iterable[Tenant]) -> str:
    """The pool that keeps `address`: one whose service has it, else one that names it, the first by name.

    Empty where there is none.
    """
    tenants = list(tenants)
    holding = [tenant.pool for tenant in tenants if tenant.held is not None and tenant.held.meets(address)]
    naming = [tenant.pool for tenant in tenants if tenant.named is not None and tenant.named.meets(address)]
    return min(holding or naming, default="")
