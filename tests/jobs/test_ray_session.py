"""A Ray that does not come up in the time that Ray gives it: ended, started again, and at last said to be missing."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
from tests.jobs.conftest import bare_spec

from socadapter_agent.allocator import PRELOAD, allocator
from socadapter_api.errors import BackendUnavailable
from socadapter_api.training import RunSpec
from socadapter_jobs.ray_session import ray_session

SLOW = "The current node timed out during startup. This could happen because the GCS has become overloaded."


@dataclass
class SlowRay:
    """As the module `ray`: what `init` starts comes up only after it has failed so many times."""

    failures: int
    says: str = SLOW
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    ended: bool = False

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: Any) -> None:
        self.options = options
        self.started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        if len(self.started) <= self.failures:
            raise Exception(self.says)  # Ray's own class here

    def shutdown(self) -> None:
        self.ended = True


MakeRay = Callable[..., SlowRay]


@pytest.fixture
def make_ray() -> Iterator[Callable[..., SlowRay]]:
    """Makes a Ray of whose processes none outlives the test."""
    made: list[SlowRay] = []

    def make(failures: int, says: str = SLOW) -> SlowRay:
        made.append(SlowRay(failures, says))
        return made[-1]

    yield make
    for child in (child for ray in made for child in ray.started):
        child.kill()
        child.wait()


@pytest.fixture
def spec(tmp_path: Path) -> Iterator[RunSpec]:
    with mock.patch.dict(os.environ):
        os.environ.pop("RAY_ADDRESS", None)
        yield bare_spec(tmp_path, ".")


def session(ray: SlowRay, spec: RunSpec) -> None:
    """Opens and closes a session on `ray`; nothing that it started outlives the test."""
    with mock.patch.dict(sys.modules, {"ray": ray}), ray_session(spec, Path(spec.scratch or ".")):
        pass


def test_a_slow_ray_is_started_again(spec: RunSpec, make_ray: MakeRay) -> None:
    """What the tries before have left is ended."""
    ray = make_ray(failures=2)
    session(ray, spec)
    assert [False, False, True] == [psutil.pid_exists(child.pid) for child in ray.started]
    assert ray.ended


@pytest.mark.parametrize(("says", "tries"), [pytest.param(SLOW, 3, id="slow"), pytest.param("no space", 1, id="else")])
def test_one_that_never_comes_is_missing(spec: RunSpec, make_ray: MakeRay, says: str, tries: int) -> None:
    """The run may be tried again; only slowness is worth another try at once."""
    ray = make_ray(9, says)
    with pytest.raises(BackendUnavailable, match=says[:20]):
        session(ray, spec)
    assert tries == len(ray.started)


@pytest.mark.parametrize("address", ["", "ray://127.0.0.1:1"])
def test_workers_have_an_allocator_that_lasts(
    address: str, spec: RunSpec, make_ray: MakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a Ray of the run's own and on one that exists."""
    monkeypatch.delenv(PRELOAD, raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    ray = make_ray(failures=0)
    session(ray, spec)
    variables = ray.options["runtime_env"]["env_vars"]
    assert allocator({})[PRELOAD] == variables[PRELOAD]
