"""What `spec.history` lets go."""

from datetime import timedelta
from typing import Any

import pytest

from socadapter_api import digest
from socadapter_api.adapter import AdapterVersions, VersionRef
from socadapter_operator.domain.actions import ForgetRun, ForgetVersion
from socadapter_operator.domain.observed import EndedRun, RecordedVersion


def ref(version: Any) -> VersionRef:
    return VersionRef(name=version.version, digest=version.digest, uri=version.uri)


def forgotten(world: Any, kind: type[Any]) -> list[str]:
    actions = [action for action in world.plan().actions if isinstance(action, kind)]
    return [getattr(action, "name", "") or action.run_id for action in actions]


@pytest.fixture
def five(world: Any) -> list[Any]:
    """Five versions of the spec as it stands, the newest serving."""
    older = [world.version(number) for number in range(1, 5)]
    world.versions = tuple(RecordedVersion(version) for version in older)
    return [*older, world.serving(5)]


@pytest.mark.parametrize(
    ("successful", "gone"),
    [
        pytest.param(10, [], id="room for all"),
        pytest.param(5, [], id="just enough"),
        pytest.param(2, [1, 2, 3], id="the oldest first"),
    ],
)
def test_versions_beyond_the_limit_go(successful: int, gone: list[int], five: list[Any], world: Any) -> None:
    """The newest stay."""
    world.spec["history"] = {"successful": successful}
    assert [five[number - 1].version for number in gone] == forgotten(world, ForgetVersion)


def test_a_version_with_a_part_to_play_stays_however_old(five: list[Any], world: Any) -> None:
    """Serving, standing by, standing for election: none of them is let go."""
    world.spec["history"] = {"successful": 1}
    world.spec["rollout"] = {"mode": "Manual"}
    world.status["versions"] = AdapterVersions(stable=ref(five[0]), previous=ref(five[1]))
    assert [five[2].version, five[3].version] == forgotten(world, ForgetVersion)


def test_a_pinned_version_stays(five: list[Any], world: Any) -> None:
    """What Git names is there when Git is asked."""
    world.spec["history"] = {"successful": 1}
    world.spec["rollout"] = {"mode": "GitOps", "pin": {"version": five[2].version, "digest": five[2].digest}}
    assert five[2].version not in forgotten(world, ForgetVersion)


def test_what_serves_once_a_pin_is_gone_stays(world: Any) -> None:
    """The newest version of the spec as it stands, however low its number: nothing would train for it again."""
    wanted = world.version(1)
    older = world.version(2, training_hash=digest.of_bytes(b"another spec"))
    world.versions = (RecordedVersion(wanted), RecordedVersion(older))
    pinned = world.serving(3, training_hash=digest.of_bytes(b"another spec"))
    world.spec["history"] = {"successful": 1}
    world.spec["rollout"] = {"pin": {"version": pinned.version, "digest": pinned.digest}}
    assert [older.version] == forgotten(world, ForgetVersion)


def test_a_revoked_version_stays_and_takes_no_place(five: list[Any], world: Any) -> None:
    """What was withdrawn is remembered, and does not push out what is sound."""
    world.spec["history"] = {"successful": 4}
    world.versions = tuple(RecordedVersion(v.spec, v.spec.number == 1) for v in world.versions)
    assert [] == forgotten(world, ForgetVersion)


def test_ended_runs_have_a_limit_for_good_and_one_for_bad(five: list[Any], world: Any) -> None:
    """A run counts as good while its version is there; runs that status names are kept."""
    world.spec["history"] = {"successful": 3, "failed": 1}
    last = world.status["last_run"].run_id
    runs = [*(version.run_id for version in five), "bad-1", "bad-2", "bad-3"]
    world.ended = tuple(EndedRun(run, world.now + timedelta(hours=age)) for age, run in enumerate(runs))
    assert last == five[-1].run_id
    assert [five[0].run_id, "bad-1", "bad-2"] == forgotten(world, ForgetRun)


def test_what_was_let_go_is_not_asked_for_again(five: list[Any], world: Any) -> None:
    """Once carried out, a plan has nothing more to forget: a settled adapter is at rest."""
    world.spec["history"] = {"successful": 2}
    gone = forgotten(world, ForgetVersion)
    world.versions = tuple(v for v in world.versions if v.spec.version not in gone)
    assert () == world.take(world.plan()).actions
