"""What the conditions of a `SocAdapterVersion` say, from its record and the adapter that it belongs to."""

from collections.abc import Mapping
from datetime import datetime

from socadapter_api.adapter import AdapterStatus, AdapterVersions, SocAdapterVersion, VersionStatus
from socadapter_api.conditions import Condition, ConditionStatus, merge
from socadapter_operator.domain import refusal
from socadapter_operator.domain.timestamps import stamp

REVOKED = "socadapter.io/revoked"
"""Annotation on a version that takes it out of service for good; its value says why."""

_ROLES = ("stable", "canary", "previous", "candidate")


def status(version: SocAdapterVersion, adapter: AdapterStatus, now: datetime) -> VersionStatus:
    """The status of `version` while its adapter's is `adapter`. What was revoked once stays revoked."""
    observed = (_verified(version), _evaluated(version), _serving(version, adapter), _revoked(version))
    return VersionStatus(
        observed_generation=version.metadata.generation,
        conditions=merge(version.status.conditions, observed, stamp(now)),
    )


def is_revoked(version: SocAdapterVersion) -> bool:
    """Whether somebody took the version out of service."""
    return REVOKED in version.metadata.annotations or refusal.holds(version.status.conditions, "Revoked")


def _verified(version: SocAdapterVersion) -> Condition:
    signed = version.spec.signed_by
    told = f"digest and files checked, signed by {signed}" if signed else "digest and files checked"
    return _made(version, "Verified", ConditionStatus.TRUE, "Verified", told)


def _evaluated(version: SocAdapterVersion) -> Condition:
    shown = ", ".join(f"{name} {version.spec.metrics[name]:.3f}" for name in _shown(version.spec.metrics))
    return _made(version, "Evaluated", ConditionStatus.TRUE, "GatesPassed", shown)


def _serving(version: SocAdapterVersion, adapter: AdapterStatus) -> Condition:
    role = _role(version.spec.version, adapter.versions)
    if not role:
        return _made(version, "Serving", ConditionStatus.FALSE, "NotInUse")
    loaded = role != "stable" or refusal.holds(adapter.conditions, "Serving")
    answers = ConditionStatus.TRUE if loaded and role in ("stable", "canary") else ConditionStatus.FALSE
    reason = role.capitalize() if loaded else "Loading"
    return _made(version, "Serving", answers, reason, f"{role} version of its context")


def _revoked(version: SocAdapterVersion) -> Condition:
    before = next((c for c in version.status.conditions if c.type == "Revoked"), None)
    if before is not None and before.status is ConditionStatus.TRUE:
        return _made(version, "Revoked", before.status, before.reason, before.message)
    why = version.metadata.annotations.get(REVOKED)
    if why is None:
        return _made(version, "Revoked", ConditionStatus.FALSE, "NotRevoked")
    return _made(version, "Revoked", ConditionStatus.TRUE, "Revoked", why[:1024])


def _made(version: SocAdapterVersion, kind: str, status: ConditionStatus, reason: str, message: str = "") -> Condition:
    generation = version.metadata.generation
    return Condition(type=kind, status=status, reason=reason, message=message, observed_generation=generation)


def _role(name: str, versions: AdapterVersions) -> str:
    return next((role for role in _ROLES if (ref := getattr(versions, role)) is not None and ref.name == name), "")


def _shown(metrics: Mapping[str, float]) -> list[str]:
    return [name for name in ("balancedAccuracy", "falseNegativeRate", "auc") if name in metrics]
