"""Which of the pools of one machine keeps an address."""

import pytest

from socadapter_api.pool import PoolSpec, SocServingPool
from socadapter_operator.domain.addresses import Address, Tenant, keeper

HERE = Address("127.0.0.1", 8000)


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        pytest.param(("127.0.0.1", 8000), ("127.0.0.1", 8000), True, id="the same"),
        pytest.param(("127.0.0.1", 8000), ("127.0.0.1", 8001), False, id="another port"),
        pytest.param(("127.0.0.1", 8000), ("127.0.0.2", 8000), False, id="another host"),
        pytest.param(("127.0.0.1", 8000), ("localhost", 8000), True, id="the same by name"),
        pytest.param(("10.0.0.1", 8000), ("0.0.0.0", 8000), True, id="every address of the machine"),
        pytest.param(("::1", 8000), ("[::1]", 8000), True, id="IPv6 in brackets"),
    ],
)
def test_addresses_that_meet(one: tuple[str, int], other: tuple[str, int], meet: bool) -> None:
    """Where callers of one pool may come to another."""
    first, second = (Address.of(spec(host, port)) for host, port in (one, other))
    assert (meet, meet) == (first.meets(second), second.meets(first))


@pytest.mark.parametrize(
    ("tenants", "kept_by"),
    [
        pytest.param([Tenant("soc/b", HERE, None), Tenant("soc/a", HERE, None)], "soc/a", id="first by name"),
        pytest.param([Tenant("soc/a", HERE, None), Tenant("soc/b", HERE, HERE)], "soc/b", id="who serves there"),
        pytest.param([Tenant("soc/a", HERE, None), Tenant("soc/b", None, HERE)], "soc/b", id="who is not driven"),
        pytest.param(
            [Tenant("soc/a", HERE, None), Tenant("soc/b", Address("127.0.0.1", 8001), HERE)],
            "soc/b",
            id="who has not moved away yet",
        ),
        pytest.param([Tenant("soc/a", HERE, HERE), Tenant("soc/b", HERE, HERE)], "soc/a", id="both serve there"),
        pytest.param([], "", id="nobody"),
    ],
)
def test_one_pool_keeps_an_address(tenants: list[Tenant], kept_by: str) -> None:
    """Who serves keeps it from a newcomer whose name sorts first."""
    assert kept_by == keeper(HERE, tenants)


def spec(host: str, port: int) -> PoolSpec:
    body = {"base": {"uri": "builtin://tiny"}, "store": "/store", "host": host, "port": port}
    return SocServingPool.model_validate({"metadata": {"name": "base"}, "spec": body}).spec
