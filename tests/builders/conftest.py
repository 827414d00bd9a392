"""One adapter and one pool, for tests that change nothing about them."""

import pytest
from tests.builders.resources import make_adapter, make_pool

from socadapter_api.adapter import SocAdapter
from socadapter_api.pool import SocServingPool


@pytest.fixture
def adapter() -> SocAdapter:
    return make_adapter()


@pytest.fixture
def pool() -> SocServingPool:
    return make_pool()
