"""No property is without effect: each changes what is built, or stands here with where it takes effect instead."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError
from tests.builders.resources import INSTALLATION, SIGNING_KEY, make_adapter, make_pool, pool_objects
from tests.properties import Property, properties_of

from socadapter_api.adapter import RunStatus, SocAdapter
from socadapter_api.errors import SocAdapterError
from socadapter_api.pool import SocServingPool
from socadapter_operator.builders import objects
from socadapter_operator.domain import run_spec
from socadapter_operator.domain.observed import Observed

ELSEWHERE = {
    "SocServingPool": {
        "ray.address": "it names another backend",
        "ray.tokenSecretRef": "the token of a cluster that exists",
    },
    "SocAdapter": {
        "match": "the serving table",
        "servingPoolRef": "which pool is looked at",
        "schedule": "when a run is due",
        "rollout": "which version serves",
        "history": "what is let go",
        "suspend": "whether a run is due",
    },
}
"""Where a property is looked at that no object of a cluster shows."""

WHOLE: dict[str, Callable[[], SocServingPool | SocAdapter]] = {"SocServingPool": make_pool, "SocAdapter": make_adapter}


def built(kind: str, spec: dict[str, Any]) -> Any:
    """All that a cluster is given for a resource of that spec, or why it is refused.

    Raises:
        ValidationError: no API server would have taken it.
    """
    held = WHOLE[kind]().model_dump(mode="json", by_alias=True, exclude={"status", "spec"})
    try:
        if kind == "SocServingPool":
            return list(pool_objects(SocServingPool.model_validate({**held, "spec": spec})))
        adapter, pool = SocAdapter.model_validate({**held, "spec": spec}), make_pool()
        run = RunStatus(run_id="cloud-0123456789", state="Absent", training_hash=f"sha256:{'a' * 64}", number=1)
        made = run_spec.build(adapter, pool, Observed(), run)
        return list(objects.of_run(made, adapter, pool, INSTALLATION, signing_key=SIGNING_KEY))
    except SocAdapterError as error:
        return error.reason


def properties() -> list[Property]:
    return [found for kind in WHOLE for found in properties_of(kind)]


@pytest.mark.parametrize("found", [pytest.param(found, id=f"{found.kind}.{found.name}") for found in properties()])
def test_a_property_changes_what_is_built(found: Property) -> None:
    """Or is refused, for a reason or by the contract; one that takes effect elsewhere changes nothing here."""
    spec = WHOLE[found.kind]().model_dump(mode="json", by_alias=True, exclude_defaults=True)["spec"]
    before = found.before(spec)
    try:
        same = built(found.kind, before) == built(found.kind, found.after(before))
    except ValidationError:
        return
    elsewhere = any(found.name.startswith(start) for start in ELSEWHERE[found.kind])
    assert elsewhere == same
