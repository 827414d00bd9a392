"""``python -m socadapter_jobs`` with every stage in this process, for tests that kill it more often than Ray bears.

Takes ``MODULE:NAME COUNT``: after so many calls of that function the process kills itself.
"""

import contextlib
import functools
import importlib
import os
import signal
import sys
from typing import Any

from socadapter_api.manifest import Stage
from socadapter_jobs import __main__, run, stages
from socadapter_jobs.workspace import Workspace


def stage_here(workspace: Workspace, stage: Stage) -> dict[str, Any]:
    """A stage as a Ray Train worker runs it."""
    run._work(workspace, stage, 0, stages.STAGES[stage])
    facts = workspace.noted(run._facts_note(stage))
    assert isinstance(facts, dict)
    return facts


def kill_after(target: str, count: int) -> None:
    """Makes the `count`-th call of `target` the last thing that this process does."""
    module, _, path = target.partition(":")
    owner, name = importlib.import_module(module), path
    if "." in path:
        kind, _, name = path.partition(".")
        owner = getattr(owner, kind)
    inner, calls = getattr(owner, name), 0

    @functools.wraps(inner)
    def counted(*args: Any, **more: Any) -> Any:
        nonlocal calls
        done = inner(*args, **more)
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(owner, name, counted)


if len(sys.argv) > 1:
    kill_after(sys.argv[1], int(sys.argv[2]))
vars(run).update(ray_session=lambda spec, scratch: contextlib.nullcontext(), _in_ray_train=stage_here)
sys.exit(__main__.main())
