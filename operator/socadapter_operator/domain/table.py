"""The serving table of a pool, made from its adapters' claims."""

from collections.abc import Collection, Iterable

from socadapter_api import digest
from socadapter_api.adapter import VersionRef
from socadapter_api.errors import Conflict
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ContextRoute, ServedVersion, ServingTable
from socadapter_operator.domain import problems
from socadapter_operator.domain.claim import Claim

_NOBODY = ""
"""No caller's name is empty: a route with this one alone admits nobody."""


def build(
    pool: SocServingPool,
    claims: Iterable[Claim],
    before: ServingTable | None,
    unreadable: Collection[str] = (),
) -> ServingTable:
    """The table that `pool` should serve. Its generation grows by one where it differs from `before`.

    `unreadable`: contexts of adapters that do not fit the contract. What serves them goes on serving.
    """
    by_context: dict[str, list[Claim]] = {}
    for claim in claims:
        by_context.setdefault(claim.context, []).append(claim)
    owners = (problems.holder(context, claiming) for context, claiming in by_context.items())
    made = {
        owner.context: _route(owner, pool)
        for owner in owners
        if owner is not None and owner.served_by == pool.metadata.name
    }
    kept = {r.context: r for r in (before.routes if before else ()) if r.context in unreadable}
    routes = tuple(route for _, route in sorted((kept | made).items()))
    base = problems.base_digest(pool)
    generation = before.generation if before else pool.status.table_generation
    if before is None or (before.routes, before.base_digest) != (routes, base):
        generation += 1
    return ServingTable(generation=generation, base_digest=base, routes=routes)


def refuse_older(wanted: ServingTable, there: ServingTable | None) -> None:
    """Refuses to put `wanted` in the place of a table that is as new or newer: replicas skip what they think they know.

    Raises:
        Conflict: somebody put another one there since `wanted` was planned.
    """
    if there is not None and there != wanted and there.generation >= wanted.generation:
        raise Conflict(
            f"serving table {wanted.generation} was planned on an older one than is there by now, {there.generation}: "
            "the next pass plans anew"
        )


def _route(claim: Claim, pool: SocServingPool) -> ContextRoute:
    return ContextRoute(
        context=claim.context,
        match=claim.match,
        stable=_served(claim.stable),
        previous=_served(claim.previous),
        salt=digest.of_json([claim.uid, claim.context]).removeprefix("sha256:")[:16],
        callers=_callers(claim.context, pool),
    )


def _served(version: VersionRef | None) -> ServedVersion | None:
    return ServedVersion(name=version.name, uri=version.uri, digest=version.digest) if version else None


def _callers(context: str, pool: SocServingPool) -> tuple[str, ...]:
    if all(not caller.contexts for caller in pool.spec.callers):
        return ()
    allowed = [c.name for c in pool.spec.callers if not c.contexts or context in c.contexts]
    return tuple(allowed) or (_NOBODY,)
