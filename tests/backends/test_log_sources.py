"""Several logs as one."""

import threading
from collections.abc import Callable, Iterator

import pytest

from socadapter_api.errors import BackendUnavailable
from socadapter_operator.backends.log_sources import Source, lines


def told(*texts: str) -> Callable[[], Iterator[str]]:
    return lambda: iter(texts)


def test_one_log_is_itself_and_of_several_each_line_has_its_name() -> None:
    """In their order, one after another."""
    assert ["a", "b"] == list(lines([Source("one", told("a", "b"))]))
    assert ["one | a", "two | b"] == list(lines([Source("one", told("a")), Source("two", told("b"))]))
    assert [] == list(lines([]))


def test_followed_logs_come_as_they_are_written() -> None:
    """The second one's line comes while the first still waits for its own, and the end when both have ended."""
    released = threading.Event()

    def late() -> Iterator[str]:
        assert released.wait(30)
        yield "late"

    followed = lines([Source("one", late), Source("two", told("early"))], follow=True)
    assert "two | early" == next(followed)
    released.set()
    assert ["one | late"] == list(followed)


def test_a_followed_log_that_breaks_is_told() -> None:
    """Also where it is one of several."""

    def broken() -> Iterator[str]:
        yield "begun"
        raise BackendUnavailable("the connection broke")

    followed = lines([Source("one", broken), Source("two", told())], follow=True)
    assert "one | begun" == next(followed)
    with pytest.raises(BackendUnavailable):
        list(followed)
