"""Which version serves."""

from typing import Any

import pytest

from socadapter_api import digest
from socadapter_api.adapter import AdapterVersions, Pin, Rollout, RolloutMode, VersionRef
from socadapter_operator.domain import rollout
from socadapter_operator.domain.observed import RecordedVersion

A, B = digest.of_bytes(b"spec a"), digest.of_bytes(b"spec b")


def ref(version: Any) -> VersionRef:
    return VersionRef(name=version.version, digest=version.digest, uri=version.uri)


@pytest.fixture
def versions(world: Any) -> list[Any]:
    """v1 and v2 of spec A, v3 of spec B."""
    return [world.version(1, A), world.version(2, A), world.version(3, B)]


def decided(mode: Rollout, wanted: str | None, versions: list[Any], revoked: tuple[int, ...], **current: Any) -> Any:
    recorded = [RecordedVersion(version, version.number in revoked) for version in versions]
    now = AdapterVersions(**{role: ref(version) for role, version in current.items()})
    return rollout.decide(mode, wanted, recorded, now)


@pytest.mark.parametrize(
    ("wanted", "stable", "expected"),
    [
        pytest.param(A, None, (2, None), id="the newest of the spec"),
        pytest.param(A, 1, (2, 1), id="the one before becomes previous"),
        pytest.param(A, 2, (2, None), id="nothing new"),
        pytest.param(A, 3, (2, 3), id="back to an earlier spec"),
        pytest.param(digest.of_bytes(b"c"), 3, (3, None), id="no version of the spec yet: the last good one"),
        pytest.param(None, 3, (3, None), id="spec cannot be judged: the last good one"),
    ],
)
def test_automatic(
    wanted: str | None, stable: int | None, expected: tuple[int, int | None], versions: list[Any]
) -> None:
    """The newest version of the spec as it stands goes straight to stable."""
    current = {"stable": versions[stable - 1]} if stable else {}
    found = decided(Rollout(), wanted, versions, (), **current).versions
    numbers = {version.version: version.number for version in versions}
    assert expected == (numbers[found.stable.name], numbers[found.previous.name] if found.previous else None)


@pytest.mark.parametrize("mode", [RolloutMode.MANUAL, RolloutMode.GITOPS])
def test_without_a_pin_a_new_version_only_stands_for_election(mode: RolloutMode, versions: list[Any]) -> None:
    """Manual and GitOps promote what a person, or Git, names."""
    found = decided(Rollout(mode=mode), A, versions, (), stable=versions[0]).versions
    assert (versions[0].version, versions[1].version) == (found.stable.name, found.candidate.name)


@pytest.mark.parametrize("mode", RolloutMode)
def test_a_pin_decides_in_every_mode(mode: RolloutMode, versions: list[Any]) -> None:
    """Also back to an older version, which is how a person rolls back."""
    pin = Pin(version=versions[0].version, digest=versions[0].digest)
    found = decided(Rollout(mode=mode, pin=pin), A, versions, (), stable=versions[1]).versions
    assert (versions[0].version, versions[1].version) == (found.stable.name, found.previous.name)


def test_a_pin_with_another_digest_moves_nothing(versions: list[Any]) -> None:
    """Name and digest must both be those of a recorded version; eight digits in common are not enough."""
    pin = Pin(version=versions[0].version, digest=versions[0].digest[:-8] + "0" * 8)
    found = decided(Rollout(pin=pin), A, versions, (), stable=versions[1])
    assert ("UnknownVersion", versions[1].version) == (found.reason, found.versions.stable.name)


def test_a_revoked_version_leaves_and_previous_takes_its_place(versions: list[Any]) -> None:
    """Whatever the spec says."""
    found = decided(Rollout(), None, versions, (3,), stable=versions[2], previous=versions[1]).versions
    assert (versions[1].version, None) == (found.stable.name, found.previous)
