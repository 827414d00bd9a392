"""Which version serves: the decision between what was published and what answers alerts.

A version that passed its gates goes straight to stable, and the one before it stays resident as previous. The module
stands by itself so that steps (shadow, canary weights, analysis) find their place here and nowhere else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from socadapter_api import errors
from socadapter_api.adapter import AdapterVersions, Rollout, RolloutMode, VersionRef, VersionSpec
from socadapter_operator.domain.observed import RecordedVersion


@dataclass(frozen=True, slots=True)
class Decision:
    """What the serving table should name, and why it is not what somebody may expect."""

    versions: AdapterVersions
    reason: str = ""
    message: str = ""


def decide(
    rollout: Rollout, wanted_hash: str | None, recorded: Sequence[RecordedVersion], current: AdapterVersions
) -> Decision:
    """The versions to serve. `wanted_hash` None: nothing new may be chosen, only what is revoked leaves."""
    sound = [version.spec for version in recorded if not version.revoked]
    revoked = {version.spec.version for version in recorded if version.revoked}
    kept = _without(current, revoked)
    newest = max((v for v in sound if v.training_hash == wanted_hash), key=lambda v: v.number, default=None)
    if rollout.pin is not None:
        pinned = next((v for v in sound if (v.version, v.digest) == (rollout.pin.version, rollout.pin.digest)), None)
        if pinned is not None:
            return Decision(_promote(kept, pinned))
        return Decision(
            kept,
            errors.UnknownVersion.reason,
            f"rollout.pin names {rollout.pin.version!r} with digest {rollout.pin.digest}, "
            "and no verified version has both: what served before goes on serving",
        )
    if newest is None:
        return Decision(kept)
    if rollout.mode is RolloutMode.AUTOMATIC:
        return Decision(_promote(kept, newest))
    waiting = None if kept.stable and kept.stable.name == newest.version else _ref(newest)
    return Decision(kept.model_copy(update={"candidate": waiting}))


def _promote(current: AdapterVersions, chosen: VersionSpec) -> AdapterVersions:
    if current.stable is not None and current.stable.name == chosen.version:
        return current.model_copy(update={"candidate": None})
    return AdapterVersions(stable=_ref(chosen), previous=current.stable or current.previous)


def _without(current: AdapterVersions, revoked: set[str]) -> AdapterVersions:
    def unless_revoked(ref: VersionRef | None) -> VersionRef | None:
        return None if ref is not None and ref.name in revoked else ref

    stable, previous = unless_revoked(current.stable), unless_revoked(current.previous)
    if stable is None:
        stable, previous = previous, None
    return AdapterVersions(
        stable=stable,
        canary=unless_revoked(current.canary),
        previous=previous,
        candidate=unless_revoked(current.candidate),
    )


def _ref(version: VersionSpec) -> VersionRef:
    return VersionRef(name=version.version, digest=version.digest, uri=version.uri)
