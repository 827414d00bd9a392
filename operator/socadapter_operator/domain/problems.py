"""What stands in the way of training an adapter, found before anything is started.

A problem stops new runs and nothing else: what serves goes on serving. A reservation stops nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from socadapter_api import errors
from socadapter_api.adapter import SocAdapter
from socadapter_api.conditions import ConditionStatus
from socadapter_api.expressions import fault
from socadapter_api.pool import EngineKind, SocServingPool, refuse_insecure_bind
from socadapter_api.training import Precision, refuse_unshared
from socadapter_operator.domain import schedule
from socadapter_operator.domain.claim import Claim
from socadapter_operator.domain.observed import Observed

BASE_UNRESOLVED = "BaseUnresolved"
SETTLED, PROGRESSING = "Settled", "Progressing"
NOT_STALLED = (SETTLED, PROGRESSING)
"""Why an adapter that was planned for is not `Stalled`. Where planning failed, the condition has other reasons."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why no run may start. `waiting`: it goes away by itself, and nobody has to act."""

    reason: str
    message: str
    waiting: bool = False


def base_digest(pool: SocServingPool) -> str | None:
    """The digest of the pool's base: as pinned, or as it was found."""
    return pool.spec.base.digest or pool.status.base_digest


def find(adapter: SocAdapter, observed: Observed) -> Problem | None:
    """The first problem of `adapter`, or None."""
    pool = observed.pools.get(adapter.spec.serving_pool_ref.name)
    if pool is None:
        return Problem(
            errors.PoolNotFound.reason,
            f"servingPoolRef names {adapter.spec.serving_pool_ref.name!r}, and namespace "
            f"{adapter.metadata.namespace!r} has no such SocServingPool: create it or mend the reference",
        )
    return (
        _conflict(adapter, observed)
        or _unmatchable(adapter)
        or _unfollowable(adapter)
        or _rank(adapter, pool)
        or _precision(adapter, pool)
        or _untrainable(adapter)
        or _no_alerts(adapter)
        or _unservable(pool)
        or _unresolved(pool)
        or _mismatch(adapter, pool, observed)
    )


def of_pool(pool: SocServingPool, rival: str = "") -> Problem | None:
    """What in the spec of `pool` keeps its service from starting, or None. `rival`: the pool that has its address."""
    try:
        refuse_insecure_bind(pool.spec)
    except errors.InsecureBind as error:
        return Problem(error.reason, str(error))
    if pool.spec.engine.kind is EngineKind.VLLM:
        return Problem(
            errors.SpecError.reason,
            "engine.kind 'vllm' does not run inside the service in this release: start that server beside it and name "
            "it with kind 'openai' and its url",
        )
    if rival:
        return Problem(
            errors.SpecError.reason,
            f"host {pool.spec.host!r} and port {pool.spec.port} of SocServingPool {pool.metadata.name!r} are those of "
            f"SocServingPool {rival!r}, which keeps them, since callers of one would reach the other: give one of the "
            "two another port",
        )
    return None


def reservation(pool: SocServingPool) -> Problem | None:
    """Why what a run of `pool` publishes may never serve, or None. It forbids no run."""
    if pool.spec.tools:
        return None
    return Problem(
        errors.ToolSchemaMismatch.reason,
        f"pool {pool.metadata.name!r} names no tools: what learns tools from recorded evidence is trained and judged, "
        "and no replica of the pool loads it then; where it is to serve, name the servers of these tools in spec.tools "
        "before it trains",
    )


def holder(context: str, claims: Iterable[Claim]) -> Claim | None:
    """Whose `context` is: of those that claim it the oldest's.

    Of equals, as in local mode where none has an age, the one that serves, then the one that ever trained, then the
    first by name.
    """
    return min((claim for claim in claims if claim.context == context), key=_age, default=None)


def _age(claim: Claim) -> tuple[str, bool, bool, str]:
    return claim.created, claim.stable is None, not claim.trained, claim.name


def _conflict(adapter: SocAdapter, observed: Observed) -> Problem | None:
    owner = holder(adapter.spec.context, observed.claims)
    if owner is None or owner.name == adapter.metadata.name:
        return None
    return Problem(
        errors.ContextConflict.reason,
        f"context {adapter.spec.context!r} belongs to SocAdapter {owner.name!r}, which claimed it first: "
        "give this one another context, or delete one of the two",
    )


