"""Traces: nothing without an endpoint, spans with what they are about where there is one."""

import importlib
import sys
from typing import Any

import pytest

from socadapter_operator.shell import tracing
from socadapter_operator.shell.tracing import ENDPOINT, Tracing


def test_off_without_an_endpoint() -> None:
    """Without the variable no span goes anywhere and nothing of OpenTelemetry is looked for."""
    off = tracing.configured({})
    with off.span("reconcile", name="a"):
        pass
    off.stop()
    assert not off.on


def test_missing_packages_are_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """An endpoint without the packages is a warning that names what is missing, and the operator runs on."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    found = tracing.configured({ENDPOINT: "http://127.0.0.1:4318"})
    assert not found.on
    assert ENDPOINT in caplog.text


def test_span_says_what_it_is_about() -> None:
    """A span carries its attributes, and is marked as failed by what was raised inside."""
    sdk: Any = pytest.importorskip("opentelemetry.sdk.trace")
    export = importlib.import_module("opentelemetry.sdk.trace.export")
    memory = importlib.import_module("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(memory))
    on = Tracing(provider.get_tracer("test"), provider.shutdown)
    with pytest.raises(ZeroDivisionError), on.span("reconcile", namespace="soc", name="cloud"):
        raise ZeroDivisionError
    (span,) = memory.get_finished_spans()
    on.stop()
    assert ("reconcile", {"namespace": "soc", "name": "cloud"}) == (span.name, dict(span.attributes))
    assert not span.status.is_ok
