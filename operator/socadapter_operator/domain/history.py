"""What `spec.history` lets go: versions that nobody needs any more, and what a backend keeps of ended runs.

Artifacts in the store are never touched: a version that was let go can be trained for again in no time, since its run
is still found there under the same id.
"""

from collections.abc import Iterable, Sequence

from socadapter_api.adapter import AdapterVersions, SocAdapter
from socadapter_operator.domain.observed import EndedRun, RecordedVersion


def surplus_versions(
    adapter: SocAdapter, recorded: Sequence[RecordedVersion], serving: AdapterVersions, wanted: str | None
) -> tuple[str, ...]:
    """Names of the versions beyond `history.successful`, oldest first.

    Kept besides the newest: what serves, stands by or stands for election, what `rollout.pin` names, the newest of the
    training hash that is `wanted`, which serves once a pin is gone, and what was revoked, so that nobody brings it back
    unawares.
    """
    roles = (serving.stable, serving.canary, serving.previous, serving.candidate, adapter.spec.rollout.pin)
    by_age = sorted((v for v in recorded if not v.revoked), key=lambda v: v.spec.number)
    needed = {_name(role) for role in roles}
    needed |= {v.spec.version for v in [v for v in by_age if v.spec.training_hash == wanted][-1:]}
    beyond = by_age[: max(len(by_age) - adapter.spec.history.successful, 0)]
    return tuple(v.spec.version for v in beyond if v.spec.version not in needed)


def surplus_runs(
    adapter: SocAdapter, ended: Iterable[EndedRun], recorded: Iterable[RecordedVersion], current: Iterable[str]
) -> tuple[str, ...]:
    """Ids of the ended runs beyond the limits of `history`, oldest first. `current`: runs that status still names."""
    published = {version.spec.run_id for version in recorded}
    kept = set(current)
    by_age = sorted((run for run in ended if run.run_id not in kept), key=lambda run: (run.ended_at, run.run_id))
    good = [run.run_id for run in by_age if run.run_id in published]
    bad = [run.run_id for run in by_age if run.run_id not in published]
    history = adapter.spec.history
    return (
        *good[: max(len(good) - history.successful, 0)],
        *bad[: max(len(bad) - history.failed, 0)],
    )


def _name(role: object) -> str:
    return getattr(role, "name", "") or getattr(role, "version", "")
