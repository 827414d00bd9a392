"""The serving table: it cannot be written so that two replicas could read it differently."""

import pytest
from pydantic import ValidationError

from socadapter_api import digest
from socadapter_api.serving_table import ContextRoute, ServedVersion, ServingTable


def version(name: str, content: bytes = b"") -> ServedVersion:
    return ServedVersion(name=name, uri=f"store/{name}", digest=digest.of_bytes(content or name.encode()))


def test_weight_needs_a_canary() -> None:
    """No share of the alerts goes to a version that is not there."""
    with pytest.raises(ValidationError, match="gives weight 10 to no canary"):
        ContextRoute(context="cloud", stable=version("a"), canary_weight_percent=10)


def test_one_route_per_context() -> None:
    """A context is routed once."""
    route = ContextRoute(context="cloud", stable=version("a"))
    with pytest.raises(ValidationError, match="routed more than once"):
        ServingTable(routes=(route, route))


def test_one_digest_per_name() -> None:
    """A name stands for the same bytes in every route."""
    routes = (
        ContextRoute(context="cloud", stable=version("a", b"one")),
        ContextRoute(context="corporate", stable=version("a", b"two")),
    )
    with pytest.raises(ValidationError, match="named with two digests"):
        ServingTable(routes=routes)


def test_versions_are_all_that_may_be_loaded() -> None:
    """A table's versions are those of its routes, `previous` among them, each once."""
    stable, canary, before = version("a"), version("b"), version("c")
    table = ServingTable(
        routes=(
            ContextRoute(context="cloud", stable=stable, canary=canary, canary_weight_percent=5, previous=before),
            ContextRoute(context="corporate", stable=stable, shadow=stable),
        )
    )
    assert table.versions() == {"a": stable, "b": canary, "c": before}


def test_travels_as_json() -> None:
    """A table that went through Ray Serve's `user_config` is the same table, in camelCase on the way."""
    table = ServingTable(generation=3, routes=(ContextRoute(context="cloud", stable=version("a")),))
    sent = table.model_dump(mode="json")
    assert sent["routes"][0]["canaryWeightPercent"] == 0
    assert ServingTable.model_validate(sent) == table


def test_unknown_key_is_refused() -> None:
    """A misspelt key is an error, not a default."""
    with pytest.raises(ValidationError, match="Extra inputs"):
        ServingTable.model_validate({"generation": 1, "route": []})
