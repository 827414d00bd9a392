"""Log lines: JSON, with the reconcile that they belong to, and nothing of what a resource says."""

import io
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from socadapter_operator.shell import logs

log = logging.getLogger("socadapter_operator.test")


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged; logging is as before afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    others = {name: logging.getLogger(name).level for name in logs.QUIET}
    stream = io.StringIO()
    logs.configure("INFO", stream)
    yield stream
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in others.items():
        logging.getLogger(name).setLevel(before)


def read(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_line_belongs_to_its_reconcile(lines: io.StringIO) -> None:
    """Inside a reconcile each line names it by id and resource; outside none does."""
    log.info("operator_started")
    with logs.reconcile("SocAdapter", "soc", "cloud", "u-1", 3) as reconcile_id, logs.bound(run_id="cloud-1"):
        log.warning("run_failed attempt=%d", 2)
    before, inside = read(lines)
    assert "reconcile_id" not in before
    about = {"controller": "SocAdapter", "namespace": "soc", "name": "cloud", "uid": "u-1", "generation": 3}
    assert {**about, "reconcile_id": reconcile_id, "run_id": "cloud-1"}.items() <= inside.items()
    assert ("warning", "run_failed attempt=2") == (inside["level"], inside["msg"])
    assert inside["ts"].endswith("Z")


def test_threads_do_not_mix(lines: io.StringIO) -> None:
    """What one thread works on is not written into the lines of another."""
    with logs.reconcile("SocAdapter", "soc", "cloud"):
        other = threading.Thread(target=lambda: log.info("elsewhere"))
        other.start()
        other.join()
    assert "name" not in read(lines)[0]


def test_objects_on_a_record_are_not_written(lines: io.StringIO) -> None:
    """What a library hangs on a record, such as a whole resource, stays out of the line."""
    log.info("seen", extra={"k8s_ref": {"spec": "s3cret"}, "body": "s3cret"})
    assert "s3cret" not in lines.getvalue()


def test_traceback_is_one_field(lines: io.StringIO) -> None:
    """An exception is a field of its line, so that a line stays a line."""
    try:
        raise ZeroDivisionError("boom")
    except ZeroDivisionError:
        log.exception("reconcile_crashed")
    (line,) = read(lines)
    assert "ZeroDivisionError: boom" in line["exc"]


def test_libraries_that_print_bodies_are_quiet(lines: io.StringIO) -> None:
    """kopf's and httpx's talk about objects and addresses is not logged, not even when ours is at DEBUG."""
    logs.configure("DEBUG", lines)
    logging.getLogger("kopf.objects").info("body")
    logging.getLogger("httpx").info("HTTP Request")
    log.debug("ours")
    assert ["ours"] == [line["msg"] for line in read(lines)]


def test_unknown_fields_are_refused() -> None:
    """Only the fields that readers know can be bound: a spec is none of them."""
    with pytest.raises(ValueError, match="spec"), logs.bound(spec="x"):
        pass
