"""Bases are looked for beside the pass that asks, once each, and again after a failure."""

import threading
import time

from socadapter_api.errors import BaseNotFound
from socadapter_api.training import BaseModelRef
from socadapter_operator.backends.bases import Bases

REF = BaseModelRef(uri="owner/name")
DEADLINE_S = 30.0


def test_who_asks_for_a_base_does_not_wait_for_it() -> None:
    """While it is looked for there is no answer, however often it is asked for; then there is one for good."""
    asked: list[str] = []
    found = threading.Event()

    def digest(ref: BaseModelRef) -> str:
        asked.append(ref.uri)
        found.wait(DEADLINE_S)
        return "sha256:0"

    bases = Bases(digest)
    assert [None, None] == [bases.find(REF, 0.0), bases.find(REF, 0.0)]
    found.set()
    assert ["sha256:0"] * 2 == [bases.find(REF, DEADLINE_S), bases.find(REF, 0.0)]
    assert [REF.uri] == asked


def test_a_failure_is_looked_into_again_and_stands_meanwhile() -> None:
    """After a minute, and what was wrong is told until something else is found."""
    now = [0.0]
    mended = threading.Event()
    attempts: list[float] = []

    def digest(_: BaseModelRef) -> str:
        attempts.append(now[0])
        if len(attempts) == 1:
            raise BaseNotFound("not there")
        mended.wait(DEADLINE_S)
        return "sha256:0"

    bases = Bases(digest, lambda: now[0])
    for now[0] in (0.0, 59.0, 61.0, 200.0):
        assert "not there" == str(bases.find(REF, DEADLINE_S))
    mended.set()
    deadline = time.monotonic() + DEADLINE_S
    while bases.find(REF, 0.0) != "sha256:0":
        assert time.monotonic() < deadline
    assert [0.0, 61.0] == attempts


def test_an_error_that_nobody_expects_reaches_who_asks() -> None:
    """As it was, for its traceback."""
    error = KeyError("x")

    def digest(_: BaseModelRef) -> str:
        raise error

    assert error is Bases(digest).find(REF, DEADLINE_S)
