"""The base of a pool is fetched beside everything else: it is said, and neither Ctrl-C nor the command waits for it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from socadapter_agent import base_model
from socadapter_api import digest
from socadapter_api.errors import BackendUnavailable, BaseNotFound
from socadapter_api.training import BaseModelRef
from socadapter_cli import bases, workspace
from socadapter_cli.progress import Display
from socadapter_operator.backends.process import started_at
from socadapter_operator.local.reconciler import Pass

pytestmark = pytest.mark.slow

Call = Callable[..., Result]
Resources = Callable[..., Path]

DEADLINE_S = 60.0
FETCHING = "base 'builtin://tiny' is being fetched or unpacked"
LEAVING = """
import pathlib, sys, threading, time
from socadapter_api.training import BaseModelRef
from socadapter_cli import bases
mark = pathlib.Path(sys.argv[1])
fetch = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
bases.FETCH = (sys.executable, "-c", fetch, str(mark))
threading.Thread(target=bases.resolve_base, args=(BaseModelRef(uri="owner/name"),), daemon=True).start()
while not (mark.exists() and mark.read_text()):
    time.sleep(0.01)
"""


@pytest.fixture
def fetched(call: Call, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Set once the base is here; until then it is being fetched."""
    here = threading.Event()

    def fetch(_: BaseModelRef) -> str:
        here.wait(DEADLINE_S)
        return digest.of_bytes(b"base")

    monkeypatch.setattr(workspace, "resolve_base", fetch)
    yield here
    here.set()


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What is done when the first pass was shown."""
    todo: list[Callable[[], object]] = []
    show = Display.show

    def noting(display: Display, seen: Pass) -> None:
        show(display, seen)
        while todo:
            todo.pop()()

    monkeypatch.setattr(Display, "show", noting)
    return todo


@pytest.mark.parametrize("command", [("up",), ("up", "--wait"), ("up", "--once"), ("train", "--out", "out")])
def test_an_interrupt_does_not_wait_for_the_base(
    command: tuple[str, ...],
    call: Call,
    resources: Resources,
    fetched: threading.Event,
    shown: list[Callable[[], object]],
) -> None:
    """What goes on is on the screen, and the first Ctrl-C ends it."""
    shown.append(lambda: os.kill(os.getpid(), signal.SIGINT))
    result = call(*command, "-f", str(resources()))
    assert (130, True, False) == (result.exit_code, FETCHING in result.output, fetched.is_set()), result.output


def test_once_is_with_the_base_at_hand(
    call: Call, resources: Resources, fetched: threading.Event, shown: list[Callable[[], object]], tmp_path: Path
) -> None:
    """`up --once` starts what it is there to start."""
    shown.append(fetched.set)
    result = call("up", "--once", "-f", str(resources()))
    assert (0, True) == (result.exit_code, FETCHING in result.output), result.output
    assert 1 == len(list((tmp_path / ".socadapter" / "runs").iterdir()))


def test_once_tells_what_no_pass_mends(call: Call, resources: Resources, fetched: threading.Event) -> None:
    """As `plan` does, by its exit code: a job that runs `up --once` has nobody who reads."""
    fetched.set()
    result = call("up", "--once", "-f", str(resources(lora={"rank": 128})))
    assert (2, True) == (result.exit_code, "error[RankTooHigh]" in result.stderr), result.output


def test_a_plan_waits_for_the_base_and_says_so(
    call: Call,
    resources: Resources,
    fetched: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Without its digest nobody knows which run would start."""
    (tmp_path / "alerts.jsonl").touch()
    monkeypatch.setattr("click.echo", lambda *_, **__: fetched.set())
    result = call("plan", "-f", str(resources()))
    assert (0, True, True) == (result.exit_code, "start run cloud-" in result.output, fetched.is_set()), result.output


def test_a_base_that_is_here_needs_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is looked at in this one."""
    monkeypatch.setattr(bases, "FETCH", ("/no/such/program",))
    monkeypatch.setenv("SOCADAPTER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    ref = BaseModelRef(uri=str(tmp_path / "base"))
    assert base_model.resolve_base(ref, tmp_path / "other").digest == bases.resolve_base(ref)


def test_what_the_process_finds_wrong_is_told_as_it_was() -> None:
    """Its error is the same here, whatever its class."""
    with pytest.raises(BaseNotFound, match=r"/nowhere/at/all.*no such folder"):
        bases.resolve_base(BaseModelRef(uri="/nowhere/at/all"))


def test_a_process_that_ends_without_a_word_may_do_better_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its status and its last words."""
    monkeypatch.setattr(bases, "FETCH", (sys.executable, "-c", "import sys; sys.exit('out of memory')"))
    with pytest.raises(BackendUnavailable, match=r"'owner/name'.*status 1, and it said: out of memory"):
        bases.resolve_base(BaseModelRef(uri="owner/name"))


def test_the_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    """Who leaves while a base is fetched neither waits for it nor leaves it running."""
    mark = tmp_path / "pid"
    subprocess.run([sys.executable, "-c", LEAVING, str(mark)], check=True, timeout=DEADLINE_S)
    deadline = time.monotonic() + DEADLINE_S
    while started_at(int(mark.read_text())) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