def _unmatchable(adapter: SocAdapter) -> Problem | None:
    # Milliseconds for each of thousands: a spec that a plan found no fault with is not read again after a restart.
    wrong = adapter.spec.match and not _was_found_well(adapter) and fault(adapter.spec.match)
    if not wrong:
        return None
    return Problem(
        errors.SpecError.reason,
        f'match {wrong}; write it as in \'alert.provider in ["aws", "gcp"]\', or leave it out',
    )


def _was_found_well(adapter: SocAdapter) -> bool:
    """Whether a plan for this very spec found nothing that only a person can mend, as status tells."""
    generation = adapter.metadata.generation
    return any(
        told.type == "Stalled"
        and told.status is ConditionStatus.FALSE
        and told.reason in NOT_STALLED
        and told.observed_generation == generation > 0
        for told in adapter.status.conditions
    )


def _unfollowable(adapter: SocAdapter) -> Problem | None:
    if adapter.spec.schedule is None:
        return None
    try:
        schedule.check(adapter.spec.schedule)
    except errors.SpecError as error:
        return Problem(error.reason, str(error))
    return None


def _rank(adapter: SocAdapter, pool: SocServingPool) -> Problem | None:
    rank, limit = adapter.spec.lora.rank, pool.spec.max_lora_rank
    if rank <= limit:
        return None
    return Problem(
        errors.RankTooHigh.reason,
        f"lora.rank {rank} is above maxLoraRank {limit} of pool {pool.metadata.name!r}: lower one or raise the other",
    )


def _precision(adapter: SocAdapter, pool: SocServingPool) -> Problem | None:
    trained, served = adapter.spec.compute.precision, pool.spec.engine.precision
    if Precision.AUTO in (trained, served) or trained is served:
        return None
    return Problem(
        errors.PrecisionMismatch.reason,
        f"compute.precision is {trained.value}, and engine.precision of pool {pool.metadata.name!r} {served.value}: "
        "it would be judged in another number format than it serves in; leave one of the two at Auto",
    )


def _untrainable(adapter: SocAdapter) -> Problem | None:
    spec = adapter.spec
    try:
        refuse_unshared(spec.sft, spec.grpo, spec.compute)
    except errors.SpecError as error:
        return Problem(error.reason, str(error))
    return None


def _no_alerts(adapter: SocAdapter) -> Problem | None:
    if adapter.spec.data.alerts or adapter.spec.data.feedback is not None:
        return None
    return Problem(
        errors.EmptyData.reason,
        "data names neither alerts nor feedback: training, calibration and evaluation all need alerts with a verdict; "
        "name a case file in data.alerts",
    )


def _unservable(pool: SocServingPool) -> Problem | None:
    problem = of_pool(pool)
    return problem and Problem(problem.reason, f"pool {pool.metadata.name!r}: {problem.message}")


def _unresolved(pool: SocServingPool) -> Problem | None:
    if base_digest(pool) is not None:
        return None
    stalled = next((c for c in pool.status.conditions if c.type == "Stalled" and c.status == "True"), None)
    if stalled is not None:
        return Problem(stalled.reason, f"pool {pool.metadata.name!r}: {stalled.message}")
    return Problem(
        BASE_UNRESOLVED,
        f"the digest of base {pool.spec.base.uri!r} of pool {pool.metadata.name!r} is not known yet",
        True,
    )


def _mismatch(adapter: SocAdapter, pool: SocServingPool, observed: Observed) -> Problem | None:
    stable = adapter.status.versions.stable
    trained_on = next((v.spec.base_digest for v in observed.versions if stable and v.spec.version == stable.name), None)
    if trained_on is None or trained_on == base_digest(pool):
        return None
    return Problem(
        errors.BaseMismatch.reason,
        f"version {stable.name if stable else ''} was trained on base {trained_on}, and pool {pool.metadata.name!r} "
        f"serves base {base_digest(pool)}: point servingPoolRef back, or make a new SocAdapter for the new base",
    )
