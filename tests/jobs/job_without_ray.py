"""``python -m socadapter_jobs`` with every stage in this process, for tests that kill it more often than Ray bears.

Run by `runpy` in a child of a process that has imported the libraries, with its globals ``SPEC`` (the run spec),
``LOG`` (where its output goes), ``TARGET`` and ``COUNT``: after so many calls of that function it kills itself.
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


given: dict[str, Any] = globals()
with open(given["LOG"], "wb", buffering=0) as log:  # noqa: PTH123  a path would be one more import
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
os.environ[__main__.VARIABLE] = given["SPEC"]
if given["TARGET"]:
    kill_after(given["TARGET"], given["COUNT"])
vars(run).update(ray_session=lambda spec, scratch: contextlib.nullcontext(), _in_ray_train=stage_here)
sys.exit(__main__.main())
